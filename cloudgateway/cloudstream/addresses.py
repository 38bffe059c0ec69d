"""Writes into each node's status that its kubelet is reached through the gateway that holds its tunnel.

A component, for a real cluster: its API server dials the address and port that a node's status names. With two
gateways the one to which the edge has dialled last wins; the other drops what it still takes for a tunnel.
"""

from collections.abc import Callable
from typing import Any

from cloudgateway.cloudstream.cloudstream import CloudStream, NodeTunnel
from cloudgateway.cloudstream.endpoint import NODE_IP, TUNNEL, Endpoint
from cloudgateway.kube.client import KubeClient, PatchType
from cloudgateway.kube.errors import ApiError
from cloudgateway.kube.informers import Informers, Spawner
from cloudgateway.kube.reflector import Reflector, Watched
from cloudgateway.kube.resources import NODES
from cloudgateway.kube.workqueue import WorkQueue
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.errors import TransientError
from edgeappliance.kernel.log import get_logger


class NodeAddresses:
    """Keeps the nodes' kubelet addresses. `here`: where an API server reaches this gateway, None until known."""

    def __init__(
        self,
        client: KubeClient,
        informers: Informers,
        tunnels: CloudStream,
        *,
        here: Callable[[], Endpoint | None],
        tasks: Spawner,
    ) -> None:
        self._client = client
        self._informers = informers
        self._tunnels = tunnels
        self._here = here
        self._tasks = tasks
        self._claimed: dict[str, int] = {}
        self._claims = WorkQueue[str]("node-addresses", self._claim, workers=4)
        self._nodes: Reflector | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._log = get_logger("cloudstream")
        tunnels.on_tunnel(self._tunnel)

    def endpoint(self, node: str) -> Endpoint | None:
        """Where the node's status must lead: here, or to the other gateway that holds its tunnel."""
        if self._tunnels.tunnel(node) is not None:
            return self._here()
        known = None if self._nodes is None else self._nodes.get("", node)
        return None if known is None else Endpoint.parse(_annotation(known, TUNNEL))

    # -- component ----------------------------------------------------------------------------------------

    async def start(self) -> None:
        self._claims.start(self._tasks)
        self._nodes = self._informers.of(Watched(NODES))
        self._unsubscribe = self._nodes.subscribe(on_add=self._look, on_update=lambda _, new: self._look(new))
        for node in self._tunnels.nodes():
            self._claims.add(node)

    async def stop(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        self._claims.stop()

    def health(self) -> Health:
        failing = self._claims.failing
        if failing:
            return Health(
                State.DEGRADED,
                f"{failing} nodes' addresses cannot be written: kubectl logs and exec do not reach them",
                "see the log; the gateway needs the right to patch nodes and nodes/status",
            )
        return Health(State.RUNNING, details={"claimed": len(self._claimed)})

    # -- inside -------------------------------------------------------------------------------------------

    def _tunnel(self, node: str, tunnel: NodeTunnel | None) -> None:
        self._claimed.pop(node, None)
        if tunnel is not None and self._unsubscribe is not None:
            self._claims.add(node)

    def _look(self, node: dict[str, Any]) -> None:
        """A node appeared or changed."""
        name = str(node["metadata"]["name"])
        here = self._here()
        if self._tunnels.tunnel(name) is None or here is None:
            return
        holder = _annotation(node, TUNNEL)
        if holder in ("", str(here)):
            if not holder or not here.named_by(node):
                self._claims.add(name)
            return
        claimed = self._claimed.get(name)
        # Events from before our own claim arrive late; versions of one object are ordered.
        if claimed is not None and int(node["metadata"].get("resourceVersion") or 0) > claimed:
            self._log.info("another gateway has the node's tunnel", node=name, holder=holder)
            self._tunnels.drop(name, "another gateway has the node's tunnel")

    async def _claim(self, node: str) -> None:
        tunnel, here = self._tunnels.tunnel(node), self._here()
        if tunnel is None:
            return
        if here is None:
            raise TransientError("the stream port does not listen yet")
        known = None if self._nodes is None else self._nodes.get("", node)
        if known is not None and here.named_by(known) and _annotations(known) == (str(here), tunnel.address):
            # A fleet that reconnects would cause a write for each of its nodes.
            self._claimed[node] = int(known["metadata"].get("resourceVersion") or 0)
            return
        annotations = {TUNNEL: str(here), **({NODE_IP: tunnel.address} if tunnel.address else {})}
        try:
            written = await self._client.patch(NODES, None, node, {"metadata": {"annotations": annotations}})
            self._claimed[node] = int(written["metadata"].get("resourceVersion") or 0)
            if not here.named_by(written):
                await self._client.patch(
                    NODES, None, node, {"status": here.status()}, content_type=PatchType.STRATEGIC, subresource="status"
                )
        except ApiError as error:
            if not error.not_found:  # not registered yet: its creation is seen
                raise


def _annotations(node: dict[str, Any]) -> tuple[str, str]:
    return _annotation(node, TUNNEL), _annotation(node, NODE_IP)


def _annotation(node: dict[str, Any], name: str) -> str:
    return str((node["metadata"].get("annotations") or {}).get(name) or "")
