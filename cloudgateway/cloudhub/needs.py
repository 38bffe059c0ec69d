"""What cloudhub needs of others, and what the operator decides."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cloudgateway.cloudhub.authorization import Relations
from cloudgateway.cloudhub.queue import Record
from cloudgateway.onboarding.credentials import Credentials
from edgeappliance.wire.message import Message


class Upstream(Protocol):
    """A controller as the hub sees it.

    Called for each of its messages, in the order in which the node sent them, the next when it has returned;
    `message.resource` is as on the socket, without the node. Answers go through `CloudHub.push`.
    """

    async def handle(self, node: str, message: Message) -> None: ...


class ClusterView(Relations, Protocol):
    """Relations that are read from somewhere first."""

    async def wait_synced(self) -> None:
        """Return when the answers are true; before, a node would be refused what is its own."""
        ...


class Records(Protocol):
    """ObjectSync records, in memory."""

    async def wait_synced(self) -> None: ...

    def versions(self, node: str) -> dict[str, int]: ...

    def note(self, node: str, record: Record) -> None: ...


class Leases(Protocol):
    """Which replica holds which node."""

    def watch(self, taken: Callable[[str], None]) -> None: ...

    async def claim(self, node: str, store: str) -> bool: ...

    async def release(self, node: str) -> None: ...


class CredentialSource(Protocol):
    """Where the server certificate comes from."""

    async def wait(self) -> Credentials: ...


@dataclass(frozen=True, slots=True)
class HubSettings:
    """The operator's choices. `keepalive` is the silence in seconds after which a session ends.

    `queue_bytes` is what may wait for all nodes together.
    """

    host: str
    port: int
    node_limit: int
    keepalive: float = 30.0
    authorize: bool = True
    queue_bytes: int = 512 * 1024 * 1024
