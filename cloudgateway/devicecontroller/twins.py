"""What a report of an edge changes in a DeviceStatus. Pure (KubeEdge reference 4.4, 6.3)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeappliance.wire.twin import DeviceState, MsgTwin, TwinUpdate, TwinValue

__all__ = ["PendingStatus", "Twins", "load_twins", "status_patch"]

DELETED = "deleted"

Value = dict[str, Any]
"""``{"value": text, "metadata": {name: text}}`` as it stands in a DeviceStatus."""

Twins = dict[str, dict[str, Value]]
"""The halves ``reported`` and ``observedDesired`` of each property, in the order of the status list."""

_HALVES = (("actual", "reported"), ("expected", "observedDesired"))


@dataclass(slots=True)
class PendingStatus:
    """What was reported and is not in the API yet; only the newest value of each half is kept."""

    halves: dict[tuple[str, str], Value] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    seen: dict[str, None] = field(default_factory=dict)
    state: DeviceState | None = None
    prune: bool = False

    def __bool__(self) -> bool:
        return bool(self.seen or self.prune or self.state is not None)

    def add_twins(self, update: TwinUpdate) -> int:
        """Takes a report over; gives how many values it made superfluous before they were written."""
        superseded = 0
        for name, twin in (update.twin or {}).items():
            if twin is None:
                continue
            self.seen[name] = None
            if twin.metadata is not None and twin.metadata.type == DELETED:
                self.deleted.add(name)
                for _, half in _HALVES:
                    superseded += self.halves.pop((name, half), None) is not None
                continue
            self.deleted.discard(name)
            superseded += self._add_halves(name, twin)
        return superseded

    def add_state(self, state: DeviceState) -> int:
        """Takes a state over; an empty ``lastOnlineTime`` leaves an earlier one in place."""
        earlier = self.state
        if earlier is not None and not state.last_online_time:
            state = DeviceState(name=state.name, state=state.state, last_online_time=earlier.last_online_time)
        self.state = state
        return int(earlier is not None)

    def restore(self, older: PendingStatus) -> None:
        """Puts back what could not be written; what is here already is newer and stays."""
        for key, value in older.halves.items():
            if key[0] not in self.deleted:
                self.halves.setdefault(key, value)
        for name in older.deleted:
            if name not in self.seen:
                self.deleted.add(name)
        self.seen = {**older.seen, **self.seen}
        self.prune = self.prune or older.prune
        if older.state is not None:
            newer, self.state = self.state, older.state
            if newer is not None:
                self.add_state(newer)

    def _add_halves(self, name: str, twin: MsgTwin) -> int:
        superseded = 0
        kind = twin.metadata.type if twin.metadata is not None else ""
        for member, half in _HALVES:
            value: TwinValue | None = getattr(twin, member)
            if value is None or value.value is None:
                continue
            superseded += (name, half) in self.halves
            self.halves[(name, half)] = _value(value, kind)
        return superseded


def load_twins(status_object: Mapping[str, Any]) -> Twins:
    """The twins of a DeviceStatus object as the API gave it; what a person wrote into it and is no twin is left out."""
    twins: Twins = {}
    for entry in (status_object.get("status") or {}).get("twins") or []:
        name = entry.get("propertyName") if isinstance(entry, dict) else None
        if not isinstance(name, str):
            continue
        twins[name] = {}
        for half in ("reported", "observedDesired"):
            value = entry.get(half)
            twins[name][half] = dict(value) if isinstance(value, dict) and "value" in value else {"value": ""}
    return twins


def status_patch(twins: Twins, pending: PendingStatus, known: Collection[str]) -> tuple[Twins, dict[str, Any] | None]:
    """The twins after `pending`, and the merge patch that writes them (None when there is nothing to write).

    Properties that are not `known` to the Device are left out, reported ones as well as those in the list from
    earlier. The list is replaced as a whole; both halves of an entry are always present, the one never received
    is ``{"value": ""}``. Empty fields of the state are omitted, so going offline keeps the last online time.
    """
    status: dict[str, Any] = {}
    after: Twins = {name: halves for name, halves in twins.items() if name in known and name not in pending.deleted}
    for (name, half), value in pending.halves.items():
        if name in known:
            halves = after.get(name, {"reported": {"value": ""}, "observedDesired": {"value": ""}})
            after[name] = {**halves, half: value}
    if any(name in known for name in pending.seen) or after.keys() != twins.keys():
        status["twins"] = [{"propertyName": name, **halves} for name, halves in after.items()]
    if pending.state is not None:
        if pending.state.state:
            status["state"] = pending.state.state
        if pending.state.last_online_time:
            status["lastOnlineTime"] = pending.state.last_online_time
    return after, {"status": status} if status else None


def _value(value: TwinValue, kind: str) -> Value:
    result: Value = {"value": value.value or ""}
    metadata: dict[str, str] = {}
    if value.metadata is not None:
        if value.metadata.timestamp:
            metadata["timestamp"] = str(value.metadata.timestamp)
        if value.metadata.quality:
            metadata["quality"] = value.metadata.quality
        if value.metadata.reason:
            metadata["reason"] = value.metadata.reason
    if kind:
        metadata["type"] = kind
    if metadata:
        result["metadata"] = metadata
    return result
