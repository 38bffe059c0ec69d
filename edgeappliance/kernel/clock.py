"""Time as something that is handed in."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one that never jumps, one that people read."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never jumps."""
        ...

    def wall_ms(self) -> int:
        """Unix milliseconds; may jump."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock that moves when told, for deterministic runs."""

    def __init__(self, *, monotonic: float = 1000.0, wall_ms: int = 1_700_000_000_000) -> None:
        self._monotonic = monotonic
        self._wall_ms = wall_ms

    def monotonic(self) -> float:
        return self._monotonic

    def wall_ms(self) -> int:
        return self._wall_ms

    def advance(self, seconds: float) -> None:
        """Both clocks move on by `seconds`."""
        self._monotonic += seconds
        self._wall_ms += round(seconds * 1000)

    def jump(self, wall_ms: int) -> None:
        """The wall clock is set; the monotonic one is not."""
        self._wall_ms = wall_ms
