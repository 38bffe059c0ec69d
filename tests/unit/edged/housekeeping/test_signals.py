"""What counts as short, and how long it is said."""

import pytest

from edgeappliance.edged.facts import Limits, Pressure
from edgeappliance.edged.housekeeping.signals import TRANSITION, Level, Pressures, Signal, levels, low, quantity
from edgeappliance.edged.measured import FileSystem

LIMITS = Limits(memory_kib=100, disk=0.1, inodes=0.05)
PLENTY = FileSystem(capacity=1000, available=500, inodes=1000, inodes_free=500)


def short(*, memory: int = 10**9, node: FileSystem = PLENTY, image: FileSystem | None = None) -> list[Signal]:
    return list(low(levels(available_memory=memory, node_fs=node, image_fs=image, limits=LIMITS)))


def test_nothing_is_short_up_to_the_threshold() -> None:
    at_threshold = FileSystem(capacity=1000, available=100, inodes=1000, inodes_free=50)
    assert short(memory=102_400, node=at_threshold, image=at_threshold) == []


def test_each_signal_below_its_threshold_the_most_urgent_first() -> None:
    below = FileSystem(capacity=1000, available=99, inodes=1000, inodes_free=49)
    assert short(memory=102_399, node=below, image=below) == list(Signal)


def test_file_systems_that_count_no_inodes_or_cannot_be_read_are_not_short() -> None:
    assert short(node=FileSystem(capacity=1000, available=500)) == []
    assert short(node=FileSystem()) == []


def test_a_condition_is_on_at_once_and_off_after_a_while_without_the_shortage() -> None:
    pressures = Pressures()
    assert pressures.update(Pressure(), 0.0) == Pressure()
    assert pressures.update(Pressure(memory=True), 10.0) == Pressure(memory=True)
    assert pressures.update(Pressure(disk=True), 20.0) == Pressure(memory=True, disk=True)
    assert pressures.update(Pressure(), 10.0 + TRANSITION - 1) == Pressure(memory=True, disk=True)
    assert pressures.update(Pressure(), 10.0 + TRANSITION) == Pressure(disk=True)
    assert pressures.update(Pressure(pids=True), 20.0 + TRANSITION) == Pressure(pids=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1023, "1023"), (1024, "1Ki"), (96040 * 1024, "96040Ki"), (100 << 20, "100Mi"), (3 << 30, "3Gi")],
)
def test_quantities_are_written_as_a_kubelet_does(value: int, text: str) -> None:
    assert quantity(value) == text


def test_words_for_what_is_scarce() -> None:
    assert [signal.resource for signal in Signal] == [
        "memory",
        "ephemeral-storage",
        "ephemeral-storage",
        "inodes",
        "inodes",
    ]
    assert Level(1, 2).low
    assert not Level(2, 2).low
