"""Decisions about a downstream message: under which key it is stored and what it says. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from edgeappliance.wire.errors import WireError
from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import KUBE_CA, Operation, ResourceType
from edgeappliance.wire.resource import ResourceName

REMOTE_TYPES = frozenset(
    {
        ResourceType.CONFIGMAP.value,
        ResourceType.SECRET.value,
        ResourceType.PERSISTENT_VOLUME.value,
        ResourceType.PERSISTENT_VOLUME_CLAIM.value,
        ResourceType.VOLUME_ATTACHMENT.value,
        ResourceType.SERVICE_ACCOUNT_TOKEN.value,
        ResourceType.LEASE.value,
        ResourceType.CSR.value,
    }
)
"""Types that are asked of the cloud while connected (reference 1.4 E)."""


class Action(StrEnum):
    """What a downstream message does to the store."""

    PUT = "put"
    DELETE = "delete"


_ACTIONS = {
    Operation.INSERT.value: Action.PUT,
    Operation.UPDATE.value: Action.PUT,
    Operation.PATCH.value: Action.PUT,
    Operation.DELETE.value: Action.DELETE,
}


@dataclass(frozen=True, slots=True)
class Change:
    """What subscribers are told, after the store committed it.

    value is the object, or None for a delete whose message named nothing.
    """

    operation: str
    resource: ResourceName
    value: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Instruction:
    """A downstream message, understood. `resource` is None for a name that is not two or three segments:
    it is stored under its whole text and acknowledged, and nobody is told (reference 2.2)."""

    action: Action
    key: str
    type: str
    resource: ResourceName | None
    uid: str
    resource_version: str
    text: bytes
    value: dict[str, Any] | None


def is_remote(resource: str) -> bool:
    """Whether a query for `resource` goes to the cloud while there is a link."""
    if resource == KUBE_CA:
        return True
    return _name(resource) is not None and resource.split("/")[1] in REMOTE_TYPES


def is_token(resource: str) -> bool:
    """Whether a query for `resource` asks for a service account's token: each is another one."""
    name = _name(resource)
    return name is not None and name.type == ResourceType.SERVICE_ACCOUNT_TOKEN


def understand(message: Message) -> Instruction | None:
    """What `message` wants of the store; None for an operation that is not for it.

    Raises WireError when an object is announced and none is there.
    """
    action = _ACTIONS.get(message.operation)
    if action is None:
        return None
    resource = _name(message.resource)
    content = message.content_value()
    value = content if isinstance(content, dict) else None
    if action is Action.PUT and content is None:
        raise WireError(f"{message.operation} {message.resource} without an object", field="content")
    return Instruction(
        action=action,
        key=message.resource,
        type=resource.type if resource is not None else "",
        resource=resource,
        uid=metadata_text(value, "uid"),
        resource_version=message.resource_version or metadata_text(value, "resourceVersion"),
        text=bytes(message.content),
        value=value,
    )


def metadata_text(value: dict[str, Any] | None, name: str) -> str:
    """`value.metadata.<name>` when it is a text, else ""."""
    metadata = value.get("metadata") if value is not None else None
    found = metadata.get(name) if isinstance(metadata, dict) else None
    return found if isinstance(found, str) else ""


def _name(resource: str) -> ResourceName | None:
    try:
        return ResourceName.parse(resource)
    except WireError:
        return None
