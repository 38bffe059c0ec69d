"""Exponential back-off with jitter."""

import random
from collections.abc import Callable


class Backoff:
    """Delays that grow from `initial` to `maximum` seconds, each shortened by up to the fraction `jitter`.

    A success that lasted `reset_after` seconds starts the series anew; a shorter one does not, so that a peer
    which accepts and drops at once is not hammered.
    """

    def __init__(
        self,
        *,
        initial: float,
        maximum: float,
        factor: float = 2.0,
        jitter: float = 0.2,
        reset_after: float = 60.0,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._initial = initial
        self._maximum = maximum
        self._factor = factor
        self._jitter = jitter
        self._reset_after = reset_after
        self._random = random
        self._next = initial

    def next_delay(self) -> float:
        """Seconds to wait before the next try."""
        delay = self._next
        self._next = min(self._maximum, self._next * self._factor)
        return delay * (1.0 - self._jitter * self._random())

    def succeeded(self, lasted_s: float) -> None:
        """The try worked and held for `lasted_s` seconds."""
        if lasted_s >= self._reset_after:
            self._next = self._initial

    def reset(self) -> None:
        """Start the series anew."""
        self._next = self._initial
