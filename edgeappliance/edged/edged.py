"""edged: the pods of this node. Brings what the cloud wants and what the engine shows to one worker for each pod."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from edgeappliance.edged.engine.api import ContainerEvent, Engine
from edgeappliance.edged.events import EventRecorder
from edgeappliance.edged.objects import Objects
from edgeappliance.edged.pods.environment import references
from edgeappliance.edged.pods.limits import Unsupported
from edgeappliance.edged.pods.observed import ObservedContainer
from edgeappliance.edged.pods.plan import Stopped, Stopping
from edgeappliance.edged.pods.reading import read_pod, unsupported
from edgeappliance.edged.pods.spec import Pod
from edgeappliance.edged.reporter import StatusReporter
from edgeappliance.edged.runtime import PodRuntime
from edgeappliance.edged.worker import PodWorker
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.component import Condition, Health, State
from edgeappliance.kernel.errors import ApplianceError, InputError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.kubeapi.times import rfc3339
from edgeappliance.store.pods import PodRow, PodStore
from edgeappliance.wire.operations import Operation, ResourceType
from edgeappliance.wire.resource import ResourceName

MIRROR = "kubernetes.io/config.mirror"
"""Annotation of the object that stands for a static pod in the cloud."""

COMMIT_INTERVAL = 10.0
"""Seconds between commits of statuses: a power cut costs at most that."""

INTERESTING = frozenset({"start", "die", "destroy", "pause", "unpause", "restart"})
"""Engine events after which a container is looked at."""

LIST_AGAIN = 1.0
"""Seconds until containers that could not be listed, or one that could not be looked at, are asked for again."""
LOOKS = 5
"""Tries to look at one container after an event."""

TRUST_AFTER = 60.0
"""Seconds of a link after which a node that began with an empty store has heard of all its pods."""


class Change(Protocol):
    """A change of a stored object, as metamanager tells it."""

    @property
    def operation(self) -> str: ...

    @property
    def resource(self) -> ResourceName: ...

    @property
    def value(self) -> dict[str, Any] | None: ...


class Desired(Protocol):
    """What edged needs of metamanager."""

    def subscribe(self, resource_type: str, callback: Callable[[Change], Awaitable[None]]) -> None: ...

    async def objects(self, resource_type: str) -> list[dict[str, Any]]: ...


class Edged:
    """All pods of this node, each with a worker. A component."""

    def __init__(
        self,
        scope: TaskScope,
        *,
        node: str,
        desired: Desired,
        objects: Objects,
        engine: Engine,
        runtime: PodRuntime,
        reporter: StatusReporter,
        events: EventRecorder,
        store: PodStore,
        clock: Clock,
        admission: Callable[[Pod, list[Pod]], tuple[str, str] | None],
        keep: int = 1,
    ) -> None:
        self._scope = scope
        self._node = node
        self._desired = desired
        self._engine = engine
        self._runtime = runtime
        self._reporter = reporter
        self._events = events
        self._store = store
        self._clock = clock
        self._admission = admission
        self._keep = keep
        self._workers: dict[str, PodWorker] = {}
        self._raw: dict[str, dict[str, Any]] = {}
        self._strange: dict[str, tuple[Unsupported, ...]] = {}
        self._in_api: set[str] = set()
        self._static: set[str] = set()
        self._static_read = False
        self._mirrors: dict[str, dict[str, Any]] = {}
        self._statuses: dict[str, dict[str, Any]] = {}
        self._rows: dict[str, PodRow] = {}
        self._dirty: set[str] = set()
        self._strays: dict[str, list[ObservedContainer]] = {}
        self._early: list[Change] | None = []
        self._looking: dict[str, bool] = {}
        self._listed = False
        self._listing = 0
        self._began_empty = False
        self._linked_since: float | None = None
        self._condition = Condition(clock)
        self._log = get_logger("edged")
        desired.subscribe(ResourceType.POD, self._pod_changed)
        objects.on_change(self._object_changed)
        engine.on_connection(self._engine_changed)
        engine.on_event(self._container_event)

    # -- component ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up every pod of the last known state. Raises StorageError."""
        self._early = []
        rows = {row.uid: row for row in await self._store.all()}
        wanted = await self._desired.objects(ResourceType.POD)
        self._began_empty = not wanted and not rows
        self._rows = rows
        for obj in wanted:
            self._want(obj)
        early, self._early = self._early, None
        for change in early:
            self._apply(change)
        self._scope.spawn(self._commit(), name="commit")
        self._condition.set(State.RUNNING)
        if self._engine.connected:
            self._engine_changed(True)

    async def stop(self) -> None:
        """Containers go on; the next start adopts them."""
        await self._scope.cancel()
        try:
            await self._write()
        except ApplianceError as error:
            self._log.warning("statuses not saved", error=error)
        self._workers.clear()
        self._raw.clear()
        self._in_api.clear()
        self._static.clear()
        self._static_read = False
        self._mirrors.clear()
        self._listed = False
        self._early = []
        self._condition.set(State.STOPPED)

    def health(self) -> Health:
        workers = list(self._workers.values())
        details = {
            "pods": len(workers),
            "containers_running": sum(c.running and bool(c.name) for w in workers for c in w.containers),
            "reports_waiting": self._reporter.waiting,
        }
        if self._condition.state is State.RUNNING and not self._engine.connected:
            reason = self._engine.trouble or "the Docker Engine has not answered yet"
            step = "see component docker; pods that run go on" if workers else "see component docker"
            return Health(State.DEGRADED, f"pods are not looked after: {reason}", step, 0, details)
        return self._condition.health(details)

    # -- what the cloud wants -----------------------------------------------------------------------------

    async def _pod_changed(self, change: Change) -> None:
        if self._early is not None:
            self._early.append(change)
        else:
            self._apply(change)

    def _apply(self, change: Change) -> None:
        value = change.value
        if change.operation == Operation.DELETE:
            metadata = (value or {}).get("metadata") or {}
            self._removed(f"{change.resource.namespace}/{change.resource.name}", str(metadata.get("uid") or ""))
        elif value is not None:
            self._want(value)

    def _want(self, obj: dict[str, Any], *, static: bool = False) -> None:
        metadata = obj.get("metadata")
        spec = obj.get("spec")
        if not isinstance(metadata, dict) or not isinstance(spec, dict):
            self._log.warning("a pod without metadata or spec", pod=str(metadata)[:100])
            return
        if spec.get("nodeName") not in (self._node, None, "") or not metadata.get("uid"):
            return  # another node's, or not bound (KubeEdge reference 1.4 A)
        uid = str(metadata["uid"])
        if not static and MIRROR in (metadata.get("annotations") or {}):
            self._mirror(obj)
            return
        try:
            pod = read_pod(obj)
            strange = unsupported(obj)
        except InputError as error:
            self._refuse(obj, uid, error)
            return
        (self._static if static else self._in_api).add(uid)
        self._raw[uid] = obj
        self._strange[uid] = strange
        self._end_namesakes(pod)
        worker = self._workers.get(uid)
        if worker is None:
            self._take_on(pod)
        else:
            worker.update(pod)
            self._scope.spawn(self._refresh(worker), name=f"refresh {pod.key}")  # the downward API follows

    def _end_namesakes(self, pod: Pod) -> None:
        """A pod of the same name with another uid is gone from the API, whether we heard of that or not."""
        for other in list(self._workers.values()):
            if other.pod.key == pod.key and other.uid != pod.uid and other.uid not in self._static:
                self._gone_from_api(other)

    def _take_on(self, pod: Pod) -> None:
        row = self._rows.get(pod.uid)
        fresh = row is None
        if row is None:
            row = PodRow(uid=pod.uid, name=pod.key, started_ms=self._clock.wall_ms())
            self._rows[pod.uid] = row
            self._dirty.add(pod.uid)
            # An edgecore that is killed in the next seconds must know that the pod is not a new one.
            self._scope.spawn(self._save(), name=f"take on {pod.key}")
        stopping = None
        if row.reason:
            stopping = Stopping(Stopped.EVICTED, 0, row.reason, row.message)
        self._statuses[pod.uid] = _object(row.status)
        self._runtime.remember(self._statuses[pod.uid])
        worker = self._workers[pod.uid] = PodWorker(
            self._scope,
            pod,
            runtime=self._runtime,
            clock=self._clock,
            changed=self._worker_changed,
            started_ms=row.started_ms,
            finished=row.finished,
            stopping=stopping,
            keep=self._keep,
        )
        self._say_strange(pod)
        fatal = [one for one in self._strange.get(pod.uid, ()) if one.fatal]
        if fatal:
            worker.blocked = ("CreateContainerConfigError", "; ".join(f"{one.path}: {one.why}" for one in fatal))
        if fresh and pod.metadata.deletion_timestamp is None:
            self._admit(worker)
        if pod.metadata.deletion_timestamp is not None:
            worker.update(pod)
        if self._listed:
            strays = self._strays.pop(pod.uid, [])
            worker.observe_all(strays)
            for container in strays:  # nobody has followed what became of them since they were listed
                self._look(worker, container.id)
        if not fresh:
            # What changed while we were away; and its tokens are known from here on, so that they are renewed.
            self._scope.spawn(self._refresh(worker), name=f"refresh {pod.key}")

    def _admit(self, worker: PodWorker) -> None:
        others = [
            other.pod
            for other in self._workers.values()
            if other is not worker and not other.gone and not other.finished and other.stopping is None
        ]
        refused = self._admission(worker.pod, others)
        if refused is None:
            return
        reason, message = refused
        self._events.pod(worker.pod, "Warning", reason, message)
        self._end(worker, Stopping(Stopped.REJECTED, 0, reason, message))

    def _say_strange(self, pod: Pod) -> None:
        for one in self._strange.get(pod.uid, ()):
            effect = "the pod is not started" if one.fatal else "it has no effect"
            self._events.pod(pod, "Warning", "UnsupportedField", f"{one.path}: {one.why}; {effect}")

    def _refuse(self, obj: dict[str, Any], uid: str, error: InputError) -> None:
        """A pod that cannot even be read is Failed, and goes when it is deleted."""
        metadata = obj["metadata"]
        namespace, name = str(metadata.get("namespace") or "default"), str(metadata.get("name") or "")
        self._log.warning("pod refused", pod=f"{namespace}/{name}", reason=error.message)
        status = {
            "phase": "Failed",
            "reason": "InvalidPod",
            "message": error.message,
            "startTime": rfc3339(self._clock.wall_ms()),
        }
        self._raw[uid] = obj
        self._statuses.setdefault(uid, status)
        self._reporter.report(uid, namespace, name, self._statuses[uid])
        if metadata.get("deletionTimestamp"):
            self._reporter.delete(uid, namespace, name)

    def _removed(self, key: str, uid: str) -> None:
        """The API holds it no more."""
        self._mirrors.pop(key, None)
        for worker in list(self._workers.values()):
            if worker.pod.key == key and (not uid or worker.uid == uid):
                if worker.uid not in self._static:
                    self._gone_from_api(worker)
                return
        for static in self._static:
            if self._workers[static].pod.key == key:  # its mirror was deleted: the pod itself stays
                self._reporter.mirror_seen(static, "")
                return
        self._drop(uid)

    def _gone_from_api(self, worker: PodWorker) -> None:
        self._in_api.discard(worker.uid)
        if worker.gone:
            self._drop(worker.uid)
            return
        grace = worker.pod.metadata.deletion_grace_period_seconds
        if grace is None:
            grace = worker.pod.spec.termination_grace_period_seconds
        worker.stop(Stopping(Stopped.DELETED, grace))

    def _drop(self, uid: str) -> None:
        """Nothing of it is left, here and in the API."""
        self._close_worker(uid)
        self._raw.pop(uid, None)
        self._strange.pop(uid, None)
        self._statuses.pop(uid, None)
        self._dirty.discard(uid)
        self._in_api.discard(uid)
        self._static.discard(uid)
        self._reporter.forget(uid)
        if uid in self._rows:
            self._scope.spawn(self._forget_row(uid), name="forget")

    # -- static pods --------------------------------------------------------------------------------------

    def set_static(self, pods: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        """The pods of the manifest folder, each with the object that mirrors it. Called at least once after `start`."""
        present = {str(obj["metadata"]["uid"]) for obj, _ in pods}
        for uid in [uid for uid in self._static if uid not in present]:
            self._workers[uid].stop(
                Stopping(Stopped.DELETED, self._workers[uid].pod.spec.termination_grace_period_seconds)
            )
        for obj, mirror in pods:
            self._want(obj, static=True)
            self._reporter.mirror(str(obj["metadata"]["uid"]), mirror)
        self._static_read = True
        for obj in list(self._mirrors.values()):
            self._mirror(obj)
        for uid in [uid for uid in self._rows if uid not in self._workers]:  # deleted while we were away
            self._scope.spawn(self._forget_row(uid), name="forget")

    def _mirror(self, obj: dict[str, Any]) -> None:
        """The object that stands for a static pod in the cloud, or stood for one that is gone."""
        metadata = obj["metadata"]
        namespace, name, uid = str(metadata.get("namespace")), str(metadata.get("name")), str(metadata["uid"])
        key = f"{namespace}/{name}"
        self._mirrors[key] = obj
        if not self._static_read:
            return  # the folder says whose it is
        static = next((one for one in self._static if self._workers[one].pod.key == key), None)
        if static is None:
            self._reporter.delete(uid, namespace, name)
            return
        self._reporter.mirror_seen(static, uid)
        if metadata.get("deletionTimestamp"):
            self._reporter.delete(static, namespace, name)

    # -- what the engine shows ----------------------------------------------------------------------------

    def _engine_changed(self, connected: bool) -> None:
        if self._condition.state is not State.RUNNING:
            return
        self._listing += 1
        self._listed = False
        for worker in self._workers.values():
            worker.await_list()
        if connected:
            self._scope.spawn(self._relist(self._listing), name="relist")

    async def _relist(self, listing: int) -> None:
        while True:
            try:
                found = await self._engine.containers()
                break
            except ApplianceError as error:
                self._log.warning("containers not listed", reason=error.message)
            await asyncio.sleep(LIST_AGAIN)
            if listing != self._listing:
                return  # the connection was lost meanwhile
        if listing != self._listing:
            return
        by_pod: dict[str, list[ObservedContainer]] = {}
        for container in found:
            by_pod.setdefault(container.pod_uid, []).append(container)
        self._strays = {uid: some for uid, some in by_pod.items() if uid not in self._workers}
        self._listed = True
        for uid, worker in list(self._workers.items()):
            worker.observe_all(by_pod.get(uid, []))

    def _container_event(self, event: ContainerEvent) -> None:
        if event.action not in INTERESTING or self._condition.state is not State.RUNNING:
            return
        worker = self._workers.get(event.pod_uid)
        if worker is None:
            return
        if event.action == "destroy":
            worker.vanished(event.id)
        else:
            self._look(worker, event.id)

    def _look(self, worker: PodWorker, id: str) -> None:
        if id in self._looking:
            self._looking[id] = True  # once more, when the present look is over
        else:
            self._looking[id] = False
            self._scope.spawn(self._look_at(worker, id), name="inspect")

    async def _look_at(self, worker: PodWorker, id: str) -> None:
        tries = 0
        try:
            while True:
                try:
                    container = await self._runtime.inspect(worker.pod, id)
                except ApplianceError as error:
                    self._log.debug("container not inspected", id=id[:12], reason=error.message)
                    tries += 1
                    if tries == LOOKS or not self._engine.connected:
                        return  # all of them are listed when it is back
                    await asyncio.sleep(LIST_AGAIN)
                    continue
                if container is None:
                    worker.vanished(id)
                else:
                    worker.observe(container)
                if not self._looking[id]:
                    return
                self._looking[id] = False
        finally:
            del self._looking[id]

    def _object_changed(self, kind: str, namespace: str, name: str) -> None:
        """A config map or secret is new or different: volumes follow, and what waited for it goes on."""
        for worker in self._workers.values():
            if worker.pod.metadata.namespace != namespace or worker.gone:
                continue
            if any((one.kind, one.namespace, one.name) == (kind, namespace, name) for one in references(worker.pod)):
                self._scope.spawn(self._refresh(worker), name=f"refresh {worker.pod.key}")

    async def _refresh(self, worker: PodWorker) -> None:
        try:
            await self._runtime.refresh(worker.pod)
        except ApplianceError as error:
            self._log.debug("volumes not refreshed", pod=worker.pod.key, reason=error.message)
        worker.retry(config=True)

    # -- what is reported ---------------------------------------------------------------------------------

    def _worker_changed(self, worker: PodWorker) -> None:
        uid, pod = worker.uid, worker.pod
        if self._workers.get(uid) is not worker:
            return
        status = self._runtime.status(
            worker.situation(), previous=self._statuses.get(uid), unsupported=self._strange.get(uid, ())
        )
        if status != self._statuses.get(uid):
            self._statuses[uid] = status
            self._dirty.add(uid)
        self._reporter.report(uid, pod.metadata.namespace, pod.metadata.name, status)
        row = self._rows[uid]
        if worker.finished != row.finished:
            stopping = worker.stopping
            why = (stopping.reason, stopping.message) if stopping is not None else ("", "")
            self._rows[uid] = replace(row, finished=worker.finished, reason=why[0], message=why[1])
            self._scope.spawn(self._write(durable=True), name="finished")
            self._dirty.add(uid)
        if worker.gone:
            if uid in self._in_api or uid in self._static:
                self._reporter.delete(uid, pod.metadata.namespace, pod.metadata.name)
                if uid in self._static:
                    self._drop_static(uid)
            else:
                self._drop(uid)

    def _close_worker(self, uid: str) -> None:
        worker = self._workers.pop(uid, None)
        if worker is not None:
            worker.close()

    def _drop_static(self, uid: str) -> None:
        self._close_worker(uid)
        self._raw.pop(uid, None)
        self._statuses.pop(uid, None)
        self._static.discard(uid)
        if uid in self._rows:
            self._scope.spawn(self._forget_row(uid), name="forget")

    def _end(self, worker: PodWorker, stopping: Stopping) -> None:
        """The node ends the pod for good: it is Failed, and stays so."""
        worker.finished = "Failed"
        worker.stop(stopping)
        self._rows[worker.uid] = replace(
            self._rows[worker.uid], finished="Failed", reason=stopping.reason, message=stopping.message
        )
        self._dirty.add(worker.uid)
        self._scope.spawn(self._write(durable=True), name="ended")

    def evict(self, uid: str, reason: str, message: str, grace: int = 0) -> None:
        """Housekeeping takes a pod off this node."""
        worker = self._workers.get(uid)
        if worker is not None and not worker.finished and worker.stopping is None:
            self._events.pod(worker.pod, "Warning", reason, message)
            self._end(worker, Stopping(Stopped.EVICTED, grace, reason, message))

    async def _commit(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_INTERVAL)
            await self._save()
            for uid in self._runtime.renewals():
                worker = self._workers.get(uid)
                if worker is not None and not worker.gone:
                    self._scope.spawn(self._refresh(worker), name=f"refresh {worker.pod.key}")

    async def _save(self) -> None:
        try:
            await self._write()
        except ApplianceError as error:
            self._log.warning("statuses not saved", reason=error.message)

    async def _write(self, *, durable: bool = False) -> None:
        dirty, self._dirty = self._dirty, set()
        rows = []
        for uid in dirty:
            row = self._rows.get(uid)
            if row is not None:
                row = self._rows[uid] = replace(row, status=msgspec.json.encode(self._statuses.get(uid, {})))
                rows.append(row)
        if not rows:
            return
        try:
            await self._store.put(*rows, durable=durable)
        except ApplianceError:
            self._dirty |= dirty
            if not durable:
                raise
            self._log.warning("the end of a pod is not saved yet")

    async def _forget_row(self, uid: str) -> None:
        self._rows.pop(uid, None)
        try:
            await self._store.delete(uid)
        except ApplianceError as error:
            self._log.warning("a pod that is gone is not forgotten on disk", reason=error.message)

    # -- for the kubelet API, housekeeping and the node ---------------------------------------------------

    @property
    def workers(self) -> dict[str, PodWorker]:
        """By pod uid."""
        return self._workers

    @property
    def strays(self) -> dict[str, list[ObservedContainer]]:
        """Containers of ours whose pod is unknown, by pod uid, as of the last listing."""
        return self._strays

    def link_changed(self, connected: bool) -> None:
        """The link to the cloud is up or down."""
        self._linked_since = self._clock.monotonic() if connected else None

    def known_is_complete(self) -> bool:
        """Whether a pod that is not known is not wanted: a store that began empty, and has not been filled again by a
        cloud, says nothing about containers that run."""
        if not self._listed or self._early is not None:
            return False
        if not self._began_empty:
            return True
        since = self._linked_since
        return since is not None and self._clock.monotonic() - since >= TRUST_AFTER

    def objects(self) -> list[dict[str, Any]]:
        """Every pod with its present status, as the API shows it."""
        return [{**obj, "status": self._statuses.get(uid, {})} for uid, obj in self._raw.items()]

    def observed(self, uid: str) -> tuple[ObservedContainer, ...]:
        """What is on the engine for a pod, every attempt, the sandbox too."""
        worker = self._workers.get(uid)
        return worker.containers if worker is not None else ()

    @property
    def syncing(self) -> bool:
        """Whether pods are being looked after."""
        return self._condition.state is State.RUNNING and self._engine.connected

    def object(self, namespace: str, name: str, uid: str = "") -> dict[str, Any] | None:
        """One of them; of two of a name, the one that is not ending."""
        found = None
        for present, obj in self._raw.items():
            metadata = obj["metadata"]
            if (metadata.get("namespace") or "default") != namespace or metadata.get("name") != name:
                continue
            if uid and present != uid:
                continue
            found = {**obj, "status": self._statuses.get(present, {})}
            if present in self._in_api or present in self._static:
                break
        return found


def _object(text: bytes) -> dict[str, Any]:
    value = msgspec.json.decode(text)
    return value if isinstance(value, dict) else {}
