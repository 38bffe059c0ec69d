"""Images: pulled from a real registry with and without credentials, listed, removed."""

import asyncio
import subprocess
import time
from collections.abc import Awaitable, Callable

import pytest

from edgeappliance.edged.engine.api import Credentials, EngineRefused, PullFailed
from edgeappliance.edged.engine.docker_engine import DockerEngine
from edgeappliance.edged.pause.archive import IMAGE, archive
from tests.support.docker_fixtures import BUSYBOX
from tests.support.dockerd import Dockerd, Registry, wait_listening

Run = Callable[..., Awaitable[str]]


async def test_a_pull_ends_with_the_image(engine: DockerEngine, dockerd: Dockerd) -> None:
    async with Registry(dockerd) as registry:
        name = await registry.push(await dockerd.image("mine:1", {"/name": "plain/app:1"}), "plain/app:1")
        assert await engine.image(name) is None
        await engine.remove_image("mine:1")
        image = await engine.pull(name, [])
        assert name in image.names
        assert image.size > 500_000
        assert image == await engine.image(name)
        digest = next(found for found in image.names if "@sha256:" in found)
        assert (await engine.pull(digest, [])).id == image.id
        await engine.remove_image(image.id)


async def test_credentials_are_tried_one_after_the_other(engine: DockerEngine, dockerd: Dockerd) -> None:
    async with Registry(dockerd, users={"joe": "secret"}) as registry:
        name = await registry.push(await dockerd.image("mine:1", {"/name": "guarded/app:1"}), "guarded/app:1")
        with pytest.raises(PullFailed, match="no basic auth credentials") as refused:
            await engine.pull(name, [])
        assert refused.value.reason == "ErrImagePull"
        with pytest.raises(PullFailed, match="unauthorized"):
            await engine.pull(name, [Credentials("joe", "wrong")])
        image = await engine.pull(name, [Credentials("joe", "wrong"), Credentials("joe", "secret")])
        assert name in image.names


async def test_what_a_registry_does_not_have_and_one_that_is_down(engine: DockerEngine, dockerd: Dockerd) -> None:
    async with Registry(dockerd) as registry:
        with pytest.raises(PullFailed, match="not found|manifest unknown"):
            await engine.pull(f"{registry.name}/nothing:1", [])
        name = await registry.push(await dockerd.image("mine:1", {"/name": "plain/other:1"}), "plain/other:1")
        await registry.kill()
        with pytest.raises(PullFailed, match="connection refused"):
            await engine.pull(name, [])
        await registry.start()
        assert (await engine.pull(name, [])).id


async def test_a_name_that_is_none_is_not_sent(engine: DockerEngine) -> None:
    with pytest.raises(PullFailed) as refused:
        await engine.pull("No Such Name", [])
    assert refused.value.reason == "InvalidImageName"


async def test_a_pull_that_is_cancelled_lets_go(engine: DockerEngine, dockerd: Dockerd) -> None:
    """A registry that accepts and says nothing. Two pulls run at a time: a third one gets its turn."""
    silent = subprocess.Popen(
        [*dockerd.enter, "setpriv", "--pdeathsig", "KILL", "busybox", "nc", "-ll", "-p", "5001", "-e", "sleep", "100"]
    )
    try:
        await asyncio.to_thread(wait_listening, silent.pid, 5001)
        pulls = [asyncio.ensure_future(engine.pull(f"127.0.0.1:5001/x:{n}", [])) for n in range(2)]
        await asyncio.sleep(0.5)
        assert not any(pull.done() for pull in pulls)
        third = asyncio.ensure_future(engine.pull("127.0.0.1:5009/x:1", []))
        await asyncio.sleep(0.2)
        assert not third.done()
        for pull in pulls:
            pull.cancel()
        with pytest.raises(PullFailed, match="refused"):
            await asyncio.wait_for(third, timeout=5)
    finally:
        silent.kill()
        await asyncio.to_thread(silent.wait)


async def test_images_are_listed_and_inspected(engine: DockerEngine, dockerd: Dockerd) -> None:
    await dockerd.image("described:1", changes=["USER app:dialout", "VOLUME /data"])
    image = await engine.image("described:1")
    assert image is not None
    assert (image.user, image.volumes, image.names) == ("app:dialout", ("/data",), ("described:1",))
    assert abs(image.created_ms - time.time() * 1000) < 60_000
    listed = {name: entry for entry in await engine.images() for name in entry.names}
    assert listed["described:1"].id == image.id
    assert BUSYBOX in listed
    await engine.remove_image(image.id)
    assert await engine.image("described:1") is None
    await engine.remove_image(image.id)


async def test_an_image_in_use_stays(engine: DockerEngine, dockerd: Dockerd, run: Run) -> None:
    id = await dockerd.image("used:1", {"/name": "used"})
    await dockerd.call("tag", "used:1", "used", "2")
    container = await run("sleep", "100", Image="used:1")
    with pytest.raises(EngineRefused) as refused:
        await engine.remove_image(id)
    assert refused.value.code == 409
    await engine.remove(container)
    await engine.remove_image(id)
    assert await engine.image(id) is None


async def test_the_sandbox_s_image_is_loaded_from_us(engine: DockerEngine) -> None:
    for _ in range(2):
        await engine.load(archive())
    image = await engine.image(IMAGE)
    assert image is not None
    assert image.size < 2000


async def test_rubbish_is_not_loaded(engine: DockerEngine) -> None:
    with pytest.raises(EngineRefused):
        await engine.load(b"rubbish")
