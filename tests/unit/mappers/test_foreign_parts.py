"""Our master against libmodbus's slave, mbpoll's master against our slave: neither was written by us."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeappliance.mappers.bench.rtu_line import RtuLine
from edgeappliance.mappers.bench.slave import Table, Unit
from edgeappliance.mappers.bench.tcp_server import TcpServer
from edgeappliance.mappers.driver import Block, Driver, Refused
from edgeappliance.mappers.modbus.rtu import RtuDriver
from edgeappliance.mappers.modbus.settings import SerialSettings, TcpSettings
from edgeappliance.mappers.modbus.tcp import TcpDriver
from tests.support import libmodbus
from tests.support.net import free_port

needs_libmodbus = pytest.mark.skipif(libmodbus.library() is None, reason="apt install libmodbus5")
needs_mbpoll = pytest.mark.skipif(shutil.which("mbpoll") is None, reason="apt install mbpoll")


def words(data: bytes) -> list[int]:
    return [int.from_bytes(data[index : index + 2], "big") for index in range(0, len(data), 2)]


def exercise(driver: Driver, unit: int) -> None:
    """Every function that we use, against registers that hold their own address."""
    driver.open()
    try:
        assert words(driver.read(Block(unit, "HoldingRegister", 0, 125), 1.0)) == list(range(125))
        assert words(driver.read(Block(unit, "InputRegister", 7, 3), 1.0)) == [1007, 1008, 1009]
        assert driver.read(Block(unit, "CoilRegister", 1, 11), 1.0) == bytes([1, 0] * 5 + [1])
        assert driver.read(Block(unit, "DiscreteInputRegister", 0, 2), 1.0) == b"\0\1"
        driver.write(Block(unit, "HoldingRegister", 150, 1), b"\x12\x34", 1.0)
        driver.write(Block(unit, "HoldingRegister", 151, 2), b"\x56\x78\x9a\xbc", 1.0)
        assert driver.read(Block(unit, "HoldingRegister", 150, 3), 1.0) == b"\x12\x34\x56\x78\x9a\xbc"
        driver.write(Block(unit, "CoilRegister", 150, 1), b"\1", 1.0)
        driver.write(Block(unit, "CoilRegister", 151, 10), bytes([1, 1, 0, 0, 1, 0, 1, 0, 0, 1]), 1.0)
        assert driver.read(Block(unit, "CoilRegister", 150, 11), 1.0) == bytes([1, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1])
        with pytest.raises(Refused, match="illegal data address") as refused:
            driver.read(Block(unit, "HoldingRegister", 190, 20), 1.0)
        assert refused.value.splits
    finally:
        driver.close()
        driver.cancel()
        driver.dispose()


@needs_libmodbus
def test_rtu_against_libmodbus(tmp_path: Path) -> None:
    ours, theirs = str(tmp_path / "a"), str(tmp_path / "b")
    with libmodbus.line(ours, theirs), libmodbus.slave("rtu", theirs, "19200", "5"):
        exercise(RtuDriver(SerialSettings(ours, 19200)), 5)


@needs_libmodbus
def test_tcp_against_libmodbus() -> None:
    port = free_port()
    with libmodbus.slave("tcp", str(port), "5"):
        exercise(TcpDriver(TcpSettings("127.0.0.1", port)), 5)


def simulated() -> Unit:
    unit = Unit(5)
    for table, first in ((Table.HOLDING, 0), (Table.INPUT, 1000)):
        unit.fill(table, 0, range(first, first + 200))
    for table in (Table.COIL, Table.DISCRETE):
        unit.fill(table, 0, [address % 2 for address in range(200)])
    return unit


def test_rtu_and_tcp_against_the_bench(tmp_path: Path) -> None:
    with RtuLine([simulated()], link=str(tmp_path / "tty"), baud=115200):
        exercise(RtuDriver(SerialSettings(str(tmp_path / "tty"), 115200)), 5)
    with TcpServer([simulated()]) as server:
        exercise(TcpDriver(TcpSettings("127.0.0.1", server.port)), 5)


def mbpoll(*arguments: str) -> list[str]:
    done = subprocess.run(["mbpoll", *arguments], capture_output=True, text=True, timeout=20, check=False)
    return [line.split(":", 1)[1].strip() for line in done.stdout.splitlines() if line.startswith("[")]


@needs_mbpoll
def test_mbpoll_reads_and_writes_the_bench(tmp_path: Path) -> None:
    unit, link = simulated(), str(tmp_path / "tty")
    rtu = ("-m", "rtu", "-b", "19200", "-P", "none", "-a", "5", "-0", "-1", link)
    with RtuLine([unit], link=link, baud=19200), TcpServer([unit]) as server:
        tcp = ("-m", "tcp", "-p", str(server.port), "-a", "5", "-0", "-1", "127.0.0.1")
        for way in (rtu, tcp):
            assert mbpoll("-t", "4", "-r", "10", "-c", "3", *way) == ["10", "11", "12"]
            assert mbpoll("-t", "3", "-r", "7", "-c", "2", *way) == ["1007", "1008"]
            assert mbpoll("-t", "0", "-r", "1", "-c", "3", *way) == ["1", "0", "1"]
        mbpoll("-t", "4", "-r", "20", *rtu, "77", "78")
        mbpoll("-t", "0", "-r", "20", *tcp, "1")
        assert unit.words(Table.HOLDING, 20, 2) == (77, 78)
        assert unit.words(Table.COIL, 20, 1) == (1,)


@needs_mbpoll
def test_the_meter_process_serves_mbpoll_and_says_what_was_written(tmp_path: Path) -> None:
    link = str(tmp_path / "tty")
    process = subprocess.Popen(
        [sys.executable, "-m", "edgeappliance.mappers.bench", "meter", "--link", link, "--baud", "19200"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert '"event": "ready"' in process.stdout.readline()
        mbpoll("-m", "rtu", "-b", "19200", "-P", "none", "-a", "1", "-0", "-t", "4", "-r", "100", link, "33")
        assert '"address": 100, "values": [33]' in process.stdout.readline()
    finally:
        process.terminate()
        assert process.wait(10) == 0
        process.stdout.close()
    assert not Path(link).is_symlink()
