"""Pods that a NoExecute taint of their node drives away (Kubernetes documentation, "Taints and Tolerations").

Taints that only say that a node is silent or not ready drive nobody away here: the box goes on alone.
"""

from typing import Any

from cloudgateway.apiserver import binding
from cloudgateway.apiserver.controllers.recorder import Recorder
from cloudgateway.apiserver.store import ObjectStore
from cloudgateway.apiserver.taints import MANAGED, Taint, Toleration, own_taints, tolerations
from cloudgateway.apiserver.writing import Writer
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.log import get_logger
from edgeappliance.kubeapi.errors import StatusFailure
from edgeappliance.kubeapi.resources import Registry
from edgeappliance.kubeapi.storage import Entry
from edgeappliance.kubeapi.times import rfc3339

Object = dict[str, Any]

NODES, PODS = "nodes", "pods"
_MIRROR = "kubernetes.io/config.mirror"
_WHY = {
    "type": "DisruptionTarget",
    "status": "True",
    "reason": "DeletionByTaintManager",
    "message": "Taint manager: deleting due to NoExecute taint",
}


class TaintEviction:
    """Looks at the nodes that have such a taint; others cost a comparison each."""

    def __init__(
        self, *, store: ObjectStore, writer: Writer, registry: Registry, clock: Clock, recorder: Recorder
    ) -> None:
        self._store = store
        self._writer = writer
        self._registry = registry
        self._clock = clock
        self._recorder = recorder
        self._seen: dict[str, int] = {}
        self._tainted: dict[str, tuple[Taint, ...]] = {}
        self._since: dict[tuple[str, Taint], float] = {}
        self._log = get_logger("nodes")

    async def examine(self) -> None:
        """Evict what is due. Raises StorageError."""
        self._look_at_nodes()
        if not self._tainted:
            self._since.clear()
            return
        now = self._clock.monotonic()
        since: dict[tuple[str, Taint], float] = {}
        for entry in self._store.entries(PODS):
            taints = self._tainted.get(entry.fields.get("spec.nodeName", ""))
            if taints is None or entry.deleting:
                continue
            pod = entry.object()
            if _MIRROR in (pod["metadata"].get("annotations") or {}):
                continue  # it shows a static pod, which its node runs whatever is said here
            tolerated = tolerations(pod.get("spec") or {})
            for taint in taints:
                mark = (entry.uid, taint)
                since[mark] = self._since.get(mark, now)
                patience = patience_with(taint, tolerated)
                if patience is not None and now - since[mark] >= patience:
                    await self._evict(entry)
                    break
        self._since = since

    def _look_at_nodes(self) -> None:
        seen: dict[str, int] = {}
        for entry in self._store.entries(NODES):
            seen[entry.name] = entry.version
            if self._seen.get(entry.name) == entry.version:
                continue
            taints = driving_taints(entry.object())
            if taints:
                self._tainted[entry.name] = taints
            else:
                self._tainted.pop(entry.name, None)
        for name in self._seen.keys() - seen.keys():
            self._tainted.pop(name, None)
        self._seen = seen

    async def _evict(self, entry: Entry) -> None:
        resource = self._registry.stored(PODS)
        if resource is None:
            return
        text = f"Marking for deletion Pod {entry.namespace}/{entry.name}"
        await self._recorder.event(entry, kind="Pod", type="Normal", reason="TaintManagerEviction", message=text)
        time = rfc3339(self._clock.wall_ms())
        await self._writer.modify(resource, entry, lambda pod: binding.set_condition(pod, _WHY, time=time))
        try:
            await self._writer.delete_entry(resource, entry, {})
        except StatusFailure as failure:
            if failure.reason != "NotFound":  # gone already is what was wanted
                self._log.warning("pod not evicted", pod=f"{entry.namespace}/{entry.name}", error=failure)


def driving_taints(node: Object) -> tuple[Taint, ...]:
    """The NoExecute taints of a node that somebody has set."""
    found = own_taints(node.get("spec") or {})
    return tuple(taint for taint in found if taint.effect == "NoExecute" and taint.key not in MANAGED)


def patience_with(taint: Taint, tolerated: tuple[Toleration, ...]) -> float | None:
    """Seconds that a pod stays under a taint: 0 without a toleration, None for ever, else the shortest one's."""
    matching = [one for one in tolerated if one.tolerates(taint)]
    if not matching:
        return 0.0
    limits = [one.seconds for one in matching if one.seconds is not None]
    return float(max(0, min(limits))) if limits else None
