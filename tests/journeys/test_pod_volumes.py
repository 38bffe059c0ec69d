"""Volumes as the processes of a pod see them, from kubectl apply to the file."""

import asyncio
import base64
import os
import pty
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.dockerd import Dockerd
from tests.support.pods import SLEEPS, Object, pod, restarts, shell, state
from tests.support.podsite import PodSite, pod_site
from tests.support.stand import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


@pytest.fixture
async def site(dockerd: Dockerd) -> AsyncIterator[PodSite]:
    async with pod_site(dockerd) as stand:
        yield stand


def mounts(*items: str | Object) -> list[Object]:
    """`name` on /name, or a mount as it is."""
    return [{"name": item, "mountPath": f"/{item}"} if isinstance(item, str) else item for item in items]


def named(kind: str, name: str, **fields: Any) -> Object:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **fields}


SETTINGS = {"rate": "5", "mode": "fast"}


async def test_files_made_of_objects(site: PodSite) -> None:
    """config map, secret, downward API and all of them projected: keys, paths, modes, owners; and their changes."""
    blob = bytes(range(256))
    config = named("ConfigMap", "settings", data=SETTINGS, binaryData={"blob": base64.b64encode(blob).decode()})
    secret = named("Secret", "key", stringData={"password": "hush"})
    downward = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "notes/one", "fieldRef": {"fieldPath": "metadata.annotations['note']"}, "mode": 0o400},
        {
            "path": "memory",
            "resourceFieldRef": {"containerName": "main", "resource": "limits.memory", "divisor": "1Mi"},
        },
    ]
    picked = [{"key": "rate", "path": "deep/er/rate", "mode": 0o440}, {"key": "blob", "path": "blob"}]
    sources: list[Object] = [
        {"configMap": {"name": "settings", "items": picked}},
        {"secret": {"name": "key"}},
        {"secret": {"name": "not-there", "optional": True}},
        {"downwardAPI": {"items": downward}},
        {"serviceAccountToken": {"path": "token", "audience": "plc"}},
    ]
    volumes = [
        {"name": "all", "configMap": {"name": "settings"}},
        {"name": "some", "configMap": {"name": "settings", "items": picked, "defaultMode": 0o600}},
        {"name": "secret", "secret": {"secretName": "key", "defaultMode": 0o400}},
        {"name": "absent", "configMap": {"name": "not-there", "optional": True}},
        {"name": "downward", "downwardAPI": {"items": downward}},
        {"name": "projected", "projected": {"sources": sources, "defaultMode": 0o640}},
    ]
    names = ("all", "some", "secret", "absent", "downward", "projected")
    one = {"name": "all", "mountPath": "/etc/app/rate", "subPath": "rate"}
    main = shell(SLEEPS, volumeMounts=mounts(*names, one), resources={"limits": {"memory": "64Mi"}})
    grouped = shell(SLEEPS, securityContext={"runAsUser": 1000, "runAsGroup": 1000}, volumeMounts=mounts("secret"))
    wanted = pod("files", main, volumes=volumes)
    wanted["metadata"] |= {"labels": {"app": "scale"}, "annotations": {"note": "first"}}
    await site.apply(
        config, secret, wanted, pod("grouped", grouped, volumes=volumes[2:3], securityContext={"fsGroup": 3000})
    )
    await site.ready("files", "grouped")

    async def sh(script: str) -> str:
        return await site.sh("files", script)

    assert await sh("cd /all; for f in *; do echo $f; done") == "blob\nmode\nrate"
    assert await sh("od -An -v -tx1 /all/blob | tr -d ' \\n'") == blob.hex()
    assert await sh("cat /all/rate /etc/app/rate /some/deep/er/rate /projected/deep/er/rate") == "5555"
    assert await sh("cat /secret/password /projected/password") == "hushhush"
    assert await sh("ls /absent | wc -l") == "0"
    assert await sh("cat /downward/labels; echo; cat /downward/notes/one; echo; cat /downward/memory") == (
        'app="scale"\nfirst\n64'
    )
    modes = "stat -L -c %a /all/rate /some/deep/er/rate /some/blob /secret/password /downward/notes/one /projected/blob"
    assert (await sh(modes)).split() == ["644", "440", "600", "400", "400", "640"]
    assert (await sh("cat /projected/token")).count(".") == 2
    for path in ("/all/new", "/secret/new", "/downward/new", "/projected/new", "/etc/app/rate"):
        assert "Read-only file system" in await sh(f"echo x >{path}"), path
    assert await site.sh("grouped", "cat /secret/password; stat -L -c ' %a %g' /secret/password") == "hush 440 3000"

    # A reader that never sleeps sees the old or the new files, and never a mixture.
    watch = (
        "while [ ! -e /tmp/stop ]; do d=$(readlink /all/..data); "
        "a=$(cat /all/$d/rate /all/$d/mode 2>/dev/null) && echo $a >>/tmp/seen; done"
    )
    watching = asyncio.ensure_future(sh(watch))
    await site.kubectl("patch", "configmap", "settings", "-p", '{"data":{"rate":"7","mode":"slow","more":"x"}}')
    await site.kubectl("patch", "secret", "key", "-p", '{"stringData":{"password":"new"}}')
    await site.kubectl("annotate", "pod", "files", "note=second", "--overwrite")

    async def followed() -> bool:
        paths = "/all/rate /all/more /some/deep/er/rate /projected/deep/er/rate /projected/password /downward/notes/one"
        return await sh(f"cat {paths}") == "7x77newsecond"

    await eventually(followed, what="all changes in the volumes")
    await sh("touch /tmp/stop")
    await watching
    assert set((await sh("sort -u /tmp/seen")).splitlines()) <= {"5fast", "7slow", "fast5", "slow7"}
    assert await sh("cat /etc/app/rate") == "5", "a subPath stays as it was"
    await site.kubectl("patch", "configmap", "settings", "--type=json", "-p", '[{"op":"remove","path":"/data/more"}]')

    async def gone() -> bool:
        return "more" not in (await sh("ls /all")).split()

    await eventually(gone, what="the removed key gone")


async def test_what_a_pod_needs_and_has_not(site: PodSite) -> None:
    """Each in a kubelet's words; and it starts as soon as it can."""
    config = named("ConfigMap", "settings", data=SETTINGS)

    def one(name: str, volume: Object, **mount: Any) -> Object:
        return pod(name, shell(SLEEPS, volumeMounts=mounts({"name": "v", "mountPath": "/v", **mount})),
                   volumes=[{"name": "v", **volume}])  # fmt: skip

    def needs(name: str, **source: Any) -> Object:
        return pod(name, shell(SLEEPS, env=[{"name": "X", "valueFrom": source}]))

    items = [{"key": "absent", "path": "x"}]
    pods = [
        one("no-map", {"configMap": {"name": "later"}}),
        one("no-key", {"configMap": {"name": "settings", "items": items}}),
        one("optional-key", {"configMap": {"name": "settings", "items": items, "optional": True}}),
        one("no-secret", {"secret": {"secretName": "nothing"}}),
        one("no-dir", {"hostPath": {"path": "/no/such", "type": "Directory"}}),
        one("no-device", {"hostPath": {"path": "/dev/null/x", "type": "CharDevice"}}),
        one("no-expression", {"emptyDir": {}}, subPathExpr="$(NOBODY)/x"),
        needs("env-no-map", configMapKeyRef={"name": "later", "key": "rate"}),
        needs("env-no-key", secretKeyRef={"name": "key", "key": "absent"}),
        one("claim", {"persistentVolumeClaim": {"claimName": "data"}}),
    ]
    await site.apply(config, named("Secret", "key", stringData={"password": "hush"}), *pods)
    await site.ready("optional-key")
    set_up = 'MountVolume.SetUp failed for volume "v" : '
    for name, words in (
        ("no-map", 'configmap "later" not found'),
        ("no-key", "configmap references non-existent config key: absent"),
        ("no-secret", 'secret "nothing" not found'),
        ("no-dir", "hostPath type check failed: /no/such is not a directory"),
        ("no-device", "hostPath type check failed: /dev/null/x is not a character device"),
    ):
        await site.told(name, "Warning", "FailedMount", set_up + words)
        assert state(await site.get("pod", name))[1]["reason"] == "ContainerCreating"
    for name, words in (
        ("env-no-map", 'configmap "later" not found'),
        ("env-no-key", "couldn't find key absent in Secret default/key"),
        ("no-expression", 'missing value for "NOBODY"'),
    ):
        obj = await site.until(name, lambda obj: state(obj)[1].get("message"), "a reason to wait")
        assert state(obj)[1] == {"reason": "CreateContainerConfigError", "message": words}
    await site.told("env-no-map", "Warning", "Failed", 'Error: configmap "later" not found')
    await site.told("no-expression", "Warning", "Failed", 'Error: missing value for "NOBODY"')
    obj = await site.until("claim", lambda obj: state(obj)[1].get("message"), "a reason to wait")
    assert state(obj)[1]["message"].startswith("spec.volumes[0].persistentVolumeClaim: ")
    before = time.monotonic()
    await site.apply(named("ConfigMap", "later", data=SETTINGS))
    await site.ready("no-map", "env-no-map")
    assert time.monotonic() - before < 8, "not by its next try"
    await site.apply(named("Secret", "key", stringData={"absent": "here"}))
    await site.ready("env-no-key")


def host_path(name: str, path: Path | str, kind: str) -> Object:
    return {"name": name, "hostPath": {"path": str(path), "type": kind}}


async def test_directories_of_the_pod_and_of_the_host(site: PodSite, tmp_path: Path) -> None:
    """emptyDir on disk and in memory, hostPath of every type, a serial port, paths below a volume."""
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("of the host")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    master, slave = pty.openpty()
    line = os.ttyname(slave)
    volumes = [
        {"name": "disk", "emptyDir": {}},
        {"name": "ram", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        host_path("any", tmp_path / "there", ""),
        host_path("dir", tmp_path / "there", "Directory"),
        host_path("made", tmp_path / "new" / "er", "DirectoryOrCreate"),
        host_path("unnamed", tmp_path / "un" / "named", ""),
        host_path("file", tmp_path / "file", "File"),
        host_path("fresh", tmp_path / "fresh", "FileOrCreate"),
        host_path("sock", tmp_path / "socket", "Socket"),
        host_path("port", line, "CharDevice"),
    ]
    plain = ("disk", "ram", "any", "dir", "made", "unnamed", "file", "fresh", "sock")
    parts: list[Object] = [
        {"name": "port", "mountPath": "/dev/ttyMeter"},
        {"name": "disk", "mountPath": "/part", "subPath": "logs/app"},
        {"name": "disk", "mountPath": "/own", "subPathExpr": "$(NAME)-$(HOME)"},
        {"name": "ram", "mountPath": "/quick", "subPath": "cache"},
        {"name": "dir", "mountPath": "/deep", "subPath": "a/b", "readOnly": False},
    ]
    env = [{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, {"name": "HOME", "value": "x"}]
    main = shell(SLEEPS, volumeMounts=mounts(*plain, *parts), env=env)
    reader = shell(SLEEPS, "reader", volumeMounts=mounts({"name": "disk", "mountPath": "/disk", "readOnly": True}))
    user = {"runAsUser": 1000, "fsGroup": 3000}
    grouped = shell(SLEEPS, volumeMounts=mounts("disk", "ram"))
    link = {"name": "any", "mountPath": "/x", "subPath": "out/etc"}
    await site.apply(
        pod("dirs", main, reader, volumes=volumes),
        pod("grouped", grouped, volumes=volumes[:2], securityContext=user),
    )
    await site.ready("dirs", "grouped")

    async def sh(script: str, container: str = "main") -> str:
        return await site.sh("dirs", script, container)

    assert await sh("stat -c %a /disk; stat -c %a /ram") == "777\n1777"
    assert await sh("echo hi >/disk/x; cat /disk/x") == "hi"
    assert await sh("cat /disk/x", "reader") == "hi"
    assert "Read-only file system" in await sh("touch /disk/y", "reader")
    assert await sh("grep -c ' /ram tmpfs ' /proc/mounts; echo kept >/ram/x") == "1"
    assert "No space left on device" in await sh("dd if=/dev/zero of=/ram/big bs=1M count=2 2>&1; rm -f /ram/big")
    assert await sh("touch /part/p /own/o /quick/q /deep/d; ls /disk/logs/app /disk/dirs-x /ram/cache") == (
        "/disk/dirs-x:\no\n\n/disk/logs/app:\np\n\n/ram/cache:\nq"
    )
    assert (tmp_path / "there" / "a" / "b" / "d").exists()
    assert await sh(
        "touch /any/a /made/m /unnamed/u; echo y >/fresh; cat /file /fresh; test -S /sock && echo sock"
    ) == ("of the hosty\nsock")
    for path in ("there/a", "new/er/m", "un/named/u"):
        assert (tmp_path / path).exists(), path

    # Both ways through the line, as an application talks to its meter.
    os.set_blocking(master, False)
    assert await sh("stty -F /dev/ttyMeter raw -echo; printf 'ping\\n' >/dev/ttyMeter") == ""

    async def written() -> bytes:
        try:
            return os.read(master, 100)
        except BlockingIOError:
            return b""

    assert await eventually(written, what="bytes on the line") == b"ping\n"
    answer = asyncio.ensure_future(sh("timeout 5 head -n 1 /dev/ttyMeter"))
    await asyncio.sleep(0.5)
    os.write(master, b"230.1 V\n")
    assert await answer == "230.1 V"
    assert "Operation not permitted" in await sh("mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem"), "only that device"

    out = await site.sh("grouped", "touch /disk/x /ram/x; stat -c '%g' /disk/x /ram/x; stat -c %a /disk /ram")
    assert out.split() == ["3000", "3000", "2777", "2777"]

    # A container that dies finds its files as it left them.
    await sh("kill 1")
    await site.until("dirs", lambda obj: restarts(obj) == 1 and state(obj)[0] == "running", "restarted")
    assert await sh("cat /disk/x /ram/x; ls /part /own /quick") == "hi\nkept\n/own:\no\n\n/part:\np\n\n/quick:\nq"
    assert await sh("printf 'pong\\n' >/dev/ttyMeter") == ""

    (tmp_path / "there" / "out").symlink_to("/")
    await site.apply(pod("leaves", shell(SLEEPS, volumeMounts=[link]), volumes=volumes[2:3]))
    obj = await site.until("leaves", lambda obj: state(obj)[1].get("message"), "a reason to wait")
    assert state(obj)[1]["reason"] == "CreateContainerConfigError"
    assert "leads out" in state(obj)[1]["message"]

    kept = Path(site.edge_settings["state_dir"]) / "pods"
    assert len(list(kept.iterdir())) == 3
    await site.kubectl("delete", "pod", "dirs", "grouped", "leaves", "--timeout=40s")
    assert list(kept.iterdir()) == []
    assert (tmp_path / "there" / "a").exists()
    os.close(master)
    os.close(slave)
