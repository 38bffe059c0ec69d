"""What edges ask of the Kubernetes API, asked in their name (KubeEdge reference 1.4 B-F)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from cloudgateway.cloudstream.endpoint import Endpoint, redirected
from cloudgateway.edgecontroller import replies
from cloudgateway.edgecontroller.deprecated import pod_statuses, replace_node_status
from cloudgateway.kube.client import KubeClient, KubeObject, PatchType
from cloudgateway.kube.errors import ApiError
from cloudgateway.kube.reflector import slim
from cloudgateway.kube.resources import (
    CERTIFICATE_SIGNING_REQUESTS,
    CONFIGMAPS,
    EVENTS,
    GVR,
    LEASES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PERSISTENT_VOLUMES,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
    VOLUME_ATTACHMENTS,
)
from edgeappliance.kernel.errors import ApplianceError
from edgeappliance.kernel.log import get_logger
from edgeappliance.wire import gojson
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import Operation, ResourceType
from edgeappliance.wire.resource import ResourceName

__all__ = ["CLOUDCORE", "Upstream", "split_labels"]

_log = get_logger("edgecontroller.upstream")

CLOUDCORE = "cloudcore"
"""Annotation of a node: the address of the gateway that holds its session."""

_READ: dict[str, GVR] = {
    ResourceType.CONFIGMAP: CONFIGMAPS,
    ResourceType.SECRET: SECRETS,
    ResourceType.PERSISTENT_VOLUME: PERSISTENT_VOLUMES,
    ResourceType.PERSISTENT_VOLUME_CLAIM: PERSISTENT_VOLUME_CLAIMS,
    ResourceType.VOLUME_ATTACHMENT: VOLUME_ATTACHMENTS,
    ResourceType.CSR: CERTIFICATE_SIGNING_REQUESTS,
    ResourceType.NODE: NODES,
    ResourceType.POD: PODS,
}

Handler = Callable[[ResourceName, Message], Awaitable[Message | list[Message]]]


class Upstream:
    """One call per request; gives what to push: the answer first, nothing where none is due."""

    def __init__(
        self, client: KubeClient, *, address: str, endpoint: Callable[[str], Endpoint | None] = lambda node: None
    ) -> None:
        """`address` is this gateway's own, for the nodes' ``cloudcore`` annotation.

        `endpoint`: where an API server reaches the kubelet of a node, when that is not the node itself.
        """
        self._client = client
        self._address = address
        self._endpoint = endpoint
        insert, update, query = Operation.INSERT, Operation.UPDATE, Operation.QUERY
        patch, delete = Operation.PATCH, Operation.DELETE
        kind = ResourceType
        # (type, operation) -> handler, whether its failures travel in an ObjectResp
        self._handlers: dict[tuple[str, str], tuple[Handler, bool]] = {
            (kind.NODE, insert): (self._register_node, True),
            (kind.NODE, update): (self._update_node, False),
            (kind.NODE_PATCH, patch): (self._patch_node, True),
            (kind.NODE_STATUS, insert): (self._report_node, False),
            (kind.NODE_STATUS, update): (self._report_node_status, False),
            (kind.POD, insert): (self._create_pod, True),
            (kind.POD, delete): (self._delete_pod, False),
            (kind.POD_PATCH, patch): (self._patch_pod, True),
            (kind.POD_STATUS, update): (self._report_pods, False),
            (kind.LEASE, insert): (self._create_lease, True),
            (kind.LEASE, update): (self._update_lease, True),
            (kind.LEASE, query): (self._read_lease, True),
            (kind.SERVICE_ACCOUNT_TOKEN, query): (self._request_token, False),
            (kind.CSR, insert): (self._create_csr, True),
            **{(name, query): (self._read, False) for name in _READ},
        }
        self._events: dict[str, Callable[[ResourceName, Message], Awaitable[None]]] = {
            insert: self._create_event,
            update: self._update_event,
            patch: self._patch_event,
        }

    async def answer(self, node: str, message: Message, resource: ResourceName) -> list[Message]:
        """What a request of `node` brings it. Never raises for what the edge or the API does."""
        if resource.type == ResourceType.EVENT:
            await self._event(node, message, resource)
            return []
        found = self._handlers.get((resource.type, message.operation))
        if found is None:
            _log.debug("not for us", node=node, operation=message.operation, resource=message.resource)
            return []
        handler, wrapped = found
        try:
            answer = await handler(resource, message)
            return answer if isinstance(answer, list) else [answer]
        except WireError as error:
            _log.warning("malformed request", node=node, resource=message.resource, error=str(error))
            refused: ApplianceError = ApiError(code=400, reason="BadRequest", message=str(error), status={})
        except ApplianceError as error:
            _log.debug("request failed", node=node, resource=message.resource, error=str(error))
            refused = error
        return [replies.failure_resp(message, refused) if wrapped else replies.failure(message, refused)]

    # Nodes

    async def _register_node(self, resource: ResourceName, message: Message) -> Message:
        node = _object(message)
        metadata = dict(_table(node, "metadata"))
        plain, restricted = split_labels(_table(metadata, "labels"))
        metadata["name"] = resource.name
        metadata["labels"] = plain
        metadata["annotations"] = {**_table(metadata, "annotations"), CLOUDCORE: self._address}
        for name in ("uid", "resourceVersion", "creationTimestamp", "managedFields"):
            metadata.pop(name, None)
        body = {**node, "apiVersion": "v1", "kind": "Node", "metadata": metadata}
        try:
            created = await self._client.create(NODES, body)
        except ApiError as error:
            if error.already_exists:
                await self._repair_labels(resource.name, {**plain, **restricted})
            raise
        if restricted:
            # An API server with the NodeRestriction admission refuses these on creation only.
            created = await self._client.patch(NODES, None, resource.name, {"metadata": {"labels": restricted}})
        return replies.found_resp(message, slim(created))

    async def _repair_labels(self, name: str, labels: Mapping[str, str]) -> None:
        """The gateway may have died between creating a node and labelling it."""
        present = (await self._client.get(NODES, None, name))["metadata"].get("labels") or {}
        missing = {key: value for key, value in labels.items() if key not in present}
        if missing:
            await self._client.patch(NODES, None, name, {"metadata": {"labels": missing}})

    async def _update_node(self, resource: ResourceName, message: Message) -> Message:
        metadata = _table(_object(message), "metadata")
        # Additive (reference 1.4 D): a null would take a label away.
        changes = {
            key: kept
            for key in ("labels", "annotations")
            if (kept := {name: value for name, value in _table(metadata, key).items() if value is not None})
        }
        if changes:
            await self._client.patch(NODES, None, resource.name, {"metadata": changes})
        return replies.ok(message)

    async def _patch_node(self, resource: ResourceName, message: Message) -> Message:
        body = message.content_bytes()
        endpoint = self._endpoint(resource.name)
        if endpoint is not None:
            patch = _object(message)
            body = msgspec.json.encode({**patch, "status": redirected(_table(patch, "status"), endpoint)})
        patched = await self._client.patch(
            NODES,
            None,
            resource.name,
            body,
            content_type=PatchType.STRATEGIC,
            subresource="status",
        )
        return replies.found_resp(message, slim(patched))

    async def _report_node(self, resource: ResourceName, message: Message) -> Message:
        """Registration by an old edge; a node that exists already is as good."""
        try:
            await self._register_node(resource, message)
        except ApiError as error:
            if not error.already_exists:
                raise
        return replies.ok(message)

    async def _report_node_status(self, resource: ResourceName, message: Message) -> Message:
        await replace_node_status(self._client, resource, message, self._endpoint(resource.name))
        return replies.ok(message)

    async def _create_lease(self, resource: ResourceName, message: Message) -> Message:
        lease = _named(_object(message), LEASES, resource)
        created = await self._client.create(LEASES, lease, namespace=resource.namespace)
        return replies.found_resp(message, slim(created), versioned=False)

    async def _update_lease(self, resource: ResourceName, message: Message) -> Message:
        updated = await self._client.update(LEASES, _named(_object(message), LEASES, resource))
        return replies.found_resp(message, slim(updated), versioned=False)

    async def _read_lease(self, resource: ResourceName, message: Message) -> Message:
        lease = await self._client.get(LEASES, resource.namespace, resource.name)
        return replies.found_resp(message, slim(lease), versioned=False)

    # Pods

    async def _create_pod(self, resource: ResourceName, message: Message) -> Message:
        pod = _named(_object(message), PODS, resource)
        return replies.found_resp(message, slim(await self._client.create(PODS, pod, namespace=resource.namespace)))

    async def _patch_pod(self, resource: ResourceName, message: Message) -> Message:
        patched = await self._client.patch(
            PODS,
            resource.namespace,
            resource.name,
            message.content_bytes(),
            content_type=PatchType.STRATEGIC,
            subresource="status",
        )
        return replies.found_resp(message, slim(patched))

    async def _report_pods(self, resource: ResourceName, message: Message) -> list[Message]:
        gone = await pod_statuses(self._client, resource, message)
        return [replies.ok(message), *gone]

    async def _delete_pod(self, resource: ResourceName, message: Message) -> Message:
        options = message.content_value()
        if isinstance(options, str):  # old edges send the UID alone
            options = {"gracePeriodSeconds": 0, "preconditions": {"uid": options}}
        if not isinstance(options, dict):
            options = {"gracePeriodSeconds": 0}
        try:
            await self._client.delete(PODS, resource.namespace, resource.name, options=options)
        except ApiError as error:
            if not (error.not_found or error.conflict):  # gone already, or another pod of that name
                raise
        return replies.ok(message)

    # Other objects

    async def _read(self, resource: ResourceName, message: Message) -> Message:
        gvr = _READ[resource.type]
        obj = await self._client.get(gvr, resource.namespace if gvr.namespaced else None, resource.name)
        return replies.found(message, slim(obj))

    async def _request_token(self, resource: ResourceName, message: Message) -> Message:
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", **_object(message)}
        token = await self._client.create(
            SERVICE_ACCOUNTS, body, namespace=resource.namespace, name=resource.name, subresource="token"
        )
        return replies.found(message, slim(token), versioned=False)

    async def _create_csr(self, resource: ResourceName, message: Message) -> Message:
        body = _named(_object(message), CERTIFICATE_SIGNING_REQUESTS, resource)
        return replies.found_resp(message, slim(await self._client.create(CERTIFICATE_SIGNING_REQUESTS, body)))

    # Events: nobody waits for an answer

    async def _event(self, node: str, message: Message, resource: ResourceName) -> None:
        handler = self._events.get(message.operation)
        if handler is None:
            return
        try:
            await handler(resource, message)
        except (ApplianceError, WireError) as error:
            _log.debug("event not written", node=node, name=resource.name, error=str(error))

    async def _create_event(self, resource: ResourceName, message: Message) -> None:
        event = _named(_object(message), EVENTS, resource)
        await self._client.create(EVENTS, event, namespace=resource.namespace)

    async def _update_event(self, resource: ResourceName, message: Message) -> None:
        await self._client.update(EVENTS, _named(_object(message), EVENTS, resource))

    async def _patch_event(self, resource: ResourceName, message: Message) -> None:
        data = _object(message).get("patchData")
        if not isinstance(data, str):
            raise WireError("is not a string", field="content.patchData")
        await self._client.patch(
            EVENTS, resource.namespace, resource.name, data.encode(), content_type=PatchType.STRATEGIC
        )


def split_labels(labels: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Labels of other domains, and those of kubernetes.io and its sub-domains."""
    plain: dict[str, str] = {}
    restricted: dict[str, str] = {}
    for key, value in labels.items():
        domain = key.partition("/")[0] if "/" in key else ""
        target = restricted if domain == "kubernetes.io" or domain.endswith(".kubernetes.io") else plain
        target[key] = value
    return plain, restricted


def _object(message: Message) -> KubeObject:
    """The content as an object, also where it travels as a string of JSON."""
    value = gojson.parse(message.content_bytes(), field="content")
    if not isinstance(value, dict):
        raise WireError("is not an object", field="content")
    return value


def _table(obj: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A member that is an object where it is not left out. Raises WireError."""
    value = obj.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise WireError("is not an object", field=f"content.{key}")
    return value


def _named(obj: KubeObject, gvr: GVR, resource: ResourceName) -> KubeObject:
    """The object under the name that the message is about, whatever its own metadata says."""
    metadata = {**_table(obj, "metadata"), "name": resource.name}
    if gvr.namespaced:
        metadata["namespace"] = resource.namespace
    return {**obj, "apiVersion": gvr.api_version, "kind": gvr.kind, "metadata": metadata}
