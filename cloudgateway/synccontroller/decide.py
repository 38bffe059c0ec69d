"""What one record of acknowledgement asks for. Pure (KubeEdge reference 2.9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

__all__ = ["Action", "SyncRecord", "decide", "node_of_record", "parse_record"]


class Action(Enum):
    """What the node must be sent."""

    NOTHING = "nothing"
    UPDATE = "update"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class SyncRecord:
    """An ObjectSync or ClusterObjectSync: `node` has `version` of the object ("" = unknown, "0" = none yet)."""

    record: str
    node: str
    uid: str
    namespace: str
    api_version: str
    kind: str
    name: str
    version: str


def parse_record(obj: Mapping[str, Any]) -> SyncRecord | None:
    """The record in an object; None when its name or spec is not one (made by hand)."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    node = node_of_record(str(metadata["name"]))
    uid = str(metadata["name"])[len(node) + 1 :]
    kind, name = str(spec.get("objectKind") or ""), str(spec.get("objectName") or "")
    if not (node and uid and kind and name):
        return None
    return SyncRecord(
        record=str(metadata["name"]),
        node=node,
        uid=uid,
        namespace=str(metadata.get("namespace") or ""),
        api_version=str(spec.get("objectAPIVersion") or ""),
        kind=kind,
        name=name,
        version=str(status.get("objectResourceVersion") or ""),
    )


def node_of_record(name: str) -> str:
    """The node in the name of a record; "" when there is none. Node names may contain dots, UIDs do not."""
    return name.rpartition(".")[0]


def decide(record: SyncRecord, obj: Mapping[str, Any] | None) -> Action:
    """Compares a record with the object as it is now (None: there is none)."""
    if not record.version:
        return Action.NOTHING
    if obj is None or obj["metadata"].get("uid") != record.uid:
        return Action.DELETE
    if not _belongs(record, obj):
        return Action.DELETE
    if obj["metadata"].get("resourceVersion") == record.version:
        return Action.NOTHING
    if _number(str(obj["metadata"].get("resourceVersion") or "")) > _number(record.version):
        return Action.UPDATE
    return Action.NOTHING


def _belongs(record: SyncRecord, obj: Mapping[str, Any]) -> bool:
    """Whether the object still is the node's: a device may have moved while the node was away."""
    if record.kind not in ("Device", "Pod"):
        return True
    return bool((obj.get("spec") or {}).get("nodeName") == record.node)


def _number(version: str) -> int:
    return int(version) if version.isascii() and version.isdigit() else 0
