"""From a register on a serial line to a twin message and back, through threads and real ptys."""

from pathlib import Path

import pytest

from edgeappliance.mappers.bench.meter import LIMIT_REGISTER, Meter
from edgeappliance.mappers.bench.rtu_line import RtuLine
from edgeappliance.mappers.bench.slave import Table
from edgeappliance.mappers.bench.tcp_server import TcpServer
from tests.support.fieldbus import MemoryBus, running_mappers, spec_of

DEVICE = "default/meter"
LIMIT = {
    "register": "HoldingRegister", "offset": LIMIT_REGISTER, "scale": 0.1, "limit": 1,
    "minimum": "0", "maximum": "60",
}  # fmt: skip
PROPERTIES = {
    "voltage": {"register": "InputRegister", "offset": 0, "limit": 2, "access": "ReadOnly"},
    "energy": {"register": "InputRegister", "offset": 6, "dataType": "uint32", "scale": 0.01, "access": "ReadOnly"},
    "limit": LIMIT,
    "relay": {"register": "CoilRegister", "offset": 0, "type": "BOOLEAN"},
    "serial": {"register": "HoldingRegister", "offset": 110, "length": 16, "type": "STRING", "access": "ReadOnly"},
}


def delta(bus: MemoryBus, **expected: str) -> None:
    bus.deliver(f"$hw/events/device/{DEVICE}/twin/update/delta", {"twin": {}, "delta": expected})


async def test_rtu_registers_become_twin_values_and_set_points_reach_the_registers(tmp_path: Path) -> None:
    meter = Meter()
    with RtuLine([meter.unit], link=str(tmp_path / "tty"), baud=115200):
        spec = spec_of("meter", {"slaveID": 1, "serialPort": str(tmp_path / "tty"), "baudRate": 115200}, PROPERTIES)
        async with running_mappers(spec) as (mappers, bus):
            await bus.until(lambda: all(bus.value(DEVICE, name) for name in PROPERTIES))
            assert float(bus.value(DEVICE, "voltage") or 0) == pytest.approx(230, abs=5)
            assert bus.value(DEVICE, "energy") == "1234.56"
            assert bus.value(DEVICE, "serial") == "EA-METER-0000017"
            assert bus.value(DEVICE, "relay") == "true"
            assert bus.state(DEVICE) == "online"
            first = next(body for topic, body in bus.messages if topic.endswith("twin/update"))
            actual = first["twin"]["voltage"]["actual"]
            assert first["twin"]["voltage"]["metadata"] == {"type": "float"}
            assert set(actual) == {"value", "metadata"}
            assert set(actual["metadata"]) == {"timestamp"}

            delta(bus, limit="4.20", relay="false")
            await bus.until(lambda: bus.value(DEVICE, "limit") == "4.20" and bus.value(DEVICE, "relay") == "false")
            assert meter.limit_kw == 4.2
            assert meter.unit.tables[Table.COIL][0] == 0
            assert next(iter(mappers.devices()))["state"] == "online"


async def test_tcp_registers_become_twin_values_and_set_points_reach_the_registers() -> None:
    meter = Meter(7)
    with TcpServer([meter.unit]) as server:
        spec = spec_of("meter", {"slaveID": 7, "ip": "127.0.0.1", "port": server.port}, PROPERTIES)
        async with running_mappers(spec) as (_, bus):
            await bus.until(lambda: bus.value(DEVICE, "serial") == "EA-METER-0000017")
            delta(bus, limit="1.5")
            await bus.until(lambda: bus.value(DEVICE, "limit") == "1.5")
            assert meter.limit_kw == 1.5
