"""Resource names: the one place that builds and takes apart `<namespace>/<type>/<name>` (reference 2.2)."""

from dataclasses import dataclass

from edgeappliance.wire.errors import WireError

NULL = "null"
"""The namespace segment of what has no namespace."""


@dataclass(frozen=True, slots=True)
class ResourceName:
    """`<namespace>/<type>[/<name>]` as on the socket, without a node prefix."""

    namespace: str
    type: str
    name: str = ""

    def __str__(self) -> str:
        if not self.name:
            return f"{self.namespace}/{self.type}"
        return f"{self.namespace}/{self.type}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> "ResourceName":
        """Two segments have no name, three are full. Raises WireError for any other count or an empty segment."""
        parts = text.split("/")
        if len(parts) not in (2, 3):
            raise WireError(f"{text!r} is not namespace/type[/name]", field="route.resource")
        if not all(parts):
            raise WireError(f"{text!r} has an empty segment", field="route.resource")
        return cls(*parts)

    def on_node(self, node: str) -> str:
        """The name inside the cloud: `node/<node>/<namespace>/<type>[/<name>]`."""
        return add_node(node, str(self))


def add_node(node: str, resource: str) -> str:
    """A socket name with the node prefix that the cloud uses inside."""
    return f"node/{node}/{resource}"


def strip_node(resource: str) -> str:
    """What cloudhub puts on the socket: the first two segments dropped when the name starts with `node`."""
    parts = resource.split("/", 2)
    if len(parts) == 3 and parts[0] == "node":
        return parts[2]
    return resource


def target_node(resource: str) -> str | None:
    """The segment after the first segment equal to `node`; None where there is none (reference 2.2)."""
    parts = resource.split("/")
    try:
        index = parts.index("node")
    except ValueError:
        return None
    return parts[index + 1] if index + 1 < len(parts) and parts[index + 1] else None


def device_id(namespace: str, name: str) -> str:
    """`<namespace>/<name>` (reference 4.2)."""
    return f"{namespace}/{name}"


def split_device_id(device: str) -> tuple[str, str]:
    """Namespace and name. Raises WireError when the id has another shape."""
    namespace, slash, name = device.partition("/")
    if not slash or not namespace or not name or "/" in name:
        raise WireError(f"{device!r} is not namespace/name", field="id")
    return namespace, name


def edge_updated(device: str) -> str:
    """Resource of a twin report to the cloud."""
    return f"device/{device}/twin/edge_updated"


def state_update(device: str) -> str:
    """Resource of a state report to the cloud."""
    return f"device/{device}/state/update"
