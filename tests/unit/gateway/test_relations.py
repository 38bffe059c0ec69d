"""Who concerns whom, from the embedded API."""

import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from cloudgateway.apiserver.embedded import EmbeddedApi
from cloudgateway.kube.client import KubeClient, WatchEvent
from cloudgateway.kube.informers import Informers
from cloudgateway.kube.local_transport import LocalTransport
from cloudgateway.kube.reflector import Reflector, Watched
from cloudgateway.kube.resources import DEVICES, GVR, PERSISTENT_VOLUME_CLAIMS, PODS, SERVICE_ACCOUNTS
from cloudgateway.kube.transport import Request, Response
from cloudgateway.relations import Relations
from cloudgateway.site import KubeNodes, Mirrors, prepare
from edgeappliance.kernel.supervisor import Supervisor
from edgeappliance.wire.operations import ResourceType
from tests.support.stand import eventually


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[tuple[KubeClient, Relations]]:
    api = await EmbeddedApi.open(tmp_path / "api")
    client = KubeClient(LocalTransport(api))
    await prepare(client, crds=True)
    supervisor = Supervisor()
    informers = supervisor.add("mirrors", lambda tasks: Mirrors(Informers(client, tasks))).informers
    relations = supervisor.add("relations", lambda _: Relations(informers, volumes=False))
    await supervisor.start()
    await relations.wait_synced()
    yield client, relations
    await supervisor.stop()
    await api.close()


def pod(name: str, node: str) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "containers": [
            {
                "name": "c",
                "image": "i",
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
            }
        ],
        "volumes": [
            {"name": "v", "configMap": {"name": "cm"}},
            {"name": "d", "persistentVolumeClaim": {"claimName": "claim"}},
        ],
        "serviceAccountName": "robot",
    }
    if node:
        spec["nodeName"] = node
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


async def test_pods_bind_what_they_need_to_their_node(parts: tuple[KubeClient, Relations]) -> None:
    client, relations = parts
    robot = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}
    await client.create(SERVICE_ACCOUNTS, robot, namespace="default")
    await client.create(PODS, pod("bound", "edge-1"), namespace="default")
    await client.create(PODS, pod("free", ""), namespace="default")

    async def seen() -> bool:
        return relations.pod_node("default", "free") == ""

    await eventually(seen, what="both pods")
    assert relations.pod_node("default", "bound") == "edge-1"
    assert relations.pod_node("default", "none") is None
    for kind, name in [
        (ResourceType.SECRET, "s"),
        (ResourceType.CONFIGMAP, "cm"),
        (ResourceType.PERSISTENT_VOLUME_CLAIM, "claim"),
        (ResourceType.SERVICE_ACCOUNT_TOKEN, "robot"),
    ]:
        assert relations.references("edge-1", kind, "default", name)
        assert not relations.references("edge-2", kind, "default", name)
        assert not relations.references("edge-1", kind, "kube-system", name)
    assert not relations.references("edge-1", ResourceType.VOLUME_ATTACHMENT, "default", "claim")
    assert not relations.references("edge-1", ResourceType.PERSISTENT_VOLUME, "null", "claim")
    await client.delete(PODS, "default", "bound", options={"gracePeriodSeconds": 0})

    async def gone() -> bool:
        return not relations.references("edge-1", ResourceType.SECRET, "default", "s")

    await eventually(gone, what="the pod gone")


async def test_devices_and_nodes(parts: tuple[KubeClient, Relations]) -> None:
    client, relations = parts
    body = {
        "apiVersion": DEVICES.api_version,
        "kind": "Device",
        "metadata": {"name": "d"},
        "spec": {"nodeName": "edge-1", "deviceModelRef": {"name": "m"}},
    }
    await client.create(DEVICES, body, namespace="default")

    async def seen() -> bool:
        return relations.device_node("default", "d") == "edge-1"

    await eventually(seen, what="the device")
    assert relations.device_node("default", "e") is None
    assert not await KubeNodes(client).exists("edge-1")


class Still:
    """Mirrors that hold what a test puts into them."""

    def __init__(self) -> None:
        self.of_resource: dict[str, Reflector] = {}

    def of(self, watched: Watched) -> Reflector:
        client = KubeClient(Nowhere())
        return self.of_resource.setdefault(watched.gvr.resource, Reflector(client, watched))

    def put(self, gvr: GVR, obj: dict[str, Any]) -> None:
        obj["metadata"].setdefault("namespace", "default")
        obj["metadata"].setdefault("uid", obj["metadata"]["name"])
        self.of(Watched(gvr))._apply(WatchEvent("MODIFIED", obj))


class Nowhere:
    """No API."""

    async def send(self, request: Request, *, timeout: float) -> Response:
        raise AssertionError("nothing is asked")

    def stream(self, request: Request, *, read_timeout: float) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        raise AssertionError("nothing is watched")

    async def close(self) -> None:
        """Nothing is open."""


async def test_a_volume_is_the_nodes_whose_pod_claims_it() -> None:
    mirrors = Still()
    relations = Relations(mirrors, volumes=True)  # type: ignore[arg-type]
    await relations.start()
    mirrors.put(PODS, pod("p", "edge-1"))
    claim = {"metadata": {"name": "claim"}, "spec": {"volumeName": "pv-1"}}
    mirrors.put(PERSISTENT_VOLUME_CLAIMS, claim)
    mirrors.put(PERSISTENT_VOLUME_CLAIMS, {"metadata": {"name": "other"}, "spec": {"volumeName": "pv-2"}})
    assert relations.references("edge-1", ResourceType.PERSISTENT_VOLUME, "null", "pv-1")
    assert not relations.references("edge-1", ResourceType.PERSISTENT_VOLUME, "null", "pv-2")
    assert not relations.references("edge-2", ResourceType.PERSISTENT_VOLUME, "null", "pv-1")
    moved = pod("p", "edge-2")
    moved["metadata"]["resourceVersion"] = "2"
    mirrors.put(PODS, moved)
    assert not relations.references("edge-1", ResourceType.PERSISTENT_VOLUME, "null", "pv-1")
    assert relations.references("edge-2", ResourceType.PERSISTENT_VOLUME, "null", "pv-1")


async def test_a_question_of_one_node_does_not_look_at_the_others_pods() -> None:
    """Each query of a node asks this; with 20 000 pods a walk over all of them took milliseconds."""
    mirrors = Still()
    relations = Relations(mirrors, volumes=False)  # type: ignore[arg-type]
    await relations.start()
    for number in range(5000):
        mirrors.put(PODS, pod(f"p{number}", f"edge-{number}"))
    began = time.perf_counter()
    for _ in range(200):
        assert not relations.references("edge-1", ResourceType.SECRET, "default", "none")
    assert time.perf_counter() - began < 0.05
