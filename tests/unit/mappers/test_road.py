"""From a register on a serial line to a twin message and back, through threads and real ptys."""

import asyncio
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edgeappliance.devicemodel import CatalogueChange, DeviceSpec
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.component import State
from edgeappliance.kernel.supervisor import Supervisor
from edgeappliance.mappers.bench.faults import Fault
from edgeappliance.mappers.bench.meter import LIMIT_REGISTER, Meter
from edgeappliance.mappers.bench.rtu_line import RtuLine
from edgeappliance.mappers.bench.slave import Table, Unit
from edgeappliance.mappers.bench.tcp_server import TcpServer
from edgeappliance.mappers.binding import Binding, Protocols
from edgeappliance.mappers.modbus.protocol import Modbus
from edgeappliance.mappers.service import Mappers
from tests.support.fieldbus import MemoryBus, running_mappers, spec_of
from tests.support.net import free_port

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


async def test_a_refused_set_point_is_published_with_its_reason_and_withdrawn(tmp_path: Path) -> None:
    meter = Meter()
    with RtuLine([meter.unit], link=str(tmp_path / "tty"), baud=115200):
        spec = spec_of("meter", {"slaveID": 1, "serialPort": str(tmp_path / "tty"), "baudRate": 115200}, PROPERTIES)
        async with running_mappers(spec) as (_, bus):
            await bus.until(lambda: bus.value(DEVICE, "limit") == "5")
            delta(bus, limit="70")
            await bus.until(lambda: bus.quality(DEVICE, "limit") == "write-failed")
            actual = bus.actual(DEVICE, "limit")
            assert actual is not None
            assert actual["value"] == "5"
            reason = "set-point 70 not reached: out of range: 70 is above the maximum 60"
            assert actual["metadata"]["reason"] == reason
            # It is asked again whether the set-point still stands, and the answer says no.
            bus.messages.clear()
            await bus.until(lambda: [topic for topic, _ in bus.messages if topic.endswith("/twin/get")])
            result = {"twin": {"limit": {"expected": {"value": "5"}, "actual": {"value": "5"}}}}
            bus.deliver(f"$hw/events/device/{DEVICE}/twin/get/result", result)
            await bus.until(lambda: bus.quality(DEVICE, "limit") == "good")
            assert meter.limit_kw == 5


async def test_the_twin_is_asked_at_start_and_its_expected_value_is_written(tmp_path: Path) -> None:
    meter = Meter()
    with RtuLine([meter.unit], link=str(tmp_path / "tty"), baud=115200):
        spec = spec_of("meter", {"slaveID": 1, "serialPort": str(tmp_path / "tty"), "baudRate": 115200}, PROPERTIES)
        async with running_mappers(spec) as (_, bus):
            await bus.until(lambda: bus.value(DEVICE, "limit") == "5")
            assert any(topic == f"$hw/events/device/{DEVICE}/twin/get" for topic, _ in bus.messages)
            twin = {"limit": {"expected": {"value": "3.5"}, "actual": {"value": "5"}}, "voltage": None, "other": {}}
            bus.deliver(f"$hw/events/device/{DEVICE}/twin/get/result", {"event_id": "", "timestamp": 1, "twin": twin})
            await bus.until(lambda: bus.value(DEVICE, "limit") == "3.5")
            assert meter.limit_kw == 3.5


async def test_what_is_no_twin_message_is_ignored(tmp_path: Path) -> None:
    meter = Meter()
    with RtuLine([meter.unit], link=str(tmp_path / "tty"), baud=115200):
        spec = spec_of("meter", {"slaveID": 1, "serialPort": str(tmp_path / "tty"), "baudRate": 115200}, PROPERTIES)
        async with running_mappers(spec) as (_, bus):
            for topic in ("twin/update/delta", "twin/get/result"):
                for payload in (b"", b"{", b"[]", b'{"twin":5,"delta":[1]}', b'{"code":404,"reason":"x"}', b"\xff"):
                    bus.deliver(f"$hw/events/device/{DEVICE}/{topic}", payload)
            bus.deliver("$hw/events/device/default/nobody/twin/update/delta", {"delta": {"limit": "1"}})
            bus.deliver("$hw/events/node/n/membership/updated", b"x")
            await bus.until(lambda: bus.value(DEVICE, "limit") == "5")


async def test_everything_is_said_again_when_the_broker_or_the_twin_comes_back(tmp_path: Path) -> None:
    meter = Meter()
    with RtuLine([meter.unit], link=str(tmp_path / "tty"), baud=115200):
        spec = spec_of("meter", {"slaveID": 1, "serialPort": str(tmp_path / "tty"), "baudRate": 115200}, PROPERTIES)
        bus = MemoryBus()
        bus.connected = False
        async with running_mappers(spec, bus=bus) as (mappers, _):
            async with asyncio.timeout(5):
                while not any(row["value"] for row in mappers.devices()[0].get("properties", ())):
                    await asyncio.sleep(0.05)
            assert bus.messages == []
            bus.link(True)
            await bus.until(lambda: all(bus.value(DEVICE, name) for name in PROPERTIES) and bus.state(DEVICE))
            bus.messages.clear()
            bus.deliver("$hw/events/node/edge/membership/updated", {"added_devices": [{"id": DEVICE}, {"id": "x/y"}]})
            assert bus.value(DEVICE, "serial") == "EA-METER-0000017"
            assert bus.state(DEVICE) == "online"


async def test_a_pulled_adapter_is_said_and_recovered_within_two_seconds(tmp_path: Path) -> None:
    meter = Meter()
    with RtuLine([meter.unit], link=str(tmp_path / "tty"), baud=115200) as line:
        spec = spec_of("meter", {"slaveID": 1, "serialPort": str(tmp_path / "tty"), "baudRate": 115200}, PROPERTIES)
        async with running_mappers(spec) as (mappers, bus):
            await bus.until(lambda: bus.value(DEVICE, "voltage") and bus.value(DEVICE, "limit"))
            await asyncio.to_thread(line.unplug)
            await bus.until(lambda: bus.state(DEVICE) == "offline" and bus.quality(DEVICE, "limit") == "stale", 2)
            await asyncio.sleep(1.2)  # the report is at most a second old
            health = mappers.health()
            assert health.state == "degraded"
            assert "No such file or directory" in health.reason
            assert "tty" in mappers.devices()[0]["reason"]
            await asyncio.to_thread(line.plug)
            await bus.until(lambda: bus.state(DEVICE) == "online" and bus.quality(DEVICE, "limit") == "good", 2)


async def test_a_change_of_one_device_leaves_the_other_alone(tmp_path: Path) -> None:
    one, two = Meter(1), Meter(2)
    tty = str(tmp_path / "tty")
    with RtuLine([one.unit, two.unit], link=tty, baud=115200) as line:

        def spec(name: str, unit: int, **more: object) -> DeviceSpec:
            config = {"slaveID": unit, "serialPort": tty, "baudRate": 115200, **more}
            return spec_of(name, config, {"limit": LIMIT})

        async with running_mappers(spec("one", 1), spec("two", 2)) as (mappers, bus):
            await bus.until(lambda: bus.value("default/one", "limit") and bus.value("default/two", "limit"))

            # Other line settings than the neighbour's are refused by name, and taken when the neighbour follows.
            other = spec("one", 1, parity="even")
            await mappers.apply(CatalogueChange(other.id, other))
            row = next(row for row in mappers.devices() if row["id"] == "default/one")
            assert row["state"] == "invalid"
            assert f"modbus {tty} is used by default/two with other line settings" in row["errors"][0]
            other = spec("two", 2, parity="even")
            await mappers.apply(CatalogueChange(other.id, other))
            bus.messages.clear()
            await bus.until(lambda: bus.value("default/one", "limit") and bus.value("default/two", "limit"))

            # A removed device is asked no more.
            await mappers.apply(CatalogueChange("default/one", None))
            before = line.figures.requests
            two.unit.fill(Table.HOLDING, LIMIT_REGISTER, [77])
            await bus.until(lambda: bus.value("default/two", "limit") == "7.7")
            assert line.figures.requests - before <= 4
            assert [row["id"] for row in mappers.devices()] == ["default/two"]


async def test_invalid_devices_are_reported_and_polled_when_corrected(tmp_path: Path) -> None:
    meter = Meter()
    tty = str(tmp_path / "tty")
    with RtuLine([meter.unit], link=tty, baud=115200):
        bad = spec_of("meter", {"slaveID": 300, "serialPort": tty, "baudRate": 115200}, {"limit": LIMIT})
        async with running_mappers(bad) as (mappers, bus):
            assert mappers.health().state == "degraded"
            assert "spec.protocol.configData.slaveID" in mappers.health().reason
            good = spec_of("meter", {"slaveID": 1, "serialPort": tty, "baudRate": 115200}, {"limit": LIMIT})
            await mappers.apply(CatalogueChange(good.id, good))
            await bus.until(lambda: bus.value(DEVICE, "limit") == "5")
            assert mappers.health().state == "running"


async def test_devices_of_other_protocols_are_left_to_others() -> None:
    spec = replace(spec_of("x", {}, {}), protocol="opcua")
    async with running_mappers(spec) as (mappers, _):
        (row,) = mappers.devices()
        assert row["reason"] == (
            'no built-in mapper speaks "opcua" (built in: modbus); values must come from a program on MQTT'
        )
        assert mappers.health().state is State.RUNNING
        await mappers.apply(CatalogueChange(spec.id, replace(spec, protocol="modbuss")))
        assert 'did you mean "modbus"?' in mappers.devices()[0]["reason"]
        await mappers.apply(CatalogueChange(spec.id, None))
        assert mappers.devices() == []
        assert mappers.health().state == "running"


async def test_a_component_that_is_restarted_polls_again(tmp_path: Path) -> None:
    meter = Meter()
    tty = str(tmp_path / "tty")
    with RtuLine([meter.unit], link=tty, baud=115200):
        spec = spec_of("meter", {"slaveID": 1, "serialPort": tty, "baudRate": 115200}, {"limit": LIMIT})
        async with running_mappers(spec) as (mappers, bus):
            await bus.until(lambda: bus.value(DEVICE, "limit") == "5")
            await mappers.stop()
            await mappers.stop()
            assert mappers.health().state == "stopped"
            bus.messages.clear()
            await mappers.start()
            await bus.until(lambda: bus.value(DEVICE, "limit") == "5")


async def test_a_dead_unit_of_many_delays_the_others_by_its_time_out_at_most(tmp_path: Path) -> None:
    """Six units on a paced line, cycle 300 ms; unit 4 does not exist, its time-out is 200 ms."""
    tty = str(tmp_path / "tty")
    asked: dict[int, list[float]] = {}

    def note(number: int, _pdu: bytes) -> Fault | None:
        asked.setdefault(number, []).append(time.monotonic())
        return None

    units = [Meter(number).unit for number in (1, 2, 3, 5, 6)]
    with RtuLine(units, link=tty, baud=19200, faults=note) as line:
        config = {"serialPort": tty, "baudRate": 19200, "timeout": 200, "probeInterval": 1000}
        specs = [
            spec_of(f"m{number}", {"slaveID": number, **config}, {"limit": {**LIMIT, "cycle": 300}})
            for number in range(1, 7)
        ]
        async with running_mappers(*specs) as (_, bus):
            await bus.until(lambda: all(bus.state(spec.id) for spec in specs))
            asked.clear()
            silent_before = line.figures.foreign
            await asyncio.sleep(5)
            assert bus.state("default/m4") == "offline"
            assert all(bus.state(spec.id) == "online" for spec in specs if spec.name != "m4")
    # One probe a second, and none of the others waits longer than a cycle and one time-out.
    assert 3 <= line.figures.foreign - silent_before <= 6
    for moments in asked.values():
        assert max(after - before for before, after in pairwise(moments)) < 0.3 + 0.2 + 0.15
        assert len(moments) >= 13


async def test_what_was_read_before_a_restart_is_stale_when_the_device_is_gone() -> None:
    """The twin keeps its values; without a word from us it would show them as good while the device is away."""
    port = free_port()
    register = {"register": "HoldingRegister", "offset": 0, "type": "INT"}
    spec = spec_of("d", {"ip": "127.0.0.1", "port": port}, {"a": register, "b": {**register, "offset": 1}})
    async with running_mappers(spec) as (_, bus):
        await bus.until(lambda: bus.state("default/d") == "offline")
        twin = {
            "a": {"actual": {"value": "5", "metadata": {"timestamp": 1234}}, "metadata": {"type": "int"}},
            "b": {"actual": {"value": "five"}, "metadata": {"type": "string"}},
        }
        bus.deliver("$hw/events/device/default/d/twin/get/result", {"event_id": "", "timestamp": 1, "twin": twin})
        actual = bus.actual("default/d", "a")
        assert actual is not None
        assert (actual["value"], actual["metadata"]["timestamp"]) == ("5", 1234)
        assert actual["metadata"]["quality"] == "stale"
        assert "Connection refused" in actual["metadata"]["reason"]
        assert bus.actual("default/d", "b") is None  # another type than it has now


async def test_a_silent_device_is_named_with_what_to_do(tmp_path: Path) -> None:
    register = {"register": "HoldingRegister", "offset": 0, "type": "INT"}
    config = {"serialPort": str(tmp_path / "tty"), "foreign": 1}
    there, gone = (
        spec_of(f"d{unit}", {**config, "slaveID": unit, "timeout": timeout}, {"a": register})
        for unit, timeout in ((1, 3000), (2, 50))
    )
    unit = Unit(1)
    unit.fill(Table.HOLDING, 0, [7])
    with RtuLine([unit], link=str(tmp_path / "tty"), baud=19200):
        async with running_mappers(there, gone) as (mappers, bus):
            await bus.until(lambda: bus.state("default/d2") == "offline" and bus.state("default/d1") == "online")
            health = mappers.health()
            assert health.state is State.DEGRADED
            assert health.reason == "device default/d2 does not answer: no answer from unit 2 within 50 ms"
            assert "baudRate" in health.next_step
            assert mappers.devices()[0]["warnings"] == [
                "spec.protocol.configData.foreign: is not a known key and does nothing"
            ]


class DyingDriver:
    """Breaks the promise that `close` never raises, so that nothing can save its thread."""

    punctual = False

    def open(self) -> None:
        raise RuntimeError("a bug")

    def close(self) -> None:
        raise RuntimeError("another bug")

    def cancel(self) -> None: ...

    def dispose(self) -> None: ...


class DyingProtocol:
    def __init__(self) -> None:
        self.drivers = 0

    def bind(self, spec: DeviceSpec) -> Binding:
        return Modbus().bind(spec)

    def driver(self, line: object) -> Any:
        self.drivers += 1
        return DyingDriver()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_thread_that_dies_restarts_the_component(monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = DyingProtocol()
    protocols = Protocols({"modbus": "unused"})
    monkeypatch.setattr(protocols, "of", lambda _spec: protocol)
    spec = spec_of("d", {"ip": "127.0.0.1"}, {"a": {"register": "HoldingRegister", "offset": 0}})
    supervisor = Supervisor(initial=0.05, maximum=0.1)
    mappers = supervisor.add(
        "mappers", lambda scope: Mappers(scope=scope, bus=MemoryBus(), clock=SystemClock(), protocols=protocols)
    )
    await mappers.apply(CatalogueChange(spec.id, spec))
    await supervisor.start()
    async with asyncio.timeout(20):
        while protocol.drivers < 2:
            await asyncio.sleep(0.05)
    await supervisor.stop()
