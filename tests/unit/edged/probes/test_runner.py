"""Probes as they run: their order, their timing, what is told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from edgeappliance.edged.pods.plan import Probed
from edgeappliance.edged.pods.spec import Container, Exec, HttpGet, Probe
from edgeappliance.edged.probes.runner import ProbeRunner
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.supervisor import TaskScope
from tests.unit.edged.probes.stand import Commands, Told, answer, container, web

CLOCK = SystemClock()


class Stand:
    def __init__(self, scope: TaskScope, *, random: Callable[[], float] = lambda: 0.0) -> None:
        self.told = Told()
        self.changes: list[str] = []
        self.engine = Commands()
        self.runner = ProbeRunner(
            scope,
            engine=self.engine,
            clock=CLOCK,
            on_change=self.changes.append,
            events=self.told,
            random=random,
        )

    async def until(self, probed: Probed, *, id: str = "c1") -> None:
        async with asyncio.timeout(10):
            while self.runner.probed(id) != probed:
                await asyncio.sleep(0.005)


@pytest.fixture
async def scope() -> AsyncIterator[TaskScope]:
    failures: list[BaseException] = []
    made = TaskScope("edged", failures.append)
    yield made
    await made.cancel()
    assert not failures


@pytest.fixture
def stand(scope: TaskScope) -> Stand:
    return Stand(scope)


def http(port: int, **more: Any) -> Probe:
    return Probe(http_get=HttpGet(port=port), **more)


async def test_a_container_without_probes_is_ready_once_it_is_watched(stand: Stand) -> None:
    assert stand.runner.probed("c1") == Probed(started=False, ready=False)
    stand.runner.watch(container(), Container(name="web"), pod_ip="127.0.0.1")
    assert stand.runner.probed("c1") == Probed()
    stand.runner.forget("c1")
    assert not stand.runner.probed("c1").ready


async def test_readiness_comes_at_once_and_goes_when_the_server_says_no(stand: Stand) -> None:
    status = [200]
    async with web(lambda head: answer(status[0])) as peer:
        spec = Container(name="web", readiness_probe=http(peer.port, period_seconds=1, failure_threshold=1))
        stand.runner.watch(container(), spec, pod_ip="127.0.0.1")
        assert not stand.runner.probed("c1").ready
        await stand.until(Probed())
        status[0] = 500
        await stand.until(Probed(ready=False))
        stand.runner.forget("c1")
    assert stand.changes == ["u1", "u1"]
    message = "Readiness probe failed: HTTP probe failed with statuscode: 500"
    assert stand.told.events == [("spec.containers{web}", "Unhealthy", message)]
    counted = {(tried.kind, tried.result): count for tried, count in stand.runner.tally().items()}
    assert counted == {("Readiness", "successful"): 1, ("Readiness", "failed"): 1}
    stand.runner.forget_pod("u1")
    assert stand.runner.tally() == {}


async def test_a_failing_liveness_probe_condemns_with_its_own_grace_and_asks_no_more(stand: Stand) -> None:
    async with web(lambda head: answer(500)) as peer:
        probe = http(peer.port, failure_threshold=1, period_seconds=1, termination_grace_period_seconds=3)
        stand.runner.watch(container(), Container(name="web", liveness_probe=probe), pod_ip="127.0.0.1")
        assert stand.runner.probed("c1").ready
        failed = "liveness probe: HTTP probe failed with statuscode: 500"
        await stand.until(Probed(failed=failed, grace=3))
        await asyncio.sleep(1.2)
        assert len(peer.heads) == 1
    assert stand.changes == ["u1"]


async def test_the_others_wait_for_the_startup_probe(stand: Stand) -> None:
    status = [500]
    async with web(lambda head: answer(status[0] if "GET /start" in head else 200)) as peer:
        spec = Container(
            name="web",
            startup_probe=Probe(http_get=HttpGet(port=peer.port, path="/start"), period_seconds=1),
            liveness_probe=http(peer.port),
            readiness_probe=http(peer.port),
        )
        stand.runner.watch(container(), spec, pod_ip="127.0.0.1")
        async with asyncio.timeout(5):
            while not peer.heads:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)
        assert stand.runner.probed("c1") == Probed(started=False, ready=False)
        assert all("GET /start" in head for head in peer.heads)
        status[0] = 200
        await stand.until(Probed())
        asked = len([head for head in peer.heads if "GET /start" in head])
        await asyncio.sleep(1.1)
        assert len([head for head in peer.heads if "GET /start" in head]) == asked


async def test_a_startup_probe_that_never_passes_condemns(stand: Stand) -> None:
    probe = Probe(exec=Exec(command=["false"]), failure_threshold=1)
    stand.runner.watch(container(), Container(name="web", startup_probe=probe), pod_ip="127.0.0.1")
    await stand.until(Probed(started=False, ready=False, failed="startup probe: "))


async def test_the_initial_delay_counts_from_the_start_of_the_container(stand: Stand) -> None:
    async with web(lambda head: answer(200)) as peer:
        spec = Container(name="web", readiness_probe=http(peer.port, initial_delay_seconds=60))
        fresh = container("fresh", started_ms=CLOCK.wall_ms())
        stand.runner.watch(fresh, spec, pod_ip="127.0.0.1")
        stand.runner.watch(container("old", started_ms=CLOCK.wall_ms() - 61_000), spec, pod_ip="127.0.0.1")
        await stand.until(Probed(), id="old")
        assert not stand.runner.probed("fresh").ready
        assert len(peer.heads) == 1


async def test_a_wall_clock_that_was_set_does_not_shorten_the_initial_delay(stand: Stand) -> None:
    process = await asyncio.create_subprocess_exec("sleep", "60")
    try:
        async with web(lambda head: answer(200)) as peer:
            spec = Container(name="web", readiness_probe=http(peer.port, initial_delay_seconds=30))
            started_in_1970 = container(started_ms=1000, pid=process.pid)
            stand.runner.watch(started_in_1970, spec, pod_ip="127.0.0.1")
            await asyncio.sleep(0.3)
            assert not peer.heads
    finally:
        process.kill()
        await process.wait()


async def test_what_was_known_before_a_restart_of_edgecore_stays_until_something_else_is_seen(scope: TaskScope) -> None:
    stand = Stand(scope, random=lambda: 0.5)
    async with web(lambda head: answer(500)) as peer:
        spec = Container(
            name="web",
            startup_probe=http(peer.port),
            readiness_probe=http(peer.port, period_seconds=1, failure_threshold=1),
        )
        stand.runner.watch(container(), spec, pod_ip="127.0.0.1", previous=Probed(started=True, ready=True))
        assert stand.runner.probed("c1") == Probed()
        await asyncio.sleep(0.2)
        assert not peer.heads  # spread over the period, so that not all ask at once
        await stand.until(Probed(ready=False))
        assert len(peer.heads) == 1


async def test_an_engine_that_is_away_changes_nothing_and_is_not_told_by_every_probe(stand: Stand) -> None:
    stand.engine.away = True
    probe = Probe(exec=Exec(command=["true"]), failure_threshold=1)
    stand.runner.watch(container(), Container(name="web", liveness_probe=probe), pod_ip="127.0.0.1")
    async with asyncio.timeout(5):
        while not stand.runner.tally():
            await asyncio.sleep(0.005)
    assert [tried.result for tried in stand.runner.tally()] == ["unknown"]
    assert stand.runner.probed("c1") == Probed()
    assert stand.changes == []
    assert stand.told.events == []


async def test_a_probe_that_cannot_be_asked_is_told(stand: Stand) -> None:
    probe = Probe(http_get=HttpGet(port="nope"), failure_threshold=1)
    stand.runner.watch(container(), Container(name="web", liveness_probe=probe), pod_ip="127.0.0.1")
    async with asyncio.timeout(5):
        while not stand.told.events:
            await asyncio.sleep(0.005)
    assert stand.told.events[0][1:] == ("Unhealthy", "Liveness probe errored: couldn't find port: nope")


async def test_a_new_address_is_taken_over_and_host_network_falls_back_to_loopback(stand: Stand) -> None:
    async with web(lambda head: answer(200)) as peer:
        spec = Container(name="web", readiness_probe=http(peer.port, period_seconds=1))
        stand.runner.watch(container(), spec, pod_ip="127.0.0.2")
        stand.runner.watch(container(), spec, pod_ip="", host_network=True)
        await stand.until(Probed())


async def test_forgetting_ends_every_timer(stand: Stand, scope: TaskScope) -> None:
    probe = Probe(exec=Exec(command=["sleep", "5"]), timeout_seconds=10)
    for id in ("a", "b"):
        spec = Container(name="web", liveness_probe=probe, readiness_probe=probe)
        stand.runner.watch(container(id), spec, pod_ip="127.0.0.1")
    assert len(scope) == 4
    for id in ("a", "b"):
        stand.runner.forget(id)
    async with asyncio.timeout(2):
        while len(scope):
            await asyncio.sleep(0.005)


async def test_a_component_that_is_stopped_and_started_goes_on_from_what_it_knew(
    stand: Stand, scope: TaskScope
) -> None:
    async with web(lambda head: answer(200)) as peer:
        spec = Container(name="web", startup_probe=http(peer.port), readiness_probe=http(peer.port, period_seconds=1))
        stand.runner.watch(container(), spec, pod_ip="127.0.0.1")
        await stand.until(Probed())
        await scope.cancel()
        asked = len(peer.heads)
        stand.runner.watch(container(), spec, pod_ip="127.0.0.1")
        assert stand.runner.probed("c1") == Probed()
        async with asyncio.timeout(5):
            while len(peer.heads) == asked:
                await asyncio.sleep(0.01)
