"""Who concerns whom, from the embedded API."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cloudgateway.apiserver.embedded import EmbeddedApi
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.informers import Informers
from cloudgateway.kube.local_transport import LocalTransport
from cloudgateway.kube.resources import DEVICES, PODS
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
