"""The volumes of a pod as files on this machine."""

import base64
import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeappliance.edged.engine.create import Mount
from edgeappliance.edged.pods.environment import Facts
from edgeappliance.edged.pods.spec import Pod
from edgeappliance.edged.volumes.pod import PodVolumes, VolumeError
from edgeappliance.kernel.errors import TransientError
from tests.unit.edged.volumes.parts import UID, EngineVolumes, IssuedTokens, StoredObjects, pod

FACTS = Facts(pod_ip="10.1.1.7", host_ip="192.0.2.1", node_name="edge-1", cpu=4000, memory=1 << 30)


class Place:
    def __init__(self, directory: Path) -> None:
        self.state = directory / "state"
        self.objects = StoredObjects()
        self.engine = EngineVolumes(directory / "docker")
        self.tokens = IssuedTokens()
        self.volumes = PodVolumes(
            self.state, engine=self.engine, objects=self.objects, tokens=self.tokens, cluster_domain="cluster.local"
        )

    def config_map(self, name: str = "cm", **content: Any) -> None:
        self.objects.values["configmap", "default", name] = content

    def secret(self, name: str, **data: str) -> None:
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
        self.objects.values["secret", "default", name] = {"data": encoded}

    def path(self, *parts: str) -> Path:
        return self.state.joinpath("pods", UID, *parts)

    async def mounts(self, pod: Pod, *, attempt: int = 0, env: tuple[str, ...] = ()) -> dict[str, Mount]:
        found = await self.volumes.mounts(pod, pod.spec.containers[0], env=env, facts=FACTS, attempt=attempt)
        return {mount.target: mount for mount in found}

    async def volume(self, source: dict[str, Any], mount: dict[str, Any] | None = None, **spec: Any) -> Mount:
        """Prepare a pod with one volume and return its mount."""
        wanted = pod(
            volumes=[{"name": "v", **source}], mounts=[{"name": "v", "mountPath": "/v", **(mount or {})}], **spec
        )
        await self.volumes.prepare(wanted, FACTS)
        return (await self.mounts(wanted))["/v"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def test_empty_dir_is_writable_for_everybody_and_survives_a_second_look(place: Place) -> None:
    mount = await place.volume({"emptyDir": {}})
    assert mount == Mount(str(place.path("volumes", "v")), "/v")
    assert stat.S_IMODE(Path(mount.source).stat().st_mode) == 0o777
    Path(mount.source, "kept").write_text("here")
    again = await place.volume({"emptyDir": {}})
    assert Path(again.source, "kept").read_text() == "here"


async def test_empty_dir_belongs_to_the_pods_group(place: Place) -> None:
    mount = await place.volume({"emptyDir": {}}, securityContext={"fsGroup": 4711})
    status = Path(mount.source).stat()
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (4711, 0o2777)


async def test_memory_is_a_volume_of_the_engine_with_its_limit(place: Place) -> None:
    wanted = pod(
        volumes=[
            {"name": "fast", "emptyDir": {"medium": "Memory", "sizeLimit": "1.5Mi"}},
            {"name": "free", "emptyDir": {"medium": "Memory"}},
        ],
        mounts=[{"name": "fast", "mountPath": "/fast", "readOnly": True}],
    )
    await place.volumes.prepare(wanted, FACTS)
    name = f"edgeappliance.{UID}.fast"
    assert place.engine.sizes == {name: 1572864, f"edgeappliance.{UID}.free": None}
    assert (await place.mounts(wanted))["/fast"] == Mount(name, "/fast", read_only=True, volume=True)
    assert [mount.source for mount in place.volumes.sandbox_mounts(wanted)] == list(place.engine.sizes)
    await place.engine.create_volume(f"edgeappliance.{UID}-other.fast", size=None)
    await place.volumes.remove(UID)
    assert list(place.engine.sizes) == [f"edgeappliance.{UID}-other.fast"]


async def test_config_map_keys_are_files_that_change_at_once(place: Place) -> None:
    place.config_map(data={"a": "1", "b": "ä"}, binaryData={"raw": base64.b64encode(b"\xff\x00").decode()})
    wanted = pod(
        volumes=[{"name": "v", "configMap": {"name": "cm", "defaultMode": 0o440}}],
        mounts=[{"name": "v", "mountPath": "/v"}],
    )
    await place.volumes.prepare(wanted, FACTS)
    mount = (await place.mounts(wanted))["/v"]
    assert mount.read_only
    directory = Path(mount.source)
    assert {p.name: p.read_bytes() for p in directory.iterdir() if not p.name.startswith("..")} == {
        "a": b"1",
        "b": "ä".encode(),
        "raw": b"\xff\x00",
    }
    assert stat.S_IMODE((directory / "a").stat().st_mode) == 0o440
    before = os.readlink(directory / "..data")
    opened = (directory / "a").open()
    assert not await place.volumes.refresh(wanted, FACTS)
    assert os.readlink(directory / "..data") == before
    place.config_map(data={"a": "2", "c": "3"})
    assert await place.volumes.refresh(wanted, FACTS)
    assert {p.name: p.read_text() for p in directory.iterdir() if not p.name.startswith("..")} == {"a": "2", "c": "3"}
    assert sorted(p.name for p in directory.iterdir() if p.name.startswith("..")) == sorted(
        ["..data", os.readlink(directory / "..data")]
    )
    with opened:
        assert opened.read() == "1"


async def test_items_choose_paths_and_modes(place: Place) -> None:
    place.secret("pw", user="root", password="hunter2")
    items = [{"key": "password", "path": "deep/er/pw", "mode": 0o400}]
    mount = await place.volume({"secret": {"secretName": "pw", "items": items}})
    file = Path(mount.source, "deep/er/pw")
    assert file.read_text() == "hunter2"
    assert stat.S_IMODE(file.stat().st_mode) == 0o400
    assert sorted(p.name for p in Path(mount.source).iterdir() if not p.name.startswith("..")) == ["deep"]


async def test_the_pods_group_may_read_what_is_written_for_it(place: Place) -> None:
    place.secret("pw", password="hunter2")
    mount = await place.volume(
        {"secret": {"secretName": "pw", "defaultMode": 0o400}}, securityContext={"fsGroup": 4711}
    )
    status = Path(mount.source, "password").stat()
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (4711, 0o440)


async def test_a_missing_optional_object_is_an_empty_volume_until_it_comes(place: Place) -> None:
    wanted = pod(volumes=[{"name": "v", "configMap": {"name": "cm", "optional": True}}])
    await place.volumes.prepare(wanted, FACTS)
    assert not [p for p in place.path("volumes", "v").iterdir() if not p.name.startswith("..")]
    place.config_map(data={"a": "1"})
    await place.volumes.refresh(wanted, FACTS)
    assert place.path("volumes", "v", "a").read_text() == "1"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
        ({"secret": {"secretName": "none"}}, 'secret "none" not found'),
        (
            {"configMap": {"name": "cm", "items": [{"key": "zz", "path": "zz"}]}},
            "configmap references non-existent config key: zz",
        ),
        (
            {"secret": {"secretName": "pw", "items": [{"key": "zz", "path": "zz"}]}},
            "references non-existent secret key: zz",
        ),
        ({"configMap": {"name": "cm", "items": [{"key": "a", "path": "../a"}]}}, "must not start with '..'"),
        ({"configMap": {"name": "cm", "items": [{"key": "a", "path": "x/../../a"}]}}, "must not contain '..'"),
        ({"configMap": {"name": "cm", "items": [{"key": "a", "path": "..data"}]}}, "must not start with '..'"),
        ({"configMap": {"name": "cm", "items": [{"key": "a", "path": "./..data/x"}]}}, "must not start with '..'"),
        ({"configMap": {"name": "cm", "items": [{"key": "a", "path": "/etc/a"}]}}, "must be relative path"),
        ({"configMap": {"name": "cm", "items": [{"key": "a", "path": "n" * 256}]}}, "255 characters"),
        ({"configMap": {"name": "cm", "items": [{"key": "a", "path": "a", "mode": 0o4755}]}}, "between 0 and 0777"),
        (
            {"configMap": {"name": "cm", "items": [{"key": "a", "path": "a"}, {"key": "b", "path": "a/b"}]}},
            "a is a file",
        ),
        ({"configMap": {"name": "evil"}}, "must not start with '..'"),
        ({"configMap": {"name": "slash"}}, "must be relative path"),
        ({"secret": {"secretName": "bad"}}, "illegal base64 data"),
        ({"emptyDir": {"medium": "HugePages"}}, 'unknown storage medium "HugePages"'),
        ({}, "no volume plugin matched"),
    ],
)
async def test_what_cannot_be_made_is_said_in_the_kubelets_words(
    place: Place, source: dict[str, Any], words: str
) -> None:
    place.config_map(data={"a": "1", "b": "2"})
    place.config_map("evil", data={"../../etc/cron.d/x": "1"})
    place.config_map("slash", data={"/etc/cron.d/x": "1"})
    place.secret("pw", a="1")
    place.objects.values["secret", "default", "bad"] = {"data": {"a": "%%%"}}
    with pytest.raises(VolumeError) as caught:
        await place.volume(source)
    assert caught.value.reason == "FailedMount"
    assert caught.value.message.startswith('MountVolume.SetUp failed for volume "v" : ')
    assert words in caught.value.message
    assert not list(place.state.parent.rglob("cron.d"))


async def test_offline_the_text_says_that_nobody_could_be_asked(place: Place) -> None:
    place.objects.troubles["configmap", "default", "cm"] = "not connected to the cloud"
    with pytest.raises(VolumeError, match="failed to fetch configmap default/cm: not connected to the cloud"):
        await place.volume({"configMap": {"name": "cm"}})


async def test_what_is_there_stays_when_its_object_goes(place: Place) -> None:
    place.config_map(data={"a": "1"})
    wanted = pod(volumes=[{"name": "v", "configMap": {"name": "cm"}}])
    await place.volumes.prepare(wanted, FACTS)
    place.objects.values.clear()
    with pytest.raises(VolumeError):
        await place.volumes.refresh(wanted, FACTS)
    assert place.path("volumes", "v", "a").read_text() == "1"


async def test_damaged_files_are_made_again(place: Place) -> None:
    place.config_map(data={"a": "1"})
    wanted = pod(volumes=[{"name": "v", "configMap": {"name": "cm"}}])
    await place.volumes.prepare(wanted, FACTS)
    directory = place.path("volumes", "v")
    (directory / "a").write_text("")  # as a power cut may leave it
    (directory / "..2020_01_01_00_00_00.half").mkdir()  # and a run that was killed
    (directory / "..data_tmp").symlink_to("nowhere")
    await place.volumes.prepare(wanted, FACTS)
    assert (directory / "a").read_text() == "1"
    (directory / "..data").unlink()
    (directory / "..data").symlink_to("/etc")
    await place.volumes.prepare(wanted, FACTS)
    assert (directory / "a").read_text() == "1"
    for damage in ("a", "..data_tmp", "other"):
        (directory / "a").unlink()
        (directory / damage).mkdir()
        (directory / damage / "x").touch()
        (directory / "more").touch()
        place.config_map(data={"a": damage})
        await place.volumes.prepare(wanted, FACTS)
        assert [(p.name, p.read_text()) for p in directory.iterdir() if p.name[:2] != ".."] == [("a", damage)]
    assert len([p for p in directory.iterdir() if p.name.startswith("..")]) == 2


async def test_nobody_else_on_the_machine_reads_secrets(place: Place) -> None:
    place.secret("pw", password="hunter2")
    mount = await place.volume({"secret": {"secretName": "pw"}})
    directories = [p for p in Path(mount.source).parents if p.is_relative_to(place.state)]
    assert len(directories) == 4
    assert {stat.S_IMODE(p.stat().st_mode) & 0o027 for p in directories} == {0}


async def test_uids_and_names_cannot_lead_elsewhere(place: Place) -> None:
    for uid in ("../x", "a/b", "", "..", "x\0y"):
        with pytest.raises(VolumeError, match=r"metadata\.uid"):
            await place.volumes.remove(uid)
    wanted = pod(volumes=[{"name": "../../x", "emptyDir": {}}])
    with pytest.raises(VolumeError, match="name: a lowercase RFC 1123 label"):
        await place.volumes.prepare(wanted, FACTS)


async def test_hosts_file(place: Place) -> None:
    wanted = pod(
        subdomain="svc",
        hostAliases=[
            {"ip": "192.0.2.9", "hostnames": ["plc", "plc.local"]},
            {"ip": "::1\n1.1.1.1", "hostnames": ["x"]},
        ],
    )
    mount = (await place.mounts(wanted))["/etc/hosts"]
    lines = Path(mount.source).read_text().splitlines()
    assert lines[0] == "# Kubernetes-managed hosts file."
    assert "10.1.1.7\tweb.svc.default.svc.cluster.local\tweb" in lines
    assert lines[-3:] == ["# Entries added by HostAliases.", "192.0.2.9\tplc\tplc.local", "::11.1.1.1\tx"]
    inode = Path(mount.source).stat().st_ino
    other = pod(hostname="short")
    Path((await place.mounts(other))["/etc/hosts"].source)
    assert Path(mount.source).read_text().endswith("10.1.1.7\tshort\n")
    assert Path(mount.source).stat().st_ino == inode  # running containers have this very file
    await place.mounts(pod(hostnameOverride="plc.example.com", subdomain="svc"))
    assert Path(mount.source).read_text().endswith("10.1.1.7\tplc.example.com\n")


async def test_hosts_file_on_the_hosts_network_and_one_of_the_pods_own(place: Place) -> None:
    wanted = pod(hostNetwork=True, hostAliases=[{"ip": "192.0.2.9", "hostnames": ["plc"]}])
    text = Path((await place.mounts(wanted))["/etc/hosts"].source).read_text()
    assert text.startswith("# Kubernetes-managed hosts file (host network).\n")
    assert Path("/etc/hosts").read_text() in text
    assert text.endswith("192.0.2.9\tplc\n")
    own = pod(volumes=[{"name": "v", "emptyDir": {}}], mounts=[{"name": "v", "mountPath": "/etc/hosts/"}])
    await place.volumes.prepare(own, FACTS)
    assert "/etc/hosts" not in await place.mounts(own)


async def test_termination_message_of_each_attempt(place: Place) -> None:
    wanted = pod()
    mount = (await place.mounts(wanted))["/dev/termination-log"]
    assert stat.S_IMODE(Path(mount.source).stat().st_mode) == 0o666
    Path(mount.source).write_bytes(b"broke: \xff" + b"x" * 9000)
    message = await place.volumes.termination_message(UID, "app", 0)
    assert message.startswith("broke: \ufffdx")
    assert len(message) == 4096
    await place.mounts(wanted, attempt=1)
    assert await place.volumes.termination_message(UID, "app", 1) == ""
    assert await place.volumes.termination_message(UID, "app", 7) == ""
    for attempt in (100, 101, 102):
        await place.mounts(wanted, attempt=attempt)
    assert sorted(os.listdir(place.path("containers", "app"))) == ["100", "101", "102"]


async def test_a_mount_of_a_volume_that_is_not_there(place: Place) -> None:
    with pytest.raises(VolumeError, match='cannot find volume "v" to mount into container "app"') as caught:
        await place.mounts(pod(mounts=[{"name": "v", "mountPath": "/v"}]))
    assert caught.value.reason == "CreateContainerConfigError"


async def test_propagation_and_read_only(place: Place) -> None:
    mount = await place.volume({"emptyDir": {}}, {"readOnly": True, "mountPropagation": "HostToContainer"})
    assert (mount.read_only, mount.propagation) == (True, "rslave")


async def test_usage_and_removal(place: Place) -> None:
    mount = await place.volume({"emptyDir": {}})
    Path(mount.source, "big").write_bytes(b"x" * 100_000)
    usage = await place.volumes.usage(UID)
    assert usage["v"].bytes >= 100_000
    assert usage["v"].inodes == 2
    place.path("..", "lost+found").mkdir()
    assert await place.volumes.known() == {UID}
    await place.volumes.remove(UID)
    await place.volumes.remove(UID)
    assert await place.volumes.known() == set()


async def test_the_pods_own_fields_as_files(place: Place) -> None:
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "sub/uid", "fieldRef": {"fieldPath": "metadata.uid"}, "mode": 0o400},
        {"path": "mem", "resourceFieldRef": {"containerName": "app", "resource": "limits.memory", "divisor": "1Mi"}},
    ]
    mount = await place.volume({"downwardAPI": {"items": items}})
    directory = Path(mount.source)
    assert (directory / "labels").read_text() == 'app="web"'
    assert (directory / "sub/uid").read_text() == UID
    assert stat.S_IMODE((directory / "sub/uid").stat().st_mode) == 0o400
    assert (directory / "mem").read_text() == "1024"
    assert mount.read_only


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"path": "ip", "fieldRef": {"fieldPath": "status.podIP"}}, "unsupported fieldPath: status.podIP"),
        ({"path": "x", "fieldRef": {"fieldPath": "metadata.nonsense"}}, "unsupported fieldPath: metadata.nonsense"),
        ({"path": "x", "resourceFieldRef": {"resource": "limits.cpu"}}, "containerName: Required value"),
        (
            {"path": "x", "resourceFieldRef": {"containerName": "no", "resource": "limits.cpu"}},
            "container no not found",
        ),
        ({"path": "x"}, "x: fieldRef or resourceFieldRef: Required value"),
    ],
)
async def test_fields_that_there_are_not(place: Place, item: dict[str, Any], words: str) -> None:
    with pytest.raises(VolumeError, match="MountVolume.SetUp failed") as caught:
        await place.volume({"downwardAPI": {"items": [item]}})
    assert words in caught.value.message


async def test_the_usual_volume_for_the_api(place: Place) -> None:
    """As the API server adds it to each pod of a cluster."""
    place.config_map("kube-root-ca.crt", data={"ca.crt": "PEM"})
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        {"secret": {"name": "none", "optional": True}},
    ]
    mount = await place.volume({"projected": {"sources": sources}})
    directory = Path(mount.source)
    found = {p.name: p.read_text() for p in directory.iterdir() if not p.name.startswith("..")}
    assert found == {"token": "token-1", "ca.crt": "PEM", "namespace": "default"}
    assert place.tokens.wanted == [(UID, "", 3607)]
    assert place.volumes.due(0.0) == {UID}


async def test_a_token_is_for_the_user_of_all_containers(place: Place) -> None:
    source = {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}
    mount = await place.volume(source, securityContext={"runAsUser": 1234})
    status = Path(mount.source, "token").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (1234, 0o600)
    mount = await place.volume(source, securityContext={"fsGroup": 77})
    status = Path(mount.source, "token").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 77, 0o640)


async def test_a_token_that_nobody_gives(place: Place) -> None:
    place.tokens.error = TransientError("not connected to the cloud")
    with pytest.raises(VolumeError, match="failed to fetch token: not connected to the cloud"):
        await place.volume({"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


async def test_a_full_disk_leaves_the_files_that_were_there(small_disk: Path) -> None:
    place = Place(small_disk)
    wanted = pod(volumes=[{"name": "v", "configMap": {"name": "cm"}}])
    place.config_map(data={"a": "1" * 600_000})
    await place.volumes.prepare(wanted, FACTS)
    place.config_map(data={"a": "2" * 600_000})
    with pytest.raises(VolumeError, match="No space left on device"):
        await place.volumes.refresh(wanted, FACTS)
    directory = place.path("volumes", "v")
    assert (directory / "a").read_text() == "1" * 600_000
    assert len([p for p in directory.iterdir() if p.name.startswith("..")]) == 2
    place.config_map(data={"a": "3" * 300_000})
    assert await place.volumes.refresh(wanted, FACTS)
    assert (directory / "a").read_text() == "3" * 300_000
    other = pod(volumes=[{"name": "other", "configMap": {"name": "large"}}])
    place.config_map("large", data={"a": "4" * 900_000})
    with pytest.raises(VolumeError, match='SetUp failed for volume "other" : .*No space left on device') as caught:
        await place.volumes.prepare(other, FACTS)
    assert caught.value.reason == "FailedMount"
    place.config_map(data={"a": "5" * 900_000})
    await place.volumes.prepare(wanted, FACTS)  # the next container of the pod starts with what there is
    assert (directory / "a").read_text() == "3" * 300_000
    (small_disk / "rest").write_bytes(b"x" * (1 << 10))
    with contextlib.suppress(OSError), (small_disk / "rest").open("ab") as file:
        while True:
            file.write(b"x" * 4096)
            file.flush()
    with pytest.raises(VolumeError, match="No space left on device") as caught:
        await place.mounts(wanted)
    assert caught.value.reason == "CreateContainerConfigError"


async def test_the_next_container_starts_with_the_files_of_the_last(place: Place) -> None:
    """Its config map was deleted meanwhile: as long as the pod lives, so does its volume."""
    place.config_map(data={"a": "1"})
    wanted = pod(volumes=[{"name": "v", "configMap": {"name": "cm"}}])
    await place.volumes.prepare(wanted, FACTS)
    place.objects.values.clear()
    await place.volumes.prepare(wanted, FACTS)
    assert place.path("volumes", "v", "a").read_text() == "1"


async def test_one_volume_that_cannot_be_refreshed_does_not_hold_up_another(place: Place) -> None:
    place.config_map(data={"a": "1"})
    place.config_map("dm", data={"a": "1"})
    wanted = pod(volumes=[{"name": name, "configMap": {"name": cm}} for name, cm in (("v", "cm"), ("w", "dm"))])
    await place.volumes.prepare(wanted, FACTS)
    del place.objects.values["configmap", "default", "cm"]
    place.config_map("dm", data={"a": "2"})
    with pytest.raises(VolumeError, match='volume "v"'):
        await place.volumes.refresh(wanted, FACTS)
    assert place.path("volumes", "w", "a").read_text() == "2"
