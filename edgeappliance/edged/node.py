"""Registers the node, reports its status, renews its lease (reference 1.4 D)."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from edgeappliance.edged.engine.api import Image
from edgeappliance.edged.facts import Limits, Machine, Pressure, conditions, read_machine, read_pressure
from edgeappliance.edged.status import NodeStatus
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.component import Condition, Health, State
from edgeappliance.kernel.errors import ApplianceError, TransientError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.kube import parse_status_error
from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import Group, Operation, ResourceType, Source
from edgeappliance.wire.resource import NULL, ResourceName

HEARTBEAT = 10.0
"""Seconds between lease renewals, and between looks at the status."""

LEASE_SECONDS = 40
LEASE_NAMESPACE = "kube-node-lease"
REQUEST_TIMEOUT = 20.0

IMAGES = 50
"""Images that the status names, the biggest ones (kubelet's nodeStatusMaxImages)."""

NAMES_PER_IMAGE = 5

NO_LINK = ("the cloud is not reached: it does not hear that this node lives", "see component edgehub")
"""Reason and next step."""


class Cloud(Protocol):
    """What the node needs of edgehub."""

    @property
    def connected(self) -> bool: ...

    @property
    def local_address(self) -> str: ...

    async def request(self, message: Message, timeout: float) -> Message: ...

    def on_connection(self, callback: Callable[[bool], None]) -> None: ...


class Runtime(Protocol):
    """What the node needs of what runs its pods. All of it is known already: nothing here waits."""

    @property
    def trouble(self) -> str:
        """Why no pod can run here, "" when they can; it becomes the message of condition Ready."""
        ...

    @property
    def version(self) -> str:
        """`docker://20.10.24`; `docker://` before the first connection."""
        ...

    @property
    def max_pods(self) -> int: ...

    @property
    def kubelet_port(self) -> int:
        """Of the kubelet API on this box."""
        ...

    def images(self) -> Sequence[Image]:
        """As they were last seen."""
        ...

    def pressure(self) -> Pressure | None:
        """As eviction sees it, which lets go of a pressure only after a while; None: measure."""
        ...


class CloudRefused(TransientError):
    """The cloud answered with an API error. `code` is its HTTP status, 0 when it sent none."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message, next_step="it is tried again; if it stays so, see the cloud's log")
        self.code = code


class Node:
    """This machine's Node and Lease objects, kept up to date while there is a link.

    runtime: what runs the pods; without one the node offers to run none, which keeps the scheduler away.
    limits: below what the machine is under pressure; allocatable is the capacity less these.
    note: reason and message of an event of this node.
    labels: labels of the operator, given at registration beside those of every KubeEdge node.
    """

    def __init__(
        self,
        scope: TaskScope,
        *,
        cloud: Cloud,
        name: str,
        version: str,
        data_directory: Path,
        clock: Clock,
        runtime: Runtime | None = None,
        limits: Limits | None = None,
        note: Callable[[str, str], None] | None = None,
        labels: Mapping[str, str] | None = None,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        self._scope = scope
        self._cloud = cloud
        self._name = name
        self._program = version
        self._directory = data_directory
        self._clock = clock
        self._runtime = runtime
        self._limits = limits or Limits()
        self._note = note
        self._noted: dict[str, str] = {}
        self._labels = dict(labels or {})
        self._heartbeat = heartbeat
        self._status = NodeStatus()
        self._machine: Machine | None = None
        self._registered = False
        self._uid = ""
        self._lease: dict[str, Any] | None = None
        self._up = asyncio.Event()
        self._wake = asyncio.Event()
        self._condition = Condition(clock)
        self._log = get_logger("edged")
        cloud.on_connection(self._link_changed)

    async def start(self) -> None:
        self._machine = await asyncio.to_thread(read_machine, self._directory)
        if self._note is not None:
            self._note("Starting", "Starting kubelet.")
        if self._cloud.connected:
            self._condition.set(State.STARTING, "registering")
            self._up.set()
        else:
            self._condition.set(State.DEGRADED, *NO_LINK)
        self._scope.spawn(self._run(), name="report")

    async def stop(self) -> None:
        await self._scope.cancel()
        self._condition.set(State.STOPPED)

    def health(self) -> Health:
        return self._condition.health({"node": self._name, "registered": self._registered})

    def changed(self) -> None:
        """The runtime came or went, or a pressure: tell it now and not with the next heartbeat."""
        self._wake.set()

    @property
    def machine(self) -> Machine | None:
        """What this machine is, once it has been read."""
        return self._machine

    def _link_changed(self, connected: bool) -> None:
        if connected:
            self._status.forget_acknowledged()
            self._up.set()
            self._wake.set()
        else:
            self._up.clear()
            self._condition.set(State.DEGRADED, *NO_LINK)

    async def _run(self) -> None:
        retry = Backoff(initial=1.0, maximum=self._heartbeat)
        while True:
            await self._up.wait()
            self._wake.clear()
            delay = self._heartbeat
            try:
                await self._beat()
            except ApplianceError as error:
                if self._up.is_set():  # otherwise the link broke meanwhile, which has been said
                    if self._condition.reason != error.message:
                        self._log.warning("node not reported", reason=error.message)
                    self._condition.degrade(error)
                delay = retry.next_delay()
            else:
                retry.reset()
                self._condition.set(State.RUNNING)
            await self._pause(delay)

    async def _pause(self, seconds: float) -> None:
        """Wait for `seconds`, or until there is a new link."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _beat(self) -> None:
        """One round: register if needed, report what the cloud does not have, renew the lease."""
        await self._measure()
        if not self._registered:
            await self._register()
        if self._status.due(self._clock.monotonic()):
            await self._report()
        await self._renew_lease()

    async def _measure(self) -> None:
        machine = self._machine
        if machine is None:
            return
        runtime = self._runtime
        pressure = runtime.pressure() if runtime is not None else None
        if pressure is None:
            pressure = await asyncio.to_thread(read_pressure, self._directory, limits=self._limits)
        addresses = [{"type": "Hostname", "address": self._name}]
        if self._cloud.local_address:
            addresses.insert(0, {"type": "InternalIP", "address": self._cloud.local_address})
        pods = runtime.max_pods if runtime is not None else 0
        fixed: dict[str, Any] = {
            "capacity": machine.capacity(pods=pods),
            "allocatable": machine.allocatable(pods=pods, limits=self._limits),
            "addresses": addresses,
            "nodeInfo": machine.node_info(self._program),
        }
        trouble = ""
        if runtime is not None:
            fixed["nodeInfo"] = machine.node_info(self._program, runtime=runtime.version)
            fixed["daemonEndpoints"] = {"kubeletEndpoint": {"Port": runtime.kubelet_port}}
            fixed["images"] = image_list(runtime.images())
            trouble = runtime.trouble
        self._status.set_fixed(fixed)
        found = conditions(pressure, trouble=trouble)
        self._status.set_conditions(found, time=self._now(fraction=False))
        self._note_changes(found)

    def _note_changes(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """An event for each condition that has turned, and for each at the start."""
        if self._note is None:
            return
        for kind, condition in found.items():
            if self._noted.get(kind) != condition["status"]:
                self._noted[kind] = condition["status"]
                reason = event_reason(kind, condition)
                self._note(reason, f"Node {self._name} status is now: {reason}")

    async def _register(self) -> None:
        labels = self._machine.labels(self._name) if self._machine is not None else {}
        node = {
            "metadata": {"name": self._name, "labels": {**labels, **self._labels}},
            "spec": {},
            "status": self._status.full(),
        }
        try:
            created = await self._ask(Operation.INSERT, ResourceName(NULL, ResourceType.NODE, self._name), node)
        except CloudRefused as error:
            if error.code != 409:
                raise
            self._log.debug("node is known to the cloud", node=self._name)
        else:
            self._learn_uid(created)
            self._log.info("node registered", node=self._name)
        self._registered = True

    async def _report(self) -> None:
        version = self._status.version
        patch = msgspec.json.encode(self._status.patch()).decode()
        resource = ResourceName(NULL, ResourceType.NODE_PATCH, self._name)
        try:
            node = await self._ask(Operation.PATCH, resource, patch)
        except CloudRefused as error:
            if error.code == 404:  # somebody deleted the node: it is made anew
                self._registered = False
                self._status.forget_acknowledged()
            raise
        self._learn_uid(node)
        self._status.acknowledged(version, self._clock.monotonic())

    async def _renew_lease(self) -> None:
        resource = ResourceName(LEASE_NAMESPACE, ResourceType.LEASE, self._name)
        if self._lease is None:
            try:
                self._lease = await self._ask(Operation.QUERY, resource, None)
            except CloudRefused as error:
                if error.code != 404:
                    raise
                self._lease = await self._ask(Operation.INSERT, resource, self._lease_object({}))
                return
        metadata = self._lease.get("metadata", {})
        try:
            self._lease = await self._ask(Operation.UPDATE, resource, self._lease_object(metadata))
        except CloudRefused:
            self._lease = None  # changed or deleted in the cloud: ask again
            raise

    def _lease_object(self, known: dict[str, Any]) -> dict[str, Any]:
        metadata: dict[str, Any] = {"name": self._name, "namespace": LEASE_NAMESPACE}
        for key in ("uid", "resourceVersion", "ownerReferences"):
            if known.get(key):
                metadata[key] = known[key]
        if self._uid:
            # Without an owner the lease of a deleted node would stay for ever.
            owner = {"apiVersion": "v1", "kind": "Node", "name": self._name, "uid": self._uid}
            metadata["ownerReferences"] = [owner]
        return {
            "kind": "Lease",
            "apiVersion": "coordination.k8s.io/v1",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._name,
                "leaseDurationSeconds": LEASE_SECONDS,
                "renewTime": self._now(fraction=True),
            },
        }

    async def _ask(self, operation: Operation, resource: ResourceName, content: Any) -> dict[str, Any]:
        """Ask for an ObjectResp; its object. Raises CloudRefused, or the link's TransientError."""
        request = Message.new(
            source=Source.EDGED, group=Group.META, operation=operation, resource=str(resource), content=content
        )
        answer = await self._cloud.request(request, REQUEST_TIMEOUT)
        try:
            value = answer.content_value()
        except WireError as error:
            raise CloudRefused(f"{operation} {resource}: the answer cannot be read: {error}", code=0) from None
        if answer.operation == Operation.ERROR:
            raise CloudRefused(f"{operation} {resource}: {value}", code=0)
        if not isinstance(value, dict):
            raise CloudRefused(f"{operation} {resource}: the answer holds no object", code=0)
        failed = parse_status_error(value.get("Err")) or parse_status_error(value)
        if failed is not None:
            raise CloudRefused(f"{operation} {resource}: {failed.message or failed.reason}", code=failed.code)
        found = value.get("Object")
        return found if isinstance(found, dict) else {}

    def _learn_uid(self, node: dict[str, Any]) -> None:
        metadata = node.get("metadata")
        if isinstance(metadata, dict) and isinstance(metadata.get("uid"), str):
            self._uid = metadata["uid"]

    def _now(self, *, fraction: bool) -> str:
        """RFC 3339 in UTC; metav1.MicroTime with six digits, metav1.Time without."""
        milliseconds = self._clock.wall_ms()
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
        return f"{text}.{milliseconds % 1000:03d}000Z" if fraction else f"{text}Z"


def event_reason(kind: str, condition: Mapping[str, Any]) -> str:
    """A kubelet's reason of the event about a condition: `NodeReady`, `NodeHasNoDiskPressure`."""
    if kind == "Ready":
        return "NodeReady" if condition["status"] == "True" else "NodeNotReady"
    return str(condition["reason"]).replace("Kubelet", "Node", 1)


def image_list(images: Sequence[Image]) -> list[dict[str, Any]]:
    """node.status.images: the biggest first."""
    biggest = sorted((image for image in images if image.names), key=lambda image: (-image.size, image.names))
    return [{"names": list(image.names[:NAMES_PER_IMAGE]), "sizeBytes": image.size} for image in biggest[:IMAGES]]
