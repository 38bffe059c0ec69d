"""What `edgecore join` was told: `joined.toml` in the state directory, used where edgecore.toml says nothing."""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from edgeappliance.config.endpoint import Endpoint, endpoint
from edgeappliance.config.settings import EdgeSettings, default_node_name
from edgeappliance.kernel import settings

HUB_PORT = 10000
ENROLL_PORT = 10002
TUNNEL_PORT = 10004


class Joined(Struct, frozen=True):
    """joined.toml"""

    hub: Annotated[str, Meta(description="host:port of the gateway's websocket.")] = ""
    enroll: Annotated[str, Meta(description="host:port of the gateway's enrolment server.")] = ""
    node: Annotated[str, Meta(description="The name this box joined with.")] = ""


class Place(Struct, frozen=True):
    """Where this box belongs: its node name and the gateway's endpoints, None when no gateway is known."""

    node: str
    hub: Endpoint | None
    enroll: Endpoint | None
    tunnel: Endpoint | None


def joined_file(state: Path) -> Path:
    """Path of joined.toml."""
    return state / "joined.toml"


def read_joined(state: Path) -> Joined:
    """The file, or defaults when there is none. Raises SettingsError, OperatorError."""
    path = joined_file(state)
    return settings.load(Joined, path) if path.exists() else Joined()


def write_joined(state: Path, joined: Joined) -> None:
    """Replace the file."""
    settings.write(joined_file(state), msgspec.structs.asdict(joined))


def place(config: EdgeSettings) -> Place:
    """edgecore.toml over joined.toml over the host's name. Raises OperatorError for an unusable address."""
    joined = read_joined(config.state_path)
    hub = config.cloud.hub or joined.hub
    enroll = config.cloud.enroll or joined.enroll
    where = endpoint(hub, default_port=HUB_PORT, key="cloud.hub") if hub else None
    server = config.edgestream.server
    tunnel = endpoint(server, default_port=TUNNEL_PORT, key="edgestream.server") if server else None
    if tunnel is None and where is not None:
        tunnel = Endpoint(where.host, TUNNEL_PORT)
    return Place(
        node=config.node.name or joined.node or default_node_name(),
        hub=where,
        enroll=endpoint(enroll, default_port=ENROLL_PORT, key="cloud.enroll") if enroll else None,
        tunnel=tunnel,
    )
