"""Which nodes run pods that use a config map or a secret. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Locations", "Reference", "references"]

CONFIGMAP = "configmap"
SECRET = "secret"  # noqa: S105  - the Kubernetes kind, not a password


@dataclass(frozen=True, slots=True)
class Reference:
    """A config map or a secret by name; `kind` is ``configmap`` or ``secret``."""

    kind: str
    namespace: str
    name: str


def references(pod: Mapping[str, Any]) -> frozenset[Reference]:
    """All config maps and secrets that a pod's volumes, environment and image pulls name."""
    namespace = str(pod["metadata"].get("namespace") or "")
    return frozenset(Reference(kind, namespace, name) for kind, name in _names(pod.get("spec") or {}) if name)


def _names(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for volume in spec.get("volumes") or []:
        yield from _volume(volume)
    for group in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(group) or []:
            yield from _environment(container)
    for secret in spec.get("imagePullSecrets") or []:
        yield SECRET, secret.get("name", "")


def _volume(volume: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield CONFIGMAP, (volume.get("configMap") or {}).get("name", "")
    yield SECRET, (volume.get("secret") or {}).get("secretName", "")
    for source in (volume.get("projected") or {}).get("sources") or []:
        yield CONFIGMAP, (source.get("configMap") or {}).get("name", "")
        yield SECRET, (source.get("secret") or {}).get("name", "")
    for plugin in volume.values():  # secretRef of cephfs, rbd, iscsi, ...; nodePublishSecretRef of csi
        if isinstance(plugin, dict):
            for key in ("secretRef", "nodePublishSecretRef"):
                yield SECRET, (plugin.get(key) or {}).get("name", "")


def _environment(container: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for variable in container.get("env") or []:
        source = variable.get("valueFrom") or {}
        yield CONFIGMAP, (source.get("configMapKeyRef") or {}).get("name", "")
        yield SECRET, (source.get("secretKeyRef") or {}).get("name", "")
    for source in container.get("envFrom") or []:
        yield CONFIGMAP, (source.get("configMapRef") or {}).get("name", "")
        yield SECRET, (source.get("secretRef") or {}).get("name", "")


class Locations:
    """Pods by node, and nodes by what their pods refer to."""

    def __init__(self) -> None:
        self._pods: dict[str, tuple[str, frozenset[Reference]]] = {}
        self._on_node: dict[str, set[str]] = {}
        self._nodes: dict[Reference, dict[str, set[str]]] = {}

    def put(self, uid: str, node: str, refs: frozenset[Reference]) -> frozenset[Reference]:
        """Takes a pod over; gives the references that are new on its node."""
        self.remove(uid)
        fresh = frozenset(ref for ref in refs if node not in self._nodes.get(ref, {}))
        self._pods[uid] = (node, refs)
        self._on_node.setdefault(node, set()).add(uid)
        for ref in refs:
            self._nodes.setdefault(ref, {}).setdefault(node, set()).add(uid)
        return fresh

    def remove(self, uid: str) -> None:
        """A pod is gone."""
        known = self._pods.pop(uid, None)
        if known is None:
            return
        node, refs = known
        self._on_node[node].discard(uid)
        if not self._on_node[node]:
            del self._on_node[node]
        for ref in refs:
            nodes = self._nodes[ref]
            nodes[node].discard(uid)
            if not nodes[node]:
                del nodes[node]
            if not nodes:
                del self._nodes[ref]

    def nodes(self, ref: Reference) -> list[str]:
        """Nodes whose pods use `ref`."""
        return list(self._nodes.get(ref, ()))

    def on_node(self, node: str) -> set[Reference]:
        """All that pods of `node` use."""
        return {ref for uid in self._on_node.get(node, ()) for ref in self._pods[uid][1]}

    def clear(self) -> None:
        self._pods.clear()
        self._on_node.clear()
        self._nodes.clear()
