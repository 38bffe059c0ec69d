"""A Lease per node names the replica that holds its session; the last to claim it wins."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cloudgateway.kube.errors import ApiError
from cloudgateway.kube.informers import Informers
from cloudgateway.kube.reflector import Reflector, Watched
from cloudgateway.kube.resources import GVR, LEASES
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.log import get_logger

NAMESPACE = "kubeedge"
PREFIX = "cloudgateway-session-"
ROLE = "edgeappliance.io/role"
STORE = "edgeappliance.io/store"
_ATTEMPTS = 8


class LeaseApi(Protocol):
    """The part of KubeClient that keeps leases."""

    async def get(self, gvr: GVR, namespace: str | None, name: str) -> Any: ...

    async def create(self, gvr: GVR, body: Mapping[str, Any], *, namespace: str | None = None) -> Any: ...

    async def update(self, gvr: GVR, body: Mapping[str, Any]) -> Any: ...


class SessionLeases:
    """Claims and releases, and tells when another replica has taken a node."""

    def __init__(self, *, api: LeaseApi, informers: Informers, replica: str) -> None:
        self._api = api
        self._informers = informers
        self._replica = replica
        self._claimed: dict[str, int] = {}
        self._mirror: Reflector | None = None
        self._log = get_logger("cloudhub")

    def watch(self, taken: Callable[[str], None]) -> None:
        """Call `taken` with each node that this replica held and another claims."""
        if self._mirror is not None:
            return

        def look(lease: dict[str, Any]) -> None:
            metadata = lease["metadata"]
            node = str(metadata["name"]).removeprefix(PREFIX)
            holder = (lease.get("spec") or {}).get("holderIdentity") or ""
            claimed = self._claimed.get(node)
            if claimed is None or holder in ("", self._replica):
                return
            # Events from before our own claim arrive late; versions of one object are ordered.
            if int(metadata.get("resourceVersion") or 0) > claimed:
                del self._claimed[node]
                taken(node)

        self._mirror = self._informers.of(Watched(LEASES, NAMESPACE, label_selector=f"{ROLE}=session"))
        self._mirror.subscribe(on_add=look, on_update=lambda _, new: look(new))

    async def claim(self, node: str, store: str) -> bool:
        """Name this replica as the node's holder. Whether the node's store is the one it had before.

        An edge of ours tells the identity of its store; a new one has nothing of what the records say.
        Raises ApplianceError.
        """
        backoff = Backoff(initial=0.01, maximum=0.5, jitter=0.5)
        for attempt in range(_ATTEMPTS):
            if attempt:  # the other writer's change may not be readable yet
                await asyncio.sleep(backoff.next_delay())
            lease = self._mirrored(node) if attempt == 0 else None
            if lease is None:
                lease = await self._read(node)
            annotations = {} if lease is None else dict(lease["metadata"].get("annotations") or {})
            before = annotations.get(STORE, "")
            if store:
                annotations[STORE] = store
            try:
                written = await self._write(node, lease, self._replica, annotations)
            except ApiError as error:
                if error.already_exists or error.conflict or error.not_found:
                    continue
                raise
            self._claimed[node] = int(written["metadata"].get("resourceVersion") or 0)
            return not store or before == store
        raise ApiError(code=409, reason="Conflict", message=f"lease of {node} is contended", status={})

    def _mirrored(self, node: str) -> dict[str, Any] | None:
        """The lease as it was a moment ago: half the requests of a fleet that reconnects. A newer one conflicts."""
        return None if self._mirror is None else self._mirror.get(NAMESPACE, PREFIX + node)

    async def _read(self, node: str) -> dict[str, Any] | None:
        try:
            return dict(await self._api.get(LEASES, NAMESPACE, PREFIX + node))
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def release(self, node: str) -> None:
        """Nobody holds the node, unless another has claimed it meanwhile. Raises ApplianceError."""
        if self._claimed.pop(node, None) is None:
            return
        try:
            lease = await self._api.get(LEASES, NAMESPACE, PREFIX + node)
            if (lease.get("spec") or {}).get("holderIdentity") == self._replica:
                await self._write(node, lease, "", dict(lease["metadata"].get("annotations") or {}))
        except ApiError as error:
            if not (error.not_found or error.conflict):
                raise

    async def _write(
        self, node: str, lease: dict[str, Any] | None, holder: str, annotations: dict[str, str]
    ) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "name": PREFIX + node,
            "namespace": NAMESPACE,
            "labels": {ROLE: "session"},
            "annotations": annotations,
        }
        body = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata,
            "spec": {"holderIdentity": holder} if holder else {},
        }
        if lease is None:
            written = await self._api.create(LEASES, body, namespace=NAMESPACE)
        else:
            metadata["resourceVersion"] = lease["metadata"]["resourceVersion"]
            written = await self._api.update(LEASES, body)
        return dict(written)
