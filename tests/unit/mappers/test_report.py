"""`edgecore devices` says why a property has no value and why a device is not polled."""

from pathlib import Path

from edgeappliance.cli.status import render_device
from edgeappliance.devicemodel import CatalogueChange
from edgeappliance.devicetwin.device import Device
from edgeappliance.mappers.bench.meter import Meter
from edgeappliance.mappers.bench.rtu_line import RtuLine
from edgeappliance.report import device_report
from tests.support.fieldbus import running_mappers, spec_of


class NoTwins:
    def device(self, device_id: str) -> Device | None:
        return None


async def test_reasons_that_only_the_mapper_knows_are_shown(tmp_path: Path) -> None:
    tty = str(tmp_path / "tty")
    properties = {
        "voltage": {"register": "InputRegister", "offset": 0},
        "nothing": {"register": "InputRegister", "offset": 900},
    }
    good = spec_of("good", {"slaveID": 1, "serialPort": tty, "baudRate": 115200}, properties)
    bad = spec_of("bad", {"serialPort": tty, "baudRate": 115200}, properties)
    with RtuLine([Meter().unit], link=tty, baud=115200):
        async with running_mappers(good, bad) as (mappers, bus):
            await bus.until(lambda: bus.value("default/good", "voltage") and bus.state("default/good"))
            # What was read reaches the report when the line is next idle.
            await bus.until(lambda: len([t for t, _ in bus.messages if t.endswith("twin/update")]) > 12)
            results = [CatalogueChange(spec.id, spec) for spec in (good, bad)]
            first, second = device_report(results, NoTwins(), mappers.devices())
    assert second["line"] == f"modbus {tty}"
    by_name = {item["name"]: item for item in second["properties"]}
    assert by_name["nothing"]["quality"] == "bad"
    assert by_name["nothing"]["reason"] == "exception 2: illegal data address"
    assert first["errors"] == ["spec.protocol.configData.slaveID: is missing"]
    shown = "\n".join([*render_device(first, 0), *render_device(second, 0)])
    assert "error: spec.protocol.configData.slaveID: is missing" in shown
    assert f"modbus {tty} unit 1" in shown
    assert "bad: exception 2: illegal data address" in shown
