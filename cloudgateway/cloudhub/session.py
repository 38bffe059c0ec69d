"""One node's session: its queue, what it sent and nobody has handled yet, when it was last heard."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from cloudgateway.cloudhub.connection import Connection
from cloudgateway.cloudhub.dispatch import Destination
from cloudgateway.cloudhub.queue import OURS, UPSTREAM, NodeQueue
from edgeappliance.kernel.clock import Clock
from edgeappliance.wire.message import Message

INBOX_MESSAGES = 256
INBOX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What controllers learn of a session. `resync` repeats an `up` because messages were turned away."""

    peer: str
    ours: bool
    resync: bool = False


class Switchboard(Protocol):
    """The hub as its sessions see it."""

    def received(self, session: "Session", payload: bytes) -> None: ...

    def ended(self, session: "Session") -> None: ...


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message on its way to a controller."""

    message: Message
    destination: Destination
    size: int


class Session:
    """State of one node's connection. A `connection.Link`."""

    __slots__ = (
        "_clock",
        "_hub",
        "connection",
        "draining",
        "ended",
        "heard_at",
        "inbox",
        "inbox_bytes",
        "node",
        "ours",
        "paused",
        "queue",
        "ready",
        "store",
        "troubled",
    )

    def __init__(
        self, node: str, connection: Connection, hub: Switchboard, *, ours: bool, store: str, clock: Clock
    ) -> None:
        self.node = node
        self.connection = connection
        self.ours = ours
        self.store = store
        self._hub = hub
        self._clock = clock
        self.queue = NodeQueue(OURS if ours else UPSTREAM, {})
        self.heard_at = clock.monotonic()
        self.inbox: deque[Incoming] = deque()
        self.inbox_bytes = 0
        self.draining = False
        self.paused = False
        self.ready = False
        self.ended = False
        self.troubled = False

    def received(self, payload: bytes) -> None:
        if not self.ended:
            self._hub.received(self, payload)

    def payloads(self) -> Iterator[bytes]:
        while (payload := self.queue.next_payload(self._clock.monotonic())) is not None:
            yield payload

    def writable(self) -> None:
        self.queue.postpone(self._clock.monotonic())

    def lost(self) -> None:
        self._hub.ended(self)

    def accept(self, incoming: Incoming) -> None:
        """Put a message in the inbox; a node that sends faster than it is served is no longer read."""
        self.inbox.append(incoming)
        self.inbox_bytes += incoming.size
        if not self.paused and (len(self.inbox) > INBOX_MESSAGES or self.inbox_bytes > INBOX_BYTES):
            self.paused = True
            self.connection.pause_reading()

    def take(self) -> Incoming | None:
        """The next message for a controller."""
        if not self.inbox:
            return None
        incoming = self.inbox.popleft()
        self.inbox_bytes -= incoming.size
        if self.paused and len(self.inbox) <= INBOX_MESSAGES // 2 and self.inbox_bytes <= INBOX_BYTES // 2:
            self.paused = False
            self.heard_at = self._clock.monotonic()  # its keepalives may still be in the socket
            self.connection.resume_reading()
        return incoming
