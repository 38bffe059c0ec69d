"""A container engine and a node in a few lines: carries out plans in any order, and everything may go wrong."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from edgeappliance.edged.pods.containers import is_complete, views
from edgeappliance.edged.pods.observed import Kind, ObservedContainer, ObservedPod, Phase
from edgeappliance.edged.pods.plan import (
    Action,
    Plan,
    Probed,
    RemoveContainer,
    Situation,
    StartContainer,
    StartFailure,
    StartSandbox,
    StopContainer,
    Stopping,
)
from edgeappliance.edged.pods.reconcile import reconcile
from edgeappliance.edged.pods.spec import Pod, spec_hash

Choose = Callable[[int], int]
"""Any of 0 to n - 1."""


@dataclass
class Node:
    """One pod on one engine. `ends`: exit codes that the attempts of a container end with, one after the other; a
    container without any left runs until it is stopped."""

    pod: Pod
    choose: Choose
    ends: dict[str, list[int]]
    now: float = 1000.0
    containers: dict[str, ObservedContainer] = field(default_factory=dict)
    pending: list[Action] = field(default_factory=list)
    exits: dict[str, float] = field(default_factory=dict)
    failures: dict[str, StartFailure] = field(default_factory=dict)
    probes: dict[str, Probed] = field(default_factory=dict)
    stopping: Stopping | None = None
    finished: str = ""
    gone: bool = False
    wake_at: float | None = None
    counter: int = 0

    @property
    def wall_ms(self) -> int:
        return 1_700_000_000_000 + round(self.now * 1000)

    def situation(self) -> Situation:
        return Situation(
            pod=self.pod,
            seen=ObservedPod(self.pod.uid, tuple(self.containers.values())),
            now=self.now,
            wall_ms=self.wall_ms,
            started_ms=1_700_000_000_000,
            exits=dict(self.exits),
            probes=dict(self.probes),
            failures=dict(self.failures),
            busy=frozenset(_name(a) for a in self.pending if isinstance(a, StartSandbox | StartContainer)),
            stopping_ids=frozenset(a.id for a in self.pending if isinstance(a, StopContainer | RemoveContainer)),
            stopping=self.stopping,
            finished=self.finished,
        )

    def look(self) -> Plan:
        """One turn of the worker, with what must always hold of a plan."""
        before = self.situation()
        plan = reconcile(before)
        self._check(before, plan)
        self.pending.extend(plan.actions)
        assert reconcile(self.situation()).actions == (), "asked twice"
        if plan.finished:
            assert self.finished == ""
            self.finished = plan.finished
        if plan.stop is not None:
            self.stopping = plan.stop
        self.gone = plan.gone
        self.wake_at = plan.wake_at
        return plan

    def _check(self, before: Situation, plan: Plan) -> None:
        running = [c.name for c in before.seen.running if c.kind is not Kind.SANDBOX]
        assert len(running) == len(set(running)), "two attempts of one container run"
        if plan.gone or plan.finished:
            assert not before.seen.running
            assert not before.busy, "over while something is being started"
        for action in plan.actions:
            if isinstance(action, StartSandbox | StartContainer):
                assert not before.finished
                assert before.stopping is None
                assert _name(action) not in before.busy
            else:
                assert action.id not in before.stopping_ids
                assert action.id in self.containers
            if isinstance(action, RemoveContainer):
                assert not self.containers[action.id].running
            if isinstance(action, StartContainer):
                self._check_start(before, action)

    def _check_start(self, before: Situation, action: StartContainer) -> None:
        sandbox = before.seen.sandbox()
        assert sandbox is not None
        assert sandbox.running, "a container without a sandbox"
        assert action.name not in [c.name for c in before.seen.running]
        for attempt in before.seen.attempts(action.name):
            assert attempt.attempt < action.attempt or (attempt.phase is Phase.CREATED and not attempt.error)
        if before.seen.attempts(action.name) and before.seen.attempts(action.name)[0].sandbox == sandbox.id:
            return  # it had begun here before: a restart
        inits, apps = views(self.pod, before.seen)
        for view in inits:
            if view.name == action.name:
                break
            later = any(other.in_sandbox(sandbox) for other in (*inits[inits.index(view) + 1 :], *apps))
            assert later or is_complete(view, before), f"{action.name} before {view.name}"

    # -- what the engine does ---------------------------------------------------------------------------------

    def carry_out(self, action: Action, *, fail: bool = False) -> None:
        """An action that was under way comes to its end."""
        self.pending.remove(action)
        match action:
            case StartSandbox(attempt):
                self._add("", Kind.SANDBOX, attempt, fail=fail)
            case StartContainer(name, init, attempt, backoff):
                sandbox = self.situation().seen.sandbox()
                lost = sandbox is None or not sandbox.running
                self._add(name, Kind.INIT if init else Kind.APP, attempt, backoff=backoff, fail=fail or lost)
            case StopContainer(id):
                if id in self.containers and self.containers[id].running:
                    self.end(id, 143)
            case RemoveContainer(id):
                self.containers.pop(id, None)
                self.exits.pop(id, None)

    def _add(self, name: str, kind: Kind, attempt: int, *, backoff: float = 0.0, fail: bool) -> None:
        for id, other in list(self.containers.items()):
            if other.name == name and other.attempt == attempt and not other.running:
                del self.containers[id]
        self.counter += 1
        sandbox = self.situation().seen.sandbox()
        spec = next((c for c in self.pod.containers() if c.name == name), None)
        made = ObservedContainer(
            id=f"{name or 'sandbox'}-{attempt}-{self.counter}",
            name=name,
            kind=kind,
            pod_uid=self.pod.uid,
            namespace="default",
            pod_name="web",
            attempt=attempt,
            phase=Phase.CREATED,
            created_ms=self.wall_ms,
            spec_hash=spec_hash(spec) if spec else "",
            sandbox=sandbox.id if sandbox is not None and kind is not Kind.SANDBOX else "",
            backoff=backoff,
            ip="10.1.1.1" if kind is Kind.SANDBOX else "",
        )
        if fail and self.choose(2):
            self.failures[name] = StartFailure("RunContainerError", "no", self.now + 10)
            if self.choose(2):
                self.containers[made.id] = replace(made, error="no such file", exit_code=127)
                self.exits[made.id] = self.now
        elif fail:
            self.containers[made.id] = made  # killed between making and starting
        else:
            self.failures.pop(name, None)
            self.containers[made.id] = replace(made, phase=Phase.RUNNING, started_ms=self.wall_ms)

    def end(self, id: str, code: int) -> None:
        self.containers[id] = replace(self.containers[id], phase=Phase.EXITED, finished_ms=self.wall_ms, exit_code=code)
        self.exits[id] = self.now
        self.probes.pop(id, None)

    def finish_programs(self) -> bool:
        """Let every program that is to end by itself do so; whether one did."""
        some = False
        for container in list(self.containers.values()):
            if container.running and self.ends.get(container.name):
                self.end(container.id, self.ends[container.name].pop(0))
                some = True
        return some

    # -- faults -----------------------------------------------------------------------------------------------

    def node_restarts(self, *, finished_lost: bool) -> None:
        """The worker forgets what it was doing; each thing may have been done, half done or not done."""
        for action in list(self.pending):
            done = self.choose(3)
            if done == 0:
                self.pending.remove(action)
            else:
                self.carry_out(action, fail=done == 1)
        self.failures.clear()
        self.exits = {c.id: self.now for c in self.containers.values() if c.exited}
        if finished_lost and self.stopping is None:
            self.finished = ""

    def engine_restarts(self) -> None:
        """Everything ends at once."""
        for container in list(self.containers.values()):
            if container.running:
                self.end(container.id, 137)


def _name(action: Action) -> str:
    return action.name if isinstance(action, StartContainer) else ""
