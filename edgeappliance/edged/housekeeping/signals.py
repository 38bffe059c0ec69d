"""What is short on this machine, and for how long that is said. Pure.

(Kubernetes documentation, "Node-pressure Eviction": signals, thresholds, conditions, their transition period.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from edgeappliance.edged.facts import Limits, Pressure
from edgeappliance.edged.measured import FileSystem

TRANSITION = 300.0
"""Seconds without a shortage after which its condition turns (kubelet's evictionPressureTransitionPeriod)."""


class Signal(StrEnum):
    """Kubelet's names of what may be short, in the order in which it is dealt with."""

    MEMORY = "memory.available"
    NODE_FS = "nodefs.available"
    IMAGE_FS = "imagefs.available"
    NODE_INODES = "nodefs.inodesFree"
    IMAGE_INODES = "imagefs.inodesFree"

    @property
    def resource(self) -> str:
        """What a kubelet calls the scarce thing."""
        if self is Signal.MEMORY:
            return "memory"
        return "inodes" if self in (Signal.NODE_INODES, Signal.IMAGE_INODES) else "ephemeral-storage"

    @property
    def is_disk(self) -> bool:
        return self is not Signal.MEMORY


@dataclass(frozen=True, slots=True)
class Level:
    """How much there is, and below what it is too little: bytes, or inodes."""

    available: int
    threshold: int

    @property
    def low(self) -> bool:
        return self.available < self.threshold


def levels(
    *, available_memory: int, node_fs: FileSystem, image_fs: FileSystem | None, limits: Limits
) -> dict[Signal, Level]:
    """image_fs: None when it is the node's own file system. A file system that counts no inodes has no such level."""
    found = {Signal.MEMORY: Level(available_memory, limits.memory_kib * 1024)}
    for fs, size, inodes in (
        (node_fs, Signal.NODE_FS, Signal.NODE_INODES),
        (image_fs, Signal.IMAGE_FS, Signal.IMAGE_INODES),
    ):
        if fs is None or not fs.capacity:
            continue
        found[size] = Level(fs.available, int(fs.capacity * limits.disk))
        if fs.inodes:
            found[inodes] = Level(fs.inodes_free, int(fs.inodes * limits.inodes))
    return found


def low(measured: dict[Signal, Level]) -> Iterator[Signal]:
    """The signals below their thresholds, the most urgent first."""
    return (signal for signal in Signal if signal in measured and measured[signal].low)


class Pressures:
    """The node's pressure conditions: on at once, off after TRANSITION without the shortage."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def update(self, seen: Pressure, now: float) -> Pressure:
        """The conditions at `now` (monotonic s), given what is short."""
        return Pressure(
            memory=self._holds("memory", seen.memory, now),
            disk=self._holds("disk", seen.disk, now),
            pids=self._holds("pids", seen.pids, now),
        )

    def _holds(self, name: str, on: bool, now: float) -> bool:
        if on:
            self._last[name] = now
        last = self._last.get(name)
        return last is not None and now - last < TRANSITION


def quantity(value: int) -> str:
    """Bytes as a kubelet's messages write them: `100Mi`, `96040Ki`."""
    power = 0
    while value and value % 1024 == 0 and power < 6:
        value //= 1024
        power += 1
    return f"{value}{('', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei')[power]}"
