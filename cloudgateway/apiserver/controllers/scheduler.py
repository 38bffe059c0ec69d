"""Pods without a node get one: the first that admits them (`apiserver.placement` decides)."""

import asyncio
from collections.abc import Callable
from typing import Any

from cloudgateway.apiserver import binding
from cloudgateway.apiserver.controllers.recorder import Recorder
from cloudgateway.apiserver.placement import Decision, Demand, Place, demand_of, place, place_of, wish_of
from cloudgateway.apiserver.store import ObjectStore
from cloudgateway.apiserver.writing import Writer
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.database import StorageError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kubeapi.errors import StatusFailure
from edgeappliance.kubeapi.resources import Registry
from edgeappliance.kubeapi.storage import Change, ChangeType, Entry
from edgeappliance.kubeapi.times import rfc3339

NODES, PODS = "nodes", "pods"
SCHEDULER = "default-scheduler"
"""spec.schedulerName of the pods that are ours; others wait for their own scheduler."""
AGAIN = 300.0
"""Seconds after which pods that no node admits are tried, and told of, again."""
RETRY_SECONDS = 5.0
BOUND_AT_ONCE = 64
"""Pods whose bindings share a commit."""
BREATH = 200
"""Nodes after which others get their turn."""
_ENDED = ("Succeeded", "Failed")


class Scheduler:
    """Follows pods and nodes; the load of a node is what its pods that have not ended ask for."""

    def __init__(self, *, store: ObjectStore, writer: Writer, registry: Registry, clock: Clock) -> None:
        self._store = store
        self._writer = writer
        self._registry = registry
        self._clock = clock
        self._recorder = Recorder(store=store, writer=writer, registry=registry, clock=clock, component=SCHEDULER)
        self._load: dict[str, dict[str, Demand]] = {}
        self._bound: dict[str, str] = {}
        self._waiting: dict[str, None] = {}
        self._places: dict[str, Place] = {}
        self._told: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._log = get_logger("scheduler")
        for entry in store.entries(PODS):
            self._pod(entry)
        store.listen(self._listen)

    # What changes.

    def _listen(self, change: Change) -> None:
        entry = change.entry
        if entry.resource == PODS:
            if change.type is ChangeType.DELETED:
                self._waiting.pop(entry.uid, None)
                self._release(entry.uid)
            else:
                self._pod(entry)
        elif entry.resource == NODES:
            self._node(change)

    def _pod(self, entry: Entry) -> None:
        node = entry.fields.get("spec.nodeName", "")
        if entry.fields.get("status.phase") in _ENDED:
            self._waiting.pop(entry.uid, None)
            self._release(entry.uid)
        elif node:
            self._waiting.pop(entry.uid, None)
            if self._bound.get(entry.uid) != node:
                self._take(entry.uid, node, demand_of(entry.object()))
        elif not entry.deleting and entry.fields.get("spec.schedulerName", SCHEDULER) == SCHEDULER:
            self._waiting[entry.uid] = None
            self._wake.set()
        else:
            self._waiting.pop(entry.uid, None)

    def _node(self, change: Change) -> None:
        name = change.entry.name
        if change.type is ChangeType.DELETED or not self._waiting:
            self._places.pop(name, None)
            return
        found = place_of(change.entry.object())
        if self._places.get(name) != found:  # heartbeats change nothing here
            self._places[name] = found
            self._wake.set()

    def _take(self, uid: str, node: str, demand: Demand) -> None:
        self._release(uid)
        self._load.setdefault(node, {})[uid] = demand
        self._bound[uid] = node

    def _release(self, uid: str) -> None:
        self._told.pop(uid, None)
        node = self._bound.pop(uid, None)
        if node is None:
            return
        self._load[node].pop(uid)
        if not self._load[node]:
            del self._load[node]
        if self._waiting:
            self._wake.set()  # there is room now

    # The work.

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                async with asyncio.timeout(AGAIN):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self.schedule()

    async def schedule(self) -> None:
        """Try every pod that waits, the most important and oldest first."""
        waiting = [(entry, entry.object()) for uid in self._waiting if (entry := self._store.by_uid(uid)) is not None]
        if not waiting:
            return
        places = await self._all_places()
        bindings: list[tuple[Entry, str]] = []
        for entry, pod in sorted(waiting, key=_turn):
            await asyncio.sleep(0)
            if entry.uid not in self._waiting:  # placed or deleted meanwhile
                continue
            if (pod.get("spec") or {}).get("schedulingGates"):
                await self._refuse(entry, binding.GATED, binding.GATES_MESSAGE)
                continue
            decision = self._decide(pod, places)
            if not decision.node:
                await self._refuse(entry, binding.UNSCHEDULABLE, decision.message)
                continue
            self._take(entry.uid, decision.node, demand_of(pod))
            bindings.append((entry, decision.node))
            if len(bindings) == BOUND_AT_ONCE:
                await self._bind(bindings)
                bindings = []
        await self._bind(bindings)

    async def _all_places(self) -> list[Place]:
        places = []
        for index, entry in enumerate(self._store.entries(NODES)):
            if index % BREATH == BREATH - 1:
                await asyncio.sleep(0)
            found = self._places.get(entry.name)
            if found is None:
                found = self._places[entry.name] = place_of(entry.object())
            places.append(found)
        return places

    def _decide(self, pod: dict[str, Any], places: list[Place]) -> Decision:
        return place(wish_of(pod), places, {node: pods.values() for node, pods in self._load.items()})

    async def _bind(self, bindings: list[tuple[Entry, str]]) -> None:
        await asyncio.gather(*(self._bind_one(entry, node) for entry, node in bindings))

    async def _bind_one(self, entry: Entry, node: str) -> None:
        time = rfc3339(self._clock.wall_ms())

        def change(pod: dict[str, Any]) -> bool:
            if pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"]:
                return False
            binding.bind(pod, node, time=time)
            return True

        bound = await self._modify(entry, change)
        if bound is None or bound.fields.get("spec.nodeName") != node:
            if self._bound.get(entry.uid) == node:
                self._release(entry.uid)
            return
        self._log.info("pod placed", pod=f"{entry.namespace}/{entry.name}", node=node)
        text = f"Successfully assigned {entry.namespace}/{entry.name} to {node}"
        await self._recorder.event(entry, kind="Pod", type="Normal", reason="Scheduled", message=text)

    async def _refuse(self, entry: Entry, reason: str, message: str) -> None:
        time = rfc3339(self._clock.wall_ms())
        news = False

        def change(pod: dict[str, Any]) -> bool:
            nonlocal news
            news = not pod["spec"].get("nodeName") and binding.refuse(pod, reason, message, time=time)
            return news

        now = self._clock.monotonic()
        if await self._modify(entry, change) is None or reason != binding.UNSCHEDULABLE:
            return
        if news or now - self._told.get(entry.uid, now) >= AGAIN:
            self._told[entry.uid] = now
            await self._recorder.event(entry, kind="Pod", type="Warning", reason="FailedScheduling", message=message)

    async def _modify(self, entry: Entry, change: Callable[[dict[str, Any]], bool]) -> Entry | None:
        """Change a pod; None when it is gone, or the disk refuses, and then the pod is tried again."""
        resource = self._registry.stored(PODS)
        if resource is None:
            return None
        try:
            return await self._writer.modify(resource, entry, change)
        except (StorageError, StatusFailure) as error:
            self._log.warning("pod not placed yet", pod=f"{entry.namespace}/{entry.name}", error=error)
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._wake.set)
            return None


def _turn(item: tuple[Entry, dict[str, Any]]) -> tuple[int, str, tuple[str, str]]:
    entry, pod = item
    priority = (pod.get("spec") or {}).get("priority") or 0
    return -int(priority), str(pod["metadata"].get("creationTimestamp") or ""), entry.key
