"""What became of each container of a pod: how its attempts ended, whether it starts again, and when.

reconcile acts upon this and status shows it, so both ask here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgeappliance.edged.pods.backoff import MAXIMUM, go_duration, next_wait
from edgeappliance.edged.pods.observed import Kind, ObservedContainer, ObservedPod, Phase
from edgeappliance.edged.pods.plan import Situation, Stopped, Stopping
from edgeappliance.edged.pods.spec import Container, Pod, spec_hash

START_ERROR_CODE = 128
"""Exit code of a container that never ran, where the engine gives none."""

SUCCEEDED, FAILED = "Succeeded", "Failed"
"""The phases that a pod ends with."""


@dataclass(frozen=True, slots=True)
class View:
    """One container of the specification, and its attempts on the engine, newest first."""

    spec: Container
    kind: Kind
    attempts: tuple[ObservedContainer, ...]

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def newest(self) -> ObservedContainer | None:
        return self.attempts[0] if self.attempts else None

    @property
    def running(self) -> ObservedContainer | None:
        """The newest attempt that runs."""
        return next((attempt for attempt in self.attempts if attempt.running), None)

    @property
    def ended(self) -> list[ObservedContainer]:
        return [attempt for attempt in self.attempts if has_ended(attempt)]

    def in_sandbox(self, sandbox: ObservedContainer) -> bool:
        """Whether an attempt was made in that sandbox."""
        return any(belongs(attempt, sandbox) for attempt in self.attempts)


def views(pod: Pod, seen: ObservedPod) -> tuple[list[View], list[View]]:
    """Init containers (sidecars among them) in order, and the others."""

    def view(container: Container, kind: Kind) -> View:
        return View(container, kind, tuple(seen.attempts(container.name)))

    inits = [view(container, Kind.INIT) for container in pod.spec.init_containers]
    return inits, [view(container, Kind.APP) for container in pod.spec.containers]


def has_ended(container: ObservedContainer) -> bool:
    """It ran and ended, or the engine could not start it."""
    return container.exited or (container.phase is Phase.CREATED and bool(container.error))


def exit_code(container: ObservedContainer) -> int:
    """Of one that has ended."""
    if container.phase is Phase.CREATED:
        return container.exit_code or START_ERROR_CODE
    return container.exit_code


def belongs(container: ObservedContainer, sandbox: ObservedContainer) -> bool:
    return container.sandbox in ("", sandbox.id)


def is_changed(view: View, container: ObservedContainer) -> bool:
    """Whether the specification of the container is another one than it was made from."""
    return bool(container.spec_hash) and container.spec_hash != spec_hash(view.spec)


def starts_again(pod: Pod, view: View, ended: ObservedContainer) -> bool:
    """Whether a container that ended so is to be started again."""
    if is_changed(view, ended) and not _is_plain_init(view):
        return True
    code = exit_code(ended)
    for rule in view.spec.restart_policy_rules:
        codes = rule.exit_codes
        if rule.action == "Restart" and codes is not None and (code in codes.values) == (codes.operator == "In"):
            return True
    policy = view.spec.restart_policy or pod.spec.restart_policy
    if policy == "Never" or (policy == "OnFailure" and code == 0):
        return False
    return code != 0 or not _is_plain_init(view)


def _is_plain_init(view: View) -> bool:
    return view.kind is Kind.INIT and not view.spec.is_sidecar


def ended_phase(situation: Situation) -> str:
    """The phase that a pod has ended with by itself: every container is done for good, or an init container failed
    for good. Sidecars do not count. "" while it goes on."""
    inits, apps = views(situation.pod, situation.seen)
    sandbox = situation.seen.sandbox()
    if not (sandbox is not None and any(view.in_sandbox(sandbox) for view in apps)):
        for view in inits:
            done = None if view.spec.is_sidecar else _done(situation, view)
            if done is not None and exit_code(done) != 0:
                return FAILED
    outcomes = [_done(situation, view) for view in apps]
    codes = [exit_code(done) for done in outcomes if done is not None]
    if not apps or len(codes) < len(outcomes):
        return ""
    return FAILED if any(codes) else SUCCEEDED


def _done(situation: Situation, view: View) -> ObservedContainer | None:
    """The last attempt of a container that will not be started again."""
    newest = view.newest
    if newest is None or view.name in situation.busy or view.running is not None or not has_ended(newest):
        return None
    return None if starts_again(situation.pod, view, newest) else newest


def why_stopping(situation: Situation) -> Stopping | None:
    """Why the pod must stop: told so, or its activeDeadlineSeconds have passed."""
    if situation.stopping is not None:
        return situation.stopping
    deadline = situation.pod.spec.active_deadline_seconds
    if deadline is None or situation.finished or time_here(situation) < deadline:
        return None
    return Stopping(
        Stopped.DEADLINE,
        situation.pod.spec.termination_grace_period_seconds,
        "DeadlineExceeded",
        "Pod was active on the node longer than the specified deadline",
        since=situation.now,
    )


def time_here(situation: Situation) -> float:
    """Seconds since this node took the pod on."""
    if situation.elapsed is not None:
        return situation.elapsed
    return max(0, situation.wall_ms - situation.started_ms) / 1000 if situation.started_ms else 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """When the next attempt may start (monotonic s), and how long it will have waited then (s)."""

    until: float
    backoff: float


def restart_wait(situation: Situation, view: View) -> Wait:
    """The wait before the next attempt of a container that does not run."""
    now, newest, sandbox = situation.now, view.newest, situation.seen.sandbox()
    if newest is None or is_changed(view, newest):
        return Wait(now, 0.0)
    if not has_ended(newest) or (sandbox is not None and not belongs(newest, sandbox)):
        # Made and never started, or its sandbox went away: no fault of its own, and no pardon either.
        return Wait(now, newest.backoff)
    ran = max(0, newest.finished_ms - newest.started_ms) / 1000 if newest.started_ms else 0.0
    backoff = next_wait(attempt=newest.attempt, waited=newest.backoff, ran=ran)
    return Wait(end_time(situation, newest) + backoff, backoff)


def end_time(situation: Situation, ended: ObservedContainer) -> float:
    """When a container ended, in monotonic seconds.

    Where nobody saw it end, the engine's wall clock says it; when that was set back since, long ago.
    """
    seen = situation.exits.get(ended.id)
    if seen is not None:
        return seen
    ago = (situation.wall_ms - (ended.finished_ms or ended.created_ms)) / 1000
    return situation.now - (ago if ago >= 0 else MAXIMUM)


def crash_loop(pod: Pod, view: View, wait: Wait) -> tuple[str, str]:
    """Waiting reason and message of a container that waits for its next attempt."""
    name = f"{pod.metadata.name}_{pod.metadata.namespace}({pod.uid})"
    message = f"back-off {go_duration(wait.backoff)} restarting failed container={view.name} pod={name}"
    return "CrashLoopBackOff", message


def is_passed(inits: Sequence[View], apps: Sequence[View], index: int, situation: Situation) -> bool:
    """Whether the pod has gone on beyond init container `index` in the present sandbox: a later one was begun."""
    sandbox = situation.seen.sandbox()
    if sandbox is None:
        return False
    later = (*inits[index + 1 :], *apps)
    return any(view.name in situation.busy or view.in_sandbox(sandbox) for view in later)


def is_complete(view: View, situation: Situation) -> bool:
    """Whether an init container lets the next one begin: it has ended well, a sidecar has started."""
    newest, sandbox = view.newest, situation.seen.sandbox()
    if newest is None or sandbox is None or view.name in situation.busy or not belongs(newest, sandbox):
        return False
    if view.spec.is_sidecar:
        return newest.running and has_started(view, newest, situation)
    return newest.exited and newest.exit_code == 0


def has_started(view: View, running: ObservedContainer, situation: Situation) -> bool:
    """Whether a running container has passed its startup probe, if it has one."""
    probed = situation.probes.get(running.id)
    return probed.started if probed is not None else view.spec.startup_probe is None


def is_ready(view: View, running: ObservedContainer, situation: Situation) -> bool:
    """Whether a running container may be sent traffic."""
    probed = situation.probes.get(running.id)
    if probed is not None:
        return probed.started and probed.ready
    return view.spec.startup_probe is None and view.spec.readiness_probe is None
