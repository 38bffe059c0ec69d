"""What a worker makes of looks at containers that come late, twice, or in parts."""

import asyncio
import itertools
from typing import Any, cast

import pytest

from edgeappliance.edged.engine.api import EngineAway
from edgeappliance.edged.pods.observed import ObservedContainer, Phase
from edgeappliance.edged.pods.plan import Probed, StopContainer
from edgeappliance.edged.runtime import PodRuntime
from edgeappliance.edged.sandboxes import StartFailed
from edgeappliance.edged.worker import PodWorker
from edgeappliance.kernel.clock import ManualClock
from edgeappliance.kernel.supervisor import TaskScope
from tests.unit.edged.pods.make import WALL, created, exited, make_pod, running, sandbox


class Hands:
    """In place of the engine: remembers what it was told to do, and lets it last for ever."""

    ready = True

    def __init__(self) -> None:
        self.done: list[str] = []
        self.away = False
        self.missing = ""

    def observed(self, pod: Any, container: ObservedContainer) -> None:
        pass

    def vanished(self, id: str) -> None:
        pass

    def is_pulling(self, uid: str, container: str) -> bool:
        return False

    def probed(self, container: ObservedContainer) -> Probed:
        return Probed()

    def note_waiting(self, *words: Any) -> None:
        pass

    async def start_sandbox(self, pod: Any, attempt: int) -> Any:
        return await self._last(f"sandbox {attempt}")

    async def start_container(self, pod: Any, container: Any, action: Any, holder: Any) -> Any:
        return await self._last(f"start {action.name} {action.attempt}")

    async def stop(self, pod: Any, spec: Any, container: Any, action: StopContainer) -> None:
        await self._last(f"stop {action.id}")

    async def remove(self, id: str) -> None:
        await self._last(f"remove {id}")

    async def _last(self, what: str) -> Any:
        self.done.append(what)
        if self.away:
            raise EngineAway("no answer")
        if self.missing:
            raise StartFailed("ContainerCreating", self.missing)
        await asyncio.Event().wait()


class Bench:
    """A worker for one pod."""

    def __init__(self, scope: TaskScope) -> None:
        self.hands = Hands()
        self.pod = make_pod("a", inits=("one",))
        self.clock = ManualClock(wall_ms=WALL)
        self.worker = PodWorker(
            scope,
            self.pod,
            runtime=cast(PodRuntime, self.hands),
            clock=self.clock,
            changed=lambda worker: None,
            started_ms=WALL,
        )

    async def done(self) -> list[str]:
        for _ in range(10):
            await asyncio.sleep(0)
        return self.hands.done


@pytest.fixture
async def bench() -> Any:
    failures: list[BaseException] = []
    scope = TaskScope("worker", failures.append)
    yield Bench(scope)
    await scope.cancel()
    assert not failures


async def test_a_part_of_the_containers_is_no_reason_to_act(bench: Bench) -> None:
    """After a restart the engine repeats its last events: a container is heard of before its sandbox."""
    up = running(bench.pod, "a")
    bench.worker.observe(up)
    assert await bench.done() == []
    bench.worker.observe_all([sandbox(), exited(bench.pod, "one"), up])
    assert await bench.done() == []
    assert {item.id for item in bench.worker.containers} == {"sandbox-0", "one-0", "a-0"}


async def test_nothing_is_done_while_all_are_being_listed(bench: Bench) -> None:
    bench.worker.observe_all([sandbox()])
    assert await bench.done() == ["start one 0"]
    bench.worker.await_list()
    bench.worker.vanished("sandbox-0")
    assert await bench.done() == ["start one 0"]


async def test_what_was_told_since_outranks_the_list(bench: Bench) -> None:
    first = exited(bench.pod, "one")
    bench.worker.observe_all([sandbox(), first])
    assert await bench.done() == ["start a 0"]
    bench.worker.await_list()
    bench.worker.observe(running(bench.pod, "a"))  # started after the engine had made the list
    bench.worker.vanished("one-0")  # removed after that
    bench.worker.observe_all([sandbox(), first])
    assert {item.id for item in bench.worker.containers} == {"sandbox-0", "a-0"}
    bench.worker.await_list()
    bench.worker.observe_all([sandbox()])
    assert {item.id for item in bench.worker.containers} == {"sandbox-0"}


async def test_a_look_that_comes_late_changes_nothing(bench: Bench) -> None:
    pod = bench.pod
    up, over = running(pod, "a"), exited(pod, "a", code=1)
    for late, newest in ((created(pod, "a"), up), (up, over), (created(pod, "a"), over)):
        bench.worker.observe(newest)
        bench.worker.observe(late)
        assert bench.worker.containers == (newest,)
    by_hand = running(pod, "a", started_ms=WALL + 5)
    bench.worker.observe(by_hand)
    assert [item.phase for item in bench.worker.containers] == [Phase.RUNNING]


async def test_an_engine_that_does_not_answer_is_asked_with_patience(bench: Bench) -> None:
    """Its events may go on coming while its other answers fail."""
    bench.hands.away = True
    bench.worker.observe_all([sandbox()])
    await asyncio.sleep(0.3)
    assert await bench.done() == ["start one 0"]


async def test_a_pod_that_is_gone_leaves_no_task() -> None:
    scope = TaskScope("edged", lambda error: None)
    bench = Bench(scope)
    await bench.done()
    assert len(scope) == 1
    bench.worker.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(scope) == 0


async def test_what_a_container_waits_for_is_found_within_a_minute(bench: Bench) -> None:
    """A device that is plugged in after an hour tells nobody."""
    bench.hands.missing = "hostPath type check failed: /dev/ttyUSB0 is not a character device"
    bench.worker.observe_all([sandbox()])
    clock = bench.clock
    tries: list[float] = []
    while len(tries) < 8:
        count = len(await bench.done())
        if count > len(tries):
            tries.append(clock.monotonic())
        clock.advance(1)
        bench.worker.wake()
    waits = [round(after - before) for before, after in itertools.pairwise(tries)]
    assert waits[0] in (10, 11), waits
    assert max(waits) <= 61, waits


async def test_the_log_tells_what_a_container_waits_for_when_it_changes(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Tried every few seconds, the same line would hide all others."""

    def told() -> list[Any]:
        return [record.__dict__["fields"]["why"] for record in caplog.records if "fields" in record.__dict__]

    bench.hands.missing = 'configmap "nope" not found'
    bench.worker.observe_all([sandbox()])
    for _ in range(4):
        await bench.done()
        bench.worker.retry()
    assert len(await bench.done()) == 5
    assert len(told()) == 1
    bench.hands.missing = 'secret "other" not found'
    bench.worker.retry()
    await bench.done()
    assert told() == ['configmap "nope" not found', 'secret "other" not found']


async def test_the_log_tells_of_every_crash_with_its_exit_code(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    over = exited(bench.pod, "a", 1, code=3)
    bench.worker.observe_all([sandbox(), exited(bench.pod, "one"), over])
    await bench.done()
    bench.worker.wake()
    await bench.done()
    lines = [record.__dict__["fields"] for record in caplog.records]
    assert [(line["reason"], line["why"]) for line in lines] == [
        ("CrashLoopBackOff", "back-off 10s, ended with exit code 3")
    ]


async def test_a_container_that_starved_is_oom_killed_whatever_the_engine_heard_first() -> None:
    scope = TaskScope("edged", lambda error: None)
    bench = Bench(scope)
    ended = exited(bench.pod, "one", code=137)
    other = exited(bench.pod, "a", code=1)
    for container in (ended, other):
        bench.worker.observe(container)
        bench.worker.out_of_memory(container.id)
    seen = {container.name: container.oom_killed for container in bench.worker.containers}
    assert seen == {"one": True, "a": False}
    await scope.cancel()
