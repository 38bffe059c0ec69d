"""The thread of a line: whatever a driver raises, the line comes back and the others never stop."""

import threading
import time
from collections.abc import Callable
from typing import Any

from edgeappliance.kernel.clock import SystemClock
from edgeappliance.mappers.codec import Codec, Raw, Shown
from edgeappliance.mappers.driver import Block, LineDown, SpaceCost, UnitProfile
from edgeappliance.mappers.line import Line
from edgeappliance.mappers.planner import Span
from edgeappliance.mappers.points import Event, Point, ReportRule, Sample

PROFILE = UnitProfile(0.5, 1, 10.0, {"R": SpaceCost(0.01, 0.001, 100, 100)})
POINT = Point("d", "a", 1, "R", Span(0, 1), Codec(Raw.UINT, Shown.INT, 2), 0.05, ReportRule())


class Script:
    """A driver whose reads follow a script of values and exceptions, repeating the last entry."""

    punctual = False

    def __init__(self, *reads: bytes | Exception) -> None:
        self.reads = list(reads)
        self.opened = self.closed = self.disposed = 0
        self.cancelled = threading.Event()

    def open(self) -> None:
        self.opened += 1

    def close(self) -> None:
        self.closed += 1

    def dispose(self) -> None:
        self.disposed += 1

    def cancel(self) -> None:
        self.cancelled.set()

    def read(self, block: Block, timeout: float) -> bytes:
        outcome = self.reads.pop(0) if len(self.reads) > 1 else self.reads[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def write(self, block: Block, data: bytes, timeout: float) -> None:
        raise NotImplementedError


def run(driver: Script, until: Callable[[list[Event]], Any]) -> list[Event]:
    """The events of a line until they suffice."""
    seen: list[Event] = []
    enough = threading.Event()

    def emit(events: list[Event]) -> None:
        seen.extend(events)
        if until(seen):
            enough.set()

    line = Line("test", driver, clock=SystemClock(), emit=emit)
    line.tell(lambda core, now: core.set_device("d", (POINT,), PROFILE, unit=1, now=now))
    line.start()
    assert enough.wait(10)
    line.stop()
    return seen


def values(events: list[Event]) -> list[str | None]:
    return [event.value for event in events if isinstance(event, Sample)]


def test_a_driver_that_raises_anything_is_started_again() -> None:
    driver = Script(b"\0\1", RuntimeError("a bug"), b"\0\2")
    events = run(driver, lambda seen: "2" in values(seen))
    assert values(events) == ["1", "1", "2"]
    stale = [event for event in events if isinstance(event, Sample)][1]
    assert stale.quality == "stale"
    assert stale.reason == "mapper failed: RuntimeError: a bug"
    assert driver.opened == 2
    assert driver.cancelled.is_set()
    assert driver.disposed == 1


def test_stop_closes_and_disposes_once() -> None:
    driver = Script(b"\0\1")
    run(driver, lambda seen: values(seen) == ["1"])
    assert (driver.opened, driver.closed, driver.disposed) == (1, 1, 1)


def test_a_port_that_fails_as_soon_as_it_is_open_is_opened_at_a_measured_pace() -> None:
    driver = Script(LineDown("unplugged"))
    line = Line("test", driver, clock=SystemClock(), emit=lambda _events: None)
    line.tell(lambda core, now: core.set_device("d", (POINT,), PROFILE, unit=1, now=now))
    line.start()
    time.sleep(1.2)
    line.stop()
    assert 1 <= driver.opened <= 4
