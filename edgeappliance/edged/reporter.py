"""Tells the cloud how the pods are (reference 1.4 B, C): the newest of each that it does not have, until it has it."""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from edgeappliance.edged.pods.status import patch
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.errors import ApplianceError, TransientError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.kube import Status, parse_status_error
from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import Group, Operation, ResourceType, Source
from edgeappliance.wire.resource import ResourceName

REQUEST_TIMEOUT = 20.0
PARALLEL = 16
"""Pods that are reported at the same time."""

MIRROR = "kubernetes.io/config.mirror"
"""Annotation of the object that stands for a static pod in the cloud: the hash of what it mirrors."""


class Cloud(Protocol):
    """What the reporter needs of edgehub."""

    @property
    def connected(self) -> bool: ...

    async def request(self, message: Message, timeout: float) -> Message: ...

    def on_connection(self, callback: Callable[[bool], None]) -> None: ...


@dataclass(slots=True)
class _Entry:
    """One pod: what is to be said and what the cloud has. `mirror` is the object to create for a static pod, cloud_uid
    the uid that it has there. ended: a static pod that is no more; its mirror has to go."""

    namespace: str
    name: str
    uid: str
    status: dict[str, Any] = field(default_factory=dict)
    acked: dict[str, Any] | None = None
    version: int = 1
    acked_version: int = 0
    delete: bool = False
    mirror: dict[str, Any] | None = None
    cloud_uid: str = ""
    ended: bool = False
    task: asyncio.Task[None] | None = None
    again: asyncio.Event = field(default_factory=asyncio.Event)
    retry: Backoff = field(default_factory=lambda: Backoff(initial=1.0, maximum=30.0))

    @property
    def due(self) -> bool:
        return self.delete or self.acked_version < self.version or (self.mirror is not None and not self.cloud_uid)


class StatusReporter:
    """Statuses that the cloud does not have, deletions that it must confirm, mirror pods that it must hold."""

    def __init__(self, scope: TaskScope, *, cloud: Cloud) -> None:
        self._scope = scope
        self._cloud = cloud
        self._entries: dict[str, _Entry] = {}
        self._slots = asyncio.Semaphore(PARALLEL)
        self._log = get_logger("edged")
        cloud.on_connection(self._link_changed)

    @property
    def waiting(self) -> int:
        """Pods whose newest status the cloud does not have."""
        return sum(entry.due for entry in self._entries.values())

    def report(self, uid: str, namespace: str, name: str, status: dict[str, Any]) -> None:
        """The newest status of a pod."""
        entry = self._entry(uid, namespace, name)
        if entry.status != status:
            entry.status = status
            entry.version += 1
            self._work(entry)

    def mirror(self, uid: str, pod: dict[str, Any]) -> None:
        """A static pod: `pod` is the object that stands for it in the cloud."""
        entry = self._entry(uid, pod["metadata"]["namespace"], pod["metadata"]["name"])
        if entry.mirror != pod or entry.ended:
            entry.mirror = pod
            entry.cloud_uid = ""
            entry.ended = entry.delete = False
            self._work(entry)

    def mirror_seen(self, uid: str, cloud_uid: str) -> None:
        """The cloud holds the mirror of the static pod `uid` under `cloud_uid`."""
        entry = self._entries.get(uid)
        if entry is not None and entry.cloud_uid != cloud_uid:
            self._mirror_is(entry, cloud_uid)

    def mirror_gone(self, uid: str, cloud_uid: str) -> None:
        """A mirror of the static pod `uid` was deleted in the cloud ("": whichever it was): it is made anew."""
        entry = self._entries.get(uid)
        if entry is not None and (cloud_uid in ("", entry.cloud_uid) or not entry.cloud_uid):
            self._mirror_is(entry, "")

    def _mirror_is(self, entry: _Entry, cloud_uid: str) -> None:
        entry.cloud_uid = cloud_uid
        entry.acked = None
        entry.acked_version = 0
        self._work(entry)

    def end(self, uid: str) -> None:
        """A static pod is no more: its mirror goes, after its last status."""
        entry = self._entries.get(uid)
        if entry is not None:
            entry.ended = entry.delete = True
            self._work(entry)

    def delete(self, uid: str, namespace: str, name: str) -> None:
        """Everything of the pod has ended here: the cloud may delete it. Its last status goes first."""
        entry = self._entry(uid, namespace, name)
        entry.delete = True
        self._work(entry)

    def forget(self, uid: str) -> None:
        """The pod is gone from the API."""
        entry = self._entries.pop(uid, None)
        if entry is not None:
            entry.again.set()

    def forget_all_but(self, known: Collection[str]) -> None:
        """What went from the API while nobody listened; what the cloud was to delete for us is still to be deleted."""
        for uid in [uid for uid, entry in self._entries.items() if uid not in known and not entry.delete]:
            self.forget(uid)

    def _entry(self, uid: str, namespace: str, name: str) -> _Entry:
        entry = self._entries.get(uid)
        if entry is None:
            entry = self._entries[uid] = _Entry(namespace, name, uid)
            entry.version = 0
        return entry

    def _link_changed(self, connected: bool) -> None:
        if not connected:
            return
        for entry in list(self._entries.values()):
            # A new link, perhaps to another cloud: it is told everything.
            entry.acked = None
            entry.acked_version = 0
            entry.retry.reset()
            self._work(entry)

    def _work(self, entry: _Entry) -> None:
        if not self._cloud.connected or not entry.due:
            return
        if entry.task is None or entry.task.done():
            entry.task = self._scope.spawn(self._send(entry), name=f"report {entry.namespace}/{entry.name}")
        else:
            entry.again.set()

    async def _send(self, entry: _Entry) -> None:
        while self._cloud.connected and self._entries.get(entry.uid) is entry and entry.due:
            entry.again.clear()
            try:
                async with self._slots:
                    await self._step(entry)
            except (ApplianceError, WireError) as error:
                if self._cloud.connected:
                    self._log.warning("pod not reported", pod=f"{entry.namespace}/{entry.name}", reason=str(error))
                    await self._pause(entry)
                continue
            entry.retry.reset()

    async def _pause(self, entry: _Entry) -> None:
        """Until it is tried again: for a while, or until there is news."""
        try:
            async with asyncio.timeout(entry.retry.next_delay()):
                await entry.again.wait()
        except TimeoutError:
            return

    async def _step(self, entry: _Entry) -> None:
        """Say the next thing."""
        if entry.mirror is not None and not entry.cloud_uid and not entry.ended:
            await self._create_mirror(entry, entry.mirror)
        elif entry.acked_version < entry.version and (entry.cloud_uid or not entry.ended):
            await self._patch(entry)
        elif entry.delete:
            if entry.cloud_uid or not entry.ended:
                await self._delete(entry, entry.cloud_uid or entry.uid)
            if entry.ended or not entry.version:  # nothing else is known of it
                self._entries.pop(entry.uid, None)
            entry.delete = False
        else:
            self._entries.pop(entry.uid, None)  # of a static pod that has ended, and of which the cloud has nothing

    async def _delete(self, entry: _Entry, uid: str) -> None:
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        await self._ask(Operation.DELETE, ResourceType.POD, entry, options)

    async def _patch(self, entry: _Entry) -> None:
        version, status = entry.version, entry.status
        content = patch(entry.acked, status, uid=entry.cloud_uid or entry.uid)
        refused = await self._ask(Operation.PATCH, ResourceType.POD_PATCH, entry, msgspec.json.encode(content).decode())
        if refused is not None and entry.mirror is not None:
            entry.cloud_uid = ""  # it is another one by now, or none
            raise TransientError(refused.message or refused.reason)
        # Not found, or another pod of that name: the cloud tells us in its own time that this one is gone.
        entry.acked, entry.acked_version = status, version

    async def _create_mirror(self, entry: _Entry, content: dict[str, Any]) -> None:
        request = self._message(Operation.INSERT, ResourceType.POD, entry, content)
        value = _value(await self._cloud.request(request, REQUEST_TIMEOUT))
        failed = parse_status_error(value.get("Err")) if isinstance(value, dict) else None
        if failed is not None and failed.code == 409:
            await self._meet_mirror(entry, str(content["metadata"]["annotations"][MIRROR]))
            return
        if failed is not None:
            raise TransientError(f"mirror pod {entry.namespace}/{entry.name}: {failed.message or failed.reason}")
        uid = _metadata(value).get("uid")
        if isinstance(uid, str):
            entry.cloud_uid = uid

    async def _meet_mirror(self, entry: _Entry, hash: str) -> None:
        """A pod of the mirror's name is there already. The answer to a patch that changes nothing shows which."""
        content = msgspec.json.encode({"metadata": {}, "status": {}}).decode()
        request = self._message(Operation.PATCH, ResourceType.POD_PATCH, entry, content)
        metadata = _metadata(_value(await self._cloud.request(request, REQUEST_TIMEOUT)))
        uid = metadata.get("uid")
        if not isinstance(uid, str):
            raise TransientError("the mirror of a static pod is there and cannot be seen")
        mirrored = (metadata.get("annotations") or {}).get(MIRROR)
        if mirrored == hash and not metadata.get("deletionTimestamp"):
            entry.cloud_uid = uid
        elif mirrored:
            await self._delete(entry, uid)
        else:
            raise TransientError("another pod has the name of the mirror of a static pod")

    async def _ask(self, operation: Operation, kind: ResourceType, entry: _Entry, content: Any) -> Status | None:
        """None when it was done; the API's refusal when the object is not there (404, 409). Raises ApplianceError."""
        request = self._message(operation, kind, entry, content)
        answer = await self._cloud.request(request, REQUEST_TIMEOUT)
        value = _value(answer)
        if answer.operation == Operation.ERROR:
            raise TransientError(f"{operation} {request.resource}: {value}")
        failed = parse_status_error(value)
        if failed is None and isinstance(value, dict):
            failed = parse_status_error(value.get("Err"))
        if failed is not None and failed.code not in (404, 409):
            raise TransientError(f"{operation} {request.resource}: {failed.message or failed.reason}")
        return failed

    def _message(self, operation: Operation, kind: ResourceType, entry: _Entry, content: Any) -> Message:
        return Message.new(
            source=Source.EDGED,
            group=Group.META,
            operation=operation,
            resource=str(ResourceName(entry.namespace, kind, entry.name)),
            content=content,
        )


def _value(answer: Message) -> Any:
    try:
        return answer.content_value()
    except WireError as error:
        raise TransientError(f"the answer cannot be read: {error}") from None


def _metadata(value: Any) -> dict[str, Any]:
    """Of the object in an answer; {} when there is none."""
    found = value.get("Object") if isinstance(value, dict) else None
    metadata = found.get("metadata") if isinstance(found, dict) else None
    return metadata if isinstance(metadata, dict) else {}
