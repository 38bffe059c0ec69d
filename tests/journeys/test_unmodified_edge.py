"""An edgecore that is not ours, played from the reference, against the whole gateway with its embedded API."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cloudgateway.config import CloudHubSettings, EmbeddedSettings, EnrolmentSettings, GatewaySettings, MetricsSettings
from cloudgateway.gateway import Gateway
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.errors import ApiError
from cloudgateway.kube.resources import (
    CONFIGMAPS,
    DEVICE_MODELS,
    DEVICE_STATUSES,
    DEVICES,
    GVR,
    LEASES,
    NODES,
    OBJECT_SYNCS,
    PODS,
)
from tests.support import kubeedge_edge as edge


def gateway_settings(directory: Path) -> GatewaySettings:
    return GatewaySettings(
        cloudhub=CloudHubSettings(host="127.0.0.1", port=0),
        enrolment=EnrolmentSettings(host="127.0.0.1", port=0, addresses=["127.0.0.1"]),
        embedded=EmbeddedSettings(directory=str(directory), port=0),
        metrics=MetricsSettings(port=0),
    )


@dataclass
class Site:
    gateway: Gateway
    directory: Path

    @property
    def client(self) -> KubeClient:
        return self.gateway.api.client

    async def start(self) -> None:
        self.gateway = Gateway(gateway_settings(self.directory))
        await self.gateway.start()
        await self.gateway.wait_listening()

    async def join(self, node: str) -> edge.Identity:
        credentials = await self.gateway.credentials.wait()
        token, _ = await self.gateway.vault.create_token(
            credentials.authority, lifetime_s=60, note="", now=datetime.now(UTC)
        )
        return await edge.enrolled(self.gateway.enrolment.port, node, token)

    async def connect(self, identity: edge.Identity) -> edge.EdgeCore:
        core = edge.EdgeCore(identity.node)
        await core.connect(self.gateway.hub.port, identity.context())
        return core

    async def until(self, gvr: GVR, namespace: str | None, name: str, true: Any) -> dict[str, Any]:
        """The object once `true(object)` holds; `true(None)` for one that is gone."""
        async with asyncio.timeout(20):
            while True:
                try:
                    found = await self.client.get(gvr, namespace, name)
                except ApiError as error:
                    if not error.not_found:
                        raise
                    found = None
                if true(found):
                    return found or {}
                await asyncio.sleep(0.02)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    running = Site(None, tmp_path / "api")  # type: ignore[arg-type]
    await running.start()
    yield running
    await running.gateway.stop()


def node_object(name: str) -> dict[str, Any]:
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "node-role.kubernetes.io/edge": "", "zone": "roof"},
        },
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]},
    }


MODEL = {
    "apiVersion": "devices.kubeedge.io/v1beta1",
    "kind": "DeviceModel",
    "metadata": {"name": "meter", "namespace": "default"},
    "spec": {"properties": [{"name": "power", "type": "FLOAT", "accessMode": "ReadWrite"}], "protocol": "modbus"},
}


def device(node: str) -> dict[str, Any]:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": "m1", "namespace": "default"},
        "spec": {
            "deviceModelRef": {"name": "meter"},
            "nodeName": node,
            "protocol": {"protocolName": "modbus"},
            "properties": [{"name": "power", "desired": {"value": "5"}}],
        },
    }


async def test_join_register_device_twin_and_back(site: Site) -> None:
    identity = await site.join("edge-1")
    core = await site.connect(identity)
    reply = await core.register(node_object("edge-1"))
    assert reply["content"]["Err"] is None
    stored = await site.until(
        NODES, None, "edge-1", lambda node: node and "cloudcore" in node["metadata"]["annotations"]
    )
    assert stored["metadata"]["labels"]["zone"] == "roof"
    await core.wait_for("null/node/edge-1", operation="update")

    lease = {
        "kind": "Lease",
        "apiVersion": "coordination.k8s.io/v1",
        "metadata": {"name": "edge-1", "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": "edge-1", "leaseDurationSeconds": 40},
    }
    reply = await core.request("insert", "kube-node-lease/lease/edge-1", lease)
    assert reply["content"]["Object"]["spec"]["holderIdentity"] == "edge-1"

    await site.client.create(DEVICE_MODELS, MODEL, namespace="default")
    await site.client.create(DEVICES, device("edge-1"), namespace="default")
    pushed = await core.wait_for("default/device/m1")
    assert pushed["content"]["spec"]["properties"][0]["desired"] == {"value": "5"}
    assert (await core.wait_for("default/devicemodel/meter"))["content"]["kind"] == "DeviceModel"
    membership = await core.wait_for("membership")
    assert membership["content"]["added_devices"][0] == {"id": "default/m1", "name": "m1"}
    uid = pushed["content"]["metadata"]["uid"]
    version = pushed["content"]["metadata"]["resourceVersion"]
    record = await site.until(
        OBJECT_SYNCS,
        "default",
        f"edge-1.{uid}",
        lambda one: one and (one.get("status") or {}).get("objectResourceVersion") == version,
    )
    assert record["spec"] == {
        "objectAPIVersion": "devices.kubeedge.io/v1beta1",
        "objectKind": "Device",
        "objectName": "m1",
    }

    reply = await core.report_twin(
        "default/m1", {"power": {"actual": {"value": "4.5", "metadata": {"timestamp": 1700000000000}}}}
    )
    assert (reply["route"]["group"], reply["content"]) == ("twin", "OK")
    status = await site.until(
        DEVICE_STATUSES, "default", "m1", lambda one: one and (one.get("status") or {}).get("twins")
    )
    twin = status["status"]["twins"][0]
    assert (twin["propertyName"], twin["reported"]["value"]) == ("power", "4.5"), "the first report is not lost"

    await site.client.patch(
        DEVICES, "default", "m1", {"spec": {"properties": [{"name": "power", "desired": {"value": "7"}}]}}
    )
    pushed = await core.wait_for("default/device/m1", operation="update")
    assert pushed["content"]["spec"]["properties"][0]["desired"]["value"] == "7"
    await core.close()


async def test_what_a_node_has_is_not_sent_again_and_what_it_missed_is(site: Site) -> None:
    identity = await site.join("edge-1")
    core = await site.connect(identity)
    await core.register(node_object("edge-1"))
    await site.client.create(DEVICE_MODELS, MODEL, namespace="default")
    created = await site.client.create(DEVICES, device("edge-1"), namespace="default")
    await core.wait_for("default/device/m1")
    name = f"edge-1.{created['metadata']['uid']}"
    await site.until(
        OBJECT_SYNCS,
        "default",
        name,
        lambda one: one and (one.get("status") or {}).get("objectResourceVersion", "0") != "0",
    )
    await core.close()
    await site.gateway.stop()
    await site.start()

    core = await site.connect(identity)
    await core.wait_for("membership")
    patched = await site.client.patch(
        DEVICES, "default", "m1", {"spec": {"properties": [{"name": "power", "desired": {"value": "9"}}]}}
    )
    await core.wait_for("default/device/m1")
    devices = [one for one in core.received if one["route"]["resource"] == "default/device/m1"]
    assert [one["header"]["resourceversion"] for one in devices] == [patched["metadata"]["resourceVersion"]]
    await core.close()

    await site.client.delete(DEVICES, "default", "m1")
    core = await site.connect(identity)
    await core.wait_for("default/device/m1", operation="delete")
    await site.until(OBJECT_SYNCS, "default", name, lambda one: one is None)
    await core.close()


async def test_pods_and_their_config_maps(site: Site) -> None:
    identity = await site.join("edge-1")
    core = await site.connect(identity)
    await core.register(node_object("edge-1"))
    refused = await core.request("query", "default/configmap/cm")
    assert refused["content"]["ErrStatus"]["reason"] == "Forbidden"
    cm = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "cm", "namespace": "default"},
        "data": {"a": "b"},
    }
    await site.client.create(CONFIGMAPS, cm, namespace="default")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "nodeName": "edge-1",
            "containers": [{"name": "c", "image": "busybox", "envFrom": [{"configMapRef": {"name": "cm"}}]}],
        },
    }
    await site.client.create(PODS, pod, namespace="default")
    assert (await core.wait_for("default/pod/web"))["content"]["spec"]["nodeName"] == "edge-1"
    assert (await core.wait_for("default/configmap/cm", count=2))["content"]["data"] == {"a": "b"}
    reply = await core.request("query", "default/configmap/cm")
    assert reply["content"]["data"] == {"a": "b"}
    uid = core.rows["default/pod/web"]["metadata"]["uid"]
    reply = await core.request(
        "patch",
        "default/podpatch/web",
        json.dumps({"metadata": {"uid": uid}, "status": {"phase": "Running"}}),
    )
    assert reply["content"]["Object"]["status"]["phase"] == "Running"
    await site.client.delete(PODS, "default", "web")
    await core.wait_for("default/pod/web", operation="update")
    options = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
    reply = await core.request("delete", "default/pod/web", options)
    assert reply["content"] == "OK"
    await core.wait_for("default/pod/web", operation="delete")
    await core.close()


async def test_two_replicas_share_a_site(site: Site) -> None:
    """A second gateway on the same API: same CA, and the node's session is where it connected last."""
    from cloudgateway.config import KubernetesSettings

    identity = await site.join("edge-1")
    first = await site.connect(identity)
    await first.register(node_object("edge-1"))
    second = Gateway(
        GatewaySettings(
            cloudhub=CloudHubSettings(host="127.0.0.1", port=0),
            enrolment=EnrolmentSettings(host="127.0.0.1", port=0, addresses=["127.0.0.1"]),
            kubernetes=KubernetesSettings(kubeconfig=str(site.directory / "admin.kubeconfig")),
            metrics=MetricsSettings(port=0),
        )
    )
    await second.start()
    await second.wait_listening()
    here = (await site.gateway.credentials.wait()).authority.fingerprint
    assert (await second.credentials.wait()).authority.fingerprint == here
    again = edge.EdgeCore("edge-1")
    await again.connect(second.hub.port, identity.context())
    await asyncio.wait_for(first.closed.wait(), 10)
    assert not site.gateway.hub.connected("edge-1")
    held = await site.client.get(LEASES, "kubeedge", "cloudgateway-session-edge-1")
    await site.client.create(DEVICE_MODELS, MODEL, namespace="default")
    await site.client.create(DEVICES, device("edge-1"), namespace="default")
    await again.wait_for("default/device/m1")
    back = await site.connect(identity)
    await asyncio.wait_for(again.closed.wait(), 10)
    now = await site.until(
        LEASES,
        "kubeedge",
        "cloudgateway-session-edge-1",
        lambda one: one["spec"].get("holderIdentity") not in ("", None, held["spec"]["holderIdentity"]),
    )
    assert now["spec"]["holderIdentity"]
    for core in (first, again, back):
        await core.close()
    await second.stop()
