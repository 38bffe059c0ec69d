"""subPath and subPathExpr of mounts, and whether a container sees what was meant for it."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgeappliance.edged.engine.create import Mount
from edgeappliance.edged.pods.environment import Facts
from edgeappliance.edged.volumes.errors import VolumeError
from edgeappliance.edged.volumes.pod import PodVolumes
from edgeappliance.edged.volumes.verify import Place, mounted_at, parse_mountinfo
from tests.unit.edged.volumes.parts import UID, EngineVolumes, IssuedTokens, StoredObjects, pod

FACTS = Facts()
ENV = ["NAME=web-0", "EMPTY=", "UP=../x", "ROOT=/etc"]


class Stand:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.objects = StoredObjects()
        self.volumes = PodVolumes(
            directory,
            engine=EngineVolumes(directory / "docker"),
            objects=self.objects,
            tokens=IssuedTokens(),
            cluster_domain="cluster.local",
        )

    async def mount(self, source: dict[str, Any], **mount: Any) -> Mount:
        wanted = pod(volumes=[{"name": "v", **source}], mounts=[{"name": "v", "mountPath": "/v", **mount}])
        await self.volumes.prepare(wanted, FACTS)
        found = await self.volumes.mounts(wanted, wanted.spec.containers[0], env=ENV, facts=FACTS, attempt=0)
        return next(mount for mount in found if mount.target == "/v")

    @property
    def volume(self) -> Path:
        return self.directory / "pods" / UID / "volumes" / "v"


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


async def test_missing_directories_of_an_empty_dir_are_made(stand: Stand) -> None:
    mount = await stand.mount({"emptyDir": {}}, subPath="logs/today")
    assert mount.source == str(stand.volume / "logs/today")
    assert (stand.volume / "logs/today").stat().st_mode & 0o7777 == 0o777


async def test_expressions_come_from_the_environment(stand: Stand) -> None:
    mount = await stand.mount({"emptyDir": {}}, subPathExpr="logs/$(NAME)/$$(NAME)")
    assert mount.source == str(stand.volume / "logs/web-0/$(NAME)")


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ({"subPathExpr": "$(NONE)"}, 'missing value for "NONE"'),
        ({"subPathExpr": "$(UP)"}, "must not contain '..'"),
        ({"subPathExpr": "$(ROOT)"}, "must not be an absolute path"),
        ({"subPathExpr": "$(EMPTY)"}, "expands to nothing"),
        ({"subPath": "../x"}, "must not contain '..'"),
        ({"subPath": "a/../../x"}, "must not contain '..'"),
        ({"subPath": "/etc"}, "must not be an absolute path"),
        ({"subPath": "out/x"}, "a link leads out of the volume"),
        ({"subPath": "up/x"}, "a link leads out of the volume"),
        ({"subPath": "file/x"}, "Not a directory"),
        ({"subPath": "n" * 300}, "File name too long"),
    ],
)
async def test_what_leaves_the_volume_is_refused(stand: Stand, mount: dict[str, Any], words: str) -> None:
    await stand.mount({"emptyDir": {}})
    (stand.volume / "out").symlink_to("/etc")
    (stand.volume / "up").symlink_to("../../../..")
    (stand.volume / "file").touch()
    with pytest.raises(VolumeError) as caught:
        await stand.mount({"emptyDir": {}}, **mount)
    assert words in caught.value.message
    assert caught.value.reason == "CreateContainerConfigError"
    assert not Path("/etc/x").exists()


async def test_one_key_of_a_config_map(stand: Stand) -> None:
    stand.objects.values["configmap", "default", "cm"] = {"data": {"app.toml": "a = 1"}}
    mount = await stand.mount({"configMap": {"name": "cm"}}, subPath="app.toml")
    assert mount.read_only
    assert Path(mount.source).read_text() == "a = 1"
    assert not Path(mount.source).is_symlink()
    with pytest.raises(VolumeError, match='failed to prepare subPath for volumeMount "v" of container "app": none: No'):
        await stand.mount({"configMap": {"name": "cm"}}, subPath="none")


async def test_below_a_host_path_that_is_not_there_yet(stand: Stand, tmp_path: Path) -> None:
    mount = await stand.mount({"hostPath": {"path": str(tmp_path / "new")}}, subPath="sub")
    assert mount == Mount(str(tmp_path / "new" / "sub"), "/v")
    assert (tmp_path / "new" / "sub").is_dir()
    (tmp_path / "link").symlink_to(tmp_path / "new")
    mount = await stand.mount({"hostPath": {"path": str(tmp_path / "link")}}, subPath="sub")
    assert mount.source == str(tmp_path / "new" / "sub")


async def test_a_device_node_that_a_container_made_is_not_permitted(stand: Stand) -> None:
    await stand.mount({"emptyDir": {}})
    subprocess.run(["mknod", stand.volume / "disk", "b", "7", "0"], check=True)
    assert (await stand.mount({"emptyDir": {}}, subPath="disk")).device == ""


async def test_memory_needs_a_sandbox(stand: Stand) -> None:
    with pytest.raises(VolumeError, match="the pod's sandbox does not run"):
        await stand.mount({"emptyDir": {"medium": "Memory"}}, subPath="x")


class Contained:
    """A process with mounts of its own, as a container has: `source` is mounted on `target`."""

    def __init__(self, source: str, target: Path, *, other: str = "") -> None:
        script = 'mount --bind "$1" "$2" && { [ -z "$3" ] || mount --bind "$3" "$2"; } && echo up && exec sleep 30'
        self._process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script, "sh", source, str(target), other],
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"up\n"
        self.pid = self._process.pid

    def __enter__(self) -> int:
        return self.pid

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


async def test_what_a_container_sees_is_compared(stand: Stand, tmp_path: Path) -> None:
    target = tmp_path / "rootfs" / "dir with space"
    target.mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    wanted = pod(
        volumes=[{"name": "v", "emptyDir": {}}],
        mounts=[{"name": "v", "mountPath": str(target), "subPath": "a/b"}],
    )
    await stand.volumes.prepare(wanted, FACTS)
    container = wanted.spec.containers[0]
    mount = (await stand.volumes.mounts(wanted, container, env=[], facts=FACTS, attempt=0))[0]
    with Contained(mount.source, target) as pid:
        await stand.volumes.verify(wanted, "app", pid)
        (stand.volume / "a" / "b").rename(stand.volume / "moved")  # within the volume anything may move
        await stand.volumes.verify(wanted, "app", pid)
    (stand.volume / "moved").rename(stand.volume / "a" / "b")
    linked = tmp_path / "linked"
    linked.mkdir()
    with Contained(mount.source, linked) as pid:  # the image has a link in the way of the mount
        await stand.volumes.verify(wanted, "app", pid)
    (stand.volume / "a").rename(stand.volume / "b")
    (stand.volume / "a").symlink_to(outside)
    (outside / "b").mkdir()
    with Contained(mount.source, target) as pid:  # the engine follows the link, which was a directory a moment ago
        with pytest.raises(VolumeError, match="sees another path than its volume") as caught:
            await stand.volumes.verify(wanted, "app", pid)
        assert caught.value.reason == "RunContainerError"
    with (
        Contained(str(stand.volume), target, other=str(outside)) as pid,  # hidden under another mount
        pytest.raises(VolumeError),
    ):
        await stand.volumes.verify(wanted, "app", pid)
    await stand.volumes.verify(wanted, "app", pid)  # it has ended: there is nothing to judge
    await stand.volumes.verify(wanted, "other", 1)
    await stand.volumes.remove(UID)
    await stand.volumes.verify(wanted, "app", 1)


def test_lines_of_mountinfo() -> None:
    text = (
        "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\n"
        "37 35 0:45 / /tmp/with\\040space rw - tmpfs tmpfs rw\n"
        "38 35 98:0 /pods/x//deleted /v rw - ext3 /dev/root rw\n"
        "short line\n"
    )
    lines = parse_mountinfo(text)
    assert mounted_at(lines, "/tmp/with space/") == Place("0:45", "/")
    assert mounted_at(lines, "/v") == Place("98:0", "/pods/x")
    assert mounted_at(lines, "/none") is None
    assert Place("98:0", "/pods/x").holds(Place("98:0", "/pods/x/y"))
    assert not Place("98:0", "/pods/x").holds(Place("98:0", "/pods/xy"))
    assert not Place("98:0", "/pods/x").holds(Place("0:45", "/pods/x"))
    assert Place("0:45", "/").holds(Place("0:45", "/a"))
