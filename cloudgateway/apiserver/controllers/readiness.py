"""What a node's conditions mean for its taints and its pods (as Kubernetes' node-lifecycle controller has it).

Pods of a node that is silent are not evicted: the box goes on alone, and nobody here can know better.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from cloudgateway.apiserver import binding
from cloudgateway.apiserver.controllers.recorder import Recorder
from cloudgateway.apiserver.store import ObjectStore
from cloudgateway.apiserver.taints import tainted
from cloudgateway.apiserver.writing import Writer
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.log import get_logger
from edgeappliance.kubeapi.resources import Registry
from edgeappliance.kubeapi.storage import Entry
from edgeappliance.kubeapi.times import rfc3339

Object = dict[str, Any]

NODES, PODS = "nodes", "pods"
AT_ONCE = 64
"""Nodes whose changes share a commit: all of a site fall silent together when its gateway is cut off."""
_ENDED = ("Succeeded", "Failed")


class Readiness:
    """Follows the Ready condition of nodes: writes taints, and the Ready condition of pods that nobody speaks for."""

    def __init__(
        self, *, store: ObjectStore, writer: Writer, registry: Registry, clock: Clock, recorder: Recorder
    ) -> None:
        self._store = store
        self._writer = writer
        self._registry = registry
        self._clock = clock
        self._recorder = recorder
        self._seen: dict[str, int] = {}
        self._ready: dict[str, bool] = {}
        self._log = get_logger("nodes")

    async def examine(self) -> None:
        """Look at the nodes that changed since the last time. Raises StorageError."""
        entries = self._store.entries(NODES)
        present = {entry.name for entry in entries}
        changed = [entry for entry in entries if self._seen.get(entry.name) != entry.version]
        if changed:
            pods = self._pods_by_node()
            for start in range(0, len(changed), AT_ONCE):
                await asyncio.gather(*(self._look_at(entry, pods) for entry in changed[start : start + AT_ONCE]))
        for name in [name for name in self._seen if name not in present]:
            del self._seen[name]
            self._ready.pop(name, None)

    def _pods_by_node(self) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = {}
        for pod in self._store.entries(PODS):
            if pod.fields.get("status.phase") not in _ENDED:
                found.setdefault(pod.fields.get("spec.nodeName", ""), []).append(pod)
        return found

    async def _look_at(self, entry: Entry, pods: dict[str, list[Entry]]) -> None:
        node = entry.object()
        if condition(node, "Ready"):  # one that has not reported yet is about to
            await self._taint(entry, node)
        await self._follow(entry, pods.get(entry.name, ()), ready=condition(node, "Ready") == "True")
        self._seen[entry.name] = entry.version

    async def _taint(self, entry: Entry, node: Object) -> None:
        time = rfc3339(self._clock.wall_ms())
        resource = self._registry.stored(NODES)
        if resource is None or tainted(node, time=time) is None:
            return

        def change(value: Object) -> bool:
            taints = tainted(value, time=time)
            if taints is None:
                return False
            spec = value.setdefault("spec", {})
            if taints:
                spec["taints"] = taints
            else:
                spec.pop("taints", None)
            return True

        await self._writer.modify(resource, entry, change)

    async def _follow(self, entry: Entry, pods: Sequence[Entry], *, ready: bool) -> None:
        """At a change, and once after a start of ours, bring the pods of a node in line."""
        if self._ready.get(entry.name) is ready:
            return
        known = entry.name in self._ready
        for pod in pods:
            await self._mark(pod, ready=ready)
        self._ready[entry.name] = ready
        if known:
            reason = "NodeReady" if ready else "NodeNotReady"
            text = f"Node {entry.name} status is now: {reason}"
            await self._recorder.event(entry, kind="Node", type="Normal", reason=reason, message=text)

    async def _mark(self, entry: Entry, *, ready: bool) -> None:
        resource = self._registry.stored(PODS)
        if resource is None:
            return
        time = rfc3339(self._clock.wall_ms())
        change = restore if ready else silence
        news = False

        def apply(value: Object) -> bool:
            nonlocal news
            news = change(value, time=time)
            return news

        await self._writer.modify(resource, entry, apply)
        if news and not ready:
            text = "Node is not ready"
            await self._recorder.event(entry, kind="Pod", type="Warning", reason="NodeNotReady", message=text)


def condition(value: Object, kind: str) -> str:
    """The status of a condition; "" when there is none."""
    for item in (value.get("status") or {}).get("conditions") or ():
        if item.get("type") == kind:
            return str(item.get("status", ""))
    return ""


def silence(pod: Object, *, time: str) -> bool:
    """A pod that nobody speaks for is not ready; whether that is news. Its other conditions stay as last reported."""
    for item in (pod.get("status") or {}).get("conditions") or ():
        if item.get("type") == "Ready" and item.get("status") != "False":
            return binding.set_condition(pod, {**item, "status": "False"}, time=time)
    return False


def restore(pod: Object, *, time: str) -> bool:
    """Undo `silence` once the node speaks again: a node says Ready of a pod whose containers and gates are."""
    gates = [str(gate.get("conditionType", "")) for gate in (pod.get("spec") or {}).get("readinessGates") or ()]
    if not all(condition(pod, kind) == "True" for kind in ("ContainersReady", *gates)):
        return False
    for item in (pod.get("status") or {}).get("conditions") or ():
        if item.get("type") == "Ready" and item.get("status") == "False":
            return binding.set_condition(pod, {**item, "status": "True"}, time=time)
    return False
