"""Housekeeping at work on a real engine with real directories."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeappliance.edged.cgroups import Cgroups
from edgeappliance.edged.engine.docker_engine import DockerEngine
from edgeappliance.edged.events import Regarding
from edgeappliance.edged.facts import Limits, Pressure
from edgeappliance.edged.housekeeping.images import ImageLimits
from edgeappliance.edged.housekeeping.service import Housekeeping
from edgeappliance.edged.pods.observed import GRACE, ObservedContainer
from edgeappliance.edged.pods.plan import Stopping
from edgeappliance.edged.pods.spec import Pod
from edgeappliance.edged.volumes.pod import PodVolumes
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.component import State
from edgeappliance.kernel.supervisor import TaskScope
from tests.support.docker_fixtures import BUSYBOX
from tests.support.dockerd import Dockerd
from tests.unit.edged.engine.conftest import Running, body
from tests.unit.edged.volumes.parts import IssuedTokens, StoredObjects

CALM = Limits(memory_kib=0, disk=0.0, inodes=0.0)
FULL = Limits(memory_kib=0, disk=1.0, inodes=0.0)
"""Nothing is ever free enough for it: every disk counts as full."""

STARVED = Limits(memory_kib=1 << 40, disk=0.0, inodes=0.0)


@dataclass
class Worker:
    pod: Pod
    containers: tuple[ObservedContainer, ...]
    finished: str = ""
    stopping: Stopping | None = None


@dataclass
class Pods:
    """The pods of a node; an evicted one is finished and its containers are ended."""

    engine: DockerEngine
    workers: dict[str, Worker] = field(default_factory=dict)
    strays: dict[str, list[ObservedContainer]] = field(default_factory=dict)
    complete: bool = True
    evicted: list[tuple[str, str, str]] = field(default_factory=list)

    def known_is_complete(self) -> bool:
        return self.complete

    def evict(self, uid: str, reason: str, message: str, grace: int = 0) -> None:
        self.evicted.append((uid, reason, message))
        self.workers[uid].finished = "Failed"

    async def run(self, uid: str, script: str = "sleep 1000", **pod: Any) -> Worker:
        """A pod of one container without a sandbox."""
        id = await self.engine.create(body("sh", "-c", script, uid=uid, labels={GRACE: "1"}), name=f"c-{uid}")
        await self.engine.start(id)
        seen = await self.engine.inspect(id)
        assert seen is not None
        spec = {"containers": [{"name": "app", "image": BUSYBOX, **pod.pop("container", {})}], **pod}
        made = Worker(msgspec.convert({"metadata": {"name": uid, "uid": uid}, "spec": spec}, Pod), (seen,))
        self.workers[uid] = made
        return made


@dataclass
class Told:
    events: list[tuple[str, str]] = field(default_factory=list)
    waiting: int = 0
    dropped: int = 0

    def event(self, regarding: Regarding, type: str, reason: str, message: str) -> None:
        self.events.append((reason, message))

    def flush(self) -> None:
        return


@dataclass
class Stand:
    engine: DockerEngine
    pods: Pods
    told: Told
    directory: Path
    volumes: PodVolumes
    changes: list[tuple[Pressure | None, int]] = field(default_factory=list)

    @asynccontextmanager
    async def keep(
        self, limits: Limits, *, image_limits: ImageLimits | None = None, kept: Sequence[str] = (BUSYBOX,)
    ) -> AsyncIterator[Housekeeping]:
        failures: list[BaseException] = []
        scope = TaskScope("housekeeping", failures.append)
        part = Housekeeping(
            scope,
            node="edge-1",
            engine=self.engine,
            pods=self.pods,
            volumes=self.volumes,
            events=self.told,
            cgroups=Cgroups(),
            clock=SystemClock(),
            data_directory=self.directory,
            limits=limits,
            image_limits=image_limits or ImageLimits(high=100, low=99),
            changed=lambda: self.changes.append((part.pressure, len(part.images))),
            kept=kept,
            pace=0.005,
        )
        await part.start()
        try:
            yield part
        finally:
            await part.stop()
            assert failures == []
            assert part.health().state is State.STOPPED


@pytest.fixture
async def stand(dockerd: Dockerd, tmp_path: Path) -> AsyncIterator[Stand]:
    async with Running(dockerd.socket) as running:
        engine = await running.connected()
        volumes = PodVolumes(
            tmp_path, engine=engine, objects=StoredObjects(), tokens=IssuedTokens(), cluster_domain="cluster.local"
        )
        yield Stand(engine, Pods(engine), Told(), tmp_path, volumes)


async def until(condition: Any, *, timeout: float = 15.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.01)


async def there(stand: Stand) -> Mapping[str, bool]:
    """Pods that have containers, and whether these run."""
    return {container.pod_uid: container.running for container in await stand.engine.containers()}


async def test_when_nothing_is_short_nothing_happens(stand: Stand) -> None:
    await stand.pods.run("u1")
    async with stand.keep(CALM) as part:
        await until(lambda: part.images)
        await asyncio.sleep(0.5)
        assert part.pressure == Pressure()
        assert any(BUSYBOX in image.names for image in part.images)
    assert stand.pods.evicted == []
    assert stand.told.events == []
    assert await there(stand) == {"u1": True}


async def test_short_of_memory_the_greediest_goes_and_no_other_before_it_has_left(stand: Stand) -> None:
    await stand.pods.run("small", "x=$(head -c 3000000 /dev/zero | tr '\\0' x); sleep 1000; :")
    await stand.pods.run("big", "x=$(head -c 9000000 /dev/zero | tr '\\0' x); sleep 1000; :")
    await asyncio.sleep(0.5)
    async with stand.keep(STARVED) as part:
        await until(lambda: stand.pods.evicted)
        await asyncio.sleep(0.5)
        assert [uid for uid, _, _ in stand.pods.evicted] == ["big"]
        reason, message = stand.pods.evicted[0][1:]
        assert reason == "Evicted"
        assert message.startswith("The node was low on resource: memory. Threshold quantity: 1Pi, available: ")
        assert "Container app was using " in message
        assert "request is 0, has larger consumption of memory. " in message
        assert part.pressure == Pressure(memory=True)
        assert part.health().details["evictions_total"] == 1
        big = stand.pods.workers["big"]
        await stand.engine.remove(big.containers[0].id)
        big.containers = ()
        await until(lambda: len(stand.pods.evicted) == 2)
    assert stand.pods.evicted[1][0] == "small"
    assert stand.told.events == [("EvictionThresholdMet", "Attempting to reclaim memory")]
    assert {pressure for pressure, _ in stand.changes} <= {None, Pressure(memory=True)}
    assert len(stand.changes) == 2  # one for the pressure, one for the images


async def test_short_of_disk_images_go_first_then_who_uses_most(dockerd: Dockerd, stand: Stand) -> None:
    dockerd.image_now("unused:1")
    await stand.pods.run("quiet")
    await stand.pods.run("noisy", "head -c 4000000 /dev/zero > /spill; sleep 1000")
    cache = stand.directory / "pods" / "hoarder" / "volumes" / "cache"
    cache.mkdir(parents=True)
    (cache / "file").write_bytes(b"x" * 8_000_000)
    await stand.pods.run("hoarder", volumes=[{"name": "cache", "emptyDir": {}}])
    async with stand.keep(FULL):
        await until(lambda: stand.pods.evicted)
        stand.pods.workers["hoarder"].containers = ()
        await until(lambda: len(stand.pods.evicted) == 2)
        stand.pods.workers["noisy"].containers = ()
        await asyncio.sleep(0.5)
    assert [uid for uid, _, _ in stand.pods.evicted] == ["hoarder", "noisy"]  # `quiet` would free nothing
    assert await stand.engine.image("unused:1") is None
    assert await stand.engine.image(BUSYBOX) is not None
    assert ("EvictionThresholdMet", "Attempting to reclaim ephemeral-storage") in stand.told.events


async def test_a_pod_that_exceeds_its_own_limits_goes_although_nothing_is_short(stand: Stand) -> None:
    limit = {"resources": {"limits": {"ephemeral-storage": "2Mi"}}}
    await stand.pods.run("writes", "head -c 4000000 /dev/zero > /spill; sleep 1000", container=limit)
    await stand.pods.run("logs", "head -c 3000000 /dev/zero | tr '\\0' '\\n'; sleep 1000", container=limit)
    await stand.pods.run("keeps", container=limit)
    async with stand.keep(CALM):
        await until(lambda: len(stand.pods.evicted) == 2)
        await asyncio.sleep(0.5)
    message = 'Container app exceeded its local ephemeral storage limit "2Mi". '
    assert sorted(stand.pods.evicted) == [("logs", "Evicted", message), ("writes", "Evicted", message)]


async def test_unused_images_go_when_the_disk_fills_and_wanted_ones_stay(dockerd: Dockerd, stand: Stand) -> None:
    for name in ("unused:1", "wanted:1", "used:1"):
        dockerd.image_now(name)
    worker = await stand.pods.run("u1")
    worker.pod = msgspec.convert(
        {
            "metadata": {"name": "p", "uid": "u1"},
            "spec": {"containers": [{"name": "app", "image": "docker.io/wanted:1"}]},
        },
        Pod,
    )
    used = await stand.engine.image("used:1")
    assert used is not None
    worker.containers = (*worker.containers, replace(worker.containers[0], image_id=used.id))
    async with stand.keep(CALM, image_limits=ImageLimits(high=1, low=0, min_age=0.0), kept=[BUSYBOX]):
        await until(lambda: stand.told.events)
    assert await stand.engine.image("unused:1") is None
    for name in ("wanted:1", "used:1", BUSYBOX):
        assert await stand.engine.image(name) is not None
    reason, message = stand.told.events[0]
    assert reason == "FreeDiskSpaceFailed"
    assert message.startswith("Failed to garbage collect required amount of images. Attempted to free ")


async def test_remains_of_unknown_pods_are_removed_and_nothing_else(dockerd: Dockerd, stand: Stand) -> None:
    gone = await stand.pods.run("gone")
    await stand.pods.run("known")
    del stand.pods.workers["gone"]
    stand.pods.strays["gone"] = list(gone.containers)
    await dockerd.call("create_container", BUSYBOX, ["sleep", "1000"], name="theirs")
    await dockerd.call("start", "theirs")
    for uid in ("gone", "known", "left"):
        (stand.directory / "pods" / uid / "volumes" / "data").mkdir(parents=True)
    stand.pods.complete = False
    async with stand.keep(CALM):
        await asyncio.sleep(1.0)
        assert set(await there(stand)) == {"gone", "known"}  # not while it is not certain that the pods are all known
        stand.pods.complete = True
        await until(lambda: not (stand.directory / "pods" / "gone").exists())
    assert await there(stand) == {"known": True}
    assert [path.name for path in (stand.directory / "pods").iterdir()] == ["known"]
    assert (await dockerd.call("inspect_container", "theirs"))["State"]["Running"]


async def test_an_engine_that_is_away_stops_nothing_else(dockerd: Dockerd, stand: Stand) -> None:
    await dockerd.kill()
    await until(lambda: not stand.engine.connected)
    async with stand.keep(STARVED) as part:
        await until(lambda: part.pressure)
        await asyncio.sleep(0.3)
        assert part.pressure == Pressure(memory=True)
        await dockerd.start()
        await until(lambda: part.images)
