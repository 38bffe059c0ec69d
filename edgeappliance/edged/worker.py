"""One pod: looks at what is wanted and what is there, carries out what `reconcile` says, and looks again."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

from edgeappliance.edged.engine.api import EngineAway
from edgeappliance.edged.pods.observed import Kind, ObservedContainer, ObservedPod, Phase
from edgeappliance.edged.pods.plan import (
    Action,
    Plan,
    Probed,
    RemoveContainer,
    Situation,
    StartContainer,
    StartFailure,
    StartSandbox,
    StopContainer,
    Stopped,
    Stopping,
)
from edgeappliance.edged.pods.reconcile import reconcile
from edgeappliance.edged.pods.spec import Container, Pod
from edgeappliance.edged.runtime import PodRuntime
from edgeappliance.edged.sandboxes import StartFailed
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.errors import ApplianceError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope

KILLED = 137
"""Exit code of a process that was killed."""

AGAIN = 10.0
"""Seconds until the next look after a fault of ours."""

PAUSE = 1.0
"""Seconds until something is tried again that the engine did not do; its events may go on coming all the while."""

FAILURE_INITIAL, FAILURE_MAXIMUM = 10.0, 60.0
"""Seconds between tries of a container that could not be started, doubling. What it waits for (a serial adapter that is
plugged in, a port that is given up) tells nobody that it has come."""

CLOCK_SET = 1_577_836_800_000
"""Unix ms of 2020: a pod that was taken on before was so by a clock that had not been set yet."""

Report = Callable[["PodWorker"], None]


class PodWorker:
    """Owns everything of one pod on this machine. Everything runs on the event loop, one task for the loop and one for
    each start, stop or removal under way.

    started_ms: when this node took the pod on. finished: the phase that it ended with in an earlier life.
    keep: ended attempts that stay of each container, for their logs.
    """

    def __init__(
        self,
        scope: TaskScope,
        pod: Pod,
        *,
        runtime: PodRuntime,
        clock: Clock,
        changed: Report,
        started_ms: int,
        finished: str = "",
        stopping: Stopping | None = None,
        keep: int = 1,
    ) -> None:
        self._scope = scope
        self.pod = pod
        self._runtime = runtime
        self._clock = clock
        self._changed = changed
        self.started_ms = started_ms
        self._began = clock.monotonic()
        self._before = max(0, clock.wall_ms() - started_ms) / 1000 if started_ms >= CLOCK_SET else 0.0
        self.finished = finished
        self.stopping = stopping
        self._keep = keep
        self.gone = False
        """Everything of a stopped pod is off the engine, its volumes are removed."""
        self.blocked: tuple[str, str] | None = None
        self._containers: dict[str, ObservedContainer] = {}
        self._exits: dict[str, float] = {}
        self._failures: dict[str, StartFailure] = {}
        self._condemned: dict[str, tuple[str, int | None]] = {}
        self._starts: dict[str, asyncio.Task[None]] = {}
        self._stops: dict[str, asyncio.Task[None]] = {}
        self._removals: dict[str, asyncio.Task[None]] = {}
        self._hooks: dict[str, asyncio.Task[str]] = {}
        self._said: set[tuple[str, str]] = set()
        self._logged: dict[str, tuple[str, str]] = {}
        self._waiting: Mapping[str, tuple[str, str]] = {}
        self._wake = asyncio.Event()
        self._wake_at: float | None = None
        self._cleaning: asyncio.Task[None] | None = None
        self._observed = False
        self._told: set[str] = set()
        self._starved: set[str] = set()
        self._log = get_logger("edged")
        self._loop = scope.spawn(self._run(), name=f"pod {pod.key}")

    # -- what Edged tells it ------------------------------------------------------------------------------

    @property
    def uid(self) -> str:
        return self.pod.uid

    @property
    def containers(self) -> tuple[ObservedContainer, ...]:
        return tuple(self._containers.values())

    @property
    def troubled(self) -> bool:
        """Something of it does not run as it should: it cannot be started, or waits after a crash."""
        return bool(self._failures or self._waiting or self.blocked)

    def close(self) -> None:
        """Nobody wants it any more: it looks at nothing again."""
        self._loop.cancel()

    def wake(self) -> None:
        """Something that it looks at has changed."""
        self._wake.set()

    def update(self, pod: Pod) -> None:
        """A new version of the pod."""
        before = {container.name: container.image for container in self.pod.containers()}
        self.pod = pod
        for container in pod.containers():
            if before.get(container.name) != container.image:  # it may well be there, or be pulled
                self._failures.pop(container.name, None)
                self._stop_pulling(container.name)
        if pod.metadata.deletion_timestamp is not None:
            grace = pod.metadata.deletion_grace_period_seconds
            self.stop(Stopping(Stopped.DELETED, pod.spec.termination_grace_period_seconds if grace is None else grace))
        self.wake()

    def stop(self, stopping: Stopping) -> None:
        """End it. A deletion outranks everything; of two, the shorter grace counts."""
        present = self.stopping
        deleted = present is not None and present.why is Stopped.DELETED
        if present is not None and deleted and not (stopping.why is Stopped.DELETED and stopping.grace < present.grace):
            return
        if present is not None and stopping.grace < present.grace:
            for task in self._stops.values():
                task.cancel()  # told again, with less patience
        if stopping.since is None:
            stopping = replace(stopping, since=self._clock.monotonic())
        self.stopping = stopping
        for name in list(self._starts):
            self._stop_pulling(name)
        self.wake()

    def _stop_pulling(self, name: str) -> None:
        """Give up a start that waits for an image which is not wanted any more; a registry may be silent for long."""
        if name in self._starts and self._runtime.is_pulling(self.uid, name):
            self._starts[name].cancel()

    def retry(self, *, config: bool = False) -> None:
        """Try at once what failed; with `config` only what failed for a config map, a secret or a volume."""
        for name, failure in list(self._failures.items()):
            if not config or failure.reason in ("CreateContainerConfigError", "ContainerCreating"):
                del self._failures[name]
        self.wake()

    def observe(self, container: ObservedContainer) -> None:
        """A look at one of its containers."""
        known = self._containers.get(container.id)
        if known is not None and _is_older(container, known):
            return  # looks overlap, and the answers may come in another order than they were made in
        if not self._observed:
            self._told.add(container.id)
        if container.exited:
            self._exits.setdefault(container.id, self._clock.monotonic())
            self._end_hook(container.id)
            if known is not None and known.message:
                container = replace(container, message=known.message)
            if container.id in self._starved and container.exit_code == KILLED:
                container = replace(container, oom_killed=True)
        self._containers[container.id] = container
        if not (container.running and self._is_prepared(container.name)):
            self._runtime.observed(self.pod, container)
        self.wake()

    def out_of_memory(self, id: str) -> None:
        """The kernel killed a process of it. The engine says so of the container only when it heard of that before the
        container's end, which is not certain."""
        self._starved.add(id)
        known = self._containers.get(id)
        if known is not None:
            self.observe(known)

    def vanished(self, id: str) -> None:
        """The engine knows it no more."""
        self._starved.discard(id)
        if not self._observed:
            self._told.add(id)
        self._containers.pop(id, None)
        self._exits.pop(id, None)
        self._condemned.pop(id, None)
        self._end_hook(id)
        self._said = {said for said in self._said if said[1] != id}
        self._runtime.vanished(id)
        self.wake()

    def await_list(self) -> None:
        """All its containers are about to be listed. Until then nothing is done: of a part of them, say of a container
        whose sandbox has not been heard of yet, the wrong thing would follow."""
        self._observed = False
        self._told.clear()

    def observe_all(self, containers: list[ObservedContainer]) -> None:
        """All that there is, but for what has been told since the list was asked for."""
        present = {container.id for container in containers} | self._told
        for id in [id for id in self._containers if id not in present]:
            self.vanished(id)
        for container in containers:
            if container.id in self._containers or container.id not in self._told:  # not one that is gone since
                self.observe(container)
        self._observed = True
        self._told.clear()
        self.wake()

    async def settle(self) -> None:
        """Return when nothing is under way any more (its tasks were cancelled with the scope)."""
        tasks = [*self._starts.values(), *self._stops.values(), *self._removals.values()]
        if tasks:
            await asyncio.wait(tasks)

    # -- the loop -----------------------------------------------------------------------------------------

    def situation(self) -> Situation:
        """What reconcile and status look at."""
        return Situation(
            pod=self.pod,
            seen=ObservedPod(self.uid, self.containers),
            now=self._clock.monotonic(),
            wall_ms=self._clock.wall_ms(),
            started_ms=self.started_ms,
            elapsed=self._before + self._clock.monotonic() - self._began,
            exits=self._exits,
            probes=self._probed(),
            failures=self._failures,
            condemned=self._condemned,
            busy=frozenset(self._starts),
            stopping_ids=frozenset((*self._stops, *self._removals)),
            stopping=self.stopping,
            finished=self.finished,
            blocked=self.blocked,
        )

    def _probed(self) -> dict[str, Probed]:
        found = {}
        for container in self._containers.values():
            if container.running and container.kind is not Kind.SANDBOX:
                found[container.id] = self._runtime.probed(container)
        return found

    async def _run(self) -> None:
        while True:
            await self._pause()
            self._wake.clear()
            self._wake_at = None
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - one pod's fault, ours too, must not stop another pod
                self._log.error("pod not looked after", pod=self.pod.key, error=error, exc_info=error)
                self._wake_at = self._clock.monotonic() + AGAIN

    async def _pause(self) -> None:
        delay = None if self._wake_at is None else max(0.0, self._wake_at - self._clock.monotonic())
        try:
            async with asyncio.timeout(delay):
                await self._wake.wait()
        except TimeoutError:
            return

    def _look(self) -> None:
        if not self._observed or not self._runtime.ready:
            return  # what is not known must not be acted upon; the engine's return wakes us
        if self.gone:
            self._changed(self)
            return
        plan = reconcile(self.situation(), keep=self._keep)
        if plan.stop is not None:
            self._runtime.note_stop(self.pod, plan.stop)
            self.stop(plan.stop)
        if plan.finished:
            self.finished = plan.finished
        self._waiting = plan.waiting
        self._say_waiting(plan)
        self._changed(self)
        for action in plan.actions:
            self._begin(action)
        self._wake_at = plan.wake_at
        if plan.gone and self._cleaning is None and not self._busy:
            self._cleaning = self._scope.spawn(self._clean(), name=f"clean {self.pod.key}")

    @property
    def _busy(self) -> bool:
        return bool(self._starts or self._stops or self._removals)

    def _say_waiting(self, plan: Plan) -> None:
        """An event when a container begins to wait after a crash."""
        for name, (reason, message) in plan.waiting.items():
            newest = ObservedPod(self.uid, self.containers).newest(name)
            key = (reason, newest.id if newest is not None else name)
            if key not in self._said:
                self._said.add(key)
                code = newest.exit_code if newest is not None else None
                self._log_waiting(name, reason, f"{message.partition(' restarting ')[0]}, ended with exit code {code}")
                self._runtime.note_waiting(self.pod, name, reason, message)

    def _log_waiting(self, name: str, reason: str, why: str) -> None:
        """A line when it changes: tried every few seconds, the same would fill the log."""
        if self._logged.get(name) != (reason, why):
            self._logged[name] = (reason, why)
            self._log.warning("container waits", pod=self.pod.key, container=name or "sandbox", reason=reason, why=why)

    # -- actions ------------------------------------------------------------------------------------------

    def _begin(self, action: Action) -> None:
        match action:
            case StartSandbox(attempt):
                self._spawn(self._starts, "", self._start("", self._runtime.start_sandbox(self.pod, attempt)))
            case StartContainer(name):
                work = self._runtime.start_container(self.pod, self._container(name), action, self._sandbox())
                self._spawn(self._starts, name, self._start(name, work))
            case StopContainer(id):
                self._spawn(self._stops, id, self._stop(action))
            case RemoveContainer(id):
                self._spawn(self._removals, id, self._remove(id))

    def _spawn(self, tasks: dict[str, asyncio.Task[None]], key: str, work: Coroutine[Any, Any, None]) -> None:
        if key in tasks:
            work.close()
            return
        task = tasks[key] = self._scope.spawn(work, name=f"{type(self).__name__} {self.pod.key} {key[:12]}")

        def done(_: asyncio.Task[None]) -> None:
            if tasks.get(key) is task:
                del tasks[key]
            self.wake()

        task.add_done_callback(done)

    async def _start(self, name: str, work: Coroutine[Any, Any, ObservedContainer]) -> None:
        try:
            container = await work
        except StartFailed as failure:
            self._failed(name, failure)
        except EngineAway:
            await asyncio.sleep(PAUSE)  # its return wakes us, and the list shows what has come of it
        except ApplianceError as error:
            reason = "CreatePodSandboxError" if not name else "CreateContainerError"
            self._failed(name, StartFailed(reason, error.message))
        except Exception as error:  # noqa: BLE001 - told as the container's state; other pods go on
            self._log.error("container not started", pod=self.pod.key, container=name, error=error, exc_info=error)
            self._failed(name, StartFailed("CreateContainerError", f"{type(error).__name__}: {error}"))
        else:
            if self._failures.pop(name, None) is not None:
                self._logged.pop(name, None)
            self.observe(container)
            if container.running and self._is_prepared(name):
                await self._prepare(container)

    def _is_prepared(self, name: str) -> bool:
        """Whether a container is being started that has a postStart hook: it does not count as running before that is
        done (Kubernetes: Container Lifecycle Hooks)."""
        spec = self._container_or_none(name)
        return name in self._starts and spec is not None and spec.lifecycle.post_start is not None

    async def _prepare(self, container: ObservedContainer) -> None:
        """The postStart hook of a container that was started: it ends with it, and ends it when it fails."""
        work = self._runtime.post_start(self.pod, self._container(container.name), container)
        hook = self._hooks[container.id] = self._scope.spawn(work, name=f"postStart {self.pod.key}/{container.name}")
        try:
            await asyncio.wait([hook])
        finally:
            self._end_hook(container.id)
        if not hook.cancelled() and (why := hook.result()):
            self._condemned[container.id] = (why, None)
            return
        present = self._containers.get(container.id)
        if present is not None:
            self._runtime.observed(self.pod, present)

    def _end_hook(self, id: str) -> None:
        hook = self._hooks.pop(id, None)
        if hook is not None:
            hook.cancel()

    def _failed(self, name: str, failure: StartFailed) -> None:
        known = self._failures.get(name)
        count = known.count + 1 if known is not None else 1
        delay = failure.retry_in
        if delay is None:
            delay = min(FAILURE_MAXIMUM, FAILURE_INITIAL * 2 ** min(count - 1, 6))
        retry_at = self._clock.monotonic() + delay
        self._failures[name] = StartFailure(failure.reason, failure.message, retry_at, count)
        self._log_waiting(name, failure.reason, failure.message)
        if failure.reason == "ErrImagePull":
            self._scope.spawn(self._back_off_soon(name, retry_at), name=f"back-off {self.pod.key}")

    async def _back_off_soon(self, name: str, retry_at: float) -> None:
        """A pull that failed a moment ago is shown as such; after that, as waiting for the next try."""
        await asyncio.sleep(2.0)
        failure = self._failures.get(name)
        if failure is not None and failure.retry_at == retry_at:
            image = self._container(name).image
            message = f'Back-off pulling image "{image}": ErrImagePull: {failure.message}'
            failure = self._failures[name] = replace(failure, reason="ImagePullBackOff", message=message)
            self._runtime.note_waiting(self.pod, name, failure.reason, f'Back-off pulling image "{image}"')
            self.wake()

    async def _stop(self, action: StopContainer) -> None:
        container = self._containers.get(action.id)
        if container is None:
            return
        spec = self._container_or_none(action.name)
        try:
            await self._runtime.stop(self.pod, spec, container, action)
        except EngineAway:
            await asyncio.sleep(PAUSE)
            return
        except ApplianceError as error:
            self._log.warning("container not stopped", pod=self.pod.key, container=action.name, error=error)
            await asyncio.sleep(PAUSE)
        await self._look_at(action.id)

    async def _remove(self, id: str) -> None:
        try:
            await self._runtime.remove(id)
        except EngineAway:
            await asyncio.sleep(PAUSE)
            return
        except ApplianceError as error:
            self._log.warning("container not removed", pod=self.pod.key, id=id, error=error)
            await asyncio.sleep(PAUSE)
        await self._look_at(id)

    async def _look_at(self, id: str) -> None:
        try:
            container = await self._runtime.inspect(self.pod, id)
        except ApplianceError:
            return  # the relist after the engine's return tells
        if container is None:
            self.vanished(id)
        else:
            self.observe(container)

    async def _clean(self) -> None:
        """Nothing of it is left on the engine: its volumes and files go, unless it may be looked at still."""
        try:
            if self.stopping is not None and self.stopping.why is Stopped.DELETED:
                await self._runtime.clean(self.pod)
                self.gone = True
        except ApplianceError as error:
            self._log.warning("files of a pod not removed", pod=self.pod.key, error=error)
            await asyncio.sleep(AGAIN)
        finally:
            self._cleaning = None
            if self.gone:
                self.wake()

    def _sandbox(self) -> ObservedContainer | None:
        return ObservedPod(self.uid, self.containers).sandbox()

    def _container(self, name: str) -> Container:
        return next(container for container in self.pod.containers() if container.name == name)

    def _container_or_none(self, name: str) -> Container | None:
        return next((container for container in self.pod.containers() if container.name == name), None)


def _is_older(container: ObservedContainer, known: ObservedContainer) -> bool:
    """Whether a look at a container was made before another: it is made, runs and ends, and never goes back (but for
    somebody who starts it by hand)."""
    if container.started_ms > known.started_ms:
        return False
    return (known.exited and not container.exited) or (known.running and container.phase is Phase.CREATED)
