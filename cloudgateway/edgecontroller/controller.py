"""edgecontroller: the component that joins both directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from cloudgateway.cloudstream.endpoint import Endpoint
from cloudgateway.edgecontroller.downstream import Downstream
from cloudgateway.edgecontroller.lanes import Lanes
from cloudgateway.edgecontroller.upstream import Upstream
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.informers import Informers, Spawner
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.log import get_logger
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.message import Message
from edgeappliance.wire.resource import ResourceName, strip_node

__all__ = ["EdgeController", "Hub"]

_log = get_logger("edgecontroller")


class Hub(Protocol):
    """What this controller needs of cloudhub."""

    def connected(self, node: str) -> bool:
        """Whether this gateway holds the node's session."""
        ...

    def push(self, node: str, message: Message) -> None:
        """Queues a message (its resource without the node prefix)."""
        ...

    def on_session(self, callback: Callable[[str, bool, Any], None]) -> None:
        """Has `callback(node, up, info)` called when a session begins or ends."""
        ...


class EdgeController:
    """Nodes, pods, config maps and secrets, for the nodes whose session this gateway holds."""

    def __init__(
        self,
        client: KubeClient,
        informers: Informers,
        hub: Hub,
        scope: Spawner,
        *,
        address: str,
        endpoint: Callable[[str], Endpoint | None] = lambda node: None,
    ) -> None:
        """`address` is how the nodes' ``cloudcore`` annotation names this gateway.

        `endpoint`: where an API server reaches a node's kubelet, when that is not the node itself.
        """
        self._hub = hub
        self._scope = scope
        self._downstream = Downstream(client, informers, hub, address=address)
        self._upstream = Upstream(client, address=address, endpoint=endpoint)
        self._lanes = Lanes(scope)
        self._running = False
        hub.on_session(self._session)

    async def start(self) -> None:
        self._running = True
        self._downstream.start(self._scope)

    async def stop(self) -> None:
        self._running = False
        self._downstream.stop()
        self._lanes.clear()

    def health(self) -> Health:
        if not self._running:
            return Health(State.STOPPED)
        details = {"requests": self._lanes.load}
        for mirror in self._downstream.mirrors:
            if mirror.last_error:
                return Health(State.DEGRADED, mirror.last_error, details=details)
        if not all(mirror.synced for mirror in self._downstream.mirrors):
            return Health(State.STARTING, "reading nodes and pods", details=details)
        return Health(State.RUNNING, details=details)

    async def handle(self, node: str, message: Message) -> None:
        """A request of a node. Waits only while that node has too many under way; answers are pushed later."""
        try:
            resource = ResourceName.parse(strip_node(message.resource))
        except WireError as error:
            _log.warning("malformed request", node=node, resource=message.resource, error=str(error))
            self._hub.push(node, message.error(str(error)))
            return

        async def answer() -> None:
            try:
                answers = await self._upstream.answer(node, message, resource)
            except Exception as error:  # noqa: BLE001 - one node's request must not end the work for the others
                _log.error("request failed", node=node, resource=message.resource, error=error, exc_info=error)
                answers = [message.error(f"{type(error).__name__}: {error}")]
            for pushed in answers:
                self._hub.push(node, pushed)

        await self._lanes.submit(node, str(resource), answer)

    def _session(self, node: str, up: bool, info: Any) -> None:
        del info
        if up and self._running:
            self._downstream.session_up(node)
