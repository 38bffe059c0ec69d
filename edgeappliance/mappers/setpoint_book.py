"""Which set-points must be written now, which failed and when they are tried again. Pure; time is an argument."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgeappliance.mappers.points import PointKey

_FIRST_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0
_LOST_S = 30.0
"""A write without an outcome for so long went under with its line or its configuration."""
_ECHO_S = 2.0
"""A delta that was on its way while we wrote repeats what has arrived already."""


@dataclass(slots=True)
class _Wanted:
    text: str
    since: float
    writing: bool = True
    reason: str = ""
    delay: float = _FIRST_RETRY_S
    next_try: float = 0.0


class SetPointBook:
    """Seconds are monotonic. The twin says again and again what differs; the book says what is new."""

    def __init__(self) -> None:
        self._wanted: dict[PointKey, _Wanted] = {}
        self._arrived: dict[PointKey, tuple[str, float]] = {}

    def differs(self, device: str, expected: Mapping[str, str], now: float) -> list[tuple[PointKey, str]]:
        """`expected` holds every property of the device whose expected value is not the actual one.

        Returns what must be written now. Set-points of the device that are not in it are settled.
        """
        for key in [key for key in self._wanted if key[0] == device and key[1] not in expected]:
            del self._wanted[key]
        writes = []
        for name, text in expected.items():
            key = (device, name)
            known = self._wanted.get(key)
            if known is not None and known.text == text:
                if self._under_way(known, now) or now < known.next_try:
                    continue
                known.writing, known.since = True, now
            elif self._just_arrived(key, text, now):
                continue
            else:
                self._wanted[key] = _Wanted(text, since=now)
            writes.append((key, text))
        return writes

    def written(self, key: PointKey, text: str, reason: str, now: float) -> bool:
        """The outcome of a write; an empty reason is success. True when what is known of the key changed."""
        known = self._wanted.get(key)
        if known is None or known.text != text:
            return False  # a newer value is on its way, or it was withdrawn
        if not reason:
            del self._wanted[key]
            self._arrived[key] = (text, now)
            return bool(known.reason)
        changed = known.reason != reason
        known.writing = False
        known.reason = reason
        known.next_try = now + known.delay
        known.delay = min(_LONGEST_RETRY_S, known.delay * 2)
        return changed

    def failure(self, key: PointKey) -> str:
        """Why the property does not hold its set-point; empty when it does or is about to."""
        known = self._wanted.get(key)
        return f"set-point {known.text} not reached: {known.reason}" if known is not None and known.reason else ""

    def due(self, now: float) -> set[str]:
        """Devices whose failed set-points may be tried again: ask the twin whether they still differ."""
        return {
            key[0] for key, known in self._wanted.items() if not self._under_way(known, now) and now >= known.next_try
        }

    def hurry(self, device: str) -> None:
        """The device answers again: its failed set-points are due at once."""
        for key, known in self._wanted.items():
            if key[0] == device and not known.writing:
                known.delay, known.next_try = _FIRST_RETRY_S, 0.0

    def lost(self, device: str) -> None:
        """The device's line or configuration went away with what was under way: ask soon whether it is wanted."""
        for key, known in self._wanted.items():
            if key[0] == device and known.writing:
                known.writing, known.next_try = False, 0.0

    def forget(self, device: str) -> None:
        """The device is gone, or the broker's view of it is unknown."""
        for key in [key for key in self._wanted if key[0] == device]:
            del self._wanted[key]
        for key in [key for key in self._arrived if key[0] == device]:
            del self._arrived[key]

    @staticmethod
    def _under_way(known: _Wanted, now: float) -> bool:
        return known.writing and now - known.since < _LOST_S

    def _just_arrived(self, key: PointKey, text: str, now: float) -> bool:
        arrived = self._arrived.get(key)
        return arrived is not None and arrived[0] == text and now - arrived[1] < _ECHO_S
