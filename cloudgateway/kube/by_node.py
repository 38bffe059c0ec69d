"""Mirrored objects of one kind, found by the node that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cloudgateway.kube.client import KubeObject
from cloudgateway.kube.reflector import Key, Reflector, key_of

__all__ = ["ByNode", "node_of"]


def node_of(obj: Mapping[str, Any]) -> str:
    """``spec.nodeName``; "" without one."""
    return str((obj.get("spec") or {}).get("nodeName") or "")


class ByNode:
    """An index over a mirror: a session that begins must not look at every object of the site."""

    def __init__(self) -> None:
        self._nodes: dict[str, dict[Key, KubeObject]] = {}

    def follow(self, mirror: Reflector) -> Callable[[], None]:
        """Begins to follow; the result ends it."""
        self._nodes.clear()
        return mirror.subscribe(on_add=self._put, on_update=self._move, on_delete=self._drop)

    def on(self, node: str) -> list[KubeObject]:
        """The objects of a node."""
        return list(self._nodes.get(node, {}).values())

    def _put(self, obj: KubeObject) -> None:
        node = node_of(obj)
        if node:
            self._nodes.setdefault(node, {})[key_of(obj)] = obj

    def _move(self, old: KubeObject, new: KubeObject) -> None:
        if node_of(old) != node_of(new):
            self._drop(old)
        self._put(new)

    def _drop(self, obj: KubeObject) -> None:
        objects = self._nodes.get(node_of(obj))
        if objects is not None:
            objects.pop(key_of(obj), None)
            if not objects:
                del self._nodes[node_of(obj)]
