"""Keeps a fleet out of the log: two thousand nodes that reconnect are one thing, not two thousand."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

_Key = tuple[str, int, str]
"""Logger, level, event."""


@dataclass(slots=True)
class _Window:
    since: float
    passed: int = 0
    held: int = 0


class Crowd(logging.Filter):
    """Of one event at most `burst` lines in `window` seconds; the rest are counted, and `flush` says how many."""

    def __init__(
        self, *, burst: int = 20, window: float = 10.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._burst = burst
        self._window = window
        self._monotonic = monotonic
        self._lock = threading.Lock()  # the database's writer logs from a thread of its own
        self._windows: dict[_Key, _Window] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        key = (record.name, record.levelno, record.getMessage())
        with self._lock:
            window = self._windows.get(key)
            if window is None:
                window = self._windows[key] = _Window(self._monotonic())
            if window.passed < self._burst:
                window.passed += 1
                return True
            window.held += 1
            return False

    def flush(self, *, everything: bool = False) -> None:
        """Say what was held back in the windows that are over (`everything`: in all)."""
        now = self._monotonic()
        with self._lock:
            over = [key for key, window in self._windows.items() if everything or now - window.since >= self._window]
            held = [(key, self._windows.pop(key).held) for key in over]
        for (name, level, event), count in held:
            if count:
                fields = {"more": count, "shown": self._burst, "seconds": round(self._window)}
                logging.getLogger(name).log(level, event, extra={"fields": fields})
