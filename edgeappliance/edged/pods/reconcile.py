"""What to do next for one pod: from what is wanted and what is there to actions. Pure.

The sandbox comes first; then the init containers one after the other (a sidecar, an init container with restartPolicy
Always, lets the next begin once it has started); then all others. What must end ends in the opposite order: the
containers, the sidecars from the last to the first, the sandbox. The rules are those of Kubernetes' documentation of
the pod life cycle, of init containers and of sidecar containers.
"""

from dataclasses import replace

from edgeappliance.edged.pods.containers import (
    FAILED,
    View,
    crash_loop,
    end_time,
    ended_phase,
    has_ended,
    is_changed,
    is_complete,
    is_passed,
    restart_wait,
    starts_again,
    time_here,
    views,
    why_stopping,
)
from edgeappliance.edged.pods.observed import Kind, ObservedContainer
from edgeappliance.edged.pods.plan import (
    Action,
    Plan,
    RemoveContainer,
    Situation,
    StartContainer,
    StartSandbox,
    StopContainer,
    Stopped,
    Stopping,
)

SANDBOX_CHANGED = "Pod sandbox changed, it will be killed and re-created."
"""Message of the event SandboxChanged, for every sandbox after the first."""

SANDBOX_GRACE = 5
"""Seconds that a sandbox gets: it does nothing but end."""

LAST_GRACE = 2
"""Seconds that sidecars get when the others have used up the pod's grace."""

SANDBOX_TRIES = 3
"""Attempts of a sandbox without a wait between them."""
SANDBOX_WAIT = 10.0
"""Seconds between further ones that end as soon as they are there."""


def reconcile(situation: Situation, *, keep: int = 1) -> Plan:
    """What to do now. `keep`: ended attempts that stay on the engine of each container, the newest ones.

    Nothing is asked twice: not the start of a container named in `busy`, nor the stop or removal of one that is in
    `stopping_ids`.
    """
    turn = _Turn(situation, keep)
    stopping = why_stopping(situation)
    if stopping is not None:
        return turn.ending(stopping)
    phase = situation.finished or ended_phase(situation)
    if phase:
        return turn.finishing(phase)
    return turn.living()


class _Turn:
    """One look at a pod: gathers what is to be done."""

    def __init__(self, situation: Situation, keep: int) -> None:
        self._now = situation
        self._pod = situation.pod
        self._keep = keep
        self._inits, self._apps = views(situation.pod, situation.seen)
        self._sandbox = situation.seen.sandbox()
        self._stops: dict[str, StopContainer] = {}
        self._starts: list[Action] = []
        self._removals: list[Action] = []
        self._wakes: list[float] = []
        self._waiting: dict[str, tuple[str, str]] = {}
        self._held = False
        """Nothing more is started before a postStart hook is done."""

    # -- the three ways ---------------------------------------------------------------------------------------

    def ending(self, stopping: Stopping) -> Plan:
        """Somebody, or its deadline, wants the pod to end."""
        quiet = self._wind_down(stopping.grace, stopping.since)
        plan = Plan(stop=stopping if self._now.stopping is None else None)
        if quiet and stopping.why in (Stopped.DELETED, Stopped.EVICTED):
            for container in self._now.seen.containers:
                self._remove(container)
        else:
            self._tidy()
        if quiet and not self._now.finished and stopping.why is not Stopped.DELETED:
            plan = replace(plan, finished=FAILED)
        return self._plan(replace(plan, gone=quiet and not self._now.seen.containers))

    def finishing(self, phase: str) -> Plan:
        """All its containers have ended for good: sidecars and sandbox end too."""
        quiet = self._wind_down(self._pod.spec.termination_grace_period_seconds, None)
        self._tidy()
        return self._plan(Plan(finished=phase if quiet and not self._now.finished else ""))

    def living(self) -> Plan:
        """It is to run."""
        self._stop_misplaced()
        if self._is_sandbox_up():
            if self._initialize():
                for view in self._apps:
                    self._keep_up(view)
                    self._held = self._held or self._is_prepared(view)
        else:
            self._replace_sandbox()
        self._tidy()
        deadline = self._pod.spec.active_deadline_seconds
        if deadline is not None:
            self._wakes.append(self._now.now + deadline - time_here(self._now))
        return self._plan(Plan())

    # -- starting ---------------------------------------------------------------------------------------------

    def _is_sandbox_up(self) -> bool:
        sandbox = self._sandbox
        return (
            sandbox is not None
            and sandbox.running
            and sandbox.id not in self._now.stopping_ids
            and "" not in self._now.busy
        )

    def _replace_sandbox(self) -> None:
        """A first sandbox, or a new one once nothing is left in the old."""
        for container in self._containers_running():
            self._stop(container, self._grace, f"Stopping container {container.name}")
        if self._stops or self._now.busy or self._containers_running() or self._now.blocked is not None:
            return
        sandbox = self._sandbox
        if sandbox is not None and sandbox.running:
            return  # it is being stopped
        attempt = 0
        if sandbox is not None:
            attempt = sandbox.attempt + 1 if has_ended(sandbox) else sandbox.attempt
        failure = self._now.failures.get("")
        due = max(self._sandbox_due(), failure.retry_at if failure is not None else self._now.now)
        if due > self._now.now:
            self._wakes.append(due)
        else:
            self._starts.append(StartSandbox(attempt))

    def _sandbox_due(self) -> float:
        """A sandbox that ends as soon as it is there (no memory, say) must not keep the engine busy."""
        sandbox = self._sandbox
        if sandbox is None or not has_ended(sandbox) or sandbox.attempt < SANDBOX_TRIES:
            return self._now.now
        if sandbox.finished_ms - sandbox.started_ms >= SANDBOX_WAIT * 1000:
            return self._now.now
        return end_time(self._now, sandbox) + SANDBOX_WAIT

    def _initialize(self) -> bool:
        """Bring the init containers forward; whether the others may run."""
        for index, view in enumerate(self._inits):
            passed = is_passed(self._inits, self._apps, index, self._now)
            if view.spec.is_sidecar:
                self._keep_up(view)
            elif not passed and not is_complete(view, self._now):
                self._run_once(view)
            if not passed and not is_complete(view, self._now):
                return False
        return True

    def _run_once(self, view: View) -> None:
        running = view.running
        if running is None:
            self._start(view)
        else:
            self._stop_condemned(view, running)

    def _keep_up(self, view: View) -> None:
        """A container that is to run: judged while it does, started again when its policy says so."""
        running, newest = view.running, view.newest
        if running is not None:
            self._judge(view, running)
        elif newest is None or not has_ended(newest) or starts_again(self._pod, view, newest):
            self._start(view)

    def _start(self, view: View) -> None:
        if self._held or view.name in self._now.busy or self._now.blocked is not None:
            return
        newest = view.newest
        if newest is not None and newest.id in self._now.stopping_ids:
            return  # its removal is under way
        wait = restart_wait(self._now, view)
        failure = self._now.failures.get(view.name)
        if failure is not None and failure.retry_at > max(wait.until, self._now.now):
            self._wakes.append(failure.retry_at)
        elif wait.until > self._now.now:
            self._wakes.append(wait.until)
            self._waiting[view.name] = crash_loop(self._pod, view, wait)
        else:
            attempt = 0
            if newest is not None:
                attempt = newest.attempt + 1 if has_ended(newest) else newest.attempt
            self._starts.append(StartContainer(view.name, view.kind is Kind.INIT, attempt, wait.backoff))

    def _is_prepared(self, view: View) -> bool:
        """Whether a container is being started that has a postStart hook: the containers after it may count on that."""
        begun = any(isinstance(start, StartContainer) and start.name == view.name for start in self._starts)
        return view.spec.lifecycle.post_start is not None and (begun or view.name in self._now.busy)

    # -- judging what runs ------------------------------------------------------------------------------------

    def _judge(self, view: View, running: ObservedContainer) -> None:
        if self._stop_condemned(view, running):
            return
        if is_changed(view, running):
            self._stop(running, self._grace, f"Container {view.name} definition changed, will be restarted")
            return
        probed = self._now.probes.get(running.id)
        if probed is not None and probed.failed:
            probe = "startup" if probed.failed.lower().startswith("startup") else "liveness"
            grace = self._grace if probed.grace is None else probed.grace
            policy = view.spec.restart_policy or self._pod.spec.restart_policy
            outlook = "" if policy == "Never" else ", will be restarted"
            self._stop(running, grace, f"Container {view.name} failed {probe} probe{outlook}")

    def _stop_condemned(self, view: View, running: ObservedContainer) -> bool:
        if running.id not in self._now.condemned:
            return False
        message, grace = self._now.condemned[running.id]
        self._stop(running, self._grace if grace is None else grace, message)
        return True

    def _stop_misplaced(self) -> None:
        """What runs and has no place: attempts beside a newer one, names that the pod has not, another sandbox's."""
        running = {view.name: view.running for view in (*self._inits, *self._apps)}
        sandbox = self._sandbox
        for container in self._containers_running():
            elsewhere = sandbox is not None and sandbox.running and container.sandbox not in ("", sandbox.id)
            if container.name not in running:
                self._stop(container, self._grace, f"Container {container.name} is no longer in the pod")
            elif elsewhere or running[container.name] is not container:
                self._stop(container, self._grace, f"Stopping container {container.name}")
        if self._stops:
            return
        for old in self._sandboxes():
            if old is not sandbox and old.running and not self._is_used(old):
                self._stop(old, SANDBOX_GRACE, "Stopping sandbox", hook=False)

    # -- ending -----------------------------------------------------------------------------------------------

    def _wind_down(self, grace: int, since: float | None) -> bool:
        """Stop what runs, in order; whether nothing runs any more and nothing is being started."""
        spent = 0.0 if since is None else self._now.now - since
        sidecars = [view.name for view in self._inits if view.spec.is_sidecar]
        running = self._containers_running()
        main = [container for container in running if container.name not in sidecars]
        for container in main:
            self._stop(container, grace, f"Stopping container {container.name}")
        if main or self._now.busy:
            return False
        if running:
            left = max(min(LAST_GRACE, grace), round(grace - spent))
            last = [max(running, key=lambda container: sidecars.index(container.name))]
            for container in running if spent >= grace and since is not None else last:
                self._stop(container, left, f"Stopping container {container.name}")
            return False
        sandboxes = [sandbox for sandbox in self._sandboxes() if sandbox.running]
        for sandbox in sandboxes:
            self._stop(sandbox, min(SANDBOX_GRACE, grace), "Stopping sandbox", hook=False)
        return not sandboxes

    def _tidy(self) -> None:
        """Remove ended attempts beyond those that are kept, and sandboxes that nothing uses."""
        known = {view.name for view in (*self._inits, *self._apps)}
        for view in (*self._inits, *self._apps):
            for container in view.ended[self._keep :]:
                self._remove(container)
            for container in view.attempts[1:]:
                if not container.running and not has_ended(container):
                    self._remove(container)
        for container in self._now.seen.containers:
            if container.kind is not Kind.SANDBOX and container.name not in known and not container.running:
                self._remove(container)
        for sandbox in self._sandboxes():
            if sandbox is not self._sandbox and not sandbox.running and not self._is_used(sandbox):
                self._remove(sandbox)

    # -- words ------------------------------------------------------------------------------------------------

    @property
    def _grace(self) -> int:
        return self._pod.spec.termination_grace_period_seconds

    def _sandboxes(self) -> list[ObservedContainer]:
        return [container for container in self._now.seen.containers if container.kind is Kind.SANDBOX]

    def _containers_running(self) -> list[ObservedContainer]:
        return [container for container in self._now.seen.running if container.kind is not Kind.SANDBOX]

    def _is_used(self, sandbox: ObservedContainer) -> bool:
        return any(container.sandbox == sandbox.id for container in self._containers_running())

    def _stop(self, container: ObservedContainer, grace: int, reason: str, *, hook: bool = True) -> None:
        if container.id not in self._now.stopping_ids and container.id not in self._stops:
            self._stops[container.id] = StopContainer(container.id, container.name, grace, reason, hook)

    def _remove(self, container: ObservedContainer) -> None:
        if container.id not in self._now.stopping_ids and not container.running:
            self._removals.append(RemoveContainer(container.id, container.name))

    def _plan(self, plan: Plan) -> Plan:
        actions = (*self._stops.values(), *self._starts, *self._removals)
        wake = min(self._wakes, default=None)
        return replace(plan, actions=actions, wake_at=wake, waiting=self._waiting)
