"""Images for containers: from a real engine, with a registry that is silent, gone, or has had enough."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from edgeappliance.edged.engine import pull
from edgeappliance.edged.engine.docker_engine import DockerEngine
from edgeappliance.edged.images import Images, ImageWait
from edgeappliance.edged.pods.reading import read_pod
from edgeappliance.edged.pods.spec import Pod
from edgeappliance.kernel.clock import SystemClock
from tests.support.dockerd import Dockerd, wait_listening
from tests.support.pods import container
from tests.support.pods import pod as manifest
from tests.unit.edged.engine.conftest import engine, running

__all__ = ["engine", "running"]

SILENT = "127.0.0.1:5009"
_LISTEN = "import socket, time; s = socket.create_server(('127.0.0.1', 5009), backlog=100); time.sleep(600)"


class Notes(list[tuple[str, str, str]]):
    def __call__(self, type: str, reason: str, message: str) -> None:
        self.append((type, reason, message))


def make(name: str, image: str, policy: str = "Always") -> Pod:
    obj = manifest(name, container(image=image, imagePullPolicy=policy))
    obj["metadata"]["uid"] = f"uid-{name}"
    return read_pod(obj)


@asynccontextmanager
async def silent_registry(dockerd: Dockerd) -> AsyncIterator[None]:
    """One that takes connections and says nothing."""
    process = await asyncio.create_subprocess_exec(*dockerd.enter, sys.executable, "-c", _LISTEN)
    try:
        await asyncio.to_thread(wait_listening, process.pid, 5009)
        yield
    finally:
        process.kill()
        await process.wait()


async def test_a_silent_registry_holds_up_no_box_that_has_the_images(
    engine: DockerEngine, dockerd: Dockerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thirty pods must not wait for it one after the other."""
    monkeypatch.setattr(pull, "FIRST_WORD", 2.0)
    images = Images(engine, clock=SystemClock())
    names = [f"{SILENT}/app{number}:latest" for number in range(8)]

    def tag() -> None:
        with dockerd.client() as client:
            for name in names:
                client.api.tag("bb:1", name.rpartition(":")[0], "latest")

    await asyncio.to_thread(tag)
    notes = Notes()

    async def ensure(number: int, name: str) -> None:
        pod = make(f"p{number}", name)
        assert (await images.ensure(pod, pod.spec.containers[0], credentials=[], note=notes)).id

    async with silent_registry(dockerd):
        began = time.monotonic()
        await asyncio.gather(*(ensure(number, name) for number, name in enumerate([*names, *names])))
        took = time.monotonic() - began
        again = make("late", names[0])
        await images.ensure(again, again.spec.containers[0], credentials=[], note=notes)
        assert time.monotonic() - began - took < 1.0  # it was asked a moment ago
    assert [reason for _, reason, _ in notes].count("PullSkipped") == 17
    assert took < 6  # asked by each in turn, it would be 16 s


async def test_an_image_that_is_not_here_says_that_its_registry_is_silent(
    engine: DockerEngine, dockerd: Dockerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pull, "FIRST_WORD", 1.0)
    images = Images(engine, clock=SystemClock())
    first, second = make("a", f"{SILENT}/none:1"), make("b", f"{SILENT}/none:2")
    async with silent_registry(dockerd):
        for wanted in (first, second):
            began = time.monotonic()
            with pytest.raises(ImageWait, match=f"no answer from registry {SILENT}") as waits:
                await images.ensure(wanted, wanted.spec.containers[0], credentials=[], note=Notes())
            assert (waits.value.reason, waits.value.unreachable) == ("ErrImagePull", True)
        assert time.monotonic() - began < 0.5  # the second is told what the first one learned
        with pytest.raises(ImageWait) as waits:
            await images.ensure(first, first.spec.containers[0], credentials=[], note=Notes())
        assert waits.value.reason == "ImagePullBackOff"
