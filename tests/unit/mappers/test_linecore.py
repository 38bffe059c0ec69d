"""What a line asks and when, in virtual time: no thread, no port."""

from dataclasses import replace
from decimal import Decimal
from itertools import pairwise

import pytest

from edgeappliance.kernel.clock import ManualClock
from edgeappliance.mappers.codec import Codec, Raw, Shown
from edgeappliance.mappers.driver import (
    BadAnswer,
    Block,
    DriverError,
    LineDown,
    NoAnswer,
    Refused,
    SpaceCost,
    UnitProfile,
)
from edgeappliance.mappers.linecore import Job, LineCore
from edgeappliance.mappers.planner import Span
from edgeappliance.mappers.points import Event, Point, Quality, Reachable, ReportRule, Sample, Written

COST = SpaceCost(per_request=0.02, per_address=0.002, max_count=125, max_gap=2000)
PROFILE = UnitProfile(timeout=0.5, retries=1, probe_interval=10.0, spaces={"R": COST})
WORD = Codec(Raw.UINT, Shown.INT, 2)


def point(name: str, start: int, *, unit: int = 1, cycle: float = 1.0, device: str = "d", **more: object) -> Point:
    given: dict[str, object] = {"report": ReportRule(), "writable": True, "codec": WORD, **more}
    codec = given["codec"]
    assert isinstance(codec, Codec)
    return Point(device, name, unit, "R", Span(start, codec.size // 2), cycle=cycle, **given)  # type: ignore[arg-type]


class Field:
    """A line in virtual time: units are tables of registers; every request takes `pace` seconds."""

    def __init__(self, *, pace: float = 0.05) -> None:
        self.clock = ManualClock(monotonic=0.0)
        self.core = LineCore()
        self.registers: dict[int, dict[int, int]] = {}
        self.dead: set[int] = set()
        self.broken: list[int] = []
        self.mute: set[int] = set()
        self.failing: set[int] = set()
        self.down = ""
        self.pace = pace
        self.jobs: list[tuple[float, Job]] = []
        self.events: list[tuple[float, Event]] = []

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    def add(self, *points: Point, profile: UnitProfile = PROFILE) -> None:
        by_device: dict[tuple[str, object], list[Point]] = {}
        for it in points:
            by_device.setdefault((it.device, it.unit), []).append(it)
            table = self.registers.setdefault(int(it.unit), {})
            for address in range(it.span.start, it.span.end):
                table.setdefault(address, address)
        for (device, unit), its in by_device.items():
            self.note(self.core.set_device(device, tuple(its), profile, unit=unit, now=self.now))  # type: ignore[arg-type]

    def note(self, events: list[Event]) -> None:
        self.events += [(self.now, event) for event in events]

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            todo = self.core.next(self.now)
            if isinstance(todo, list):
                self.note(todo)
            elif isinstance(todo, Job):
                self.jobs.append((self.now, todo))
                outcome = self.do(todo)
                self.note(self.core.done(todo, outcome, now=self.now, now_ms=self.clock.wall_ms()))
                if isinstance(outcome, LineDown):
                    return
            else:
                self.clock.advance(min(max(todo - self.now, 0.0001), until - self.now + 0.0001))

    def do(self, job: Job) -> bytes | DriverError:
        block = job.block
        unit = int(block.unit)
        if self.down:
            return LineDown(self.down)
        if unit in self.dead:
            self.clock.advance(job.timeout)
            return NoAnswer(f"no answer from unit {unit}")
        if self.mute & set(range(block.start, block.end)):
            self.clock.advance(job.timeout)
            return NoAnswer(f"no answer from unit {unit}")
        self.clock.advance(self.pace)
        if self.failing & set(range(block.start, block.end)):
            return Refused("exception 4: device failure")
        if self.broken and self.broken.pop():
            return BadAnswer("noise")
        table = self.registers[unit]
        if any(address not in table for address in range(block.start, block.end)):
            return Refused("exception 2: illegal data address", splits=True)
        if job.data is None:
            return b"".join(table[address].to_bytes(2, "big") for address in range(block.start, block.end))
        for index in range(block.count):
            table[block.start + index] = int.from_bytes(job.data[2 * index : 2 * index + 2], "big")
        return b""

    def reads(self, unit: int) -> list[float]:
        return [at for at, job in self.jobs if job.block.unit == unit and job.data is None]

    def samples(self, name: str) -> list[Sample]:
        return [event for _, event in self.events if isinstance(event, Sample) and event.key[1] == name]

    def written(self) -> list[Written]:
        return [event for _, event in self.events if isinstance(event, Written)]


def test_each_group_keeps_its_cycle_and_phase() -> None:
    field = Field()
    field.add(point("a", 0, cycle=0.2), point("b", 1, cycle=1.0))
    field.run(4.0)
    fast = [at for at, job in field.jobs if job.block == Block(1, "R", 0, 1)]
    slow = [at for at, job in field.jobs if job.block == Block(1, "R", 1, 1)]
    assert len(fast) in (20, 21)
    assert len(slow) in (4, 5)
    assert all(abs(round(at / 0.2) * 0.2 - at) <= 0.0501 for at in fast)


def test_the_earliest_deadline_goes_first_when_the_line_is_nearly_full() -> None:
    """A cycle of 0.15 s meets its deadlines beside 20 requests of 5 s, 0.05 s each."""
    field = Field()
    field.add(point("fast", 0, cycle=0.15))
    field.add(*(point(f"p{unit}", 0, unit=unit, device=f"d{unit}", cycle=5.0) for unit in range(2, 22)))
    field.run(10.0)
    begins = field.reads(1)
    assert max(after - before for before, after in pairwise(begins)) <= 0.26
    assert all(len(field.reads(unit)) == 2 for unit in range(2, 22))


def test_a_value_goes_out_when_it_changes_beyond_the_deadband_and_now_and_then() -> None:
    field = Field()
    rule = ReportRule(every=3.0, deadband=Decimal(5))
    field.add(point("a", 0, report=rule), point("b", 1, report=ReportRule(every=0.0)))
    field.run(2.5)
    assert [sample.value for sample in field.samples("a")] == ["0"]
    field.registers[1][0] = 5
    field.run(1.0)
    assert [sample.value for sample in field.samples("a")] == ["0", "5"]  # three seconds are over
    field.registers[1][0] = 10
    field.run(1.0)
    assert len(field.samples("a")) == 2
    field.registers[1][0] = 11
    field.run(1.0)
    assert field.samples("a")[-1].value == "11"
    assert len(field.samples("b")) == 1


def test_a_dead_unit_costs_the_others_one_time_out_per_probe_interval() -> None:
    field = Field()
    field.add(*(point("a", 0, unit=unit, device=f"d{unit}") for unit in range(1, 31)))
    # 30 units at 50 ms fill the line: one and a half seconds a cycle.
    field.dead.add(7)
    field.run(120.0)
    probes = field.reads(7)
    assert all(after - before >= 9.9 for before, after in pairwise(probes[6:]))
    assert len(probes) <= 6 + 12
    others = field.reads(8)
    longest = max(after - before for before, after in pairwise(others))
    assert longest <= 29 * 0.05 + 0.5 + 0.01
    assert [event for _, event in field.events if isinstance(event, Reachable) and not event.reachable] == [
        Reachable("d7", False, "no answer from unit 7")
    ]


def test_a_dead_unit_makes_its_values_stale_and_comes_back_good() -> None:
    field = Field()
    field.add(point("a", 0))
    field.run(1.5)
    field.dead.add(1)
    field.run(5.0)
    field.dead.clear()
    field.registers[1][0] = 9
    field.run(12.0)
    assert [(sample.value, sample.quality) for sample in field.samples("a")] == [
        ("0", Quality.GOOD), ("0", Quality.STALE), ("9", Quality.GOOD),
    ]  # fmt: skip
    good, stale, _ = field.samples("a")
    assert stale.time_ms >= good.time_ms
    assert stale.reason == "no answer from unit 1"
    states = [event.reachable for _, event in field.events if isinstance(event, Reachable)]
    assert states == [True, False, True]


def test_one_lost_answer_is_not_said() -> None:
    field = Field()
    field.add(point("a", 0, cycle=0.2))
    field.run(1.0)
    field.dead.add(1)
    field.run(0.3)
    field.dead.clear()
    field.run(2.0)
    assert [sample.quality for sample in field.samples("a")] == [Quality.GOOD]


def test_a_broken_answer_is_asked_again_at_once() -> None:
    field = Field()
    field.add(point("a", 0))
    field.broken = [0, 1]
    field.run(0.5)
    assert len(field.jobs) == 2
    assert field.core.figures.broken == 1
    assert field.samples("a")[0].value == "0"


def test_a_missing_register_is_found_and_costs_the_others_nothing() -> None:
    field = Field()
    field.add(*(point(f"p{address}", address) for address in range(16)), point("far", 30))
    del field.registers[1][5]
    field.run(3.0)
    read = {event.key[1] for _, event in field.events if isinstance(event, Sample) and event.value is not None}
    assert {f"p{address}" for address in range(16)} - read == {"p5"}
    assert field.samples("p5")[0].quality is Quality.BAD
    assert field.samples("p5")[0].reason == "exception 2: illegal data address"
    asked = len(field.jobs)
    field.run(10.0)
    # Two or three requests a cycle: before the hole, behind it, and the far one.
    assert len(field.jobs) - asked <= 30
    # The value appears (another firmware): it is asked for again within a minute or two.
    field.registers[1][5] = 55
    field.run(130.0)
    assert field.samples("p5")[-1].value == "55"


@pytest.mark.parametrize("cycle", [1.0, 40.0], ids=["one group", "another group"])
def test_addresses_that_a_unit_is_silent_for_cost_the_others_little(cycle: float) -> None:
    """Devices that do not answer at all for what they do not have are common."""
    field = Field()
    field.mute = {2}
    field.add(
        *(point(f"p{address}", address, cycle=1.0 if address < 5 else cycle) for address in (*range(5), 300, 400))
    )
    field.run(180.0)
    latest = {key[1]: sample for key, sample in field.core.latest().items()}
    assert {name for name, sample in latest.items() if sample.quality is Quality.GOOD} == latest.keys() - {"p2"}
    assert latest["p2"].quality is Quality.BAD
    assert latest["p2"].reason == "no answer from unit 1, though it answers for other addresses"
    assert [event.reachable for _, event in field.events if isinstance(event, Reachable)] == [True]
    # From now on one time-out a minute; the values beside it keep their cycle.
    asked, begun = len(field.jobs), field.now
    field.run(120.0)
    assert sum(job.block.start <= 2 < job.block.end for _, job in field.jobs[asked:]) <= 3
    beside = [at for at, job in field.jobs[asked:] if job.block.start <= 3 < job.block.end]
    assert len(beside) >= 110
    assert max(after - before for before, after in pairwise([begun, *beside])) < 2.5
    # It speaks now (another firmware): all is read together again.
    field.mute.clear()
    field.run(130.0)
    assert field.core.latest()[("d", "p2")].quality is Quality.GOOD


def test_why_a_device_is_gone_is_always_the_newest_reason() -> None:
    field = Field()
    field.add(point("a", 0))
    field.dead = {1}
    field.run(5.0)
    field.note(field.core.line_down("unplugged", now=field.now))
    field.note(field.core.line_down("No such file", now=field.now))
    field.note(field.core.line_down("No such file", now=field.now))
    field.core.line_up(now=field.now)
    field.run(5.0)
    silent = "no answer from unit 1"
    assert [event.reason for _, event in field.events if isinstance(event, Reachable)] == [
        silent, "unplugged", "No such file", silent,
    ]  # fmt: skip
    assert [sample.reason for sample in field.samples("a")] == [silent, "unplugged", "No such file", silent]


def test_a_device_failure_of_one_address_is_found() -> None:
    field = Field()
    field.failing = {4}
    field.add(*(point(f"p{address}", address) for address in range(8)))
    field.run(60.0)
    latest = {key[1]: sample for key, sample in field.core.latest().items()}
    assert {name for name, sample in latest.items() if sample.quality is Quality.GOOD} == latest.keys() - {"p4"}
    assert latest["p4"].reason == "exception 4: device failure"
    field.failing.clear()
    field.run(130.0)
    asked = len(field.jobs)
    field.run(10.0)
    assert field.core.latest()[("d", "p4")].quality is Quality.GOOD
    assert len(field.jobs) - asked <= 11  # in one request again


def test_a_write_overtakes_polls_and_is_read_back() -> None:
    field = Field()
    field.add(*(point(f"p{address}", address * 100, cycle=0.5) for address in range(8)))
    field.run(1.02)
    before = len(field.jobs)
    field.note(field.core.set_point(("d", "p3"), "42"))
    field.run(0.2)
    write, back = field.jobs[before][1], field.jobs[before + 1][1]
    assert write.data == b"\0\x2a"
    assert back.data is None
    assert back.block == write.block == Block(1, "R", 300, 1)
    assert field.written() == [Written(("d", "p3"), "42", "")]
    assert field.samples("p3")[-1].value == "42"


def test_a_set_point_is_shown_in_the_words_it_was_asked_for() -> None:
    field = Field()
    tenth = Codec(Raw.UINT, Shown.FLOAT, 2, scale=Decimal("0.1"))
    field.add(point("a", 10, codec=tenth))
    field.run(1.0)
    field.note(field.core.set_point(("d", "a"), "6.00"))
    field.run(5.0)
    assert field.samples("a")[-1].value == "6.00"
    field.registers[1][10] = 61
    field.run(2.0)
    assert field.samples("a")[-1].value == "6.1"


def test_what_cannot_be_written_is_named() -> None:
    field = Field()
    field.add(
        point("ro", 0, writable=False), point("limited", 1, maximum=Decimal(60)), point("word", 2), point("gone", 3)
    )
    field.run(0.5)
    for name, text in [("ro", "1"), ("limited", "70"), ("word", "70000"), ("word", "x"), ("nothing", "1")]:
        field.note(field.core.set_point(("d", name), text))
    del field.registers[1][3]
    field.note(field.core.set_point(("d", "gone"), "1"))
    field.run(0.5)
    assert [written.reason for written in field.written()] == [
        "the property is read only",
        "out of range: 70 is above the maximum 60",
        "70000 needs 70000 in the register, which holds 0 to 65535",
        "'x' is not a number",
        "no such property",
        "write: exception 2: illegal data address",
    ]


@pytest.mark.parametrize("text", ["NaN", "sNaN", "inf", "-inf", "1e999999999", "", "x", "1,5", "\N{INFINITY}"])
def test_a_text_that_is_no_number_is_refused_with_limits_and_without(text: str) -> None:
    """NaN is a float to a twin; what an app can ask for must not take the line down."""
    field = Field()
    field.add(
        point("a", 0, minimum=Decimal(0), maximum=Decimal(10), codec=Codec(Raw.FLOAT, Shown.FLOAT, 4)),
        point("b", 2, codec=Codec(Raw.FLOAT, Shown.FLOAT, 4)),
    )
    for name in ("a", "b"):
        (written,) = field.core.set_point(("d", name), text)
        assert isinstance(written, Written)
        assert written.reason


def test_a_device_that_keeps_another_value_is_told_so() -> None:
    class Stubborn(dict[int, int]):
        def __setitem__(self, key: int, value: int) -> None:
            super().__setitem__(key, min(value, 50))

    field = Field()
    field.registers[1] = Stubborn()
    field.add(point("a", 0))
    field.note(field.core.set_point(("d", "a"), "70"))
    field.run(0.5)
    assert field.written() == [Written(("d", "a"), "70", "the device kept 50")]
    assert field.samples("a")[-1].value == "50"


def test_bits_are_written_among_their_neighbours() -> None:
    field = Field()
    field.add(point("flag", 0, codec=Codec(Raw.UINT, Shown.BOOLEAN, 2, bit=3)))
    field.registers[1][0] = 0x8001
    field.run(0.5)
    field.note(field.core.set_point(("d", "flag"), "true"))
    field.run(0.5)
    assert field.registers[1][0] == 0x8009
    assert field.samples("flag")[-1].value == "true"


def test_a_write_to_a_silent_unit_costs_the_line_nothing() -> None:
    field = Field()
    field.add(point("a", 0))
    field.dead.add(1)
    field.run(2.0)
    before = len(field.jobs)
    field.note(field.core.set_point(("d", "a"), "1"))
    field.note(field.core.next(field.now))  # type: ignore[arg-type]
    assert len(field.jobs) == before
    assert field.written() == [Written(("d", "a"), "1", "no answer from unit 1")]


def test_equal_configuration_changes_nothing_and_others_miss_no_poll() -> None:
    field = Field()
    a, b = point("a", 0, unit=1, device="a", cycle=0.5), point("b", 0, unit=2, device="b", cycle=0.5)
    field.add(a, b)
    field.run(2.1)
    assert field.core.set_device("a", (a,), PROFILE, unit=1, now=field.now) == []
    field.run(2.0)
    field.add(point("a", 7, unit=1, device="a", cycle=0.25))
    field.run(2.0)
    field.core.remove_device("a", now=field.now)
    field.run(2.0)
    others = field.reads(2)
    assert len(others) in (16, 17)
    assert max(abs(after - before - 0.5) for before, after in pairwise(others)) <= 0.11
    assert len([at for at, job in field.jobs if job.block == Block(1, "R", 7, 1)]) in (8, 9)
    assert field.samples("a")[-1].value == "7"


def test_a_write_for_an_address_that_was_changed_meanwhile_is_dropped() -> None:
    field = Field()
    field.add(point("a", 0))
    field.run(0.5)
    field.note(field.core.set_point(("d", "a"), "42"))
    field.add(point("a", 7))
    field.run(2.0)
    assert field.registers[1] == {0: 0, 7: 7}


def test_devices_that_share_a_unit_are_asked_as_the_weaker_one_allows() -> None:
    field = Field()
    small = replace(PROFILE, spaces={"R": replace(COST, max_count=4)})
    long = Codec(Raw.TEXT, Shown.STRING, 40)
    field.add(*(point(f"p{n}", n) for n in range(8)), point("text", 100, codec=long), point("slow", 50, cycle=5.0))
    field.run(1.0)
    field.add(*(point(f"q{n}", 8 + n, device="e") for n in range(8)), profile=small)
    before = len(field.jobs)
    field.run(3.0)
    assert max(job.block.count for _, job in field.jobs[before:]) == 20  # the text cannot be had in less
    field.core.remove_device("d", now=field.now)
    before = len(field.jobs)
    field.run(3.0)
    assert max(job.block.count for _, job in field.jobs[before:]) == 4
    assert {f"q{n}" for n in range(8)} <= {key[1] for key in field.core.latest()}


def test_a_line_that_goes_down_makes_all_stale_and_comes_back() -> None:
    field = Field()
    field.add(point("a", 0), point("b", 0, unit=2, device="e"))
    field.run(1.5)
    field.down = "/dev/ttyUSB0: unplugged"
    field.note(field.core.set_point(("d", "a"), "1"))
    field.run(2.0)
    assert {sample.quality for sample in (field.samples("a")[-1], field.samples("b")[-1])} == {Quality.STALE}
    assert field.written() == [Written(("d", "a"), "1", "/dev/ttyUSB0: unplugged")]
    field.down = ""
    field.core.line_up(now=field.now)
    field.run(0.5)
    assert {sample.quality for sample in (field.samples("a")[-1], field.samples("b")[-1])} == {Quality.GOOD}


def test_a_day_on_a_bad_line_keeps_its_books() -> None:
    """A day of virtual time with random faults: every job leads on, nothing grows."""
    import random

    dice = random.Random(1)
    field = Field(pace=0.2)
    field.add(
        *(point(f"p{n}", n * 3, unit=unit, device=f"d{unit}", cycle=30.0) for unit in range(1, 6) for n in range(8))
    )
    for _ in range(24 * 6):
        unit = dice.randint(1, 5)
        (field.dead.discard if dice.random() < 0.5 else field.dead.add)(unit)
        field.broken = [dice.random() < 0.3 for _ in range(20)]
        table = field.registers[unit]
        if dice.random() < 0.3 and table:
            table.pop(dice.choice(list(table)))
        else:
            table.update({n * 3 + word: dice.randint(0, 65535) for n in range(8) for word in range(1)})
        field.core.set_point((f"d{unit}", f"p{dice.randint(0, 7)}"), str(dice.randint(0, 70000)))
        field.jobs.clear()
        field.run(600.0)
        assert field.jobs
        assert len(field.core.latest()) <= 40
    field.dead.clear()
    field.broken = []
    for table in field.registers.values():
        table.update({n * 3: 1 for n in range(8)})
    field.events.clear()
    field.run(200.0)
    for unit in range(1, 6):
        for n in range(8):
            assert field.core.latest()[(f"d{unit}", f"p{n}")].value == "1"
            assert field.core.latest()[(f"d{unit}", f"p{n}")].quality is Quality.GOOD
