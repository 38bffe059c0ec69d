"""Probes of the running containers: one timer each, results by container."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from edgeappliance.edged.cgroups import process_age
from edgeappliance.edged.events import EventType, Regarding
from edgeappliance.edged.pods.observed import ObservedContainer
from edgeappliance.edged.pods.plan import Probed
from edgeappliance.edged.pods.spec import Container, Probe
from edgeappliance.edged.probes.attempt import Runner, Target, attempt
from edgeappliance.edged.probes.outcome import Answer, Outcome, ProbeKind, Verdict, after, first
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.supervisor import TaskScope

EVENT_OUTPUT = 1024
"""Characters of a probe's output that go into an event or a message."""


class Tried(NamedTuple):
    """What is counted: tries of one probe that ended in one way. result: successful, failed or unknown."""

    namespace: str
    pod: str
    uid: str
    container: str
    kind: str
    result: str


Tally = dict[Tried, int]

_RESULTS = {Verdict.SUCCESS: "successful", Verdict.FAILURE: "failed", Verdict.UNKNOWN: "unknown"}


class Events(Protocol):
    """Where failures are told."""

    def event(self, regarding: Regarding, type: str, reason: str, message: str) -> None: ...


@dataclass(slots=True)
class _Watched:
    """One container. `started` is set when its startup probe has passed, or it has none."""

    container: ObservedContainer
    target: Target
    regarding: Regarding
    elapsed: float
    """Seconds that it ran before it was watched."""
    since: float
    """Monotonic time at which it was first watched."""
    probes: dict[ProbeKind, Probe]
    outcomes: dict[ProbeKind, Outcome]
    started: asyncio.Event
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class ProbeRunner:
    """Asks every container that it is told to watch, and says what the answers mean.

    on_change: called with a pod's UID when what `probed` says about one of its containers has changed.
    """

    def __init__(
        self,
        scope: TaskScope,
        *,
        engine: Runner,
        clock: Clock,
        on_change: Callable[[str], None],
        events: Events,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._scope = scope
        self._engine = engine
        self._clock = clock
        self._on_change = on_change
        self._events = events
        self._random = random
        self._watched: dict[str, _Watched] = {}
        self._tally: Tally = {}

    def watch(
        self,
        container: ObservedContainer,
        spec: Container,
        *,
        pod_ip: str,
        host_network: bool = False,
        init: bool = False,
        previous: Probed | None = None,
    ) -> None:
        """Probe a running container from now on; told again of the same one, only its address is taken over.

        previous: what was last known of this very container before edgecore was restarted: it stays in force until
        the probes say otherwise, and a container that had started is not asked for its start again.
        """
        address = pod_ip or "127.0.0.1" if host_network else pod_ip
        target = Target(container.id, spec, address)
        known = self._watched.get(container.id)
        if known is not None and not any(task.cancelled() for task in known.tasks):
            known.target = target
            return
        if known is not None:  # the component was stopped, and its timers with it
            previous = self.probed(container.id)
        probes = {
            kind: probe
            for kind, probe in (
                (ProbeKind.STARTUP, spec.startup_probe),
                (ProbeKind.LIVENESS, spec.liveness_probe),
                (ProbeKind.READINESS, spec.readiness_probe),
            )
            if probe is not None
        }
        outcomes = {kind: first(kind) for kind in probes}
        if previous is not None and previous.started:
            probes.pop(ProbeKind.STARTUP, None)
            outcomes.pop(ProbeKind.STARTUP, None)
            if ProbeKind.READINESS in outcomes:
                outcomes[ProbeKind.READINESS] = Outcome(previous.ready)
        watched = _Watched(
            container=container,
            target=target,
            regarding=Regarding.container(container, spec.name, init=init),
            elapsed=self._ran(container),
            since=self._clock.monotonic(),
            probes=probes,
            outcomes=outcomes,
            started=asyncio.Event(),
        )
        if ProbeKind.STARTUP not in probes:
            watched.started.set()
        self._watched[container.id] = watched
        for kind, probe in probes.items():
            # After a restart of edgecore all containers would be asked in one moment, and again in every period.
            spread = self._random() * probe.period_seconds if previous is not None else 0.0
            name = f"probe-{kind.lower()}-{container.id[:12]}"
            watched.tasks.append(self._scope.spawn(self._ask_on(watched, kind, probe, spread), name=name))

    def forget(self, id: str) -> None:
        """The container has ended, or is being stopped: nothing is asked any more."""
        watched = self._watched.pop(id, None)
        if watched is None:
            return
        for task in watched.tasks:
            task.cancel()

    def probed(self, id: str) -> Probed:
        """What is known of a container; of one that is not watched (yet), that it has not started."""
        watched = self._watched.get(id)
        if watched is None:
            return Probed(started=False, ready=False)
        started = watched.started.is_set()
        ready = started and watched.outcomes.get(ProbeKind.READINESS, Outcome(True)).passed is True
        for kind, outcome in watched.outcomes.items():
            if outcome.condemned:
                output = outcome.output[:EVENT_OUTPUT]
                grace = watched.probes[kind].termination_grace_period_seconds
                return Probed(started=started, ready=ready, failed=f"{kind.lower()} probe: {output}", grace=grace)
        return Probed(started=started, ready=ready)

    def tally(self) -> Tally:
        """For /metrics/probes: the tries of the containers that are watched."""
        return dict(self._tally)

    def _ran(self, container: ObservedContainer) -> float:
        """Seconds since the container was started. Not by the wall clock where that can be: a box without a clock of
        its own sets it minutes after its containers are up."""
        age = process_age(container.pid)
        if age is not None:
            return age
        return max(0.0, (self._clock.wall_ms() - container.started_ms) / 1000) if container.started_ms else 0.0

    async def _ask_on(self, watched: _Watched, kind: ProbeKind, probe: Probe, spread: float) -> None:
        if kind is not ProbeKind.STARTUP:
            await watched.started.wait()
        already = watched.elapsed + self._clock.monotonic() - watched.since
        await asyncio.sleep(max(spread, probe.initial_delay_seconds - already))
        while True:
            began = self._clock.monotonic()
            answer = await attempt(probe, watched.target, self._engine)
            self._count(watched, kind, answer)
            if not self._take(watched, kind, probe, answer):
                return
            await asyncio.sleep(max(0.0, began + max(1, probe.period_seconds) - self._clock.monotonic()))

    def _take(self, watched: _Watched, kind: ProbeKind, probe: Probe, answer: Answer) -> bool:
        """Weigh one answer; whether to go on asking."""
        id = watched.container.id
        if self._watched.get(id) is not watched:
            return False
        self._tell(watched, kind, answer)
        before = self.probed(id)
        outcome = after(watched.outcomes[kind], answer, kind=kind, probe=probe)
        watched.outcomes[kind] = outcome
        if kind is ProbeKind.STARTUP and outcome.passed:
            watched.started.set()
        if self.probed(id) != before:
            self._on_change(watched.container.pod_uid)
        return not outcome.condemned and not (kind is ProbeKind.STARTUP and bool(outcome.passed))

    def _tell(self, watched: _Watched, kind: ProbeKind, answer: Answer) -> None:
        output = answer.output[:EVENT_OUTPUT]
        if answer.verdict is Verdict.FAILURE:
            self._events.event(watched.regarding, EventType.WARNING, "Unhealthy", f"{kind} probe failed: {output}")
        elif answer.verdict is Verdict.UNKNOWN and output:
            self._events.event(watched.regarding, EventType.WARNING, "Unhealthy", f"{kind} probe errored: {output}")
        elif answer.warning:
            self._events.event(watched.regarding, EventType.WARNING, "ProbeWarning", f"{kind} probe warning: {output}")

    def _count(self, watched: _Watched, kind: ProbeKind, answer: Answer) -> None:
        at = watched.container
        tried = Tried(at.namespace, at.pod_name, at.pod_uid, at.name, kind.value, _RESULTS[answer.verdict])
        self._tally[tried] = self._tally.get(tried, 0) + 1

    def forget_pod(self, uid: str) -> None:
        """The pod is gone: its counts go too."""
        for tried in [tried for tried in self._tally if tried.uid == uid]:
            del self._tally[tried]
