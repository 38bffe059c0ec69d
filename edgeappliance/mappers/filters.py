"""Which samples of a point are worth publishing. Pure."""

from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from edgeappliance.mappers.points import ReportRule, Sample


@dataclass(slots=True)
class ReportFilter:
    """Remembers what was last let through; seconds are of a monotonic clock."""

    rule: ReportRule
    last: Sample | None = field(default=None, init=False)
    _at: float = field(default=0.0, init=False)

    def passes(self, sample: Sample, now: float) -> bool:
        """Whether `sample` goes out; a change of quality always does."""
        last = self.last
        if (
            last is not None
            and sample.quality is last.quality
            and sample.reason == last.reason
            and not self._due(now)
            and not (self.rule.on_change and self._changed(last.value, sample.value))
        ):
            return False
        self.last = sample
        self._at = now
        return True

    def _due(self, now: float) -> bool:
        # A hair early is on time: poll and report cycles are often the same number.
        return self.rule.every > 0 and now - self._at >= self.rule.every * 0.98

    def _changed(self, before: str | None, after: str | None) -> bool:
        if before == after:
            return False
        if not self.rule.deadband or before is None or after is None:
            return True
        try:
            return abs(Decimal(after) - Decimal(before)) > self.rule.deadband
        except InvalidOperation:
            return True
