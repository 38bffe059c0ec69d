"""What a bad Modbus TCP device may do: everything but give a wrong value."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
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


def test_a_silent_connection_is_replaced_and_the_line_stays_up() -> None:
    """Half-open or a gateway with dead units: a new connection helps the one and does not hurt the other."""
    silent = True
    with served(lambda _number, _pdu: Fault(FaultKind.SILENCE) if silent else None) as (driver, _):
        for _ in range(7):
            with pytest.raises(NoAnswer, match="no answer from unit 1 within 50 ms"):
                registers(driver, 0, 1)
        silent = False
        assert registers(driver, 3, 1) == [3]


def test_a_connection_that_is_cut_is_opened_again() -> None:
    with served(None) as (driver, server):
        assert registers(driver, 0, 1) == [0]
        server.cut()
        assert registers(driver, 1, 1) == [1]


class Odd:
    """A server that answers each request of a connection with what `answer` makes of (transaction, unit); closes when
    that is None or after `requests`."""

    def __init__(self, answer: Callable[[int, int], bytes | None], *, requests: int = 1000) -> None:
        self._answer = answer
        self._requests = requests
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.connections = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Odd":
        return self

    def __exit__(self, *_exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with client:
                client.settimeout(2)
                for _ in range(self._requests):
                    try:
                        request = client.recv(12)
                    except OSError:
                        break
                    reply = self._answer(int.from_bytes(request[:2], "big"), request[6]) if request else None
                    if reply is None:
                        break
                    client.sendall(reply)


def one_register(transaction: int, unit: int, value: int = 7) -> bytes:
    return transaction.to_bytes(2, "big") + bytes([0, 0, 0, 5, unit, 3, 2, 0, value])


@contextmanager
def driving(port: int, host: str = "127.0.0.1") -> Iterator[TcpDriver]:
    driver = TcpDriver(TcpSettings(host, port))
    driver.open()
    try:
        yield driver
    finally:
        driver.close()
        driver.cancel()
        driver.dispose()


def test_a_device_that_closes_after_each_answer_is_read_all_the_same() -> None:
    with Odd(one_register, requests=1) as server, driving(server.port) as driver:
        for _ in range(20):
            assert driver.read(Block(1, "HoldingRegister", 0, 1), 2.0) == b"\0\7"
        assert server.connections <= 21


def test_a_gateway_that_hangs_up_for_a_dead_unit_keeps_the_line() -> None:
    with (
        Odd(lambda transaction, unit: one_register(transaction, unit) if unit == 1 else None) as server,
        driving(server.port) as driver,
    ):
        for _ in range(5):
            with pytest.raises(NoAnswer, match="(closed the connection|reset by peer) when unit 2 was asked"):
                driver.read(Block(2, "HoldingRegister", 0, 1), 2.0)
            assert driver.read(Block(1, "HoldingRegister", 0, 1), 2.0) == b"\0\7"


def test_answers_with_another_transaction_number_are_no_answers_and_are_named() -> None:
    with (
        Odd(lambda transaction, unit: one_register(transaction + 1 & 0xFFFF, unit)) as server,
        driving(server.port) as driver,
        pytest.raises(NoAnswer, match=r"within 300 ms \(1 answers to other transactions came\)"),
    ):
        driver.read(Block(1, "HoldingRegister", 0, 1), 0.3)


@pytest.mark.parametrize("code", [10, 11])
def test_a_gateway_says_that_a_unit_is_not_there(code: int) -> None:
    """An answer for the books of the line, but the unit is silent: it must be asked as rarely as one on a wire."""
    with served(every(1, Fault(FaultKind.EXCEPTION, code))) as (driver, _), pytest.raises(NoAnswer, match="gateway"):
        driver.read(Block(1, "HoldingRegister", 0, 1), 2.0)


def test_every_address_of_a_name_is_tried_and_a_name_that_is_none_is_refused() -> None:
    with Odd(one_register) as server, driving(server.port, "localhost") as driver:
        assert driver.read(Block(1, "HoldingRegister", 0, 1), 2.0) == b"\0\7"
    wrong = TcpDriver(TcpSettings("a..b", 502))
    with pytest.raises(LineDown, match="a..b:502: "):
        wrong.open()
    wrong.dispose()


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
