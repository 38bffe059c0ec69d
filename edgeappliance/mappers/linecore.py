"""The owner of one line, as a function of time: what to ask next, and what an outcome means. No I/O.

Writes overtake polls; between polls the earliest deadline goes first; a silent unit is asked once per probe
interval. The shell (`line.Line`) asks `next`, does it, and hands the outcome to `done`.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgeappliance.mappers.breaker import Breaker
from edgeappliance.mappers.codec import EncodeError
from edgeappliance.mappers.driver import (
    BadAnswer,
    Block,
    DriverError,
    LineDown,
    NoAnswer,
    Refused,
    UnitKey,
    UnitProfile,
)
from edgeappliance.mappers.groups import Group
from edgeappliance.mappers.planner import Learned, Span
from edgeappliance.mappers.points import Event, Point, PointKey, Quality, Reachable, Sample, Written
from edgeappliance.mappers.setpoints import SetPointWrite, check_set_point
from edgeappliance.mappers.units import Unit
from edgeappliance.mappers.values import Values

_SILENT_AFTER = 2
"""Requests without an answer after which a device counts as unreachable: one may be noise."""


@dataclass(frozen=True, slots=True)
class Job:
    """One request to the driver: a read, or a write when there is `data`."""

    block: Block
    timeout: float
    data: bytes | None = None
    attempt: int = 0


@dataclass(slots=True)
class Figures:
    """Counters of a line since its mapper started; `busy` in seconds."""

    requests: int = 0
    answers: int = 0
    silences: int = 0
    broken: int = 0
    refused: int = 0
    writes: int = 0
    busy: float = 0.0


class LineCore:
    """All times are monotonic seconds unless they end in ``_ms`` (Unix)."""

    def __init__(self) -> None:
        self.figures = Figures()
        self._units: dict[UnitKey, Unit] = {}
        self._points: dict[PointKey, Point] = {}
        self._values = Values()
        self._writes: deque[SetPointWrite] = deque()
        self._writing: SetPointWrite | None = None
        self._polling: Group | None = None
        self._again: Job | None = None
        self._down_reason: str | None = None

    # -- configuration --------------------------------------------------------------------------------------

    def set_device(
        self, device: str, points: tuple[Point, ...], profile: UnitProfile, *, unit: UnitKey, now: float
    ) -> list[Event]:
        """Add a device or change it; what stays the same keeps its phase, its values and its learning."""
        for known in list(self._units.values()):
            if device in known.devices and known.key != unit:
                self.remove_device(device, now=now)
        state = self._units.get(unit)
        if state is None:
            breaker = Breaker(longest=profile.probe_interval)
            state = self._units[unit] = Unit(unit, profile, breaker, spaces=dict(profile.spaces))
        if state.devices.get(device) == points and state.profiles.get(device) == profile:
            return []
        old = {point.key: point for point in state.devices.get(device, ())}
        state.devices[device] = points
        state.profiles[device] = profile
        self._forget_points(old.keys() - {point.key for point in points})
        for point in points:
            before = old.get(point.key)
            if before != point:
                self._points[point.key] = point
                self._values.know(point, before)
                self._drop_writes(point.key)
        state.regroup(now)
        if state.announced is not None and not old:
            return [Reachable(device, state.announced, state.breaker.last_reason or self._down_reason or "")]
        return []

    def remove_device(self, device: str, *, now: float) -> None:
        """Stop polling a device."""
        for state in list(self._units.values()):
            if device not in state.devices:
                continue
            self._forget_points(point.key for point in state.devices.pop(device))
            state.profiles.pop(device)
            if state.devices:
                state.regroup(now)
            else:
                del self._units[state.key]

    def _forget_points(self, keys: Iterable[PointKey]) -> None:
        for key in keys:
            self._points.pop(key, None)
            self._values.forget(key)
            self._drop_writes(key)

    def _drop_writes(self, key: PointKey) -> None:
        """Writes that were meant for what the property was before; the twin asks for them again."""
        self._writes = deque(write for write in self._writes if write.point.key != key)
        if self._writing is not None and self._writing.point.key == key:
            self._writing = self._again = None

    # -- set-points -----------------------------------------------------------------------------------------

    def set_point(self, key: PointKey, text: str) -> list[Event]:
        """Write `text` to a property as soon as the line is free; the newest one of a property counts."""
        point = self._points.get(key)
        if point is None:
            return [Written(key, text, "no such property")]
        try:
            check_set_point(point, text)
        except EncodeError as error:
            return [Written(key, text, str(error))]
        self._writes = deque(write for write in self._writes if write.point.key != key)
        self._writes.append(SetPointWrite(point, text))
        return []

    # -- the loop of the shell ------------------------------------------------------------------------------

    def next(self, now: float) -> Job | float | list[Event]:
        """The next request; or the time to ask again; or what became known without a request."""
        if self._again is not None:
            return self._again
        if self._writing is None and self._writes:
            write = self._writes.popleft()
            state = self._units[write.point.unit]
            if not state.breaker.allows(now):
                return [Written(write.point.key, write.text, state.breaker.last_reason)]
            self._writing = write
        if self._writing is not None:
            return self._write_job(self._writing)
        return self._poll_job(now)

    def _write_job(self, write: SetPointWrite) -> Job:
        point = write.point
        block = Block(point.unit, point.space, point.span.start, point.span.count)
        return Job(block, self._units[point.unit].profile.timeout, data=write.data())

    def _poll_job(self, now: float) -> Job | float:
        soonest = now + 3600.0
        ready: list[tuple[bool, float, Group, Unit]] = []
        for state in self._units.values():
            held = state.breaker.next_probe if state.breaker.silent else 0.0
            # Whether it is the unit or only these addresses that are silent is found out with other ones.
            doubted = state.breaker.failures == 1 and len(state.groups) > 1
            for group in state.groups.values():
                suspect = doubted and group is state.suspect
                begin = held if doubted and not suspect else max(held, now if group.running else group.due)
                if begin <= now:
                    ready.append((suspect, group.deadline, group, state))
                else:
                    soonest = min(soonest, begin)
        ready.sort(key=lambda item: item[:2])
        for _, _, group, state in ready:
            block = group.next_block(now)
            if block is not None:
                self._polling = group
                return Job(block, state.profile.timeout)
            soonest = min(soonest, group.due)
        return soonest

    def done(self, job: Job, outcome: bytes | DriverError, *, now: float, now_ms: int) -> list[Event]:
        """What a request's outcome means. `outcome` of a write is empty bytes."""
        self._again = None
        self.figures.requests += 1
        state = self._units.get(job.block.unit)
        if isinstance(outcome, LineDown):
            return self.line_down(str(outcome), now=now)
        if state is None:
            self._writing, self._polling = None, None
            return []
        if isinstance(outcome, BadAnswer) and job.attempt < state.profile.retries:
            self.figures.broken += 1
            self._again = Job(job.block, job.timeout, job.data, job.attempt + 1)
            return []
        events = self._heard(state, outcome, now)
        if self._writing is not None:
            return events + self._write_done(self._writing, outcome, now=now, now_ms=now_ms)
        if self._polling is not None:
            group, self._polling = self._polling, None
            if state.groups.get(group.cycle) is group:
                events += self._poll_done(state, group, job.block, outcome, now=now, now_ms=now_ms)
        return events

    def _heard(self, state: Unit, outcome: bytes | DriverError, now: float) -> list[Event]:
        """Count the outcome and keep the breaker."""
        if isinstance(outcome, NoAnswer | BadAnswer):
            if isinstance(outcome, NoAnswer):
                self.figures.silences += 1
            else:
                self.figures.broken += 1
            state.breaker.failed(now, str(outcome))
            if state.breaker.failures >= _SILENT_AFTER:
                return self._announce(state, False, str(outcome), now)
            return []
        self.figures.answers += 1
        if isinstance(outcome, Refused):
            self.figures.refused += 1
        if state.breaker.answered() and state.announced is False:
            state.forget_learned(now)
        return self._announce(state, True, "", now)

    def _poll_done(
        self, state: Unit, group: Group, block: Block, outcome: bytes | DriverError, *, now: float, now_ms: int
    ) -> list[Event]:
        if isinstance(outcome, bytes):
            samples: list[Sample] = []
            state.reads += 1
            group.answered(block)
            if block.space in state.learned and state.learned[block.space].readable(_span(block)):
                for other in state.groups.values():
                    other.replan()
            width = state.spaces[block.space].width
            for point in group.points_of(block):
                begin = (point.span.start - block.start) * width
                raw = outcome[begin : begin + point.span.count * width]
                samples += self._values.take(self._values.decoded(point, raw, now_ms), now)
            group.finish(block)
            return self._gathered(group, samples, now)
        if isinstance(outcome, Refused):
            # Some devices say "device failure" where they mean an address that they do not have.
            again_and_again = not (outcome.busy or outcome.lasting) and group.strike(block, self.figures.requests)
            blamed = Refused(str(outcome), splits=True) if again_and_again else outcome
            return self._poll_refused(state, group, block, blamed, now=now, now_ms=now_ms)
        if group.strike(block, state.reads):
            state.breaker.answered()
            blamed = Refused(f"{outcome}, though it answers for other addresses", splits=True)
            return self._poll_refused(state, group, block, blamed, now=now, now_ms=now_ms)
        state.suspect = group
        group.abandon(state.breaker.next_probe, block)
        return self._gathered(group, [], now)

    def _gathered(self, group: Group, samples: list[Sample], now: float) -> list[Event]:
        """What a cycle brought goes out together at its end: one message per device in place of one per block."""
        group.gathered += samples
        if not group.settle(now):
            return []
        samples, group.gathered = group.gathered, []
        return list(samples)

    def _poll_refused(
        self, state: Unit, group: Group, block: Block, refused: Refused, *, now: float, now_ms: int
    ) -> list[Event]:
        learned = state.learned.setdefault(block.space, Learned())
        inside = group.points_of(block)
        if refused.splits and not learned.refused(_span(block), (point.span for point in inside)):
            for other in state.groups.values():
                other.replan()
            return []
        if refused.lasting or refused.splits:
            group.hold_back(block, now)
        if refused.splits:
            for other in state.groups.values():
                if other is not group:
                    other.replan()
            group.finish(block)
            group.replan()
        else:
            group.finish(block)
        samples: list[Sample] = []
        for point in inside:
            samples += self._values.take(self._values.spoiled(point.key, Quality.BAD, str(refused), now_ms), now)
        return self._gathered(group, samples, now)

    def _write_done(
        self, write: SetPointWrite, outcome: bytes | DriverError, *, now: float, now_ms: int
    ) -> list[Event]:
        if isinstance(outcome, DriverError):
            self._writing = None
            return [Written(write.point.key, write.text, f"{write.step}: {outcome}")]
        try:
            finished = write.advance(outcome)
        except EncodeError as error:
            self._writing = None
            return [Written(write.point.key, write.text, str(error))]
        if not finished:
            return []
        self._writing = None
        self.figures.writes += 1
        sample = self._values.decoded(write.point, outcome, now_ms)
        if write.arrived:
            # The device holds exactly this: shown as it was asked for, so that "60.0" and "60" agree.
            sample = Sample(sample.key, write.text, Quality.GOOD, "", now_ms)
        for group in self._units[write.point.unit].groups.values():
            group.gathered = [event for event in group.gathered if event.key != sample.key]
        self._values.publish_next(write.point)
        kept = "" if write.arrived else f"the device kept {sample.value}"
        return [*self._values.take(sample, now), Written(write.point.key, write.text, kept)]

    # -- the line itself ------------------------------------------------------------------------------------

    def line_down(self, reason: str, *, now: float) -> list[Event]:
        """The port is gone: nothing can be asked until `line_up`."""
        if reason != self._down_reason:
            self._doubt()
        self._down_reason = reason
        self._again = self._polling = None
        events: list[Event] = []
        for write in (*([self._writing] if self._writing else ()), *self._writes):
            events.append(Written(write.point.key, write.text, reason))
        self._writing = None
        self._writes.clear()
        for state in self._units.values():
            for group in state.groups.values():
                group.abandon(now)
            events += self._announce(state, False, reason, now)
        return events

    def line_up(self, *, now: float) -> None:
        """The port is open (again)."""
        self._down_reason = None
        self._doubt()
        for state in self._units.values():
            state.breaker.answered()
            for group in state.groups.values():
                group.due = now

    def _doubt(self) -> None:
        """Why a unit does not answer is to be said anew: it was silent, then the line was gone, or the reverse."""
        for state in self._units.values():
            state.announced = state.announced or None

    def _announce(self, state: Unit, reachable: bool, reason: str, now: float) -> list[Event]:
        """Say once that a unit's devices are there or gone; gone makes their values stale."""
        if state.announced is reachable:
            return []
        state.announced = reachable
        events: list[Event] = [Reachable(device, reachable, reason) for device in state.devices]
        if not reachable:
            for group in state.groups.values():
                events += group.gathered
                group.gathered = []
            for point in state.points():
                events += self._values.take(self._values.spoiled(point.key, Quality.STALE, reason, 0), now)
        return events

    # -- figures --------------------------------------------------------------------------------------------

    def report(self) -> dict[str, object]:
        """Units and their groups for ``edgecore status``, as plain values."""
        return {
            "requests_total": self.figures.requests,
            "answers_total": self.figures.answers,
            "silences_total": self.figures.silences,
            "broken_total": self.figures.broken,
            "refused_total": self.figures.refused,
            "writes_total": self.figures.writes,
            "busy_seconds_total": round(self.figures.busy, 3),
            "down": self._down_reason,
            "units": {str(state.key): state.report() for state in self._units.values()},
        }

    def latest(self) -> Mapping[PointKey, Sample]:
        """The last sample of each property, published or not."""
        return self._values.latest()


def _span(block: Block) -> Span:
    return Span(block.start, block.count)
