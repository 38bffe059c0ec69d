"""`edgecore join`: an identity from a cloud."""

import asyncio
import time

from edgeappliance.config.endpoint import Endpoint, endpoint
from edgeappliance.config.joined import ENROLL_PORT, HUB_PORT, Joined, read_joined, write_joined
from edgeappliance.config.settings import EdgeSettings, default_node_name
from edgeappliance.edgehub.enrolment import Enrolment
from edgeappliance.edgehub.identity import IdentityFiles
from edgeappliance.kernel import control
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.errors import ApplianceError, OperatorError
from edgeappliance.kernel.files import make_directory


def join(config: EdgeSettings, *, cloud: str, token: str, name: str, enroll_port: int = ENROLL_PORT) -> int:
    """Enrol, then remember the place. Raises OperatorError, TransientError."""
    from edgeappliance.cli.main import read_token

    hub = endpoint(cloud, default_port=HUB_PORT, key="--cloud")
    chosen = name or config.node.name or read_joined(config.state_path).node
    node = chosen or default_node_name()
    check_agreement(config, hub=hub, node=node)
    state = config.state_path
    make_directory(state, next_step="run as root, or set state_dir")
    enrol = Endpoint(hub.host, enroll_port)
    enrolment = Enrolment(
        files=IdentityFiles(config.identity_path),
        host=enrol.host,
        port=enrol.port,
        node=node,
        clock=SystemClock(),
    )
    identity = asyncio.run(enrolment.join(read_token(token), as_new=not chosen))
    write_joined(state, Joined(hub=str(hub), enroll=str(enrol), node=node))
    until = time.strftime("%Y-%m-%d", time.gmtime(identity.facts.not_after))
    print(f"joined {hub} as node {node}; the certificate is valid until {until} and renews itself")
    if running(config):
        print("edgecore is running with what it had: restart it")
    else:
        print("start it with: edgecore run")
    return 0


def check_agreement(config: EdgeSettings, *, hub: Endpoint, node: str) -> None:
    """edgecore.toml goes before what was joined; raises OperatorError when it says something else."""
    if config.node.name not in ("", node):
        raise OperatorError(
            f"--name {node}, but node.name in the configuration is {config.node.name}",
            next_step="join under that name, or change node.name first",
        )
    if config.cloud.hub and endpoint(config.cloud.hub, default_port=HUB_PORT, key="cloud.hub") != hub:
        raise OperatorError(
            f"--cloud {hub}, but cloud.hub in the configuration is {config.cloud.hub}",
            next_step="join that cloud, or change cloud.hub (and cloud.enroll) first",
        )


def running(config: EdgeSettings) -> bool:
    """Whether an edgecore answers on this configuration's control socket."""
    try:
        asyncio.run(control.call(config.control_socket, "status"))
    except ApplianceError:
        return False
    return True
