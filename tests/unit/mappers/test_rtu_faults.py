"""What a bad line may do to the RTU driver: everything but give a wrong value.

Registers hold their own address, so every value shows which request it answers.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgeappliance.mappers.bench.faults import Fault, FaultKind, FaultPlan, every, sometimes
from edgeappliance.mappers.bench.rtu_line import RtuLine
from edgeappliance.mappers.bench.slave import Table, Unit
from edgeappliance.mappers.driver import BadAnswer, Block, DriverError, LineDown, NoAnswer, Refused
from edgeappliance.mappers.modbus.rtu import RtuDriver
from edgeappliance.mappers.modbus.settings import SerialSettings

BAUD = 115200


def unit(number: int) -> Unit:
    it = Unit(number)
    it.fill(Table.HOLDING, 0, range(0, 400))
    it.fill(Table.INPUT, 0, range(10000, 10400))
    it.fill(Table.COIL, 0, [address % 3 == 0 for address in range(400)])
    return it


@contextmanager
def line(directory: Path, faults: FaultPlan | None, *, units: int = 2) -> Iterator[tuple[RtuDriver, RtuLine]]:
    link = str(directory / "tty")
    with RtuLine([unit(number + 1) for number in range(units)], link=link, baud=BAUD, faults=faults) as slaves:
        driver = RtuDriver(SerialSettings(link, BAUD))
        driver.open()
        try:
            yield driver, slaves
        finally:
            driver.close()
            driver.cancel()
            driver.dispose()


def registers(driver: RtuDriver, number: int, start: int, count: int, timeout: float = 0.05) -> list[int] | None:
    """What was read, None for an error."""
    try:
        data = driver.read(Block(number, "HoldingRegister", start, count), timeout)
    except (NoAnswer, BadAnswer):
        return None
    return [int.from_bytes(data[index : index + 2], "big") for index in range(0, len(data), 2)]


@pytest.mark.parametrize("late_s", [0.03, 0.06, 0.14, 0.3])
@pytest.mark.parametrize("count", [1, 10])
def test_late_answers_never_give_a_wrong_value(tmp_path: Path, late_s: float, count: int) -> None:
    """A third of the answers comes up to 300 ms late, the time-out is 50 ms, every poll asks for other addresses."""
    plan = sometimes(0.33, Fault(FaultKind.LATE, late_s), seed=count)
    faulty = True
    with line(tmp_path, lambda number, pdu: plan(number, pdu) if faulty else None) as (driver, _):
        right = 0
        for poll in range(40):
            start = (poll * 7) % 300
            values = registers(driver, 1 + poll % 2, start, count)
            if values is not None:
                assert values == list(range(start, start + count)), f"poll {poll}"
                right += 1
        assert right >= 2
        if late_s > 0.05:
            assert driver.figures.late + driver.figures.probes > 0
        faulty = False
        # What the slave is asked while it still works on a late answer is lost. When it hears again, all is well.
        for number in (1, 2):
            deadline = time.monotonic() + 20
            while (values := registers(driver, number, 0, count, timeout=0.5)) is None:
                assert time.monotonic() < deadline
            assert values == list(range(count))
        for poll in range(10):
            expected = list(range(9 * poll, 9 * poll + count))
            assert registers(driver, 1 + poll % 2, 9 * poll, count, timeout=20.0) == expected


def test_late_answers_to_writes_and_bits_are_told_apart(tmp_path: Path) -> None:
    with line(tmp_path, every(3, Fault(FaultKind.LATE, 0.07))) as (driver, slaves):
        for poll in range(45):
            start = poll * 3 % 200 + 200
            try:
                if poll % 3 == 0:
                    driver.write(Block(1, "HoldingRegister", start, 2), bytes([poll, 1, poll, 2]), 0.05)
                    assert slaves.units[1].words(Table.HOLDING, start, 2) == (poll * 256 + 1, poll * 256 + 2)
                else:
                    bits = driver.read(Block(1, "CoilRegister", start, 3 + poll % 2), 0.05)
                    assert bits == bytes(address % 3 == 0 for address in range(start, start + 3 + poll % 2))
            except (NoAnswer, BadAnswer):
                continue


@pytest.mark.parametrize(
    "fault",
    [Fault(FaultKind.SHORT, 1), Fault(FaultKind.SHORT, 5), Fault(FaultKind.CRC), Fault(FaultKind.FOREIGN)],
    ids=lambda fault: f"{fault.kind}{fault.value}",
)
def test_a_spoiled_answer_is_an_error_and_the_next_one_is_right(tmp_path: Path, fault: Fault) -> None:
    with line(tmp_path, sometimes(0.5, fault)) as (driver, _):
        good = 0
        for poll in range(20):
            values = registers(driver, 1, poll * 10, 10)
            if values is not None:
                assert values == list(range(poll * 10, poll * 10 + 10))
                good += 1
        assert good >= 5


def test_the_reason_of_a_short_answer_names_it(tmp_path: Path) -> None:
    plan = every(1, Fault(FaultKind.SHORT, 4))
    with line(tmp_path, plan) as (driver, _), pytest.raises(BadAnswer, match="14 bytes in place of 22"):
        driver.read(Block(1, "HoldingRegister", 0, 10), 2.0)


def test_an_answer_behind_noise_is_found(tmp_path: Path) -> None:
    with line(tmp_path, every(1, Fault(FaultKind.GARBAGE, 7))) as (driver, _):
        found = [registers(driver, 1, poll * 5, 5) for poll in range(20)]
        right = [list(range(poll * 5, poll * 5 + 5)) for poll in range(20)]
        assert all(values in (expected, None) for values, expected in zip(found, right, strict=True))
        assert sum(values is not None for values in found) >= 15


def test_silence_costs_one_time_out_and_exceptions_are_named(tmp_path: Path) -> None:
    with line(tmp_path, every(1, Fault(FaultKind.EXCEPTION, 6), unit=2)) as (driver, _):
        begun = time.monotonic()
        with pytest.raises(NoAnswer, match="no answer from unit 9 within 100 ms"):
            driver.read(Block(9, "HoldingRegister", 0, 2), 0.1)
        assert 0.1 <= time.monotonic() - begun < 0.2
        with pytest.raises(Refused, match="exception 6: device busy"):
            driver.read(Block(2, "HoldingRegister", 0, 2), 2.0)
        with pytest.raises(Refused, match="exception 2: illegal data address") as refused:
            driver.read(Block(1, "HoldingRegister", 500, 2), 2.0)
        assert refused.value.splits


def test_a_unit_without_the_single_write_function_gets_the_other_one(tmp_path: Path) -> None:
    def no_function_6(_number: int, pdu: bytes) -> Fault | None:
        return Fault(FaultKind.EXCEPTION, 1) if pdu[0] == 6 else None

    with line(tmp_path, no_function_6) as (driver, slaves):
        driver.write(Block(1, "HoldingRegister", 9, 1), b"\x00\x07", 2.0)
        assert slaves.units[1].words(Table.HOLDING, 9, 1) == (7,)
        before = slaves.figures.requests
        driver.write(Block(1, "HoldingRegister", 9, 1), b"\x00\x08", 2.0)
        assert slaves.figures.requests == before + 1


def test_an_unplugged_port_is_named_and_can_be_opened_again(tmp_path: Path) -> None:
    with line(tmp_path, None) as (driver, slaves):
        assert registers(driver, 1, 0, 2, timeout=2.0) == [0, 1]
        slaves.unplug()
        with pytest.raises(LineDown):
            driver.read(Block(1, "HoldingRegister", 0, 2), 0.1)
        driver.close()
        with pytest.raises(LineDown, match="No such file"):
            driver.open()
        slaves.plug()
        driver.open()
        assert registers(driver, 1, 0, 2, timeout=2.0) == [0, 1]


def test_a_port_has_one_owner(tmp_path: Path) -> None:
    with line(tmp_path, None) as (driver, _):
        second = RtuDriver(driver.settings)
        with pytest.raises(LineDown):
            second.open()
        second.dispose()


def test_the_silence_between_frames_is_kept(tmp_path: Path) -> None:
    with line(tmp_path, None) as (driver, slaves):
        for poll in range(50):
            assert registers(driver, 1 + poll % 2, poll, 20, timeout=2.0) is not None
        assert slaves.figures.early == 0


def test_cancel_ends_a_wait_at_once(tmp_path: Path) -> None:
    import threading

    with line(tmp_path, None) as (driver, _):
        threading.Timer(0.1, driver.cancel).start()
        begun = time.monotonic()
        with pytest.raises(DriverError):
            driver.read(Block(9, "HoldingRegister", 0, 2), 20.0)
        assert time.monotonic() - begun < 2
