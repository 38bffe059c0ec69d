"""One unit of a line: its devices, how it is treated, what it taught, and its groups."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from edgeappliance.mappers.breaker import Breaker
from edgeappliance.mappers.driver import SpaceCost, UnitKey, UnitProfile
from edgeappliance.mappers.groups import Group
from edgeappliance.mappers.planner import Learned
from edgeappliance.mappers.points import Point, PointKey


@dataclass(slots=True)
class Unit:
    """What the line knows of one unit. `spaces` is shared with its groups and changed in place.

    `reads` counts the requests that brought values; `suspect` is the group whose request was not answered last.
    """

    key: UnitKey
    profile: UnitProfile
    breaker: Breaker
    spaces: dict[str, SpaceCost]
    learned: dict[str, Learned] = field(default_factory=dict)
    devices: dict[str, tuple[Point, ...]] = field(default_factory=dict)
    profiles: dict[str, UnitProfile] = field(default_factory=dict)
    groups: dict[float, Group] = field(default_factory=dict)
    announced: bool | None = None
    reads: int = 0
    suspect: Group | None = None

    def points(self) -> Iterable[Point]:
        """All values of the unit."""
        for points in self.devices.values():
            yield from points

    def regroup(self, now: float) -> None:
        """Make the groups match the devices; groups that stay keep their phase."""
        profile = merged_profile(self.profiles.values(), self.points())
        changed = profile != self.profile or profile.spaces != self.spaces
        if changed:
            self.profile = profile
            self.breaker.longest = profile.probe_interval
            self.spaces.clear()
            self.spaces.update(profile.spaces)
        wanted: dict[float, dict[PointKey, Point]] = {}
        for point in self.points():
            wanted.setdefault(point.cycle, {})[point.key] = point
        for cycle in self.groups.keys() - wanted.keys():
            del self.groups[cycle]
        for cycle, points in wanted.items():
            if cycle not in self.groups:
                self.groups[cycle] = Group(self.key, cycle, self.spaces, self.learned, now)
            self.groups[cycle].set_points(points)
            if changed:
                self.groups[cycle].replan()

    def forget_learned(self, now: float) -> None:
        """Whoever speaks after a long silence may be another device, or this one with other settings."""
        for learned in self.learned.values():
            learned.forget()
        for group in self.groups.values():
            group.forget()
            group.due = min(group.due, now)

    def report(self) -> dict[str, object]:
        """For ``edgecore status``, as plain values."""
        return {
            "devices": sorted(self.devices),
            "silent": self.breaker.silent,
            "failures": self.breaker.failures,
            "reason": self.breaker.last_reason,
            "groups": [
                {
                    "cycle_ms": round(group.cycle * 1000),
                    "requests": len(group.blocks()),
                    "values": len(group.points),
                    "cycles": group.cycles,
                    "missed": group.missed,
                    "last_ms": round(group.last_duration * 1000, 1),
                }
                for group in self.groups.values()
            ],
        }


def merged_profile(profiles: Iterable[UnitProfile], points: Iterable[Point]) -> UnitProfile:
    """One profile for devices that share a unit: the most patient times, the smallest requests that do."""
    first, *rest = profiles
    spaces = dict(first.spaces)
    for other in rest:
        for name, cost in other.spaces.items():
            known = spaces.get(name, cost)
            spaces[name] = replace(
                cost, max_count=min(cost.max_count, known.max_count), max_gap=min(cost.max_gap, known.max_gap)
            )
    for point in points:
        if point.span.count > spaces[point.space].max_count:
            spaces[point.space] = replace(spaces[point.space], max_count=point.span.count)
    return UnitProfile(
        timeout=max(profile.timeout for profile in (first, *rest)),
        retries=max(profile.retries for profile in (first, *rest)),
        probe_interval=min(profile.probe_interval for profile in (first, *rest)),
        spaces=spaces,
    )
