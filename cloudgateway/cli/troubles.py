"""Which troubles of the parts a person should be told of, once each. Pure."""

from collections.abc import Mapping

from edgeappliance.kernel.component import Health, State

_BAD = frozenset({State.FAILED, State.DEGRADED})


class Troubles:
    """Compares one look at the health of all parts with the looks before.

    A trouble is told when two looks in a row have seen it, and not again by another part that suffers from the
    same: a server that is away is everybody's trouble.
    """

    def __init__(self) -> None:
        self._seen: dict[str, str] = {}
        self._told: dict[str, str] = {}

    def look(self, parts: Mapping[str, Health]) -> tuple[dict[str, Health], list[str]]:
        """The parts whose trouble is new, and those that were told of and are well again."""
        bad = {name: health for name, health in parts.items() if health.state in _BAD}
        well = [name for name in self._told if name not in bad]
        for name in well:
            del self._told[name]
        fresh: dict[str, Health] = {}
        for name, health in bad.items():
            if self._seen.get(name) == health.reason and not self._known(health.reason):
                self._told[name] = health.reason
                fresh[name] = health
        self._seen = {name: health.reason for name, health in bad.items()}
        return fresh, well

    def _known(self, reason: str) -> bool:
        return any(told in reason or reason in told for told in self._told.values())
