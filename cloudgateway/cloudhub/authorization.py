"""What a node may say: only what concerns itself (reference 2.6, and Kubernetes' node authorizer and NodeRestriction).

Pure functions of the message and of a view of the cluster. A refusal is a text for the log and for the answer.
"""

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from cloudgateway.cloudhub.dispatch import Destination
from edgeappliance.wire import gojson
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.kube import error_resp, status_error
from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import Group, Operation, ResourceType, Source
from edgeappliance.wire.reports import pod_status_reports
from edgeappliance.wire.resource import ResourceName

NODE_LEASES = "kube-node-lease"
_MIRROR = "kubernetes.io/config.mirror"
_FREE = frozenset(
    {
        Destination.TRANSPORT,
        Destination.KEEPALIVE,
        Destination.ACKNOWLEDGEMENT,
        Destination.ERROR,
        Destination.ROUTER,
        Destination.VOLUME,
        Destination.KUBE_CA,
    }
)


class Relations(Protocol):
    """What the gateway knows of who concerns whom. Answers come from memory."""

    def pod_node(self, namespace: str, name: str) -> str | None:
        """The node a pod is bound to; None when there is no such pod, "" when it is not bound."""
        ...

    def device_node(self, namespace: str, name: str) -> str | None:
        """The node of a Device; None when there is no such device."""
        ...

    def references(self, node: str, kind: ResourceType, namespace: str, name: str) -> bool:
        """Whether a pod of the node needs the object.

        Kinds: configmap, secret, persistentvolumeclaim, persistentvolume, volumeattachment and
        serviceaccounttoken (then `name` is the service account's).
        """
        ...


def refusal(node: str, message: Message, to: Destination, relations: Relations) -> str | None:
    """Why the node may not say this; None when it may."""
    if to in _FREE:
        return None
    if to is Destination.TASKMANAGER:
        return _task(node, message)
    if to is Destination.DYNAMICCONTROLLER:
        return _application(node, message)
    if to is Destination.DEVICECONTROLLER:
        return _device(node, message, relations)
    try:
        name = ResourceName.parse(message.resource)
    except WireError as error:
        return error.reason
    rule = _RULES.get(name.type)
    if rule is None:
        return f"a node has no business with {name.type}"
    if not name.name and name.type != ResourceType.POD_STATUS:
        return "it names no object"  # to an API such a request would be one for all objects
    return rule(node, message, name, relations)


def _task(node: str, message: Message) -> str | None:
    parts = message.resource.split("/")
    if len(parts) >= 2 and parts[-2:] == ["node", node]:
        return None
    return "the report is about another node"


def _application(node: str, message: Message) -> str | None:
    """An Application, or for watchapp/sync a map of them (reference 9.1)."""
    try:
        content = message.content_value()
    except WireError as error:
        return error.reason
    if not isinstance(content, dict):
        return "it is not an Application"
    applications = content.values() if message.resource == "watchapp/sync" else [content]
    for application in applications:
        if not isinstance(application, dict) or application.get("Nodename") != node:
            return "the request is in another node's name"
    return None


def _device(node: str, message: Message, relations: Relations) -> str | None:
    parts = message.resource.split("/")
    if parts[0] != "device":
        return None  # membership/detail: nothing is read or written by it
    if len(parts) < 4:
        return f"{message.resource!r} is not device/namespace/name/..."
    owner = relations.device_node(parts[1], parts[2])
    if owner is None or owner == node:
        return None  # a device that is just gone: its controller answers
    return "the device belongs to another node"


Rule = Callable[[str, Message, ResourceName, Relations], str | None]


def _own_name(operations: frozenset[str]) -> Rule:
    def rule(node: str, message: Message, name: ResourceName, _relations: Relations) -> str | None:
        if message.operation not in operations:
            return _operation(message, name)
        return None if name.name == node else f"{name.type} {name.name!r} is another node's"

    return rule


def _lease(node: str, message: Message, name: ResourceName, relations: Relations) -> str | None:
    if name.namespace != NODE_LEASES:
        return f"leases of namespace {name.namespace} are not a node's"
    return _own_name(frozenset({Operation.INSERT, Operation.UPDATE, Operation.QUERY}))(node, message, name, relations)


def _pod(node: str, message: Message, name: ResourceName, relations: Relations) -> str | None:
    if message.operation == Operation.INSERT:
        return _mirror_pod(node, message)
    if message.operation not in (Operation.DELETE, Operation.QUERY, Operation.PATCH):
        return _operation(message, name)
    return _bound_pod(node, name.namespace, name.name, relations)


def _pod_patch(node: str, message: Message, name: ResourceName, relations: Relations) -> str | None:
    if message.operation != Operation.PATCH:
        return _operation(message, name)
    return _bound_pod(node, name.namespace, name.name, relations)


def _pod_status(node: str, message: Message, name: ResourceName, relations: Relations) -> str | None:
    if message.operation != Operation.UPDATE:
        return _operation(message, name)
    try:
        reports = pod_status_reports(message, name.name)
    except WireError as error:
        return error.reason
    for report in reports:
        reason = _bound_pod(node, name.namespace, report.Name, relations)
        if reason is not None:
            return reason
    return None


def _bound_pod(node: str, namespace: str, name: str, relations: Relations) -> str | None:
    owner = relations.pod_node(namespace, name)
    if owner is None or owner == node:
        return None  # a pod that is just gone: the API answers NotFound
    return f"pod {namespace}/{name} is not bound to the node"


def _mirror_pod(node: str, message: Message) -> str | None:
    """NodeRestriction: a node creates mirrors of its static pods, and these refer to nothing secret."""
    try:
        pod = message.content_value()
    except WireError as error:
        return error.reason
    spec = pod.get("spec") if isinstance(pod, dict) else None
    metadata = pod.get("metadata") if isinstance(pod, dict) else None
    if not isinstance(spec, dict) or not isinstance(metadata, dict):
        return "it is not a pod"
    annotations = metadata.get("annotations")
    if not isinstance(annotations, dict) or _MIRROR not in annotations:
        return "a node may create mirror pods only"
    if spec.get("nodeName") != node:
        return "the pod is for another node"
    if spec.get("serviceAccountName") or spec.get("serviceAccount"):
        return "a mirror pod has no service account"
    if _mentions(spec, _SECRET_KEYS):
        return "a mirror pod refers to no secret, config map or claim"
    return None


_SECRET_KEYS = frozenset(
    {
        "secret",
        "secretName",
        "secretRef",
        "secretKeyRef",
        "configMap",
        "configMapRef",
        "configMapKeyRef",
        "persistentVolumeClaim",
        "projected",
        "imagePullSecrets",
        "resourceClaims",
        "ephemeral",
    }
)


def _mentions(value: Any, keys: frozenset[str]) -> bool:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if any(key in keys and inner for key, inner in item.items()):
                return True
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return False


def _referenced(node: str, message: Message, name: ResourceName, relations: Relations) -> str | None:
    if message.operation != Operation.QUERY:
        return _operation(message, name)
    if relations.references(node, ResourceType(name.type), name.namespace, name.name):
        return None
    return f"no pod of the node uses {name.type} {name.namespace}/{name.name}"


def _account_token(node: str, message: Message, name: ResourceName, relations: Relations) -> str | None:
    """NodeRestriction: a token is for a pod of the node and ends with it, else one query would give a key for ever."""
    reason = _referenced(node, message, name, relations)
    if reason is not None:
        return reason
    try:
        request = gojson.loads(message.content_bytes(), _TokenRequest, field="content")
    except WireError as error:
        return error.reason
    bound = request.spec.boundObjectRef
    if bound is None or bound.kind != "Pod" or not bound.uid:
        return "the token is not bound to a pod"
    if relations.pod_node(name.namespace, bound.name) != node:
        return f"the token is for pod {name.namespace}/{bound.name}, which is not the node's"
    return None


class _Bound(msgspec.Struct):
    kind: str = ""
    name: str = ""
    uid: str = ""


class _TokenSpec(msgspec.Struct):
    boundObjectRef: _Bound | None = None


class _TokenRequest(msgspec.Struct):
    spec: _TokenSpec = msgspec.field(default_factory=_TokenSpec)


def _allowed(*operations: Operation) -> Rule:
    def rule(_node: str, message: Message, name: ResourceName, _relations: Relations) -> str | None:
        return None if message.operation in operations else _operation(message, name)

    return rule


def _operation(message: Message, name: ResourceName) -> str:
    return f"a node may not {message.operation} {name.type}"


_RULES: dict[str, Rule] = {
    ResourceType.NODE: _own_name(frozenset({Operation.INSERT, Operation.UPDATE, Operation.PATCH, Operation.QUERY})),
    ResourceType.NODE_STATUS: _own_name(frozenset({Operation.INSERT, Operation.UPDATE})),
    ResourceType.NODE_PATCH: _own_name(frozenset({Operation.PATCH})),
    ResourceType.LEASE: _lease,
    ResourceType.POD: _pod,
    ResourceType.POD_PATCH: _pod_patch,
    ResourceType.POD_STATUS: _pod_status,
    ResourceType.CONFIGMAP: _referenced,
    ResourceType.SECRET: _referenced,
    ResourceType.PERSISTENT_VOLUME: _referenced,
    ResourceType.PERSISTENT_VOLUME_CLAIM: _referenced,
    ResourceType.VOLUME_ATTACHMENT: _referenced,
    ResourceType.SERVICE_ACCOUNT_TOKEN: _account_token,
    ResourceType.CSR: _allowed(Operation.INSERT, Operation.QUERY),
    ResourceType.EVENT: _allowed(Operation.INSERT, Operation.UPDATE, Operation.PATCH),
}

_OBJECT_RESP_TYPES = frozenset(
    {
        ResourceType.NODE,
        ResourceType.NODE_PATCH,
        ResourceType.LEASE,
        ResourceType.POD_PATCH,
        ResourceType.POD,
        ResourceType.CSR,
    }
)


def forbidden(node: str, message: Message, reason: str) -> Message | None:
    """The answer to a refused request, in the form its asker waits for; None where nobody waits."""
    if message.route.source in (Source.TWIN, Source.METASERVER) or not message.id:
        return None
    try:
        name = ResourceName.parse(message.resource)
    except WireError:
        return None
    if name.type == ResourceType.EVENT:
        return None
    text = f"{name.type} {name.name!r} is forbidden: node {node!r}: {reason}"
    error = status_error(403, "Forbidden", text, name=name.name, kind=name.type)
    wrapped = name.type in _OBJECT_RESP_TYPES and not (
        message.operation == Operation.QUERY and name.type != ResourceType.LEASE
    )
    content: Any = error_resp(error) if wrapped else error
    if name.type == ResourceType.POD and message.operation == Operation.DELETE:
        content = error
    return message.reply(msgspec.Raw(msgspec.json.encode(content)), source=Source.EDGECONTROLLER, group=Group.RESOURCE)
