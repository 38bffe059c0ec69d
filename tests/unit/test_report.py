"""What `edgecore devices` is made of."""

from edgeappliance.devicemodel.catalogue import CatalogueChange
from edgeappliance.devicemodel.spec import Access, DeviceSpec, FieldError, PropertySpec, PropertyType
from edgeappliance.devicetwin.device import Device
from edgeappliance.report import device_report
from edgeappliance.wire.twin import MsgTwin, TwinValue, TypeMeta, ValueMeta


def spec(name: str, *properties: str) -> DeviceSpec:
    made = tuple(PropertySpec(name=item, type=PropertyType.FLOAT, access=Access.READ_WRITE) for item in properties)
    return DeviceSpec("default", name, "m", "modbus", properties=made)


class Twins:
    def __init__(self, *devices: Device) -> None:
        self._devices = {device.id: device for device in devices}

    def device(self, device_id: str) -> Device | None:
        return self._devices.get(device_id)


def twin(device_id: str, **entries: MsgTwin) -> Device:
    device = Device(device_id, state="online")
    device.twin.install(entries)
    return device


def value(text: str, **meta: object) -> TwinValue:
    return TwinValue(text, ValueMeta(**meta))


def test_devices_are_in_order_with_specification_twin_and_field_side_by_side() -> None:
    device = twin(
        "default/a",
        v=MsgTwin(value("5", timestamp=1), value("4.9", timestamp=2, quality="bad", reason="stale")),
        extra=MsgTwin(None, value("x", timestamp=3), True, TypeMeta("string")),
    )
    results = [CatalogueChange("default/b", spec("b", "w")), CatalogueChange("default/a", spec("a", "v", "never"))]
    field = [
        {
            "id": "default/a", "line": "modbus /dev/x", "unit": 3, "reason": "", "errors": [],
            "properties": [
                {"name": "v", "quality": "bad", "reason": "older news"},
                {"name": "never", "quality": "bad", "reason": "illegal address"},
            ],
        }
    ]  # fmt: skip
    first, second = device_report(results, Twins(device), field)
    assert (first["id"], first["state"], first["line"], first["unit"]) == ("default/a", "online", "modbus /dev/x", 3)
    v, never, extra = first["properties"]
    assert (v["reported"], v["reported_ms"], v["desired"]) == ("4.9", 2, "5")
    assert (v["quality"], v["reason"]) == ("bad", "stale")  # the twin's own word goes first
    assert (never["reported"], never["quality"], never["reason"]) == (None, "bad", "illegal address")
    assert (extra["name"], extra["type"], extra["quality"]) == ("extra", "string", "good")
    assert (second["id"], second["state"], second["line"]) == ("default/b", "", "")
    assert second["properties"][0]["quality"] == ""


def test_an_invalid_device_shows_its_errors_and_what_its_twin_still_holds() -> None:
    results = [CatalogueChange("default/a", None, (FieldError("spec.x", "is wrong"),))]
    (found,) = device_report(results, Twins(twin("default/a", v=MsgTwin(None, value("1", timestamp=1)))))
    assert found["errors"] == ["spec.x: is wrong"]
    assert found["protocol"] == ""
    assert [item["name"] for item in found["properties"]] == ["v"]


def test_a_deleted_property_is_not_shown() -> None:
    results = [CatalogueChange("default/a", spec("a"))]
    tombstone = MsgTwin(None, TwinValue(), True, TypeMeta("deleted"))
    (found,) = device_report(results, Twins(twin("default/a", gone=tombstone)))
    assert found["properties"] == []
