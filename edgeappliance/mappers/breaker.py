"""Circuit breaker of one unit: a silent unit costs its line one time-out per probe interval, no more."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Breaker:
    """Times in seconds of a monotonic clock.

    Every silence closes the road until the next probe; intervals double from `first` to `longest`. One
    request at a time may pass as a probe: its answer opens the road again.
    """

    longest: float
    first: float = 0.5
    failures: int = field(default=0, init=False)
    last_reason: str = field(default="", init=False)
    _next_probe: float = field(default=0.0, init=False)

    @property
    def silent(self) -> bool:
        """The last request had no answer."""
        return self.failures > 0

    @property
    def next_probe(self) -> float:
        """When a silent unit is asked again."""
        return self._next_probe

    def allows(self, now: float) -> bool:
        """Whether the unit may be asked now."""
        return not self.failures or now >= self._next_probe

    def answered(self) -> bool:
        """The unit spoke, be it an exception. True when it was silent before."""
        was = self.silent
        self.failures = 0
        self.last_reason = ""
        return was

    def failed(self, now: float, reason: str) -> None:
        """The unit stayed silent or its answers are broken."""
        interval = min(self.longest, self.first * 2 ** min(self.failures, 20))
        self.failures += 1
        self.last_reason = reason
        self._next_probe = now + interval
