"""What pods have left behind that this node does not know: containers of ours, directories. Pure.

Only what carries our label, or lies in our own directory, is ever looked at.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from edgeappliance.edged.pods.observed import Kind, ObservedContainer


@dataclass(frozen=True, slots=True)
class Remains:
    """Of pods that nobody knows: containers in the order in which they are to be ended, directories by pod UID."""

    containers: tuple[ObservedContainer, ...] = ()
    directories: tuple[str, ...] = ()


class Orphans:
    """Tells remains from pods that are only just coming or going: what is unknown twice in a row is an orphan."""

    def __init__(self) -> None:
        self._suspects: frozenset[str] = frozenset()

    def find(
        self, *, strays: Mapping[str, Sequence[ObservedContainer]], directories: Collection[str], known: Collection[str]
    ) -> Remains:
        """strays: containers by pod UID, and directories: pod UIDs, that are there; known: the pods that should be."""
        unknown = frozenset(uid for uid in {*strays, *directories} if uid not in known)
        certain = unknown & self._suspects
        self._suspects = unknown
        doomed = sorted(certain)
        containers = [container for uid in doomed for container in strays.get(uid, ())]
        containers.sort(key=lambda container: container.kind is Kind.SANDBOX)  # a sandbox only after what it holds
        left = tuple(uid for uid in doomed if uid in directories and not strays.get(uid))
        return Remains(tuple(containers), left)

    def forget(self) -> None:
        """Nothing is known for certain: begin anew."""
        self._suspects = frozenset()
