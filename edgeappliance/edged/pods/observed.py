"""What is on the Docker Engine for one pod, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

OWNER = "io.edgeappliance.node"
"""Label on everything that is ours; its value is the node's name. What lacks it is never touched."""

POD_UID = "io.kubernetes.pod.uid"
POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
CONTAINER_NAME = "io.kubernetes.container.name"
KIND = "io.edgeappliance.kind"
ATTEMPT = "io.kubernetes.container.restartCount"
"""For a sandbox: its attempt."""
SPEC_HASH = "io.kubernetes.container.hash"
GRACE = "io.kubernetes.pod.terminationGracePeriod"
BACKOFF = "io.edgeappliance.backoff"
"""Seconds that this attempt waited before it was started."""
SANDBOX = "io.kubernetes.sandbox.id"
"""The sandbox that a container was made for."""


class Kind(StrEnum):
    """What a container is in its pod."""

    SANDBOX = "sandbox"
    INIT = "init"
    APP = "app"


class Phase(StrEnum):
    """Docker's states, folded: restarting and paused count as running, dead and removing as exited."""

    CREATED = "created"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedContainer:
    """One container of ours. Times are Unix ms, 0 = never. `pid` is 0 unless it runs.

    ip: of a sandbox on a network. error: what the engine said when it could not start it.
    image_id: `sha256:...`; image: the name it was created from.
    """

    id: str
    name: str
    kind: Kind
    pod_uid: str
    namespace: str
    pod_name: str
    attempt: int
    phase: Phase
    created_ms: int = 0
    started_ms: int = 0
    finished_ms: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    pid: int = 0
    ip: str = ""
    image: str = ""
    image_id: str = ""
    spec_hash: str = ""
    sandbox: str = ""
    backoff: float = 0.0
    grace: int = 30
    message: str = ""
    """The termination message, once it has been read."""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        return self.phase is Phase.RUNNING

    @property
    def exited(self) -> bool:
        return self.phase is Phase.EXITED


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """All containers of one pod, every attempt."""

    uid: str
    containers: tuple[ObservedContainer, ...] = ()

    def sandbox(self) -> ObservedContainer | None:
        """The newest sandbox."""
        return self.newest("", Kind.SANDBOX)

    def newest(self, name: str, kind: Kind | None = None) -> ObservedContainer | None:
        """The newest attempt of a container."""
        found = [c for c in self.containers if c.name == name and (kind is None or c.kind is kind)]
        return max(found, key=lambda c: (c.attempt, c.created_ms), default=None)

    def attempts(self, name: str) -> list[ObservedContainer]:
        """Every attempt of a container (not sandboxes), newest first."""
        found = [c for c in self.containers if c.name == name and c.kind is not Kind.SANDBOX]
        return sorted(found, key=lambda c: (c.attempt, c.created_ms), reverse=True)

    @property
    def running(self) -> list[ObservedContainer]:
        return [c for c in self.containers if c.running]
