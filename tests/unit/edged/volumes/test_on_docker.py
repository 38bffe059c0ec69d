"""Volumes as processes in containers see them, on a real Docker Engine."""

import asyncio
import base64
import os
import pty
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from edgeappliance.edged.engine.create import SandboxSettings, container_body, sandbox_body
from edgeappliance.edged.engine.docker_engine import DockerEngine
from edgeappliance.edged.pause.archive import IMAGE, archive
from edgeappliance.edged.pods.environment import Facts
from edgeappliance.edged.pods.observed import Kind, ObservedContainer
from edgeappliance.edged.pods.spec import Container, Pod, spec_hash
from edgeappliance.edged.volumes.errors import VolumeError
from edgeappliance.edged.volumes.pod import PodVolumes
from tests.support.docker_fixtures import BUSYBOX
from tests.support.dockerd import Dockerd
from tests.unit.edged.engine.conftest import NODE, Running
from tests.unit.edged.volumes.parts import UID, IssuedTokens, StoredObjects, pod

SLEEP = ["sh", "-c", "trap exit TERM; while :; do sleep 0.05; done"]


class Stand:
    """Pods on the engine with their volumes, without anything else of edged."""

    def __init__(self, directory: Path, engine: DockerEngine) -> None:
        self.engine = engine
        self.objects = StoredObjects()
        self.state = directory / "state"
        self.volumes = PodVolumes(
            self.state, engine=engine, objects=self.objects, tokens=IssuedTokens(), cluster_domain="cluster.local"
        )
        self._settings = SandboxSettings()
        self.meanwhile: Callable[[], Awaitable[object]] = lambda: asyncio.sleep(0)
        """What happens between our walk through a volume and the engine's."""

    @property
    def volume(self) -> Path:
        return self.state / "pods" / UID / "volumes" / "v"

    async def sandbox(self, pod: Pod) -> ObservedContainer:
        await self.volumes.prepare(pod, Facts())
        if await self.engine.image(IMAGE) is None:
            await self.engine.load(archive())
        mounts = self.volumes.sandbox_mounts(pod)
        body = sandbox_body(pod, node=NODE, attempt=0, image=IMAGE, mounts=mounts, settings=self._settings)
        return await self._started(await self.engine.create(body, name=f"s-{pod.uid}"))

    async def container(
        self, pod: Pod, sandbox: ObservedContainer, *, which: int = 0, attempt: int = 0
    ) -> ObservedContainer:
        container = pod.spec.containers[which]
        await self.volumes.prepare(pod, Facts())
        facts = Facts(pod_ip=sandbox.ip)
        mounts = await self.volumes.mounts(
            pod, container, env=["X=y"], facts=facts, attempt=attempt, sandbox_pid=sandbox.pid
        )
        await self.meanwhile()
        return await self._started(await self._create(pod, container, sandbox, mounts, attempt))

    async def _create(
        self, pod: Pod, container: Container, sandbox: ObservedContainer, mounts: Any, attempt: int
    ) -> str:
        image = await self.engine.image(BUSYBOX)
        assert image is not None
        body = container_body(
            pod,
            container,
            node=NODE,
            kind=Kind.APP,
            sandbox_id=sandbox.id,
            attempt=attempt,
            backoff=0.0,
            image=image,
            env=["X=y"],
            mounts=mounts,
            spec_hash=spec_hash(container),
            settings=self._settings,
        )
        return await self.engine.create(body, name=f"c-{container.name}-{attempt}")

    async def _started(self, id: str) -> ObservedContainer:
        await self.engine.start(id)
        seen = await self.engine.inspect(id)
        assert seen is not None
        assert seen.running, seen
        return seen

    async def run(self, pod: Pod) -> tuple[ObservedContainer, ObservedContainer]:
        sandbox = await self.sandbox(pod)
        return sandbox, await self.container(pod, sandbox)

    async def sh(self, container: ObservedContainer, script: str) -> str:
        code, output = await self.engine.run(container.id, ["sh", "-c", script], timeout=20)
        return f"{output.decode().strip()}" + (f" [{code}]" if code else "")


@pytest.fixture
async def stand(dockerd: Dockerd, tmp_path: Path) -> AsyncIterator[Stand]:
    async with Running(dockerd.socket) as running:
        yield Stand(tmp_path, await running.connected())


def sleeper(*, volumes: list[dict[str, Any]], mounts: list[dict[str, Any]], **spec: Any) -> Pod:
    containers = [{"name": "app", "image": BUSYBOX, "command": SLEEP, "volumeMounts": mounts}]
    return pod(volumes=volumes, containers=spec.pop("containers", containers), **spec)


async def test_config_changes_appear_in_a_running_container(stand: Stand) -> None:
    stand.objects.values["configmap", "default", "cm"] = {"data": {"a": "1", "b": "x"}}
    stand.objects.values["secret", "default", "pw"] = {"data": {"key": base64.b64encode(b"s3cret").decode()}}
    wanted = sleeper(
        volumes=[
            {"name": "v", "configMap": {"name": "cm"}},
            {"name": "s", "secret": {"secretName": "pw", "defaultMode": 0o400}},
        ],
        mounts=[
            {"name": "v", "mountPath": "/v"},
            {"name": "v", "mountPath": "/single/a", "subPath": "a"},
            {"name": "s", "mountPath": "/s"},
        ],
        securityContext={"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 4711},
    )
    _, app = await stand.run(wanted)
    await stand.volumes.verify(wanted, "app", app.pid)
    assert await stand.sh(app, "cat /v/a /v/b /single/a /s/key") == "1x1s3cret"
    assert "Read-only" in await stand.sh(app, "touch /v/new; touch /v/a 2>&1")
    stand.objects.values["configmap", "default", "cm"] = {"data": {"a": "2", "c": "y"}}
    assert await stand.volumes.refresh(wanted, Facts())
    # As in Kubernetes: a file mounted by subPath stays what it was.
    assert await stand.sh(app, "cat /v/a /v/c /single/a; ls /v") == "2y1a\nc"
    seen = set()
    for number in range(3):
        stand.objects.values["configmap", "default", "cm"] = {"data": {"a": f"{number}", "c": f"{number}"}}
        await stand.volumes.refresh(wanted, Facts())
        seen.add(await stand.sh(app, "cd /v/..data && cat a c"))
    assert seen == {"00", "11", "22"}


async def test_memory_is_shared_lasts_as_long_as_the_pod_and_ends_at_its_limit(stand: Stand) -> None:
    wanted = sleeper(
        volumes=[{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
        mounts=[{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/sub", "subPath": "deep/er"}],
        securityContext={"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 4711},
    )
    sandbox, app = await stand.run(wanted)
    await stand.volumes.verify(wanted, "app", app.pid)
    assert await stand.sh(app, "touch /v/mine /sub/mine; stat -c '%u %g' /v/mine /sub/mine") == "1000 4711\n1000 4711"
    assert "No space left" in await stand.sh(app, "dd if=/dev/zero of=/v/big bs=64k count=32 2>&1")
    assert (await stand.sh(app, "rm /v/big; grep ' /v ' /proc/mounts")).startswith("tmpfs /v tmpfs rw")
    await stand.engine.stop(app.id, grace=0)
    again = await stand.container(wanted, sandbox, attempt=1)
    assert await stand.sh(again, "ls /v /sub") == "/sub:\nmine\n\n/v:\ndeep\nmine"
    await stand.volumes.verify(wanted, "app", again.pid)
    await stand.engine.remove(again.id)
    await stand.engine.remove(app.id)
    await stand.engine.remove(sandbox.id)
    await stand.volumes.remove(UID)
    assert await stand.engine.volumes() == []
    assert not (stand.state / "pods" / UID).exists()


async def test_a_link_in_memory_leads_nowhere_either(stand: Stand) -> None:
    wanted = sleeper(
        volumes=[{"name": "v", "emptyDir": {"medium": "Memory"}}],
        mounts=[{"name": "v", "mountPath": "/v"}],
    )
    sandbox, app = await stand.run(wanted)
    await stand.sh(app, "ln -s /etc /v/out; ln -s ../../.. /v/up; ln -s real /v/fine; mkdir /v/real")
    container = wanted.spec.containers[0]
    for path, words in (("out/x", "leads out"), ("up", "leads out"), ("fine/x", "")):
        below = pod(
            volumes=[{"name": "v", "emptyDir": {"medium": "Memory"}}],
            containers=[{"name": "app", "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": path}]}],
        )
        container = below.spec.containers[0]
        look = stand.volumes.mounts(below, container, env=[], facts=Facts(), attempt=0, sandbox_pid=sandbox.pid)
        if words:
            with pytest.raises(VolumeError, match=words):
                await look
        else:
            assert (await look)[0].source.endswith("/_data/real/x")
            assert await stand.sh(app, "ls /v/real") == "x"


async def test_hosts_termination_message_and_host_paths(stand: Stand, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("of the host")
    wanted = sleeper(
        volumes=[
            {"name": "v", "hostPath": {"path": str(tmp_path / "data"), "type": "Directory"}},
            {"name": "n", "hostPath": {"path": str(tmp_path / "new" / "er"), "type": "DirectoryOrCreate"}},
            {"name": "f", "hostPath": {"path": str(tmp_path / "made"), "type": "FileOrCreate"}},
        ],
        mounts=[
            {"name": "v", "mountPath": "/v", "readOnly": True},
            {"name": "n", "mountPath": "/n"},
            {"name": "f", "mountPath": "/f"},
        ],
        hostAliases=[{"ip": "192.0.2.9", "hostnames": ["plc"]}],
    )
    sandbox, app = await stand.run(wanted)
    assert await stand.sh(app, "cat /v/file") == "of the host"
    assert "Read-only" in await stand.sh(app, "touch /v/x 2>&1")
    assert await stand.sh(app, "touch /n/x; echo y > /f; grep plc /etc/hosts; ip -o addr | wc -l") != ""
    assert (tmp_path / "new" / "er" / "x").exists()
    assert (tmp_path / "made").read_text() == "y\n"
    hosts = await stand.sh(app, "cat /etc/hosts")
    assert f"{sandbox.ip}\tweb" in hosts
    assert hosts.endswith("192.0.2.9\tplc")
    await stand.sh(app, "echo all is lost > /dev/termination-log")
    assert await stand.volumes.termination_message(UID, "app", 0) == "all is lost\n"


async def test_a_serial_port_can_be_spoken_to(stand: Stand) -> None:
    """A pty in the place of the port, behind a link as udev makes them."""
    master, slave = pty.openpty()
    link = Path("/dev/edgeappliance-test-port")
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(os.ttyname(slave))
        wanted = sleeper(
            volumes=[{"name": "v", "hostPath": {"path": str(link), "type": "CharDevice"}}],
            mounts=[{"name": "v", "mountPath": "/dev/ttyMeter"}],
        )
        _, app = await stand.run(wanted)
        assert await stand.sh(app, "printf 'ping\\n' > /dev/ttyMeter") == ""
        assert (await asyncio.to_thread(os.read, master, 100)).replace(b"\r", b"") == b"ping\n"
    finally:
        link.unlink(missing_ok=True)
        os.close(master)
        os.close(slave)


async def test_a_directory_exchanged_for_a_link_during_the_start_is_noticed(stand: Stand, tmp_path: Path) -> None:
    """Between our walk and the engine's own another container of the pod exchanges a directory for a link."""
    (tmp_path / "host" / "sub").mkdir(parents=True)
    (tmp_path / "host" / "sub" / "secret").write_text("of the host")
    wanted = sleeper(
        volumes=[{"name": "v", "emptyDir": {}}],
        mounts=[],
        containers=[
            {
                "name": name,
                "image": BUSYBOX,
                "command": SLEEP,
                "volumeMounts": [{"name": "v", "mountPath": "/v", **sub}],
            }
            for name, sub in (("evil", {}), ("app", {"subPath": "a/sub"}))
        ],
    )
    sandbox, evil = await stand.run(wanted)
    app = await stand.container(wanted, sandbox, which=1)
    await stand.volumes.verify(wanted, "app", app.pid)
    stand.meanwhile = lambda: stand.sh(evil, f"mv /v/a /v/b; ln -s {tmp_path}/host /v/a")
    app = await stand.container(wanted, sandbox, which=1, attempt=1)
    assert await stand.sh(app, "ls /v") == "secret"
    with pytest.raises(VolumeError, match="sees another path than its volume at /v") as caught:
        await stand.volumes.verify(wanted, "app", app.pid)
    assert caught.value.reason == "RunContainerError"
    with pytest.raises(VolumeError, match="a link leads out of the volume"):
        await stand.container(wanted, sandbox, which=1, attempt=2)


async def test_the_whole_host_and_the_engines_own_directory(stand: Stand, dockerd: Dockerd) -> None:
    wanted = sleeper(
        volumes=[{"name": "v", "hostPath": {"path": "/"}}, {"name": "d", "hostPath": {"path": str(dockerd.root)}}],
        mounts=[{"name": "v", "mountPath": "/host", "readOnly": True}, {"name": "d", "mountPath": "/d"}],
    )
    _, app = await stand.run(wanted)
    assert await stand.sh(app, "cat /host/etc/hostname") == Path("/etc/hostname").read_text().strip()
    assert "docker.sock" in await stand.sh(app, "ls /d")
