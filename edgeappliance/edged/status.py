"""When which part of the node's status must go up. Pure: dirty by version, no queue."""

from collections.abc import Mapping
from typing import Any

FULL_REPORT = 300.0
"""Seconds after which an unchanged status is reported all the same (kubelet's nodeStatusReportFrequency)."""


class NodeStatus:
    """The node's status with the version that changes and the version that the cloud has.

    Times are Unix seconds as texts (RFC 3339) where they travel; `now` is seconds of a clock that never jumps.
    """

    def __init__(self) -> None:
        self._fixed: Mapping[str, Any] = {}
        self._conditions: dict[str, dict[str, Any]] = {}
        self._version = 0
        self._fixed_version = 0
        self._acked = 0
        self._acked_at: float | None = None

    @property
    def version(self) -> int:
        """Grows with every change."""
        return self._version

    def set_fixed(self, status: Mapping[str, Any]) -> None:
        """Capacity, addresses, nodeInfo: everything but the conditions."""
        if status != self._fixed:
            self._fixed = dict(status)
            self._version += 1
            self._fixed_version = self._version

    def set_conditions(self, conditions: Mapping[str, Mapping[str, Any]], *, time: str) -> None:
        """The conditions as they are at `time`; a transition time moves only with the status."""
        changed = False
        for kind, condition in conditions.items():
            known = self._conditions.get(kind)
            same = known is not None and known["status"] == condition["status"]
            since = known["lastTransitionTime"] if known is not None and same else time
            changed = changed or known is None or any(known[key] != value for key, value in condition.items())
            self._conditions[kind] = {
                "type": kind,
                **condition,
                "lastHeartbeatTime": time,
                "lastTransitionTime": since,
            }
        if changed:
            self._version += 1

    def forget_acknowledged(self) -> None:
        """A new link, perhaps to another cloud: report everything."""
        self._acked = 0
        self._acked_at = None

    def due(self, now: float) -> bool:
        """Whether a report must go up."""
        return self._acked < self._version or self._acked_at is None or now - self._acked_at >= FULL_REPORT

    def patch(self) -> dict[str, Any]:
        """What the cloud does not have, as a strategic merge patch of the node's status."""
        status: dict[str, Any] = {"conditions": list(self._conditions.values())}
        if self._acked < self._fixed_version:
            status.update(self._fixed)
        return {"status": status}

    def full(self) -> dict[str, Any]:
        """node.status."""
        return {**self._fixed, "conditions": list(self._conditions.values())}

    def acknowledged(self, version: int, now: float) -> None:
        """The cloud has everything up to `version`."""
        self._acked = max(self._acked, version)
        self._acked_at = now
