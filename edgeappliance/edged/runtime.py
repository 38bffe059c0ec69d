"""Carries out what reconcile decided for a pod: sandbox, image, volumes, environment, hooks. One method an action."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from edgeappliance.edged.engine.api import Credentials, Engine, EngineRefused, Image, LogQuery
from edgeappliance.edged.engine.auth import credentials_for
from edgeappliance.edged.engine.create import SandboxSettings, container_body
from edgeappliance.edged.engine.security import check_user
from edgeappliance.edged.events import EventRecorder
from edgeappliance.edged.hooks import POST_START_LIMIT, Hook, HookFailed, Hooks
from edgeappliance.edged.images import ImageNever, Images, ImageWait
from edgeappliance.edged.objects import Objects
from edgeappliance.edged.pods.environment import ConfigMissing, Facts, environment, references
from edgeappliance.edged.pods.limits import Unsupported
from edgeappliance.edged.pods.observed import Kind, ObservedContainer
from edgeappliance.edged.pods.plan import Probed, Situation, StartContainer, StopContainer, Stopping
from edgeappliance.edged.pods.resources import qos_class
from edgeappliance.edged.pods.spec import Container, Pod, spec_hash
from edgeappliance.edged.pods.status import pod_status
from edgeappliance.edged.probes.runner import ProbeRunner
from edgeappliance.edged.sandboxes import Sandboxes, StartFailed, engine_name
from edgeappliance.edged.volumes.errors import FAILED_MOUNT, VolumeError
from edgeappliance.edged.volumes.pod import PodVolumes
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.errors import InputError
from edgeappliance.kernel.log import get_logger

MESSAGE_LIMIT = 4096
"""Bytes of a termination message (Kubernetes, terminationMessagePath)."""

LOG_LINES, LOG_BYTES = 80, 2048
"""What FallbackToLogsOnError takes of the end of the log (Kubernetes, terminationMessagePolicy)."""


class PodRuntime:
    """What a worker does to its pod. Nothing here decides whether it should be done.

    node_ip: this node's address at the moment, "" while there is none. facts: what is allocatable here.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        volumes: PodVolumes,
        objects: Objects,
        probes: ProbeRunner,
        events: EventRecorder,
        clock: Clock,
        node: str,
        node_ip: Callable[[], str],
        facts: Facts,
        settings: SandboxSettings,
    ) -> None:
        self._engine = engine
        self._images = Images(engine, clock=clock)
        self._sandboxes = Sandboxes(engine, volumes=volumes, events=events, node=node, settings=settings)
        self._volumes = volumes
        self._objects = objects
        self._probes = probes
        self._hooks = Hooks(engine)
        self._events = events
        self._clock = clock
        self._node = node
        self._node_ip = node_ip
        self._facts = facts
        self._settings = settings
        self._hooked: set[str] = set()
        self._pulling: set[tuple[str, str]] = set()
        self._ready_before: dict[str, Probed] = {}
        self._ips: dict[str, str] = {}
        self._log = get_logger("edged")

    @property
    def ready(self) -> bool:
        """Whether the engine is there."""
        return self._engine.connected

    # -- starting -----------------------------------------------------------------------------------------

    async def start_sandbox(self, pod: Pod, attempt: int) -> ObservedContainer:
        """Volumes, then the container that holds the pod's network. Raises StartFailed, EngineAway."""
        return await self._sandboxes.start(pod, attempt, self._facts_of(pod))

    async def start_container(
        self, pod: Pod, container: Container, action: StartContainer, sandbox: ObservedContainer | None
    ) -> ObservedContainer:
        """Image, environment, mounts, create, start. Raises StartFailed, EngineAway."""
        name = container.name
        if sandbox is None or not sandbox.running:
            raise StartFailed("ContainerCreating", "the sandbox is gone", retry_in=1.0)
        facts = self._facts_of(pod, sandbox)
        image = await self._image(pod, container)
        try:
            check_user(pod, container, image)
            env = await self._environment(pod, container, facts)
            await self._volumes.prepare(pod, facts)
            mounts = await self._volumes.mounts(
                pod, container, env=env, facts=facts, attempt=action.attempt, sandbox_pid=sandbox.pid
            )
            body = container_body(
                pod,
                container,
                node=self._node,
                kind=Kind.INIT if action.init else Kind.APP,
                sandbox_id=sandbox.id,
                attempt=action.attempt,
                backoff=action.backoff,
                image=image,
                env=env,
                mounts=mounts,
                spec_hash=spec_hash(container),
                settings=self._settings,
            )
        except VolumeError as error:
            if error.reason == FAILED_MOUNT:
                self._note(pod, name, "Warning", FAILED_MOUNT, error.message)
                raise StartFailed("ContainerCreating", error.message) from None
            self._note(pod, name, "Warning", "Failed", f"Error: {error.message}")
            raise StartFailed(error.reason, error.message) from None
        except (ConfigMissing, InputError) as error:
            self._note(pod, name, "Warning", "Failed", f"Error: {error.message}")
            raise StartFailed("CreateContainerConfigError", error.message) from None
        return await self._create(pod, container, action, body)

    async def _create(
        self, pod: Pod, container: Container, action: StartContainer, body: dict[str, Any]
    ) -> ObservedContainer:
        name = container.name
        self._sandboxes.bound(body)
        try:
            id = await self._engine.create(body, name=engine_name(pod, name, action.attempt))
        except EngineRefused as error:
            self._note(pod, name, "Warning", "Failed", f"Error: {error.message}")
            raise StartFailed("CreateContainerError", error.message) from None
        self._note(pod, name, "Normal", "Created", f"Created container: {name}")
        try:
            await self._engine.start(id)
        except EngineRefused as error:
            self._note(pod, name, "Warning", "Failed", f"Error: {error.message}")
            failed = await self._engine.inspect(id)
            if failed is None:
                raise StartFailed("RunContainerError", error.message) from None
            return failed  # an attempt like another: it has ended, with what the engine said of it
        started = await self._engine.inspect(id)
        if started is None:
            raise StartFailed("RunContainerError", "the container is gone", retry_in=1.0)
        self._note(pod, name, "Normal", "Started", f"Started container {name}")
        if started.running:
            try:
                await self._volumes.verify(pod, name, started.pid)
            except VolumeError as error:
                self._note(pod, name, "Warning", "Failed", f"Error: {error.message}")
                await self._sandboxes.discard(id)
                raise StartFailed("RunContainerError", error.message) from None
        return started

    async def _image(self, pod: Pod, container: Container) -> Image:
        def note(type: str, reason: str, message: str) -> None:
            self._note(pod, container.name, type, reason, message)

        try:
            self._pulling.add((pod.uid, container.name))
            credentials = await self._credentials(pod, container.image)
            return await self._images.ensure(pod, container, credentials=credentials, note=note)
        except ImageWait as error:
            self._note(pod, container.name, "Warning", "Failed", f"Error: {error.reason}")
            raise StartFailed(error.reason, error.message, retry_in=error.retry_in) from None
        except ImageNever as error:
            self._note(pod, container.name, "Warning", "Failed", f"Error: {error.reason}")
            raise StartFailed(error.reason, error.message, retry_in=60.0) from None
        finally:
            self._pulling.discard((pod.uid, container.name))

    def is_pulling(self, uid: str, container: str) -> bool:
        """Whether the start of a container waits for its image: nothing of it is on the engine, it may be cancelled."""
        return (uid, container) in self._pulling

    def pull_again(self, pod: Pod) -> None:
        """A credential of the pod is another one: what could not be pulled may be tried at once."""
        self._images.forget(pod.uid)

    async def _credentials(self, pod: Pod, image: str) -> list[Credentials]:
        found: list[Credentials] = []
        for reference in pod.spec.image_pull_secrets:
            secret = await self._objects.get("secret", pod.metadata.namespace, reference.name)
            if secret is None:
                self._events.pod(
                    pod,
                    "Warning",
                    "FailedToRetrieveImagePullSecret",
                    f"Unable to retrieve some image pull secrets ({reference.name}); attempting to pull the image may "
                    "not succeed.",
                )
                continue
            try:
                found += credentials_for(image, secret)
            except InputError as error:
                self._events.pod(pod, "Warning", "FailedToRetrieveImagePullSecret", error.message)
        return found

    async def _environment(self, pod: Pod, container: Container, facts: Facts) -> list[str]:
        objects: dict[str, dict[tuple[str, str], dict[str, Any] | None]] = {"configmap": {}, "secret": {}}
        for one in references(_alone(pod, container)):
            found = await self._objects.get(one.kind, one.namespace, one.name)
            trouble = self._objects.trouble(one.kind, one.namespace, one.name)
            if found is None and trouble and not one.optional:
                # "not found" would be a lie: nobody could be asked.
                raise ConfigMissing(f"failed to fetch {one.kind} {one.namespace}/{one.name}: {trouble}")
            objects[one.kind][one.namespace, one.name] = found
        return environment(pod, container, config_maps=objects["configmap"], secrets=objects["secret"], facts=facts)

    async def post_start(self, pod: Pod, container: Container, seen: ObservedContainer) -> str:
        """The postStart hook of a container that runs; why it failed, "" when it did not."""
        handler = container.lifecycle.post_start
        if handler is None:
            return ""
        try:
            await self._hooks.run(
                handler,
                seen,
                container,
                pod_ip=self._ip(pod),
                host_network=pod.spec.host_network,
                timeout=POST_START_LIMIT,
            )
        except HookFailed as error:
            self._note(pod, container.name, "Warning", Hook.POST_START.reason, error.message)
            return error.message
        return ""

    # -- watching -----------------------------------------------------------------------------------------

    async def inspect(self, pod: Pod, id: str) -> ObservedContainer | None:
        """A container as it is now, its termination message with it. Raises EngineAway, EngineRefused."""
        container = await self._engine.inspect(id)
        if container is None or not container.exited or container.kind is Kind.SANDBOX:
            return container
        return replace(container, message=await self._message(pod, container))

    async def _message(self, pod: Pod, container: ObservedContainer) -> str:
        spec = _spec(pod, container.name)
        text = await self._volumes.termination_message(pod.uid, container.name, container.attempt, limit=MESSAGE_LIMIT)
        if text or spec is None or spec.termination_message_policy != "FallbackToLogsOnError":
            return text
        if container.exit_code == 0:
            return ""
        parts: list[bytes] = []
        stream = await self._engine.logs(container.id, LogQuery(tail=LOG_LINES))
        try:
            async for _, data in stream:
                parts.append(data)
        finally:
            await stream.aclose()
        return b"".join(parts)[-LOG_BYTES:].decode("utf-8", "replace")

    def observed(self, pod: Pod, container: ObservedContainer) -> None:
        """A container has been looked at: probe it while it runs."""
        if container.kind is Kind.SANDBOX:
            if container.running:
                self._ips[pod.uid] = container.ip
            return
        spec = _spec(pod, container.name)
        if not container.running or spec is None:
            self._probes.forget(container.id)
            return
        self._probes.watch(
            container,
            spec,
            pod_ip=self._ip(pod),
            host_network=pod.spec.host_network,
            init=container.kind is Kind.INIT,
            previous=self._ready_before.pop(container.id, None),
        )

    def vanished(self, id: str) -> None:
        """A container is not on the engine any more."""
        self._probes.forget(id)
        self._hooked.discard(id)

    def probed(self, container: ObservedContainer) -> Probed:
        """What its probes say."""
        return self._probes.probed(container.id)

    def remember(self, status: dict[str, Any]) -> None:
        """From the status of an earlier life: which containers were ready; a restart of ours does not change that."""
        for key in ("initContainerStatuses", "containerStatuses"):
            for item in status.get(key) or ():
                if not isinstance(item, dict):
                    continue
                id = str(item.get("containerID") or "").removeprefix("docker://")
                if id:
                    started = bool(item.get("started"))
                    self._ready_before[id] = Probed(started=started, ready=bool(item.get("ready")))

    def status(
        self, situation: Situation, *, previous: dict[str, Any] | None, unsupported: Sequence[Unsupported]
    ) -> dict[str, Any]:
        """The pod's status for the API."""
        return pod_status(
            situation,
            node_ip=self._node_ip(),
            qos=qos_class(situation.pod).value,
            previous=previous,
            unsupported=unsupported,
        )

    def note_waiting(self, pod: Pod, name: str, reason: str, message: str) -> None:
        """A container waits before it is tried again."""
        if reason == "CrashLoopBackOff":
            where = f"{pod.metadata.name}_{pod.metadata.namespace}({pod.uid})"
            self._note(pod, name, "Warning", "BackOff", f"Back-off restarting failed container {name} in pod {where}")
            return
        self._note(pod, name, "Normal", "BackOff", message)
        self._note(pod, name, "Warning", "Failed", f"Error: {reason}")

    def note_stop(self, pod: Pod, stop: Stopping) -> None:
        """The pod ends by its own specification."""
        self._events.pod(pod, "Normal", stop.reason, stop.message)

    # -- ending -------------------------------------------------------------------------------------------

    async def stop(self, pod: Pod, spec: Container | None, container: ObservedContainer, action: StopContainer) -> None:
        """preStop, SIGTERM, and SIGKILL when the grace is over. Raises EngineAway, EngineRefused."""
        self._probes.forget(container.id)
        grace = max(0, action.grace)
        if spec is not None:
            self._note(pod, spec.name, "Normal", "Killing", action.reason)
            began = self._clock.monotonic()
            await self._pre_stop(pod, spec, container, grace=grace, hook=action.hook)
            grace = max(min(2, grace), round(grace - (self._clock.monotonic() - began)))
        await self._engine.stop(container.id, grace=grace)

    async def _pre_stop(
        self, pod: Pod, spec: Container, container: ObservedContainer, *, grace: int, hook: bool
    ) -> None:
        handler = spec.lifecycle.pre_stop
        if handler is None or not hook or grace <= 0 or container.id in self._hooked or not container.running:
            return
        self._hooked.add(container.id)  # once only, also when its grace is shortened meanwhile
        try:
            await self._hooks.run(
                handler,
                container,
                spec,
                pod_ip=self._ip(pod),
                host_network=pod.spec.host_network,
                timeout=grace,
            )
        except HookFailed as error:
            self._note(pod, spec.name, "Warning", Hook.PRE_STOP.reason, error.message)

    async def remove(self, id: str) -> None:
        """Remove an ended container. Raises EngineAway, EngineRefused."""
        await self._engine.remove(id)

    async def refresh(self, pod: Pod) -> None:
        """Bring volumes made of config maps, secrets and the pod itself up to date. Raises VolumeError."""
        if await self._volumes.refresh(pod, self._facts_of(pod)):
            self._log.info("volumes refreshed", pod=pod.key)

    def renewals(self) -> set[str]:
        """Uids of pods to refresh now, because a token of theirs is due."""
        return self._volumes.due(self._clock.monotonic())

    async def clean(self, pod: Pod) -> None:
        """Nothing of the pod is left on the engine: its files go. Raises VolumeError, EngineAway."""
        await self._volumes.remove(pod.uid)
        self._images.forget(pod.uid)
        self._ips.pop(pod.uid, None)
        self._probes.forget_pod(pod.uid)

    def _facts_of(self, pod: Pod, sandbox: ObservedContainer | None = None) -> Facts:
        host_ip = self._node_ip()
        ip = sandbox.ip if sandbox is not None else self._ips.get(pod.uid, "")
        return replace(
            self._facts, node_name=self._node, host_ip=host_ip, pod_ip=host_ip if pod.spec.host_network else ip
        )

    def _ip(self, pod: Pod) -> str:
        return self._facts_of(pod).pod_ip

    def _note(self, pod: Pod, container: str, type: str, reason: str, message: str) -> None:
        self._events.pod(pod, type, reason, message, container=container)


def _alone(pod: Pod, container: Container) -> Pod:
    """The pod with this one container and no volumes: to ask what that container alone refers to."""
    spec = msgspec.structs.replace(
        pod.spec, containers=[container], init_containers=[], volumes=[], image_pull_secrets=[]
    )
    return msgspec.structs.replace(pod, spec=spec)


def _spec(pod: Pod, name: str) -> Container | None:
    return next((container for container in pod.containers() if container.name == name), None)
