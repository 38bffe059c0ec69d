"""metamanager: the node's copy of what the cloud wants, and the road for questions to the cloud
(reference 1.4, 2.8)."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec

from edgeappliance.kernel.clock import Clock, SystemClock
from edgeappliance.kernel.component import Condition, Health, State
from edgeappliance.kernel.errors import ApplianceError, PermanentError, TransientError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.metamanager.objects import (
    Action,
    Change,
    Instruction,
    is_remote,
    is_token,
    metadata_text,
    understand,
)
from edgeappliance.store.meta import MetaRow, MetaStore
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.kube import Status, parse_status_error
from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import KUBE_CA, OK, Group, Operation, Source

QUERY_TIMEOUT = 60.0
"""Seconds that the cloud has for a query (reference 1.4 E, remoteQueryTimeout)."""

MAX_BATCH = 64
"""Messages that are written in one commit at most."""

MAX_WAITING = 256

Subscriber = Callable[[Change], Awaitable[None]]


class Cloud(Protocol):
    """What metamanager needs of edgehub."""

    @property
    def connected(self) -> bool: ...

    def send(self, message: Message) -> bool: ...

    async def request(self, message: Message, timeout: float, *, acknowledge: bool = True) -> Message: ...


class NotFound(PermanentError):
    """Neither this node nor the cloud knows the object."""


class CloudError(TransientError):
    """The cloud answered a query with an error. `status` is the Kubernetes status when it sent one."""

    def __init__(self, message: str, *, status: Status | None = None) -> None:
        super().__init__(message)
        self.status = status


class MetaManager:
    """Takes group `resource` from the link: stores durably, acknowledges, then tells subscribers, in order.

    What could not be stored is answered with operation `error`: the cloud sends it again.
    """

    def __init__(self, scope: TaskScope, *, store: MetaStore, cloud: Cloud, clock: Clock | None = None) -> None:
        self._scope = scope
        self._store = store
        self._cloud = cloud
        self._subscribers: dict[str, list[Subscriber]] = {}
        self._waiting: asyncio.Queue[Message] = asyncio.Queue(MAX_WAITING)
        self._condition = Condition(clock or SystemClock())
        self._stored = 0
        self._log = get_logger("metamanager")

    # -- for the other components -------------------------------------------------------------------------

    def subscribe(self, resource_type: str, callback: Subscriber) -> None:
        """Call `callback` for every change of objects of this type, after it is on the disk.

        One call at a time, in the order of arrival. Each change is told at least once: after a failure or a
        restart ask `objects` for the state.
        """
        self._subscribers.setdefault(resource_type, []).append(callback)

    async def objects(self, resource_type: str) -> list[dict[str, Any]]:
        """All stored objects of a type, ordered by resource name. Works without a link."""
        found = []
        for row in await self._store.list(resource_type):
            value = msgspec.json.decode(row.value)
            if isinstance(value, dict):
                found.append(value)
        return found

    async def query(
        self, resource: str, *, source: str = Source.EDGED, content: Any = None, timeout: float = QUERY_TIMEOUT
    ) -> Any:
        """The object `resource` (`<ns>/<type>/<name>`, or `k8s/ca.crt`): from here, else from the cloud.

        What the cloud answers is stored and acknowledged before it is returned; a token of a service account is not
        stored, because the name says neither for whom it is nor how long. Raises NotFound, CloudError,
        and the link's TransientError for a remote type that is not here while there is no answer.
        """
        row = await self._store.get(resource) if not is_token(resource) else None
        # The cluster's CA may change under its name; everything else is pushed when it does.
        if row is not None and (resource != KUBE_CA or not self._cloud.connected):
            return msgspec.json.decode(row.value)
        if not is_remote(resource):
            raise NotFound(f"{resource} is not on this node")
        request = Message.new(
            source=Source.METAMANAGER if resource == KUBE_CA else source,
            group=Group.META,
            operation=Operation.QUERY,
            resource=resource,
            content=content,
        )
        return await self._ask(request, timeout)

    async def _ask(self, request: Message, timeout: float) -> Any:
        answer = await self._cloud.request(request, timeout, acknowledge=False)
        try:
            value = answer.content_value()
        except WireError as unreadable:
            raise CloudError(f"query {request.resource}: the answer cannot be read: {unreadable}") from None
        if answer.operation == Operation.ERROR:
            raise CloudError(f"query {request.resource}: {value}")
        error = value
        if isinstance(value, dict) and "Object" in value and "Err" in value:
            error, value = value["Err"], value["Object"]
        failed = parse_status_error(error)
        if failed is None and not answer.is_ok and not is_token(request.resource):
            await self._store.put(_row(answer, value))
        if not answer.is_ok:
            self._cloud.send(answer.reply(OK))
        if failed is not None:
            text = f"query {request.resource}: {failed.message or failed.reason}"
            raise NotFound(text) if failed.code == 404 else CloudError(text, status=failed)
        return value

    # -- component ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._scope.spawn(self._work(), name="store")
        self._condition.set(State.RUNNING)

    async def stop(self) -> None:
        await self._scope.cancel()
        self._condition.set(State.STOPPED)

    def health(self) -> Health:
        return self._condition.health({"objects_stored_total": self._stored, "waiting": self._waiting.qsize()})

    # -- downstream ---------------------------------------------------------------------------------------

    async def receive(self, message: Message) -> None:
        """Receiver of group `resource`; returns when the message has its place in the queue."""
        await self._waiting.put(message)

    async def _work(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < MAX_BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            await self._take(batch)

    async def _take(self, batch: Sequence[Message]) -> None:
        """Write a batch with one commit, then acknowledge and tell in order of arrival."""
        understood: list[tuple[Message, Instruction]] = []
        for message in batch:
            try:
                instruction = understand(message)
            except WireError as error:
                self._refuse(message, str(error))
                continue
            if instruction is None:
                # KubeEdge gives an unknown operation neither an acknowledgement nor an error (reference 2.8).
                self._log.debug("operation ignored", operation=message.operation, resource=message.resource)
                continue
            understood.append((message, instruction))
        # Started in order, the writes stay in order and share a commit.
        outcomes = await asyncio.gather(
            *(self._write(instruction) for _, instruction in understood), return_exceptions=True
        )
        for (message, instruction), outcome in zip(understood, outcomes, strict=True):
            if isinstance(outcome, ApplianceError):
                self._condition.degrade(outcome)
                self._refuse(message, outcome.message)
                continue
            if isinstance(outcome, BaseException):
                raise outcome
            self._condition.set(State.RUNNING)
            self._stored += 1
            self._cloud.send(message.reply(OK))
            if outcome:
                await self._tell(message, instruction)

    async def _write(self, instruction: Instruction) -> bool:
        """Bring the store to what the cloud wants; False when a delete meant another object of that name."""
        if instruction.action is Action.DELETE:
            return await self._store.delete(instruction.key, uid=instruction.uid)
        await self._store.put(
            MetaRow(
                key=instruction.key,
                type=instruction.type,
                value=instruction.text,
                uid=instruction.uid,
                resource_version=instruction.resource_version,
            )
        )
        return True

    async def _tell(self, message: Message, instruction: Instruction) -> None:
        if instruction.resource is None:
            return
        change = Change(message.operation, instruction.resource, instruction.value)
        for subscriber in self._subscribers.get(instruction.type, ()):
            try:
                await subscriber(change)
            except Exception as error:  # noqa: BLE001 - it is stored; one receiver's fault is its own
                self._log.error("subscriber failed", resource=message.resource, error=error, exc_info=error)

    def _refuse(self, message: Message, reason: str) -> None:
        self._log.warning("message not stored", resource=message.resource, reason=reason)
        self._cloud.send(message.error(reason))


def _row(answer: Message, value: Any) -> MetaRow:
    parts = answer.resource.split("/")
    obj = value if isinstance(value, dict) else None
    return MetaRow(
        key=answer.resource,
        type=parts[1] if len(parts) == 3 else "",
        value=msgspec.json.encode(value),
        uid=metadata_text(obj, "uid"),
        resource_version=answer.resource_version or metadata_text(obj, "resourceVersion"),
    )
