"""One device as the twin service holds it, and its rows in the store."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from edgeappliance.devicetwin.requests import DEVICE_PREFIX
from edgeappliance.devicetwin.values import DEFAULT_TYPE
from edgeappliance.store import DeviceRow, StoredDevice, TwinHalf, TwinRow
from edgeappliance.wire.twin import MsgTwin, TwinValue, TwinVersion, TypeMeta, ValueMeta

_encode = msgspec.json.Encoder().encode
_decode_meta = msgspec.json.Decoder(ValueMeta).decode


class TwinSet:
    """The entries of one twin, and which of them have an expected value that is not empty."""

    __slots__ = ("entries", "expecting")

    def __init__(self, entries: dict[str, MsgTwin] | None = None) -> None:
        self.entries: dict[str, MsgTwin] = {}
        self.expecting: set[str] = set()
        self.install(entries or {})

    def install(self, entries: dict[str, MsgTwin]) -> None:
        """Put new entries in."""
        self.entries.update(entries)
        for key, entry in entries.items():
            if entry.expected is not None and entry.expected.value:
                self.expecting.add(key)
            else:
                self.expecting.discard(key)

    def copy(self) -> "TwinSet":
        """An independent set; the entries themselves are never changed in place."""
        twin = TwinSet()
        twin.entries = dict(self.entries)
        twin.expecting = set(self.expecting)
        return twin


class Topics:
    """The topics that answers for one device go to."""

    __slots__ = ("delta", "document", "get_result", "result", "state_result")

    def __init__(self, device_id: str) -> None:
        base = f"{DEVICE_PREFIX}{device_id}"
        self.result = f"{base}/twin/update/result"
        self.document = f"{base}/twin/update/document"
        self.delta = f"{base}/twin/update/delta"
        self.get_result = f"{base}/twin/get/result"
        self.state_result = f"{base}/state/update/result"


@dataclass(slots=True)
class Device:
    """A member device.

    acknowledged: per key the newest (expected, actual) edge versions that the cloud has confirmed.
    dirty: keys that the cloud must hear of, each with the number of the change (`changes`) that made it so.
    applied: the desired values of the Device object that were taken over. types: twin types from its model.
    unsaved: keys whose newest entry is not in the store yet. local: known from a local file, not reported upward.
    """

    id: str
    description: str = ""
    state: str = ""
    last_online: str = ""
    state_version: int = 0
    state_acked: int = 0
    twin: TwinSet = field(default_factory=TwinSet)
    acknowledged: dict[str, tuple[int, int]] = field(default_factory=dict)
    dirty: dict[str, int] = field(default_factory=dict)
    changes: int = 0
    applied: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    unsaved: set[str] = field(default_factory=set)
    row_unsaved: bool = False
    local: bool = False
    topics: Topics = field(init=False)

    def __post_init__(self) -> None:
        self.topics = Topics(self.id)

    @property
    def name(self) -> str:
        """The name without the namespace."""
        return self.id.partition("/")[2]

    def touch(self, keys: Iterable[str]) -> None:
        """The cloud must hear of these keys."""
        self.changes += 1
        for key in keys:
            self.dirty[key] = self.changes

    def row(self) -> DeviceRow:
        """The device's own row."""
        return DeviceRow(
            id=self.id,
            name=self.name,
            description=self.description,
            state=self.state,
            last_online=self.last_online,
            state_version=self.state_version,
            state_acked=self.state_acked,
        )

    def twin_row(self, key: str, entry: MsgTwin, *, applied: str | None) -> TwinRow:
        """The row of one property; `applied` is the desired value of the Device object that was taken over."""
        expected_acked, actual_acked = self.acknowledged.get(key, (0, 0))
        return TwinRow(
            device=self.id,
            name=key,
            type=entry.metadata.type if entry.metadata is not None else DEFAULT_TYPE,
            optional=entry.optional is not False,
            expected=_half_row(entry.expected, entry.expected_version, expected_acked),
            actual=_half_row(entry.actual, entry.actual_version, actual_acked),
            desired_applied=applied,
        )

    @classmethod
    def from_store(cls, stored: StoredDevice) -> "Device":
        """The device as it was saved; what the cloud has not confirmed is dirty again."""
        row = stored.device
        device = cls(
            id=row.id,
            description=row.description,
            state=row.state,
            last_online=row.last_online,
            state_version=row.state_version,
            state_acked=row.state_acked,
        )
        entries: dict[str, MsgTwin] = {}
        for twin in stored.twins:
            entries[twin.name] = MsgTwin(
                _half(twin.expected),
                _half(twin.actual),
                twin.optional,
                TypeMeta(twin.type),
                _version(twin.expected),
                _version(twin.actual),
            )
            if twin.desired_applied is not None:
                device.applied[twin.name] = twin.desired_applied
            device.acknowledged[twin.name] = (
                twin.expected.acked if twin.expected else 0,
                twin.actual.acked if twin.actual else 0,
            )
            if any(half is not None and half.edge > half.acked for half in (twin.expected, twin.actual)):
                device.touch([twin.name])
        device.twin.install(entries)
        return device


def _half_row(half: TwinValue | None, version: TwinVersion | None, acked: int) -> TwinHalf | None:
    if version is None:
        return None
    value = half.value if half is not None else None
    metadata = _encode(half.metadata).decode() if half is not None and half.metadata is not None else ""
    return TwinHalf(value=value, metadata=metadata, cloud=version.cloud, edge=version.edge, acked=acked)


def _half(row: TwinHalf | None) -> TwinValue | None:
    if row is None or row.value is None:
        return None
    return TwinValue(row.value, _decode_meta(row.metadata.encode()) if row.metadata else None)


def _version(row: TwinHalf | None) -> TwinVersion | None:
    return None if row is None else TwinVersion(row.cloud, row.edge)
