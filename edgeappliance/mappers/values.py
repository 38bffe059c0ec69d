"""The last value of each property of a line, and which of them are worth publishing. Pure."""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation

from edgeappliance.mappers.codec import DecodeError, Shown
from edgeappliance.mappers.filters import ReportFilter
from edgeappliance.mappers.points import Point, PointKey, Quality, Sample


class Values:
    """Seconds are monotonic, ``_ms`` is Unix time."""

    def __init__(self) -> None:
        self._latest: dict[PointKey, Sample] = {}
        self._filters: dict[PointKey, ReportFilter] = {}

    def know(self, point: Point, before: Point | None) -> None:
        """Take a property or its change; its last value stays while it means the same."""
        if before is None or (before.codec, before.span, before.space) != (point.codec, point.span, point.space):
            self._latest.pop(point.key, None)
        self._filters[point.key] = ReportFilter(point.report)

    def forget(self, key: PointKey) -> None:
        """The property is gone."""
        self._latest.pop(key, None)
        self._filters.pop(key, None)

    def decoded(self, point: Point, raw: bytes, now_ms: int) -> Sample:
        """What was read, good or bad."""
        try:
            text = point.codec.decode(raw)
        except DecodeError as error:
            return self.spoiled(point.key, Quality.BAD, str(error), now_ms)
        latest = self._latest.get(point.key)
        if latest is not None and latest.value is not None and _same_number(point, latest.value, text):
            # A set-point may have been shown in other words ("60.0"): keep them while the device holds it.
            text = latest.value
        return Sample(point.key, text, Quality.GOOD, "", now_ms)

    def spoiled(self, key: PointKey, quality: Quality, reason: str, now_ms: int) -> Sample:
        """The last value that there was, with what is wrong now."""
        latest = self._latest.get(key)
        if latest is None:
            return Sample(key, None, quality, reason, now_ms)
        return Sample(key, latest.value, quality, reason, latest.time_ms)

    def take(self, sample: Sample, now: float) -> list[Sample]:
        """Remember a sample; it comes back when it is to be published."""
        self._latest[sample.key] = sample
        keep = self._filters.get(sample.key)
        return [sample] if keep is not None and keep.passes(sample, now) else []

    def publish_next(self, point: Point) -> None:
        """Whatever comes next goes out, changed or not."""
        self._filters[point.key] = ReportFilter(point.report)

    def latest(self) -> Mapping[PointKey, Sample]:
        """The last sample of each property, published or not."""
        return dict(self._latest)


def _same_number(point: Point, shown: str, text: str) -> bool:
    if shown == text or point.codec.shown not in (Shown.INT, Shown.FLOAT):
        return False
    try:
        return Decimal(shown) == Decimal(text)
    except InvalidOperation:
        return False
