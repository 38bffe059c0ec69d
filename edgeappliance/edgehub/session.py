"""What happens on a connection and when: keepalives, liveness, the send queue, the upstream rate. No I/O.

Every method takes `now`, seconds of a clock that never jumps.
"""

from collections import deque
from dataclasses import dataclass

KEEPALIVE_INTERVAL = 15.0
"""Seconds between keepalives; the cloud ends a session after 30 s without one (reference 2.4)."""

SILENCE_LIMIT = 10.0
"""Seconds that a peer may leave a ping unanswered before the link counts as dead."""

RATE, BURST = 30.0, 60
"""Messages a second that a foreign cloud gets at most, and in one go (reference 2.3)."""

MAX_QUEUED_BYTES = 8 * 1024 * 1024
MAX_QUEUED = 8192

MAX_STEP_BYTES = 256 * 1024
"""Bytes handed to the transport in one step: what it cannot take soon waits here, where it can be overtaken."""


class TokenBucket:
    """`rate` tokens a second, at most `burst` saved up."""

    def __init__(self, *, rate: float, burst: int, now: float) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._level = float(burst)
        self._at = now

    def take(self, now: float) -> bool:
        """Use one token if there is one."""
        self._refill(now)
        if self._level < 1.0:
            return False
        self._level -= 1.0
        return True

    def ready_in(self, now: float) -> float:
        """Seconds until there is a token."""
        self._refill(now)
        return max(0.0, (1.0 - self._level) / self._rate)

    def _refill(self, now: float) -> None:
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now


@dataclass(frozen=True, slots=True)
class Pace:
    """How a link talks: seconds between keepalives, and messages a second (and in one go) for a foreign cloud."""

    keepalive: float = KEEPALIVE_INTERVAL
    rate: float = RATE
    burst: int = BURST


@dataclass(frozen=True, slots=True)
class Step:
    """What to do now: `frames` to write, a `keepalive` and a `ping` to send, or hang up because the peer is `dead`;
    then come back in `wake_in` seconds, or earlier when something happens."""

    frames: tuple[bytes, ...] = ()
    keepalive: bool = False
    dead: bool = False
    wake_in: float = 0.0


class Session:
    """The state of one open link.

    limited: the peer is not ours, so the rate and the burst hold (keepalives pass by, as upstream's do).
    """

    def __init__(self, *, limited: bool, now: float, pace: Pace | None = None) -> None:
        self._pace = pace or Pace()
        rate, burst = self._pace.rate, self._pace.burst
        self._bucket = TokenBucket(rate=rate, burst=burst, now=now) if limited else None
        self._urgent: deque[bytes] = deque()
        self._normal: deque[bytes] = deque()
        self._queued_bytes = 0
        self._keepalive_at = now
        self._deadline: float | None = None
        self._unsent = 0

    @property
    def queued(self) -> int:
        """Messages that wait for their turn."""
        return len(self._urgent) + len(self._normal)

    def offer(self, data: bytes, *, urgent: bool = False) -> bool:
        """Queue a message; False when the queue is full. `urgent` (acknowledgements) overtakes the others."""
        if self._queued_bytes + len(data) > MAX_QUEUED_BYTES or self.queued >= MAX_QUEUED:
            return False
        (self._urgent if urgent else self._normal).append(data)
        self._queued_bytes += len(data)
        return True

    def received(self) -> None:
        """Bytes of any kind arrived: the peer lives."""
        self._deadline = None

    def step(self, now: float, *, unsent: int = 0, writable: bool = True) -> Step:
        """Decide what to do now. `unsent`: bytes the transport still holds; `writable`: it wants more.

        A transport that drains counts as a peer that lives: on a slow line a ping waits behind what was
        written before it.
        """
        if self._deadline is not None and unsent < self._unsent:
            self._deadline = now + SILENCE_LIMIT
        self._unsent = unsent
        if self._deadline is not None and now >= self._deadline:
            return Step(dead=True)
        keepalive = now >= self._keepalive_at
        if keepalive:
            self._keepalive_at = now + self._pace.keepalive
            if self._deadline is None:
                self._deadline = now + SILENCE_LIMIT
        frames = self._drain(now) if writable else ()
        return Step(frames=frames, keepalive=keepalive, wake_in=self._wake_in(now, writable=writable))

    def _drain(self, now: float) -> tuple[bytes, ...]:
        frames: list[bytes] = []
        size = 0
        for queue in (self._urgent, self._normal):
            while queue and size < MAX_STEP_BYTES:
                if self._bucket is not None and not self._bucket.take(now):
                    return tuple(frames)
                data = queue.popleft()
                self._queued_bytes -= len(data)
                size += len(data)
                frames.append(data)
        return tuple(frames)

    def _wake_in(self, now: float, *, writable: bool) -> float:
        due = [self._keepalive_at - now]
        if self._deadline is not None:
            due.append(self._deadline - now)
        if self.queued and writable:
            due.append(0.0 if self._bucket is None else self._bucket.ready_in(now))
        return max(0.0, min(due))
