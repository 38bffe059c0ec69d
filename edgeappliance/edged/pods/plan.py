"""The words between reconcile and the worker that carries its plan out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from edgeappliance.edged.pods.observed import ObservedPod
from edgeappliance.edged.pods.spec import Pod


class Stopped(StrEnum):
    """Why a pod is being stopped."""

    DELETED = "deleted"
    """It has a deletionTimestamp, or it is gone from the API."""
    EVICTED = "evicted"
    DEADLINE = "deadline"
    REJECTED = "rejected"
    """It was never admitted (host port taken, node full, ...)."""


@dataclass(frozen=True, slots=True)
class Stopping:
    """Why, with how much grace (s), and what to say: status.reason and status.message.

    since: monotonic seconds at which it began, so that sidecars, which go last, get what is left of the grace;
    None: nobody knows, they get all of it.
    """

    why: Stopped
    grace: int
    reason: str = ""
    message: str = ""
    since: float | None = None


@dataclass(frozen=True, slots=True)
class StartFailure:
    """A container (or, under the name "", the sandbox) that could not be started: its waiting reason and message,
    as a kubelet words them (ErrImagePull, ImagePullBackOff, InvalidImageName, ErrImageNeverPull,
    CreateContainerConfigError, CreateContainerError, RunContainerError, ...), and when to try again (monotonic s)."""

    reason: str
    message: str
    retry_at: float
    count: int = 1


@dataclass(frozen=True, slots=True)
class Probed:
    """What the probes of one running container say; `failed` names the probe that condemned it, with its output.

    grace: terminationGracePeriodSeconds of the probe that failed.
    """

    started: bool = True
    ready: bool = True
    failed: str = ""
    grace: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """Everything that reconcile and status look at. `now` and `exits` are monotonic seconds, `wall_ms` Unix ms.

    exits: container id -> when its end was first seen.
    busy: names of containers ("" = sandbox) whose start is under way.
    stopping_ids: containers whose stop or removal is under way: nothing more is asked of them.
    finished: the phase that the pod has ended with (Succeeded, Failed), "" while it has not: it never starts again.
    started_ms: when this node first saw the pod (status.startTime).
    elapsed: seconds since then by a clock that does not jump; None: the wall clock has to do.
    blocked: why nothing can be started at all (volumes not there, unsupported fields): reason and message.
    condemned: containers that must be stopped, id -> (message, grace or None): failed hooks.
    """

    pod: Pod
    seen: ObservedPod
    now: float
    wall_ms: int
    started_ms: int = 0
    elapsed: float | None = None
    exits: Mapping[str, float] = field(default_factory=dict)
    probes: Mapping[str, Probed] = field(default_factory=dict)
    failures: Mapping[str, StartFailure] = field(default_factory=dict)
    condemned: Mapping[str, tuple[str, int | None]] = field(default_factory=dict)
    busy: frozenset[str] = frozenset()
    stopping_ids: frozenset[str] = frozenset()
    stopping: Stopping | None = None
    finished: str = ""
    blocked: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class StartSandbox:
    attempt: int


@dataclass(frozen=True, slots=True)
class StartContainer:
    """`backoff`: seconds it has waited, kept in a label so that the next wait is known after a restart."""

    name: str
    init: bool
    attempt: int
    backoff: float = 0.0


@dataclass(frozen=True, slots=True)
class StopContainer:
    """Run preStop (unless `hook` is False), SIGTERM, after `grace` seconds SIGKILL. `reason` is for the event."""

    id: str
    name: str
    grace: int
    reason: str
    hook: bool = True


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    """Of something that has ended (or was created and never started)."""

    id: str
    name: str


Action = StartSandbox | StartContainer | StopContainer | RemoveContainer


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, all at once; then look again. `wake_at` (monotonic s): look again at the latest.

    stop: the pod must be stopped from now on (its deadline has passed): the worker keeps it and gives it back as
    `Situation.stopping` from the next look on.
    finished: the phase that the pod has ended with just now ("" while not): the worker stores it.
    gone: a stopped pod has nothing left on the engine.
    waiting: container name -> (reason, message) for those that wait for a time (CrashLoopBackOff).
    """

    actions: tuple[Action, ...] = ()
    wake_at: float | None = None
    stop: Stopping | None = None
    finished: str = ""
    gone: bool = False
    waiting: Mapping[str, tuple[str, str]] = field(default_factory=dict)
