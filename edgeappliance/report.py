"""What `edgecore devices` shows: specifications, twins and what the mappers say, side by side, as plain values."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from edgeappliance.devicemodel.catalogue import CatalogueChange
from edgeappliance.devicemodel.spec import PropertySpec
from edgeappliance.devicetwin.device import Device
from edgeappliance.devicetwin.rules import is_tombstone
from edgeappliance.wire.twin import MsgTwin


class Twins(Protocol):
    """Where a device's twin can be looked at."""

    def device(self, device_id: str) -> Device | None: ...


def device_report(
    results: Iterable[CatalogueChange], twins: Twins, field: Iterable[Mapping[str, Any]] = ()
) -> list[dict[str, Any]]:
    """One entry a device, ordered by id. `field` are the rows of `Mappers.devices`."""
    rows = {row["id"]: row for row in field}
    return [
        _device(result, twins.device(result.device_id), rows.get(result.device_id, {}))
        for result in sorted(results, key=lambda r: r.device_id)
    ]


def _device(result: CatalogueChange, device: Device | None, row: Mapping[str, Any]) -> dict[str, Any]:
    spec = result.spec
    twin = device.twin.entries if device is not None else {}
    properties = [_property(item.name, item, twin.get(item.name)) for item in spec.properties] if spec else []
    read = {item["name"]: item for item in row.get("properties", ())}
    for item in properties:
        _add_field(item, read.get(item["name"]))
    known = {item["name"] for item in properties}
    others = ((key, entry) for key, entry in sorted(twin.items()) if key not in known and not is_tombstone(entry))
    properties += [_property(key, None, entry) for key, entry in others]
    return {
        "id": result.device_id,
        "protocol": spec.protocol if spec else "",
        "state": device.state if device is not None else "",
        "local": bool(spec and spec.local),
        "line": row.get("line", ""),
        "unit": row.get("unit", ""),
        "reason": row.get("reason", ""),
        "warnings": list(row.get("warnings", ())),
        "errors": [*(str(error) for error in result.errors), *row.get("errors", ())],
        "properties": properties,
    }


def _add_field(item: dict[str, Any], read: Mapping[str, Any] | None) -> None:
    """A property that could never be read is not in the twin; the reason is known to the mapper alone."""
    if read is not None and read["reason"] and item["quality"] in ("", "good"):
        item["quality"], item["reason"] = read["quality"], read["reason"]


def _property(name: str, spec: PropertySpec | None, entry: MsgTwin | None) -> dict[str, Any]:
    actual = entry.actual if entry is not None else None
    expected = entry.expected if entry is not None else None
    meta = actual.metadata if actual is not None else None
    return {
        "name": name,
        "type": spec.type.value if spec else (entry.metadata.type if entry and entry.metadata else ""),
        "unit": spec.unit if spec else "",
        "reported": actual.value if actual is not None else None,
        "reported_ms": meta.timestamp if meta is not None else 0,
        "desired": expected.value if expected is not None else None,
        "quality": (meta.quality if meta is not None else "") or ("good" if actual is not None else ""),
        "reason": meta.reason if meta is not None else "",
    }
