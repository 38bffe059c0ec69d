"""metrics.k8s.io/v1beta1: what nodes and pods use now, from the kubelets' own summaries, for `kubectl top`."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from cloudgateway.apiserver.store import ObjectStore
from cloudgateway.apiserver.streams import NODES, PODS, Kubelets
from cloudgateway.cloudstream.kubelet import KubeletCall
from edgeappliance.kernel.errors import TransientError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kubeapi.errors import method_not_allowed, not_found, unknown_path
from edgeappliance.kubeapi.reading import Filter
from edgeappliance.kubeapi.request import ApiRequest, ApiResponse, Target, flag
from edgeappliance.kubeapi.resources import ResourceType
from edgeappliance.kubeapi.selectors import parse_fields, parse_labels
from edgeappliance.kubeapi.storage import Entry
from edgeappliance.wire.tunnel import FrameType

GROUP, VERSION = "metrics.k8s.io", "v1beta1"
REMEMBERED = 10.0
"""Seconds for which a node's summary is kept."""

PATIENCE = 5.0
"""Seconds that a node may take; one that is slower is left out, as one without a tunnel is."""

SECOND_LOOK = 1.0
"""Seconds after which a kubelet that has just begun to count is asked again: a rate needs two looks."""

MAX_SUMMARY = 8 * 1024 * 1024

_VERBS = ("get", "list")
RESOURCES = (
    ResourceType(
        group=GROUP, version=VERSION, plural="nodes", kind="NodeMetrics", namespaced=False, verbs=_VERBS, storage=False
    ),
    ResourceType(
        group=GROUP, version=VERSION, plural="pods", kind="PodMetrics", namespaced=True, verbs=_VERBS, storage=False
    ),
)


class _Cpu(msgspec.Struct):
    time: str = ""
    usageNanoCores: int | None = None


class _Memory(msgspec.Struct):
    time: str = ""
    workingSetBytes: int | None = None


class _Measured(msgspec.Struct):
    name: str = ""
    cpu: _Cpu | None = None
    memory: _Memory | None = None

    def usage(self) -> dict[str, str] | None:
        """As metrics.k8s.io writes it; None while one of the two is not known."""
        if self.cpu is None or self.cpu.usageNanoCores is None:
            return None
        if self.memory is None or self.memory.workingSetBytes is None:
            return None
        return {"cpu": f"{self.cpu.usageNanoCores}n", "memory": f"{self.memory.workingSetBytes // 1024}Ki"}


class _PodRef(msgspec.Struct):
    name: str = ""
    namespace: str = ""


class _Pod(msgspec.Struct):
    podRef: _PodRef
    containers: list[_Measured] | None = None


class _Summary(msgspec.Struct):
    """The part of a kubelet's /stats/summary that is used here."""

    node: _Measured
    pods: list[_Pod] | None = None

    @property
    def whole(self) -> bool:
        """Whether every rate is there."""
        measured = [self.node, *(item for pod in self.pods or () for item in pod.containers or ())]
        return all(item.cpu is not None and item.cpu.usageNanoCores is not None for item in measured)


@dataclass(frozen=True, slots=True)
class _Known:
    at: float
    summary: _Summary


class UsageApi:
    """GET of nodes and pods of metrics.k8s.io."""

    def __init__(self, store: ObjectStore, kubelets: Kubelets, *, now: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._kubelets = kubelets
        self._now = now
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Lock] = {}
        self._log = get_logger("apiserver")

    async def answer(self, request: ApiRequest, target: Target) -> ApiResponse:
        """One request. Raises StatusFailure."""
        if request.method not in ("GET", "HEAD") or flag(request.query, "watch"):
            raise method_not_allowed("metrics can be read only: get and list")
        if target.subresource:
            raise unknown_path()
        wanted = Filter(
            target.namespace,
            parse_labels(request.query.get("labelSelector", "")),
            parse_fields(request.query.get("fieldSelector", "")),
        )
        key = NODES if target.resource == NODES else PODS
        entries = [
            entry
            for entry in self._store.entries(key, target.namespace)
            if wanted.matches(entry) and target.name in ("", entry.name)
        ]
        found = await (self._nodes(entries) if key == NODES else self._pods(entries))
        kind = "NodeMetrics" if key == NODES else "PodMetrics"
        if target.name:
            if not found:
                name = f"{target.namespace}/{target.name}" if target.namespace else target.name
                raise not_found(GROUP, target.resource, name)
            return _json({"kind": kind, "apiVersion": f"{GROUP}/{VERSION}", **found[0]})
        return _json({"kind": f"{kind}List", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}, "items": found})

    async def _nodes(self, entries: Iterable[Entry]) -> list[dict[str, Any]]:
        listed = list(entries)
        summaries = await self._summaries({entry.name for entry in listed})
        found = []
        for entry in listed:
            summary = summaries.get(entry.name)
            usage = None if summary is None else summary.node.usage()
            if summary is not None and usage is not None:
                found.append({**_head(entry, summary.node), "usage": usage})
        return found

    async def _pods(self, entries: Iterable[Entry]) -> list[dict[str, Any]]:
        placed = [(entry, entry.fields.get("spec.nodeName", "")) for entry in entries]
        summaries = await self._summaries({node for _, node in placed if node})
        # By name, as a static pod has not the UID of its mirror; of its own node only, which may not speak for others.
        measured = {
            (node, pod.podRef.namespace, pod.podRef.name): pod
            for node, summary in summaries.items()
            for pod in summary.pods or ()
        }
        found = []
        for entry, node in placed:
            pod = measured.get((node, entry.namespace, entry.name))
            containers = [] if pod is None else pod.containers or []
            used = [(item, usage) for item in containers if (usage := item.usage()) is not None]
            if used:
                listed = [{"name": item.name, "usage": usage} for item, usage in used]
                found.append({**_head(entry, used[0][0]), "containers": listed})
        return found

    async def _summaries(self, nodes: set[str]) -> Mapping[str, _Summary]:
        for gone in self._known.keys() - {entry.name for entry in self._store.entries(NODES)}:
            self._known.pop(gone, None)
            self._asking.pop(gone, None)
        names = sorted(nodes)
        answers = await asyncio.gather(*(self._summary(name) for name in names))
        return {name: answer for name, answer in zip(names, answers, strict=True) if answer is not None}

    async def _summary(self, node: str) -> _Summary | None:
        """A node's summary, at most REMEMBERED old; None when it cannot be had."""
        async with self._asking.setdefault(node, asyncio.Lock()):  # many who look at once ask once
            known = self._known.get(node)
            if known is not None and self._now() - known.at < REMEMBERED:
                return known.summary
            try:
                async with asyncio.timeout(PATIENCE):
                    summary = await self._ask(node)
                    if summary is not None and not summary.whole:
                        await asyncio.sleep(SECOND_LOOK)
                        summary = await self._ask(node) or summary
            except (TimeoutError, TransientError, OSError, msgspec.MsgspecError) as error:
                self._log.debug("no summary", node=node, error=error)
                return None
            if summary is not None:
                self._known[node] = _Known(self._now(), summary)
            return summary

    async def _ask(self, node: str) -> _Summary | None:
        answer = await self._kubelets.get(node, KubeletCall(kind=FrameType.METRIC_CONNECT, path="/stats/summary"))
        try:
            body = await answer.read(MAX_SUMMARY)
        finally:
            await answer.close()
        return msgspec.json.decode(body, type=_Summary) if answer.status == 200 else None


def _head(entry: Entry, measured: _Measured) -> dict[str, Any]:
    taken = measured.cpu.time if measured.cpu is not None else ""
    metadata: dict[str, Any] = {"name": entry.name}
    if entry.namespace:
        metadata["namespace"] = entry.namespace
    if entry.labels:
        metadata["labels"] = dict(entry.labels)
    metadata["creationTimestamp"] = taken or None
    return {"metadata": metadata, "timestamp": taken or None, "window": f"{REMEMBERED:.0f}s"}


def _json(value: Any) -> ApiResponse:
    return ApiResponse(200, msgspec.json.encode(value))
