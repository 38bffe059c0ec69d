"""Tells the cloud how the pods are (reference 1.4 B, C): the newest of each that it does not have, until it has it."""

import asyncio
from collections.abc import Callable
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


class Cloud(Protocol):
    """What the reporter needs of edgehub."""

    @property
    def connected(self) -> bool: ...

    async def request(self, message: Message, timeout: float) -> Message: ...

    def on_connection(self, callback: Callable[[bool], None]) -> None: ...


@dataclass(slots=True)
class _Entry:
    """One pod: what is to be said and what the cloud has. `mirror` is the object to create for a static pod."""

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
    working: bool = False
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
        if entry.mirror != pod:
            entry.mirror = pod
            entry.cloud_uid = ""
            self._work(entry)

    def mirror_seen(self, uid: str, cloud_uid: str) -> None:
        """The cloud holds the mirror of the static pod `uid` under `cloud_uid`; "" when it was deleted there."""
        entry = self._entries.get(uid)
        if entry is not None and entry.cloud_uid != cloud_uid:
            entry.cloud_uid = cloud_uid
            entry.acked = None
            entry.acked_version = 0
            self._work(entry)

    def delete(self, uid: str, namespace: str, name: str) -> None:
        """Everything of the pod has ended here: the cloud may delete it. Its last status goes first."""
        entry = self._entry(uid, namespace, name)
        entry.delete = True
        self._work(entry)

    def forget(self, uid: str) -> None:
        """The pod is gone from the API."""
        self._entries.pop(uid, None)

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
        if not entry.working and self._cloud.connected and entry.due:
            entry.working = True
            self._scope.spawn(self._send(entry), name=f"report {entry.namespace}/{entry.name}")

    async def _send(self, entry: _Entry) -> None:
        try:
            while self._cloud.connected and self._entries.get(entry.uid) is entry and entry.due:
                try:
                    async with self._slots:
                        done = await self._step(entry)
                except (ApplianceError, WireError) as error:
                    if self._cloud.connected:
                        self._log.warning("pod not reported", pod=f"{entry.namespace}/{entry.name}", reason=str(error))
                        await asyncio.sleep(entry.retry.next_delay())
                    continue
                entry.retry.reset()
                if done:
                    return
        finally:
            entry.working = False

    async def _step(self, entry: _Entry) -> bool:
        """Say the next thing; True when nothing is left that could be said."""
        if entry.mirror is not None and not entry.cloud_uid:
            await self._create_mirror(entry)
            return not entry.cloud_uid
        if entry.acked_version < entry.version:
            await self._patch(entry)
            return False
        if entry.delete:
            await self._ask(
                Operation.DELETE,
                ResourceType.POD,
                entry,
                {"gracePeriodSeconds": 0, "preconditions": {"uid": entry.cloud_uid or entry.uid}},
            )
            entry.delete = False
        return True

    async def _patch(self, entry: _Entry) -> None:
        version, status = entry.version, entry.status
        content = patch(entry.acked, status, uid=entry.cloud_uid or entry.uid)
        refused = await self._ask(Operation.PATCH, ResourceType.POD_PATCH, entry, msgspec.json.encode(content).decode())
        if refused is not None and refused.code == 404 and entry.mirror is not None:
            entry.cloud_uid = ""
            return
        # Not found, or another pod of that name: the cloud tells us in its own time that this one is gone.
        entry.acked, entry.acked_version = status, version

    async def _create_mirror(self, entry: _Entry) -> None:
        request = self._message(Operation.INSERT, ResourceType.POD, entry, entry.mirror)
        value = _value(await self._cloud.request(request, REQUEST_TIMEOUT))
        failed = parse_status_error(value.get("Err")) if isinstance(value, dict) else None
        if failed is not None:
            if failed.code == 409:
                self._log.debug("mirror pod is there already", pod=entry.name)  # it is pushed to us with its uid
                await asyncio.sleep(entry.retry.next_delay())
                return
            raise TransientError(f"mirror pod {entry.namespace}/{entry.name}: {failed.message or failed.reason}")
        found = value.get("Object") if isinstance(value, dict) else None
        metadata = found.get("metadata") if isinstance(found, dict) else None
        uid = metadata.get("uid") if isinstance(metadata, dict) else None
        if isinstance(uid, str):
            entry.cloud_uid = uid

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
