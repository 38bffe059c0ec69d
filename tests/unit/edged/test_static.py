"""Static pods from a folder."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.edged.pods.reading import read_pod
from edgeappliance.edged.static import Pair, StaticPods, mirror, read_document, static_pod
from edgeappliance.kernel.clock import ManualClock, SystemClock
from edgeappliance.kernel.component import State
from edgeappliance.kernel.errors import InputError
from edgeappliance.kernel.supervisor import Supervisor, TaskScope

POD = """
apiVersion: v1
kind: Pod
metadata:
  name: hmi
  labels: {app: hmi}
  annotations: {since: 2026-01-02}
spec:
  containers:
  - name: web
    image: hmi:1
    args: ["--port", "80"]
    volumeMounts: [{name: run, mountPath: /run}]
  volumes:
  - name: run
"""


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.mkdir()
        self.told: list[list[Pair]] = []

    def write(self, name: str, text: str) -> None:
        temporary = self.path / f".{name}.new"
        temporary.write_text(text)
        temporary.rename(self.path / name)

    async def names(self, wanted: set[str]) -> None:
        """Wait until the pods told last are these."""
        async with asyncio.timeout(5):
            while {pod["metadata"]["name"] for pod, _ in self.told[-1]} != wanted:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(folder: Folder, *, node: str = "edge-1") -> AsyncIterator[StaticPods]:
    supervisor = Supervisor()
    static = supervisor.add(
        "static",
        lambda scope: StaticPods(
            scope, directory=folder.path, node=node, clock=ManualClock(), owner=lambda: "node-uid", check=0.02
        ),
    )
    static.on_change(folder.told.append)
    await supervisor.start()
    try:
        yield static
    finally:
        await supervisor.stop()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "manifests")


async def test_a_file_is_a_pod_and_a_mirror(folder: Folder) -> None:
    folder.write("hmi.yaml", POD)
    async with running(folder) as static:
        [(pod, shown)] = folder.told[0]
        assert static.health().state is State.RUNNING
    metadata = pod["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("hmi-edge-1", "default")
    assert len(metadata["uid"]) == 32
    assert metadata["annotations"] == {
        "since": "2026-01-02",
        "kubernetes.io/config.hash": metadata["uid"],
        "kubernetes.io/config.seen": "2023-11-14T22:13:20Z",
        "kubernetes.io/config.source": "file",
    }
    assert pod["spec"]["nodeName"] == "edge-1"
    assert {"operator": "Exists", "effect": "NoExecute"} in pod["spec"]["tolerations"]
    assert read_pod(pod).spec.volumes[0].empty_dir is not None
    assert "uid" not in shown["metadata"]
    assert shown["metadata"]["annotations"]["kubernetes.io/config.mirror"] == metadata["uid"]
    assert shown["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "edge-1", "uid": "node-uid", "controller": True}
    ]
    assert shown["spec"] == pod["spec"]


async def test_the_uid_is_that_of_file_content_and_node(folder: Folder) -> None:
    folder.write("hmi.yaml", POD)
    uids = []
    for node in ("edge-1", "edge-1", "edge-2"):
        async with running(folder, node=node):
            uids.append(folder.told[-1][0][0]["metadata"]["uid"])
    assert uids[0] == uids[1] != uids[2]
    async with running(folder):
        os.utime(folder.path / "hmi.yaml")  # touched, not changed: nobody is told
        await asyncio.sleep(0.1)
        before = len(folder.told)
        folder.write("hmi.yaml", POD.replace("hmi:1", "hmi:2"))
        async with asyncio.timeout(5):
            while len(folder.told) == before:
                await asyncio.sleep(0.01)
        assert folder.told[-1][0][0]["metadata"]["uid"] not in uids
        assert len(folder.told) == before + 1


async def test_files_come_and_go(folder: Folder) -> None:
    async with running(folder) as static:
        assert folder.told == [[]]
        folder.write("a.json", msgspec.json.encode(read_document(POD.encode())).decode())
        await folder.names({"hmi-edge-1"})
        folder.write("b.yml", POD.replace("name: hmi\n", "name: plc\n", 1))
        folder.write("notes.txt", "nothing")
        folder.write(".hidden.yaml", POD)
        await folder.names({"hmi-edge-1", "plc-edge-1"})
        (folder.path / "a.json").unlink()
        await folder.names({"plc-edge-1"})
        assert static.health().details["files"] == []


async def test_a_bad_file_is_named_and_costs_the_others_nothing(folder: Folder) -> None:
    folder.write("bad.yaml", "kind: [")
    folder.write("good.yaml", POD)
    async with running(folder) as static:
        await folder.names({"hmi-edge-1"})
        health = static.health()
        assert health.state is State.DEGRADED
        assert health.reason.startswith("bad.yaml: is not YAML: ")
        assert str(folder.path) in health.next_step
        folder.write("good.yaml", POD[:60])  # half of it, as an editor may leave it
        async with asyncio.timeout(5):
            while len(static.health().details["files"]) < 2:
                await asyncio.sleep(0.01)
        assert len(static.pods()) == 1  # what runs goes on
        (folder.path / "bad.yaml").unlink()
        folder.write("good.yaml", POD)
        async with asyncio.timeout(5):
            while static.health().state is not State.RUNNING:
                await asyncio.sleep(0.01)


async def test_of_two_files_with_one_name_the_first_counts(folder: Folder) -> None:
    folder.write("a.yaml", POD)
    folder.write("b.yaml", POD)
    async with running(folder) as static:
        assert static.health().details["files"] == [
            "b.yaml: metadata.name: default/hmi-edge-1 stands in a.yaml already"
        ]
        first = folder.told[-1][0][0]["metadata"]["uid"]
        (folder.path / "a.yaml").unlink()
        async with asyncio.timeout(5):
            while static.health().details["files"]:
                await asyncio.sleep(0.01)
        [(pod, _)] = static.pods()
        assert pod["metadata"]["uid"] != first


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "manifests")
    folder.path.rmdir()
    async with running(folder) as static:
        assert static.health().state is State.RUNNING
        folder.path.mkdir()
        folder.write("a.yaml", POD)
        await folder.names({"hmi-edge-1"})


async def test_pipes_and_large_files_do_not_stop_it(folder: Folder) -> None:
    os.mkfifo(folder.path / "pipe.yaml")
    folder.write("large.yaml", "# " + "x" * (1 << 20))
    async with running(folder) as static:
        assert static.health().details["files"] == ["large.yaml: is larger than 1048576 bytes"]


def document(**spec: Any) -> dict[str, Any]:
    value = read_document(POD.encode())
    value["spec"] = {**value["spec"], **spec}
    return value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"kind": "Deployment", "apiVersion": "apps/v1"}, "kind: must be apiVersion v1, kind Pod"),
        ({"kind": "Pod", "apiVersion": "v1"}, "metadata: must be an object"),
        ({**document(), "metadata": {}}, "metadata.name: is required"),
        ({**document(), "metadata": {"name": "A B"}}, "metadata.name: a lowercase RFC 1123 subdomain"),
        ({**document(), "metadata": {"name": "a", "namespace": "../x"}}, "metadata.namespace: "),
        ({**document(), "metadata": {"name": "a", "labels": {"x": 1}}}, "metadata.labels.x: must be a text"),
        (document(containers=[]), "spec.containers: is required"),
        (document(containers=[{"name": "a", "image": 5}]), "spec.containers"),
        (document(serviceAccountName="robot"), "spec.serviceAccountName: a static pod may not refer"),
        (document(imagePullSecrets=[{"name": "pull"}]), r"may not refer to secrets \(pull\)"),
        (document(volumes=[{"name": "run", "configMap": {"name": "cm"}}]), r"may not refer to configmaps \(cm\)"),
        (
            document(volumes=[{"name": "run", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]),
            r"spec.volumes\[0\].projected: a static pod may not refer to service accounts",
        ),
    ],
)
def test_what_is_no_static_pod(value: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        static_pod(value, node="edge-1", file="a.yaml", seen_ms=0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold one object, not 0"),
        ("a: 1\n---\nb: 2", "must hold one object, not 2"),
        ("[1]", "must be an object"),
        ("1: a", "the key 1 must be a text"),
        ("a: {on: 1}", "a: the key True must be a text"),
        ("a: !!binary aGk=", "a: a bytes has no place in a pod"),
        ("a: !!python/object/apply:os.system [id]", "is not YAML"),
        ("&a [" + "[" * 200 + "]" * 200 + "]", "nested deeper"),
        ("{" * 500_000, "nested deeper"),
        ("[" * 60_000 + "]" * 60_000, "nested deeper"),
        ("? " * 400_000, "nested deeper"),
        ("a: 1\n" * 120_000, "more than 50000 values"),
        ("\x00", "is not YAML"),
        (
            "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(f"{n}: &{n} [{','.join(['*' + p] * 9)}]\n" for p, n in zip("abcdefgh", "bcdefghi", strict=True)),
            "more than 50000 values",
        ),
    ],
)
def test_texts_that_are_no_document(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_document(text.encode())


@given(st.binary(max_size=200) | st.text(alphabet="{}[]:,-&*!#|>\n \"'ab0", max_size=60).map(str.encode))
def test_any_bytes_are_a_document_or_a_named_error(data: bytes) -> None:
    try:
        assert isinstance(read_document(data), dict)
    except InputError as error:
        assert error.message


def test_an_annotation_cannot_pose_as_a_mirror() -> None:
    value = document()
    value["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x", "kubernetes.io/config.source": "api"}
    pod = static_pod(value, node="Edge_1", file="a.yaml", seen_ms=0)
    assert pod["metadata"]["name"] == "hmi-edge-1"
    assert "kubernetes.io/config.mirror" not in pod["metadata"]["annotations"]
    assert pod["metadata"]["annotations"]["kubernetes.io/config.source"] == "file"
    assert "ownerReferences" not in mirror(pod, node="Edge_1")["metadata"]


async def test_a_folder_that_cannot_be_read_yet_does_not_say_that_there_are_no_pods(tmp_path: Path) -> None:
    """Its disk may be mounted later: what runs must not be taken for remains until then."""
    folder = tmp_path / "manifests"
    folder.write_text("no folder")
    told: list[int] = []
    scope = TaskScope("static", lambda error: None)
    static = StaticPods(scope, directory=folder, node="edge-1", clock=SystemClock(), check=0.02)
    static.on_change(lambda pods: told.append(len(pods)))
    await static.start()
    await asyncio.sleep(0.1)
    assert told == []
    folder.unlink()
    folder.mkdir()
    await asyncio.sleep(0.2)
    await static.stop()
    assert told == [0]
