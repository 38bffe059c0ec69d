"""An edgecore that is not ours, played from the reference, against the whole gateway with its embedded API."""

import asyncio
import json
from typing import Any

from cloudgateway.gateway import Gateway
from cloudgateway.kube.resources import (
    CONFIGMAPS,
    DEVICE_MODELS,
    DEVICE_STATUSES,
    DEVICES,
    LEASES,
    NODES,
    OBJECT_SYNCS,
    PODS,
)
from tests.support import kubeedge_edge as edge
from tests.support.gateway_site import Site, gateway_settings, node_object


def model(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "DeviceModel",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"properties": [{"name": "power", "type": "FLOAT", "accessMode": "ReadWrite"}], "protocol": "modbus"},
    }


def device(name: str, node: str) -> dict[str, Any]:
    return {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "deviceModelRef": {"name": name},
            "nodeName": node,
            "protocol": {"protocolName": "modbus"},
            "properties": [{"name": "power", "desired": {"value": "5"}}],
        },
    }


async def test_join_register_device_twin_and_back(site: Site) -> None:
    identity = await site.join(site.node)
    core = await site.connect(identity)
    reply = await core.register(node_object(site.node))
    assert reply["content"]["Err"] is None
    stored = await site.until(
        NODES, None, site.node, lambda node: node and "cloudcore" in node["metadata"]["annotations"]
    )
    assert stored["metadata"]["labels"]["zone"] == "roof"
    await core.wait_for(f"null/node/{site.node}", operation="update")

    lease = {
        "kind": "Lease",
        "apiVersion": "coordination.k8s.io/v1",
        "metadata": {"name": site.node, "namespace": "kube-node-lease"},
        "spec": {"holderIdentity": site.node, "leaseDurationSeconds": 40},
    }
    reply = await core.request("insert", f"kube-node-lease/lease/{site.node}", lease)
    assert reply["content"]["Object"]["spec"]["holderIdentity"] == site.node

    await site.client.create(DEVICE_MODELS, model(site.meter), namespace="default")
    await site.client.create(DEVICES, device(site.meter, site.node), namespace="default")
    pushed = await core.wait_for(f"default/device/{site.meter}")
    assert pushed["content"]["spec"]["properties"][0]["desired"] == {"value": "5"}
    assert (await core.wait_for(f"default/devicemodel/{site.meter}"))["content"]["kind"] == "DeviceModel"
    membership = await core.wait_for("membership")
    assert membership["content"]["added_devices"][0] == {"id": f"default/{site.meter}", "name": site.meter}
    uid = pushed["content"]["metadata"]["uid"]
    version = pushed["content"]["metadata"]["resourceVersion"]
    record = await site.until(
        OBJECT_SYNCS,
        "default",
        f"{site.node}.{uid}",
        lambda one: one and (one.get("status") or {}).get("objectResourceVersion") == version,
    )
    assert record["spec"] == {
        "objectAPIVersion": "devices.kubeedge.io/v1beta1",
        "objectKind": "Device",
        "objectName": site.meter,
    }

    reply = await core.report_twin(
        f"default/{site.meter}", {"power": {"actual": {"value": "4.5", "metadata": {"timestamp": 1700000000000}}}}
    )
    assert (reply["route"]["group"], reply["content"]) == ("twin", "OK")
    status = await site.until(
        DEVICE_STATUSES, "default", site.meter, lambda one: one and (one.get("status") or {}).get("twins")
    )
    twin = status["status"]["twins"][0]
    assert (twin["propertyName"], twin["reported"]["value"]) == ("power", "4.5"), "the first report is not lost"

    await site.client.patch(
        DEVICES, "default", site.meter, {"spec": {"properties": [{"name": "power", "desired": {"value": "7"}}]}}
    )
    pushed = await core.wait_for(f"default/device/{site.meter}", operation="update")
    assert pushed["content"]["spec"]["properties"][0]["desired"]["value"] == "7"
    await core.close()


async def test_what_a_node_has_is_not_sent_again_and_what_it_missed_is(site: Site) -> None:
    identity = await site.join(site.node)
    core = await site.connect(identity)
    await core.register(node_object(site.node))
    await site.client.create(DEVICE_MODELS, model(site.meter), namespace="default")
    created = await site.client.create(DEVICES, device(site.meter, site.node), namespace="default")
    await core.wait_for(f"default/device/{site.meter}")
    name = f"{site.node}.{created['metadata']['uid']}"
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
        DEVICES, "default", site.meter, {"spec": {"properties": [{"name": "power", "desired": {"value": "9"}}]}}
    )
    await core.wait_for(f"default/device/{site.meter}")
    devices = [one for one in core.received if one["route"]["resource"] == f"default/device/{site.meter}"]
    assert [one["header"]["resourceversion"] for one in devices] == [patched["metadata"]["resourceVersion"]]
    await core.close()

    await site.client.delete(DEVICES, "default", site.meter)
    core = await site.connect(identity)
    await core.wait_for(f"default/device/{site.meter}", operation="delete")
    await site.until(OBJECT_SYNCS, "default", name, lambda one: one is None)
    await core.close()


async def test_pods_and_their_config_maps(site: Site) -> None:
    identity = await site.join(site.node)
    core = await site.connect(identity)
    await core.register(node_object(site.node))
    refused = await core.request("query", f"default/configmap/{site.meter}")
    assert refused["content"]["ErrStatus"]["reason"] == "Forbidden"
    cm = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": site.meter, "namespace": "default"},
        "data": {"a": "b"},
    }
    await site.client.create(CONFIGMAPS, cm, namespace="default")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": site.meter, "namespace": "default"},
        "spec": {
            "nodeName": site.node,
            "containers": [{"name": "c", "image": "busybox", "envFrom": [{"configMapRef": {"name": site.meter}}]}],
        },
    }
    await site.client.create(PODS, pod, namespace="default")
    assert (await core.wait_for(f"default/pod/{site.meter}"))["content"]["spec"]["nodeName"] == site.node
    assert (await core.wait_for(f"default/configmap/{site.meter}", count=2))["content"]["data"] == {"a": "b"}
    reply = await core.request("query", f"default/configmap/{site.meter}")
    assert reply["content"]["data"] == {"a": "b"}
    uid = core.rows[f"default/pod/{site.meter}"]["metadata"]["uid"]
    reply = await core.request(
        "patch",
        f"default/podpatch/{site.meter}",
        json.dumps({"metadata": {"uid": uid}, "status": {"phase": "Running"}}),
    )
    assert reply["content"]["Object"]["status"]["phase"] == "Running"
    await site.client.delete(PODS, "default", site.meter)
    await core.wait_for(f"default/pod/{site.meter}", operation="update")
    options = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
    reply = await core.request("delete", f"default/pod/{site.meter}", options)
    assert reply["content"] == "OK"
    await core.wait_for(f"default/pod/{site.meter}", operation="delete")
    await core.close()


async def test_two_replicas_share_a_site(site: Site) -> None:
    """A second gateway on the same API: same CA, and the node's session is where it connected last."""
    identity = await site.join(site.node)
    first = await site.connect(identity)
    await first.register(node_object(site.node))
    second = Gateway(gateway_settings(kubeconfig=site.kubeconfig))
    await second.start()
    await second.wait_listening()
    here = (await site.gateway.credentials.wait()).authority.fingerprint
    assert (await second.credentials.wait()).authority.fingerprint == here
    again = edge.EdgeCore(site.node)
    await again.connect(second.hub.port, identity.context())
    await asyncio.wait_for(first.closed.wait(), 10)
    assert not site.gateway.hub.connected(site.node)
    held = await site.client.get(LEASES, "kubeedge", f"cloudgateway-session-{site.node}")
    await site.client.create(DEVICE_MODELS, model(site.meter), namespace="default")
    await site.client.create(DEVICES, device(site.meter, site.node), namespace="default")
    await again.wait_for(f"default/device/{site.meter}")
    back = await site.connect(identity)
    await asyncio.wait_for(again.closed.wait(), 10)
    now = await site.until(
        LEASES,
        "kubeedge",
        f"cloudgateway-session-{site.node}",
        lambda one: one["spec"].get("holderIdentity") not in ("", None, held["spec"]["holderIdentity"]),
    )
    assert now["spec"]["holderIdentity"]
    for core in (first, again, back):
        await core.close()
    await second.stop()
