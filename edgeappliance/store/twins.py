"""Devices and their twins (KubeEdge reference 5, tables `device`, `device_attr`, `device_twin`)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgeappliance.kernel.database import Database, Transaction


@dataclass(frozen=True, slots=True)
class TwinHalf:
    """`expected` or `actual` of a property.

    value: the text, None for a half that was emptied (a deleted key keeps its versions).
    metadata: JSON text of the half's metadata ({"timestamp": ms, ...}), "" when there is none.
    cloud, edge: its version; acked: the highest `edge` that the cloud acknowledged (dirty while lower).
    """

    value: str | None
    metadata: str = ""
    cloud: int = 0
    edge: int = 0
    acked: int = 0


@dataclass(frozen=True, slots=True)
class TwinRow:
    """One property. A half that never existed is None; type "deleted" marks a tombstone.

    metadata: JSON text of the property's metadata without `type`, "" when there is none.
    desired_applied: the last `spec.properties[].desired.value` of the Device object that was taken over.
    """

    device: str
    name: str
    type: str = "string"
    optional: bool = True
    metadata: str = ""
    expected: TwinHalf | None = None
    actual: TwinHalf | None = None
    desired_applied: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device. id is "<namespace>/<name>"; attributes is JSON text; state is dirty while
    `state_version` is above `state_acked`."""

    id: str
    name: str
    description: str = ""
    state: str = ""
    last_online: str = ""
    state_version: int = 0
    state_acked: int = 0
    attributes: str = "{}"


@dataclass(frozen=True, slots=True)
class StoredDevice:
    """A device with all its properties, tombstones included."""

    device: DeviceRow
    twins: tuple[TwinRow, ...]


class TwinStore:
    """Repository of devices and twins. Rows are written whole, so the newest write of a row wins."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> list[StoredDevice]:
        """Everything, ordered by device id and property name."""

        def read(transaction: Transaction) -> list[StoredDevice]:
            twins: dict[str, list[TwinRow]] = {}
            for row in transaction.execute(_SELECT_TWINS):
                twins.setdefault(row[0], []).append(_twin_from(row))
            devices = [DeviceRow(*row) for row in transaction.execute(_SELECT_DEVICES)]
            return [StoredDevice(device, tuple(twins.get(device.id, ()))) for device in devices]

        return await self._database.read(read)

    async def save(
        self,
        *,
        devices: Iterable[DeviceRow] = (),
        twins: Iterable[TwinRow] = (),
        removed: Iterable[tuple[str, str]] = (),
        durable: bool,
    ) -> None:
        """Write rows in one transaction; `removed` names (device, property) rows to drop.

        durable=True for what must be on the disk before it is answered (a change of expected, membership,
        desired_applied); durable=False for reported values and acknowledged versions.
        """
        device_rows = [_device_values(row) for row in devices]
        twin_rows = [_twin_values(row) for row in twins]
        removed_rows = list(removed)

        def write(transaction: Transaction) -> None:
            if device_rows:
                transaction.executemany(_UPSERT_DEVICE, device_rows)
            if twin_rows:
                transaction.executemany(_UPSERT_TWIN, twin_rows)
            if removed_rows:
                transaction.executemany("DELETE FROM device_twin WHERE device_id = ? AND name = ?", removed_rows)

        await self._database.write(write, durable=durable)

    async def delete(self, device: str) -> None:
        """Remove a device with its properties, durably; an unknown one is no error."""

        def write(transaction: Transaction) -> None:
            transaction.execute("DELETE FROM device_twin WHERE device_id = ?", (device,))
            transaction.execute("DELETE FROM device WHERE id = ?", (device,))

        await self._database.write(write, durable=True)


_SELECT_DEVICES = (
    "SELECT id, name, description, state, last_online, state_version, state_acked, attributes FROM device ORDER BY id"
)
_SELECT_TWINS = (
    "SELECT device_id, name, type, optional, metadata,"
    " expected, expected_metadata, expected_cloud, expected_edge, expected_acked,"
    " actual, actual_metadata, actual_cloud, actual_edge, actual_acked, desired_applied"
    " FROM device_twin ORDER BY device_id, name"
)
_UPSERT_DEVICE = (
    "INSERT OR REPLACE INTO device (id, name, description, state, last_online, state_version, state_acked,"
    " attributes) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_UPSERT_TWIN = (
    "INSERT OR REPLACE INTO device_twin (device_id, name, type, optional, metadata,"
    " expected, expected_metadata, expected_cloud, expected_edge, expected_acked,"
    " actual, actual_metadata, actual_cloud, actual_edge, actual_acked, desired_applied)"
    # A device that was removed meanwhile stays removed, whatever was under way for it.
    " SELECT ?1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM device WHERE id = ?1)"
)


def _device_values(row: DeviceRow) -> tuple[object, ...]:
    return (
        row.id,
        row.name,
        row.description,
        row.state,
        row.last_online,
        row.state_version,
        row.state_acked,
        row.attributes,
    )


def _twin_values(row: TwinRow) -> tuple[object, ...]:
    return (
        row.device,
        row.name,
        row.type,
        int(row.optional),
        row.metadata,
        *_half_values(row.expected),
        *_half_values(row.actual),
        row.desired_applied,
    )


def _half_values(half: TwinHalf | None) -> tuple[object, ...]:
    if half is None:
        return (None, "", None, None, 0)
    return (half.value, half.metadata, half.cloud, half.edge, half.acked)


def _half_from(values: Sequence[object]) -> TwinHalf | None:
    value, metadata, cloud, edge, acked = values
    if cloud is None or edge is None:
        return None
    return TwinHalf(
        value=None if value is None else str(value),
        metadata=str(metadata),
        cloud=int(str(cloud)),
        edge=int(str(edge)),
        acked=int(str(acked)),
    )


def _twin_from(row: Sequence[object]) -> TwinRow:
    desired = row[15]
    return TwinRow(
        device=str(row[0]),
        name=str(row[1]),
        type=str(row[2]),
        optional=bool(row[3]),
        metadata=str(row[4]),
        expected=_half_from(row[5:10]),
        actual=_half_from(row[10:15]),
        desired_applied=None if desired is None else str(desired),
    )
