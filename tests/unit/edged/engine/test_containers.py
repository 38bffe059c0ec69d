"""Containers on a real Docker Engine: made, watched, stopped, removed."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from edgeappliance.edged.engine.api import EngineRefused
from edgeappliance.edged.engine.docker_engine import DockerEngine
from edgeappliance.edged.pods.observed import OWNER, Kind, Phase
from tests.support.docker_fixtures import BUSYBOX
from tests.support.dockerd import Dockerd
from tests.unit.edged.engine.conftest import NODE, Running, body, until

Run = Callable[..., Awaitable[str]]
STUBBORN = ("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
OBEDIENT = ("sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.05; done")


async def test_a_container_is_seen_as_it_is_from_creation_to_removal(engine: DockerEngine) -> None:
    id = await engine.create(body("sh", "-c", "exit 5"), name="one")
    created = await engine.inspect(id)
    assert created is not None
    assert (created.phase, created.started_ms, created.pid) == (Phase.CREATED, 0, 0)
    assert (created.kind, created.name, created.pod_uid, created.namespace) == (Kind.APP, "app", "uid-1", "default")
    assert (created.attempt, created.backoff, created.grace, created.image) == (3, 20.0, 7, BUSYBOX)
    assert created.image_id.startswith("sha256:")
    assert abs(created.created_ms - time.time() * 1000) < 60_000

    await engine.start(id)
    ended = None
    async with asyncio.timeout(10):
        while ended is None or not ended.exited:
            ended = await engine.inspect(id)
    assert (ended.exit_code, ended.oom_killed, ended.error) == (5, False, "")
    assert created.created_ms <= ended.started_ms <= ended.finished_ms

    await engine.remove(id)
    assert await engine.inspect(id) is None
    await engine.remove(id)


async def test_only_what_is_ours_is_listed(engine: DockerEngine, dockerd: Dockerd) -> None:
    mine = await engine.create(body("true"), name="mine")
    await engine.create(body("true", node="another"), name="of-another-node")
    await dockerd.call("create_container", BUSYBOX, ["true"], name="of-a-person")
    half = await engine.create(body("true", labels={"io.edgeappliance.kind": "no such"}), name="half")
    assert [container.id for container in await engine.containers()] == [mine]
    assert await engine.inspect(half) is None


async def test_the_end_of_a_container_is_told_by_events(running: Running, run: Run) -> None:
    id = await run("true")
    await until(lambda: any((event.id, event.action) == (id, "die") for event in running.events))
    mine = [event for event in running.events if event.id == id]
    assert [event.action for event in mine] == ["create", "start", "die"]
    assert {event.pod_uid for event in mine} == {"uid-1"}


async def test_exec_makes_no_event(running: Running, run: Run) -> None:
    id = await run("sleep", "100")
    await running.engine.run(id, ["true"], timeout=10)
    await running.engine.stop(id, grace=0)
    await until(lambda: any((event.id, event.action) == (id, "die") for event in running.events))
    mine = [event.action for event in running.events if event.id == id]
    assert mine == ["create", "start", "kill", "die"]


async def test_stop_ends_an_obedient_container_at_once(engine: DockerEngine, run: Run) -> None:
    id = await run(*OBEDIENT)
    await asyncio.sleep(0.3)  # until the trap is set
    before = time.monotonic()
    await engine.stop(id, grace=30)
    assert time.monotonic() - before < 5
    seen = await engine.inspect(id)
    assert seen is not None
    assert (seen.phase, seen.exit_code) == (Phase.EXITED, 3)
    await engine.stop(id, grace=30)  # already ended


async def test_stop_kills_a_stubborn_one_when_the_grace_is_over(engine: DockerEngine, run: Run) -> None:
    id = await run(*STUBBORN)
    await asyncio.sleep(0.3)
    before = time.monotonic()
    await engine.stop(id, grace=1)
    assert 1.0 <= time.monotonic() - before < 5
    seen = await engine.inspect(id)
    assert seen is not None
    assert seen.exit_code == 137


async def test_stopping_many_stubborn_ones_holds_no_thread(engine: DockerEngine, run: Run) -> None:
    ids = [await run(*STUBBORN) for _ in range(6)]
    await asyncio.sleep(0.3)
    stops = [asyncio.ensure_future(engine.stop(id, grace=2)) for id in ids]
    await asyncio.sleep(0.5)
    before = time.monotonic()
    assert len(await engine.containers()) == 6  # answered while more stops wait than there are threads
    assert time.monotonic() - before < 1
    await asyncio.gather(*stops)
    assert all(container.exited for container in await engine.containers())


async def test_stop_uses_the_stop_signal_of_the_container(engine: DockerEngine, run: Run) -> None:
    id = await run("sh", "-c", "trap 'exit 9' USR1; while :; do sleep 0.05; done", StopSignal="SIGUSR1")
    await asyncio.sleep(0.3)
    await engine.stop(id, grace=10)
    seen = await engine.inspect(id)
    assert seen is not None
    assert seen.exit_code == 9


async def test_stop_of_a_paused_container(engine: DockerEngine, run: Run, dockerd: Dockerd) -> None:
    id = await run(*OBEDIENT)
    await asyncio.sleep(0.3)
    await dockerd.call("pause", id)
    paused = await engine.inspect(id)
    assert paused is not None
    assert paused.running
    await engine.stop(id, grace=10)
    seen = await engine.inspect(id)
    assert seen is not None
    assert seen.exit_code == 3


async def test_stop_and_remove_of_what_is_not_there(engine: DockerEngine) -> None:
    await engine.stop("0" * 64, grace=1)
    await engine.remove("0" * 64)
    assert await engine.inspect("0" * 64) is None


async def test_a_name_taken_by_an_ended_one_of_ours_is_freed(engine: DockerEngine) -> None:
    first = await engine.create(body("true"), name="same")
    second = await engine.create(body("true"), name="same")
    assert first != second
    assert [container.id for container in await engine.containers()] == [second]


async def test_a_name_taken_by_a_running_one_or_by_a_stranger_is_refused(
    engine: DockerEngine, dockerd: Dockerd
) -> None:
    id = await engine.create(body("sleep", "100"), name="runs")
    await engine.start(id)
    with pytest.raises(EngineRefused) as refused:
        await engine.create(body("true"), name="runs")
    assert refused.value.code == 409
    await dockerd.call("create_container", BUSYBOX, ["true"], name="strange")
    with pytest.raises(EngineRefused) as refused:
        await engine.create(body("true"), name="strange")
    assert refused.value.code == 409
    assert {entry["Names"][0] for entry in await dockerd.call("containers", all=True)} == {"/runs", "/strange"}


async def test_a_missing_image_or_program_is_refused_in_the_engine_s_words(engine: DockerEngine) -> None:
    with pytest.raises(EngineRefused, match="No such image") as refused:
        await engine.create({**body("true"), "Image": "nothing:1"}, name="no-image")
    assert refused.value.code == 404
    id = await engine.create(body("/no/such/program"), name="no-program")
    with pytest.raises(EngineRefused, match="no such file"):
        await engine.start(id)
    seen = await engine.inspect(id)
    assert seen is not None
    assert seen.exit_code == 127
    assert "no such file" in seen.error


async def test_starting_twice_is_no_error(engine: DockerEngine, run: Run) -> None:
    id = await run("sleep", "100")
    await engine.start(id)


async def test_removing_a_running_one_takes_its_anonymous_volumes(
    engine: DockerEngine, run: Run, dockerd: Dockerd
) -> None:
    id = await run("sleep", "100", Volumes={"/data": {}})
    assert len((await dockerd.call("volumes"))["Volumes"]) == 1
    await asyncio.gather(*(engine.remove(id) for _ in range(4)))
    assert await engine.inspect(id) is None
    assert not (await dockerd.call("volumes"))["Volumes"]


async def test_memory_volumes(engine: DockerEngine, run: Run) -> None:
    await engine.create_volume("vol-1", size=1 << 20)
    await engine.create_volume("vol-1", size=1 << 20)
    assert await engine.volumes() == [("vol-1", {OWNER: NODE})]
    mount = {"Type": "volume", "Source": "vol-1", "Target": "/m", "VolumeOptions": {"NoCopy": True}}
    holder = await run("sleep", "100", host={"Mounts": [mount]})
    code, output = await engine.run(
        holder, ["sh", "-c", "echo kept > /m/f; df -k /m | tail -1; stat -c %a /m"], timeout=10
    )
    assert code == 0
    assert output.split()[0:2] == [b"tmpfs", b"1024"]
    assert output.split()[-1] == b"1777"
    code, _ = await engine.run(holder, ["dd", "if=/dev/zero", "of=/m/g", "bs=1M", "count=2"], timeout=10)
    assert code != 0
    other = await run("cat", "/m/f", host={"Mounts": [mount]})
    await engine.stop(other, grace=1)
    with pytest.raises(EngineRefused, match="in use"):
        await engine.remove_volume("vol-1")
    for id in (holder, other):
        await engine.remove(id)
    await engine.remove_volume("vol-1")
    await engine.remove_volume("vol-1")
    assert await engine.volumes() == []


async def test_the_engine_describes_itself(engine: DockerEngine, dockerd: Dockerd) -> None:
    assert engine.version
    assert engine.trouble == ""
    assert await engine.root() == dockerd.root / "data"
