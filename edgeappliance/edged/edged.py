"""edged: the pods of this node. Brings what the cloud wants and what the engine shows to one worker for each pod."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol

from edgeappliance.edged.engine.api import ContainerEvent, Engine
from edgeappliance.edged.events import EventRecorder
from edgeappliance.edged.looks import Looks
from edgeappliance.edged.objects import Objects
from edgeappliance.edged.pods.environment import references
from edgeappliance.edged.pods.limits import Unsupported
from edgeappliance.edged.pods.observed import ObservedContainer
from edgeappliance.edged.pods.plan import Stopped, Stopping
from edgeappliance.edged.pods.reading import read_pod, unsupported
from edgeappliance.edged.pods.spec import Pod
from edgeappliance.edged.records import OVER, Records, why_ended
from edgeappliance.edged.reporter import StatusReporter
from edgeappliance.edged.runtime import PodRuntime
from edgeappliance.edged.static import HASH
from edgeappliance.edged.worker import PodWorker
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.component import Condition, Health, State
from edgeappliance.kernel.errors import ApplianceError, InputError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.kubeapi.times import rfc3339
from edgeappliance.store.pods import PodStore
from edgeappliance.wire.operations import Operation, ResourceType
from edgeappliance.wire.resource import ResourceName

MIRROR = "kubernetes.io/config.mirror"
"""Annotation of the object that stands for a static pod in the cloud."""

COMMIT_INTERVAL = 10.0
"""Seconds between commits of statuses: a power cut costs at most that."""

INTERESTING = frozenset({"start", "die", "oom", "destroy", "pause", "unpause", "restart"})
"""Engine events after which a container is looked at."""

LIST_AGAIN = 1.0
"""Seconds until containers that could not be listed are asked for again."""

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
    """All pods of this node, each with a worker. A component.

    sends_all: whether the cloud at the other end sends everything again to a node whose database is a new one.
    """

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
        sends_all: Callable[[], bool],
        keep: int = 1,
    ) -> None:
        self._scope = scope
        self._node = node
        self._desired = desired
        self._engine = engine
        self._runtime = runtime
        self._reporter = reporter
        self._events = events
        self._records = Records(scope, store)
        self._looks = Looks(scope, engine=engine, runtime=runtime)
        self._clock = clock
        self._admission = admission
        self._sends_all = sends_all
        self._keep = keep
        self._workers: dict[str, PodWorker] = {}
        self._raw: dict[str, dict[str, Any]] = {}
        self._strange: dict[str, tuple[Unsupported, ...]] = {}
        self._in_api: set[str] = set()
        self._static: set[str] = set()
        self._folder: dict[str, tuple[dict[str, Any], dict[str, Any]]] | None = None
        """Static pods and their mirrors by uid, as the folder has them; None while nobody has looked."""
        self._mirrors: dict[str, dict[str, Any]] = {}
        self._strays: dict[str, list[ObservedContainer]] = {}
        self._early: list[Change] | None = []
        self._refreshing: dict[str, bool] = {}
        self._listed = False
        self._listing = 0
        self._began_empty = False
        self._linked_since: float | None = None
        self._away_ms = 0
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
        recorded = await self._records.load()
        wanted = await self._desired.objects(ResourceType.POD)
        self._began_empty = not wanted and not recorded
        for obj in wanted:
            self._want(obj)
        early, self._early = self._early, None
        for change in early:
            self._apply(change)
        self._scope.spawn(self._commit(), name="commit")
        self._condition.set(State.RUNNING)
        if self._folder is not None:  # this component alone was started again: nobody reads the folder anew
            self._reporter.forget_all_but(self._raw.keys() | self._folder.keys())
            self.set_static(list(self._folder.values()))
        if self._engine.connected:
            self._engine_changed(True)

    async def stop(self) -> None:
        """Containers go on; the next start adopts them."""
        await self._scope.cancel()
        await self._records.save()
        self._looks.stopped()
        self._refreshing.clear()
        self._workers.clear()
        self._raw.clear()
        self._strange.clear()
        self._in_api.clear()
        self._static.clear()
        self._mirrors.clear()
        self._listed = False
        self._early = []
        self._condition.set(State.STOPPED)

    def health(self) -> Health:
        workers = list(self._workers.values())
        details = {
            "pods": len(workers),
            "containers_running": sum(c.running and bool(c.name) for w in workers for c in w.containers),
            "pods_troubled": sum(worker.troubled for worker in workers),
            "reports_waiting": self._reporter.waiting,
        }
        if self._condition.state is State.RUNNING and not self._engine.connected:
            reason = self._engine.trouble or "the Docker Engine has not answered yet"
            step = "see component docker; pods that run go on" if workers else "see component docker"
            return Health(State.DEGRADED, f"pods are not looked after: {reason}", step, self._away_ms, details)
        health = self._condition.health(details)
        if health.state is State.RUNNING and details["pods_troubled"]:
            reason = f"{details['pods_troubled']} of {len(workers)} pods do not run as they should"
            return replace(health, reason=reason, next_step="edgecore pods -A says why")
        return health

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
            self._end_as_told(worker, pod)
            worker.update(pod)
            self._refresh(worker)  # the downward API follows

    def _end_namesakes(self, pod: Pod) -> None:
        """A pod of the same name with another uid is gone from the API, whether we heard of that or not."""
        for other in list(self._workers.values()):
            if other.pod.key == pod.key and other.uid != pod.uid and other.uid not in self._static:
                self._gone_from_api(other)

    def _take_on(self, pod: Pod) -> None:
        fresh = pod.uid not in self._records
        row = self._records.take_on(pod, wall_ms=self._clock.wall_ms())
        self._runtime.remember(self._records.status(pod.uid))
        worker = self._workers[pod.uid] = PodWorker(
            self._scope,
            pod,
            runtime=self._runtime,
            clock=self._clock,
            changed=self._worker_changed,
            started_ms=row.started_ms,
            finished=row.finished,
            stopping=why_ended(row),
            keep=self._keep,
        )
        if fresh:
            self._say_strange(pod)
        fatal = [one for one in self._strange.get(pod.uid, ()) if one.fatal]
        if fatal:
            worker.blocked = ("CreateContainerConfigError", "; ".join(f"{one.path}: {one.why}" for one in fatal))
        self._end_as_told(worker, pod)
        if fresh and not worker.finished and pod.metadata.deletion_timestamp is None:
            self._admit(worker)
        if pod.metadata.deletion_timestamp is not None:
            worker.update(pod)
        if self._listed:
            strays = self._strays.pop(pod.uid, [])
            worker.observe_all(strays)
            for container in strays:  # nobody has followed what became of them since they were listed
                self._looks.look(worker, container.id)
        if not fresh:
            # What changed while we were away; and its tokens are known from here on, so that they are renewed.
            self._refresh(worker)

    def _end_as_told(self, worker: PodWorker, pod: Pod) -> None:
        """A pod that is over in the API is over: nothing of it runs again, whatever this node remembers."""
        phase = str(pod.status.get("phase") or "")
        if phase in OVER and not worker.finished:
            worker.finished = phase
            self._records.end(worker.uid, phase, None)

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
        self._records.statuses().setdefault(uid, status)
        self._reporter.report(uid, namespace, name, self._records.status(uid))
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
                self._reporter.mirror_gone(static, uid)
                self._reporter.forget(uid)
                return
        for refused in [uid] if uid else [one for one, obj in self._raw.items() if _key(obj) == key]:
            self._drop(refused)

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
        self._in_api.discard(uid)
        self._static.discard(uid)
        self._reporter.forget(uid)
        self._records.forget(uid)

    # -- static pods --------------------------------------------------------------------------------------

    def set_static(self, pods: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        """The pods of the manifest folder, each with the object that mirrors it. Called at least once after `start`."""
        self._folder = {str(obj["metadata"]["uid"]): (obj, mirror) for obj, mirror in pods}
        for uid in self._static - self._folder.keys():
            worker = self._workers[uid]
            worker.stop(Stopping(Stopped.DELETED, worker.pod.spec.termination_grace_period_seconds))
        self._follow_folder()
        for obj in list(self._mirrors.values()):
            self._mirror(obj)
        self._records.forget_all_but(self._workers.keys())  # deleted while we were away

    def _follow_folder(self) -> None:
        """Take on what is new in the folder. What is still ending, under that name or uid, ends first."""
        for uid, (obj, mirror) in (self._folder or {}).items():
            if uid in self._workers or any(_key(self._raw[one]) == _key(obj) for one in self._static):
                continue
            self._want(obj, static=True)
            if uid in self._workers:
                self._reporter.mirror(uid, mirror)

    def _mirror(self, obj: dict[str, Any]) -> None:
        """The object that stands for a static pod in the cloud, or stood for one that is gone."""
        metadata = obj["metadata"]
        key, uid = _key(obj), str(metadata["uid"])
        self._mirrors[key] = obj
        if self._folder is None:
            return  # the folder says whose it is
        static = next((one for one in self._static if self._workers[one].pod.key == key), None)
        annotations = metadata["annotations"]
        if static is None or metadata.get("deletionTimestamp") or annotations[MIRROR] != self._hash(static):
            # Whose file is gone or is another one now; it is made anew when it is gone and its pod is there.
            self._reporter.delete(uid, *key.split("/"))
        else:
            self._reporter.mirror_seen(static, uid)

    def _hash(self, static: str) -> str:
        return str(self._raw[static]["metadata"]["annotations"][HASH])

    # -- what the engine shows ----------------------------------------------------------------------------

    def _engine_changed(self, connected: bool) -> None:
        self._away_ms = 0 if connected else self._clock.wall_ms()
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
            return
        if event.action == "oom":
            worker.out_of_memory(event.id)
        self._looks.look(worker, event.id)

    def _object_changed(self, kind: str, namespace: str, name: str) -> None:
        """A config map or secret is new or different: volumes follow, and what waited for it goes on."""
        for worker in self._workers.values():
            if worker.pod.metadata.namespace != namespace or worker.gone:
                continue
            if any((one.kind, one.namespace, one.name) == (kind, namespace, name) for one in references(worker.pod)):
                self._refresh(worker)
                if any(one.name == name for one in worker.pod.spec.image_pull_secrets):
                    self._runtime.pull_again(worker.pod)
                    worker.retry()

    def _refresh(self, worker: PodWorker) -> None:
        """Bring a pod's volumes up to date; asked again and again in a short time, once more is enough."""
        if worker.uid in self._refreshing:
            self._refreshing[worker.uid] = True
        else:
            self._refreshing[worker.uid] = False
            self._scope.spawn(self._refresh_now(worker), name=f"refresh {worker.pod.key}")

    async def _refresh_now(self, worker: PodWorker) -> None:
        uid = worker.uid
        try:
            while True:
                try:
                    await self._runtime.refresh(worker.pod)
                except ApplianceError as error:
                    self._log.debug("volumes not refreshed", pod=worker.pod.key, reason=error.message)
                worker.retry(config=True)
                if not self._refreshing.get(uid) or worker.gone:
                    return
                self._refreshing[uid] = False
        finally:
            self._refreshing.pop(uid, None)

    # -- what is reported ---------------------------------------------------------------------------------

    def _worker_changed(self, worker: PodWorker) -> None:
        uid, pod = worker.uid, worker.pod
        if self._workers.get(uid) is not worker:
            return
        status = self._runtime.status(
            worker.situation(), previous=self._records.status(uid), unsupported=self._strange.get(uid, ())
        )
        self._records.set_status(uid, status)
        self._reporter.report(uid, pod.metadata.namespace, pod.metadata.name, status)
        if worker.finished != self._records.row(uid).finished:
            self._records.end(uid, worker.finished, worker.stopping)
        if worker.gone:
            self._over(worker)

    def _over(self, worker: PodWorker) -> None:
        """Nothing of a stopped pod is left here."""
        uid, metadata = worker.uid, worker.pod.metadata
        if uid in self._static:
            self._close_worker(uid)
            self._raw.pop(uid, None)
            self._strange.pop(uid, None)
            self._static.discard(uid)
            self._records.forget(uid)
            self._reporter.end(uid)
            self._follow_folder()
        elif uid not in self._in_api:
            self._drop(uid)
        elif metadata.deletion_timestamp is None:  # gone from the API, and back since (a backup of it, say)
            obj = self._raw[uid]
            self._drop(uid)
            self._want(obj)
        else:
            self._reporter.delete(uid, metadata.namespace, metadata.name)

    def _close_worker(self, uid: str) -> None:
        worker = self._workers.pop(uid, None)
        if worker is not None:
            worker.close()

    def _end(self, worker: PodWorker, stopping: Stopping) -> None:
        """The node ends the pod for good: it is Failed, and stays so."""
        worker.finished = "Failed"
        worker.stop(stopping)
        self._records.end(worker.uid, worker.finished, stopping)

    def evict(self, uid: str, reason: str, message: str, grace: int = 0) -> None:
        """Housekeeping takes a pod off this node."""
        worker = self._workers.get(uid)
        if worker is not None and not worker.finished and worker.stopping is None:
            self._events.pod(worker.pod, "Warning", reason, message)
            self._end(worker, Stopping(Stopped.EVICTED, grace, reason, message))

    async def _commit(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_INTERVAL)
            await self._records.save()
            for uid in self._runtime.renewals():
                worker = self._workers.get(uid)
                if worker is not None and not worker.gone:
                    self._refresh(worker)

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
        if not self._listed or self._early is not None or self._folder is None:
            return False
        if not self._began_empty:
            return True
        since = self._linked_since
        return since is not None and self._sends_all() and self._clock.monotonic() - since >= TRUST_AFTER

    def objects(self) -> list[dict[str, Any]]:
        """Every pod with its present status, as the API shows it."""
        return [{**obj, "status": self._records.status(uid)} for uid, obj in self._raw.items()]

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
            found = {**obj, "status": self._records.status(present)}
            if present in self._in_api or present in self._static:
                break
        return found


def _key(obj: dict[str, Any]) -> str:
    """`<namespace>/<name>` of a pod."""
    metadata = obj["metadata"]
    return f"{metadata.get('namespace') or 'default'}/{metadata.get('name') or ''}"
