"""What a bad Modbus TCP device may do: everything but give a wrong value."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from edgeappliance.mappers.bench.faults import Fault, FaultKind, FaultPlan, every
from edgeappliance.mappers.bench.slave import Table, Unit
from edgeappliance.mappers.bench.tcp_server import TcpServer
from edgeappliance.mappers.driver import BadAnswer, Block, LineDown, NoAnswer
from edgeappliance.mappers.modbus.settings import TcpSettings
from edgeappliance.mappers.modbus.tcp import TcpDriver
from tests.support.fieldbus import running_mappers, spec_of
from tests.support.net import free_port


@contextmanager
def served(faults: FaultPlan | None) -> Iterator[tuple[TcpDriver, TcpServer]]:
    unit = Unit(1)
    unit.fill(Table.HOLDING, 0, range(400))
    with TcpServer([unit], faults=faults) as server:
        driver = TcpDriver(TcpSettings("127.0.0.1", server.port))
        driver.open()
        try:
            yield driver, server
        finally:
            driver.close()
            driver.cancel()
            driver.dispose()


def registers(driver: TcpDriver, start: int, count: int) -> list[int]:
    data = driver.read(Block(1, "HoldingRegister", start, count), 0.05)
    return [int.from_bytes(data[index : index + 2], "big") for index in range(0, len(data), 2)]


def test_late_answers_are_told_by_their_number() -> None:
    with served(every(3, Fault(FaultKind.LATE, 0.07))) as (driver, _):
        right = 0
        for poll in range(40):
            try:
                assert registers(driver, poll * 9, 5) == list(range(poll * 9, poll * 9 + 5))
                right += 1
            except NoAnswer:
                continue
        assert right >= 15
        assert driver.late > 0


@pytest.mark.parametrize(
    ("kind", "text"), [(FaultKind.SHORT, "in place of 22"), (FaultKind.FOREIGN, "unit 2 answered")]
)
def test_a_spoiled_answer_is_named(kind: FaultKind, text: str) -> None:
    with served(every(2, Fault(kind, 4))) as (driver, _):
        assert registers(driver, 0, 10) == list(range(10))
        with pytest.raises(BadAnswer, match=text):
            registers(driver, 0, 10)
        assert registers(driver, 30, 10) == list(range(30, 40))


def test_a_silent_connection_is_given_up_after_a_few_requests() -> None:
    with served(every(1, Fault(FaultKind.SILENCE))) as (driver, _):
        for _ in range(2):
            with pytest.raises(NoAnswer):
                registers(driver, 0, 1)
        with pytest.raises(LineDown, match="no answer to 3 requests"):
            registers(driver, 0, 1)


def test_a_connection_that_is_cut_is_named() -> None:
    with served(None) as (driver, server):
        assert registers(driver, 0, 1) == [0]
        server.cut()
        with pytest.raises(LineDown):
            registers(driver, 0, 1)


@pytest.mark.parametrize(
    "noise", [b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(7), b"\0\1\0\0\xff\xff\1", b"\0\1\0\0\0\0\1"]
)
def test_what_is_no_modbus_is_named_and_nothing_is_allocated(noise: bytes) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(100)
            client.sendall(noise)
            client.recv(100)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    driver = TcpDriver(TcpSettings("127.0.0.1", listener.getsockname()[1]))
    driver.open()
    with pytest.raises(LineDown, match="does not speak Modbus TCP"):
        registers(driver, 0, 1)
    driver.close()
    driver.dispose()
    thread.join(5)
    listener.close()


def test_nobody_listens_and_cancel_ends_a_wait() -> None:
    driver = TcpDriver(TcpSettings("127.0.0.1", free_port()))
    with pytest.raises(LineDown, match="Connection refused"):
        driver.open()
    driver.dispose()
    with served(every(1, Fault(FaultKind.SILENCE))) as (waiting, _):
        threading.Timer(0.1, waiting.cancel).start()
        begun = time.monotonic()
        with pytest.raises(LineDown):
            waiting.read(Block(1, "HoldingRegister", 0, 1), 20.0)
        assert time.monotonic() - begun < 2


async def test_a_device_that_restarts_is_polled_again_within_two_seconds() -> None:
    unit = Unit(1)
    unit.fill(Table.HOLDING, 0, [7])
    port = free_port()
    spec = spec_of(
        "d", {"ip": "127.0.0.1", "port": port}, {"a": {"register": "HoldingRegister", "offset": 0, "type": "INT"}}
    )
    async with running_mappers(spec) as (_, bus):
        with TcpServer([unit], port=port):
            await bus.until(lambda: bus.value("default/d", "a") == "7" and bus.state("default/d") == "online")
        await bus.until(lambda: bus.state("default/d") == "offline", 2)
        assert bus.quality("default/d", "a") == "stale"
        await asyncio.sleep(1)
        with TcpServer([unit], port=port):
            await bus.until(lambda: bus.state("default/d") == "online" and bus.quality("default/d", "a") == "good", 2)
