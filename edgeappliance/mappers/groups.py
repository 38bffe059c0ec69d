"""Values of one unit that are polled with one cycle: which requests, when, by when. Pure."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgeappliance.mappers.driver import Block, SpaceCost, UnitKey
from edgeappliance.mappers.planner import Learned, Span, plan
from edgeappliance.mappers.points import Point, PointKey, Sample

_RECHECK_S = 60.0
_STRIKES = 3
"""Failures in a row after which a request is at fault and not the line: devices that stay silent for, or answer
nonsense to, addresses they do not have are common."""


@dataclass(slots=True)
class Group:
    """Times in seconds of a monotonic clock. `due` is the release of the next (or running) cycle.

    `spaces` and `learned` belong to the unit and are shared between its groups.
    """

    unit: UnitKey
    cycle: float
    spaces: Mapping[str, SpaceCost]
    learned: dict[str, Learned]
    due: float
    points: dict[PointKey, Point] = field(default_factory=dict)
    gathered: list[Sample] = field(default_factory=list, init=False)
    cycles: int = field(default=0, init=False)
    missed: int = field(default=0, init=False)
    last_duration: float = field(default=0.0, init=False)
    _todo: deque[Block] = field(default_factory=deque, init=False)
    _open: set[PointKey] = field(default_factory=set, init=False)
    _begun: float | None = field(default=None, init=False)
    _plan: list[Block] | None = field(default=None, init=False)
    _refused: dict[Block, float] = field(default_factory=dict, init=False)
    _strikes: dict[Block, tuple[int, int]] = field(default_factory=dict, init=False)
    _failed: Block | None = field(default=None, init=False)

    @property
    def deadline(self) -> float:
        """When the cycle that is due should be done."""
        return self.due + self.cycle

    @property
    def running(self) -> bool:
        """Some of the cycle's requests are done, some are not."""
        return bool(self._todo)

    def blocks(self) -> list[Block]:
        """The requests of a whole cycle."""
        if self._plan is None:
            self._plan = self._planned(self.points.values())
        return self._plan

    def set_points(self, points: Mapping[PointKey, Point]) -> None:
        """Change what is polled; a cycle that runs goes on with what stayed and what is new."""
        if points == self.points:
            return
        self._strikes.clear()
        added = points.keys() - self.points.keys()
        self.points = dict(points)
        self._plan = None
        if self._begun is not None:
            self._open = (self._open & points.keys()) | added
            self._todo = deque(self._planned(self.points[key] for key in self._open))

    def replan(self) -> None:
        """Plan again with what the unit taught or with other costs."""
        self._plan = None
        if self._begun is not None:
            self._todo = deque(self._planned(self.points[key] for key in self._open))

    def next_block(self, now: float) -> Block | None:
        """The next request of the cycle; None when there is none left, which ends the cycle."""
        if self._begun is None:
            self._begun = now
            self._open = set(self.points)
            self._todo = deque(self.blocks())
            if self._failed is not None and self._failed in self._todo:
                # One request that is never answered must not keep the others of the unit from being made.
                self._todo.remove(self._failed)
                self._todo.append(self._failed)
        return None if self.settle(now) else self._todo[0]

    def points_of(self, block: Block) -> list[Point]:
        """The values that lie in a block, whether they were asked for in it or not."""
        return [
            point
            for point in self.points.values()
            if point.space == block.space and block.start <= point.span.start and point.span.end <= block.end
        ]

    def finish(self, block: Block) -> None:
        """The block's values are read (or given up for this cycle)."""
        if self._todo and self._todo[0] == block:
            self._todo.popleft()
        self._open -= {point.key for point in self.points_of(block)}

    def settle(self, now: float) -> bool:
        """End the cycle when nothing is left of it, so that its end is when its last answer came.

        True when no cycle is running (any more).
        """
        while self._todo and now < self._refused.get(self._todo[0], 0.0):
            self.finish(self._todo[0])
        if self._begun is not None and not self._todo:
            self._end(now)
        return self._begun is None

    def hold_back(self, block: Block, now: float) -> None:
        """A request that the unit will not answer is repeated rarely."""
        self._refused[block] = now + _RECHECK_S

    def strike(self, block: Block, evidence: int) -> bool:
        """A request failed. True when it is to blame: it failed a few times in a row, each with new `evidence` (a
        number that grows) that the unit answers otherwise."""
        count, before = self._strikes.get(block, (0, -1))
        if evidence == before:
            return False
        self._strikes[block] = (count + 1, evidence)
        return count + 1 >= _STRIKES

    def answered(self, block: Block) -> None:
        """A request brought values."""
        self._strikes.pop(block, None)
        self._refused.pop(block, None)

    def abandon(self, again: float, failed: Block | None = None) -> None:
        """The unit is silent: drop the rest of the cycle and begin anew at `again`, with `failed` as the last."""
        self._failed = failed
        self._todo.clear()
        self._open.clear()
        self._begun = None
        self.due = again

    def forget(self) -> None:
        """The unit may be another one now: ask everything again."""
        self._refused.clear()
        self._strikes.clear()
        self._plan = None

    def _planned(self, points: Iterable[Point]) -> list[Block]:
        by_space: dict[str, list[Span]] = {}
        for point in points:
            by_space.setdefault(point.space, []).append(point.span)
        return [
            Block(self.unit, name, span.start, span.count)
            for name, spans in sorted(by_space.items())
            for span in plan(spans, self.spaces[name], self.learned.get(name))
        ]

    def _end(self, now: float) -> None:
        begun = self._begun if self._begun is not None else now
        self._begun = None
        self.cycles += 1
        self.last_duration = now - begun
        if begun < self.due:
            return  # a cycle out of turn; the phase is kept
        if now > self.deadline:
            self.missed += 1
        # On time, the phase is kept; late, nothing is made up for: debts of one would be paid by the others.
        self.due = max(self.deadline, now)
