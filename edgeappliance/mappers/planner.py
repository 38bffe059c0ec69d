"""Which requests read a set of addresses at the lowest cost. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from edgeappliance.mappers.driver import SpaceCost


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Consecutive addresses that must be read by one request: a value."""

    start: int
    count: int

    @property
    def end(self) -> int:
        """The address after the last one."""
        return self.start + self.count


@dataclass(slots=True)
class Learned:
    """What a unit taught about one space.

    `alone`: values that were refused, read by requests of their own, whose addresses no other request touches;
    `holes`: unwanted addresses that cannot be read; `cuts`: addresses that no request may cross.
    """

    alone: set[Span] = field(default_factory=set)
    holes: set[Span] = field(default_factory=set)
    cuts: set[int] = field(default_factory=set)

    def refused(self, block: Span, wanted: Iterable[Span]) -> bool:
        """Learn from a refused block. True when it is a single value: nothing is left to split.

        Gaps are suspected first; then the block is halved until the value that is to blame stands alone.
        """
        inside = sorted({span for span in wanted if block.start <= span.start and span.end <= block.end})
        gaps = _gaps(inside)
        if gaps:
            self.holes.update(gaps)
            return False
        borders = _borders(inside)
        if borders:
            middle = block.start + block.count / 2
            self.cuts.add(min(borders, key=lambda border: abs(border - middle)))
            return False
        self.alone.update(inside)
        # The halving was most likely this value's fault; if not, it will be learned again.
        self.cuts.clear()
        return len(inside) <= 1

    def readable(self, block: Span) -> bool:
        """A request succeeded. True when it was for a value that had been refused: the unit has changed."""
        if block not in self.alone:
            return False
        self.alone.discard(block)
        return True

    def forget(self) -> None:
        """The unit may be another one now."""
        self.alone.clear()
        self.holes.clear()
        self.cuts.clear()

    def separates(self, first: int, last: int) -> bool:
        """Whether one request must not read from `first` up to `last` (exclusive)."""
        if any(first < cut < last for cut in self.cuts):
            return True
        return any(span.start < last and first < span.end for span in (*self.alone, *self.holes))


def cost(count: int, space: SpaceCost) -> float:
    """Seconds that one request for `count` addresses takes."""
    return space.per_request + count * space.per_address


def plan(wanted: Iterable[Span], space: SpaceCost, learned: Learned | None = None) -> list[Span]:
    """Requests that together cover `wanted`, ordered by address; the cheapest partition there is.

    Spans that overlap become one.

    Raises:
        ValueError: a span does not fit one request.
    """
    learned = learned or Learned()
    spans = set(wanted)
    for span in spans:
        if span.count > space.max_count:
            raise ValueError(f"{span.count} addresses from {span.start} do not fit a request of {space.max_count}")
    alone = sorted(spans & learned.alone)
    runs = _merged(sorted(spans - learned.alone), space.max_count)
    return sorted(alone + _partition(runs, space, learned))


def _merged(spans: Sequence[Span], limit: int) -> list[Span]:
    """Spans that share addresses joined where the result still fits one request."""
    merged: list[Span] = []
    for span in spans:
        if merged and span.start < merged[-1].end:
            joined = Span(merged[-1].start, max(merged[-1].end, span.end) - merged[-1].start)
            if joined.count <= limit:
                merged[-1] = joined
                continue
        merged.append(span)
    return merged


def _partition(runs: Sequence[Span], space: SpaceCost, learned: Learned) -> list[Span]:
    """Dynamic programming over the runs in order: best[i] is the cheapest way to read the first i of them."""
    best: list[float] = [0.0]
    choice: list[int] = [0]
    for index, run in enumerate(runs):
        best.append(best[index] + cost(run.count, space))
        choice.append(index)
        for first in range(index - 1, -1, -1):
            end = max(run.end, runs[index - 1].end)
            if runs[first + 1].start - runs[first].end > space.max_gap:
                break
            count = end - runs[first].start
            if count > space.max_count or learned.separates(runs[first].start, end):
                break
            price = best[first] + cost(count, space)
            if price < best[index + 1]:
                best[index + 1] = price
                choice[index + 1] = first
    blocks: list[Span] = []
    index = len(runs)
    while index:
        first = choice[index]
        start = runs[first].start
        blocks.append(Span(start, max(run.end for run in runs[first:index]) - start))
        index = first
    return blocks


def _gaps(inside: Sequence[Span]) -> list[Span]:
    """Addresses between the first and the last value that belong to none."""
    gaps: list[Span] = []
    position = inside[0].start if inside else 0
    for span in inside:
        if span.start > position:
            gaps.append(Span(position, span.start - position))
        position = max(position, span.end)
    return gaps


def _borders(inside: Sequence[Span]) -> list[int]:
    """Addresses where one value ends and the next begins, none lying across."""
    borders: list[int] = []
    reach = inside[0].end if inside else 0
    for span in inside[1:]:
        if span.start >= reach:
            borders.append(span.start)
        reach = max(reach, span.end)
    return borders
