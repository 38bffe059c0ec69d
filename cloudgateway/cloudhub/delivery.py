"""How a downstream message is delivered: with or without acknowledgement, for which object (reference 2.7). Pure."""

from dataclasses import dataclass
from enum import Enum

import msgspec

from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import KUBE_CA, Group, Operation, ResourceType, Source
from edgeappliance.wire.resource import NULL

_UNACKED_RESOURCES = (
    ResourceType.POD_LIST,
    ResourceType.MEMBERSHIP,
    "twin/cloud_updated",
    ResourceType.SERVICE_ACCOUNT_TOKEN,
    KUBE_CA,
)
_UNACKED_OPERATIONS = frozenset(
    {
        Operation.CREATE_VOLUME,
        Operation.DELETE_VOLUME,
        Operation.PUBLISH_VOLUME,
        Operation.UNPUBLISH_VOLUME,
        Operation.APPLICATION_RESPONSE,
    }
)
_UNACKED_SOURCES = frozenset({Source.TASKMANAGER, Source.NODE_UPGRADE})
_UNACKED_TYPES = frozenset(
    {
        ResourceType.LEASE,
        ResourceType.NODE_PATCH,
        ResourceType.POD_PATCH,
        ResourceType.POD_STATUS,
        ResourceType.CSR,
    }
)
_MAX_VERSION = 2**64


class Kind(Enum):
    """How a message travels."""

    ONCE = "once"
    """Sent once, forgotten."""
    REPLY = "reply"
    """An answer that carries an object: acknowledged, repeated for as long as the asker waits."""
    OBJECT = "object"
    """The state of an object: acknowledged, the newest wins."""
    REFUSED = "refused"
    """Cannot be delivered: an object message without identity or version."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The object that a message is about. `namespace` is "" for what has none."""

    uid: str
    namespace: str
    api_version: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """Decision for one message. `subject` and `version` are set for REPLY and OBJECT."""

    kind: Kind
    subject: Subject | None = None
    version: int = 0
    deletes: bool = False
    reason: str = ""


class _Metadata(msgspec.Struct):
    name: str = ""
    namespace: str = ""
    uid: str = ""
    deletionTimestamp: str | None = None


class _Object(msgspec.Struct):
    apiVersion: str = ""
    kind: str = ""
    metadata: _Metadata = msgspec.field(default_factory=_Metadata)
    ErrStatus: msgspec.Raw | None = None


_object_decoder = msgspec.json.Decoder(_Object)
_ONCE = Delivery(Kind.ONCE)


def plan(message: Message) -> Delivery:
    """Decide by reference 2.7; `message.resource` is in socket form, without the node."""
    route = message.route
    if _unacknowledged(message):
        return _ONCE
    if route.group != Group.RESOURCE:
        return _ONCE  # nothing to key it by; upstream drops these
    try:
        content = _object_decoder.decode(message.content)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        content = _Object()
    response = route.operation == Operation.RESPONSE
    metadata = content.metadata
    if response and (content.ErrStatus is not None or not metadata.uid):
        return _ONCE
    if not metadata.uid:
        return Delivery(Kind.REFUSED, reason="its object has no metadata.uid")
    subject = Subject(
        uid=metadata.uid,
        namespace="" if metadata.namespace == NULL else metadata.namespace,
        api_version=content.apiVersion,
        kind=content.kind,
        name=metadata.name,
    )
    version = parse_version(message.resource_version)
    if response:
        return _ONCE if version is None else Delivery(Kind.REPLY, subject, version)
    if route.operation == Operation.DELETE:
        return Delivery(Kind.OBJECT, subject, version or 0, deletes=True)
    if version is None:
        if metadata.deletionTimestamp is None:
            return Delivery(Kind.REFUSED, reason="it has no resourceversion")
        version = 0
    return Delivery(Kind.OBJECT, subject, version)


def parse_version(text: str) -> int | None:
    """A resourceVersion as the number that upstream compares; None for anything else."""
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        return None
    version = int(text)
    return version if version < _MAX_VERSION else None


def _unacknowledged(message: Message) -> bool:
    route = message.route
    if route.operation in _UNACKED_OPERATIONS or route.group == Group.USER or route.source in _UNACKED_SOURCES:
        return True
    if any(word in route.resource for word in _UNACKED_RESOURCES):
        return True
    response = route.operation == Operation.RESPONSE
    if response and message.is_ok:
        return True
    if route.source != Source.EDGECONTROLLER:
        return False
    kind = resource_type(route.resource)
    if kind == ResourceType.NODE:
        return route.operation != Operation.UPDATE
    return kind in _UNACKED_TYPES or (kind == ResourceType.POD and response)


def resource_type(resource: str) -> str:
    """The second segment of `<namespace>/<type>[/<name>]`; empty for other shapes."""
    parts = resource.split("/", 3)
    return parts[1] if len(parts) in (2, 3) else ""
