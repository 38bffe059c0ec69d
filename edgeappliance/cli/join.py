"""`edgecore join`: an identity from a cloud."""

import asyncio
import time
from pathlib import Path

from edgeappliance.config.joined import ENROLL_PORT, HUB_PORT, Endpoint, Joined, endpoint, place, write_joined
from edgeappliance.config.settings import EdgeSettings
from edgeappliance.edgehub.enrolment import Enrolment
from edgeappliance.edgehub.identity import IdentityFiles
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.errors import OperatorError


def identity_directory(config: EdgeSettings) -> Path:
    """Where key and certificates live."""
    return config.state_path / "pki"


def join(config: EdgeSettings, *, cloud: str, token: str, name: str, enroll_port: int = ENROLL_PORT) -> int:
    """Enrol, then remember the place. Raises OperatorError, TransientError."""
    from edgeappliance.cli.main import read_token

    hub = endpoint(cloud, default_port=HUB_PORT, key="--cloud")
    node = name or place(config).node
    state = config.state_path
    try:
        state.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(f"{state}: {error.strerror}", next_step="run as root, or set state_dir") from None
    enrol = Endpoint(hub.host, enroll_port)
    enrolment = Enrolment(
        files=IdentityFiles(identity_directory(config)),
        host=enrol.host,
        port=enrol.port,
        node=node,
        clock=SystemClock(),
    )
    identity = asyncio.run(enrolment.join(read_token(token)))
    write_joined(state, Joined(hub=str(hub), enroll=str(enrol), node=node))
    until = time.strftime("%Y-%m-%d", time.gmtime(identity.facts.not_after))
    print(f"joined {hub} as node {node}; the certificate is valid until {until} and renews itself")
    print("start it with: edgecore run")
    return 0
