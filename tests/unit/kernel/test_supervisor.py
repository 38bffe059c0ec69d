"""Components start, fail, restart and stop as promised."""

import asyncio

import pytest

from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.errors import OperatorError, TransientError
from edgeappliance.kernel.supervisor import Supervisor, TaskScope


class Part:
    """A component that does what the test tells it."""

    def __init__(self, scope: TaskScope, journal: list[str], name: str, *, broken_starts: int = 0) -> None:
        self._scope = scope
        self._journal = journal
        self._name = name
        self._broken_starts = broken_starts
        self.trip = asyncio.Event()
        self.started = asyncio.Event()
        self.starts = 0

    async def start(self) -> None:
        self.starts += 1
        if self._broken_starts:
            self._broken_starts -= 1
            self._scope.spawn(asyncio.sleep(3600), name="half-started")
            raise TransientError("not yet")
        self.trip.clear()
        self._scope.spawn(self._work(), name="work")
        self._journal.append(f"start {self._name}")
        self.started.set()

    async def _work(self) -> None:
        await self.trip.wait()
        raise RuntimeError("tripped")

    async def stop(self) -> None:
        self._journal.append(f"stop {self._name}")
        self.started.clear()

    def health(self) -> Health:
        return Health(State.RUNNING)


@pytest.fixture
def journal() -> list[str]:
    return []


async def test_components_stop_in_reverse_order_of_starting(journal: list[str]) -> None:
    supervisor = Supervisor()
    for name in ("a", "b", "c"):
        supervisor.add(name, lambda scope, name=name: Part(scope, journal, name))
    await supervisor.start()
    await supervisor.stop()
    assert journal == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]


async def test_a_failed_task_restarts_its_component_and_no_other(journal: list[str]) -> None:
    supervisor = Supervisor(initial=0.01, maximum=0.05)
    good = supervisor.add("good", lambda scope: Part(scope, journal, "good"))
    bad = supervisor.add("bad", lambda scope: Part(scope, journal, "bad"))
    await supervisor.start()
    bad.started.clear()
    bad.trip.set()
    await asyncio.wait_for(bad.started.wait(), 5)
    assert supervisor.health()["bad"].state is State.RUNNING
    assert supervisor.health()["bad"].details["restarts_total"] == 1
    assert (good.starts, bad.starts) == (1, 2)
    await supervisor.stop()


async def test_a_component_that_cannot_start_leaves_the_others_and_no_task(journal: list[str]) -> None:
    supervisor = Supervisor(initial=30, maximum=60)
    scopes: dict[str, TaskScope] = {}

    def build(scope: TaskScope) -> Part:
        scopes["bad"] = scope
        return Part(scope, journal, "bad", broken_starts=1)

    supervisor.add("bad", build)
    supervisor.add("good", lambda scope: Part(scope, journal, "good"))
    await supervisor.start()
    assert len(scopes["bad"]) == 0
    health = supervisor.health()
    assert (health["bad"].state, health["bad"].reason) == (State.FAILED, "not yet")
    assert health["good"].state is State.RUNNING
    await supervisor.stop()


async def test_a_component_that_starts_at_the_second_try_is_running(journal: list[str]) -> None:
    supervisor = Supervisor(initial=0.01, maximum=0.05)
    late = supervisor.add("late", lambda scope: Part(scope, journal, "late", broken_starts=2))
    await supervisor.start()
    await asyncio.wait_for(late.started.wait(), 5)
    assert supervisor.health()["late"].state is State.RUNNING
    await supervisor.stop()


async def test_what_only_a_person_can_cure_is_tried_at_the_slow_rate(journal: list[str]) -> None:
    class Refusing(Part):
        async def start(self) -> None:
            self.starts += 1
            raise OperatorError("port taken", next_step="free it")

    supervisor = Supervisor(initial=0.001, maximum=3600)
    part = supervisor.add("x", lambda scope: Refusing(scope, journal, "x"))
    await supervisor.start()
    await asyncio.sleep(0.05)
    assert part.starts == 1
    assert supervisor.health()["x"].next_step == "free it"
    await supervisor.stop()


async def test_stop_survives_a_component_that_raises_while_stopping(journal: list[str]) -> None:
    class Stubborn(Part):
        async def stop(self) -> None:
            raise RuntimeError("no")

    supervisor = Supervisor()
    supervisor.add("first", lambda scope: Part(scope, journal, "first"))
    supervisor.add("stubborn", lambda scope: Stubborn(scope, journal, "stubborn"))
    await supervisor.start()
    await supervisor.stop()
    assert journal[-1] == "stop first"
