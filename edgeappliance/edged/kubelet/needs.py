"""What the kubelet API needs of the rest of edged."""

from collections.abc import Sequence
from typing import Any, Protocol

from edgeappliance.edged.pods.observed import ObservedContainer


class Pods(Protocol):
    """The pods of this node."""

    def objects(self) -> list[dict[str, Any]]:
        """Every pod as the API shows it, with its present status."""
        ...

    def object(self, namespace: str, name: str, uid: str = "") -> dict[str, Any] | None:
        """One of them; any uid when it is "" ."""
        ...

    def observed(self, uid: str) -> Sequence[ObservedContainer]:
        """What is on the engine for a pod, every attempt, the sandbox too."""
        ...


class Figures(Protocol):
    """Measurements."""

    async def summary(self) -> dict[str, Any]:
        """As the kubelet's /stats/summary."""
        ...

    async def exposition(self, kind: str) -> bytes:
        """Prometheus text. kind: "" (edgecore itself), cadvisor, resource or probes."""
        ...
