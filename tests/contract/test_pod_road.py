"""Pods between the Kubernetes API and a node: bound late, mirrored, reported, ended (KubeEdge reference 1.4 A-F)."""

import asyncio
import json
import time
from typing import Any

import pytest

from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.resources import CONFIGMAPS, NODES, PODS, SECRETS
from tests.contract.test_node_road import Road, informers, road

__all__ = ["informers", "road"]


def free_pod(name: str, **spec: Any) -> dict[str, Any]:
    """A pod that waits for a scheduler that is not there."""
    containers = [{"name": "c", "image": "i"}]
    spec = {"schedulerName": "nobody", "containers": containers, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


async def bind(client: KubeClient, namespace: str, name: str, node: str) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }
    await client.create(PODS, body, namespace=namespace, name=name, subresource="binding")


async def test_a_pod_bound_after_its_nodes_session_came_up_is_pushed_at_once(road: Road) -> None:
    ns = road.namespace
    await road.register()
    await road.body(CONFIGMAPS, "cm", a="1")
    await road.body(SECRETS, "s", a="1")
    volumes = [{"name": "v", "configMap": {"name": "cm"}}, {"name": "w", "secret": {"secretName": "s"}}]
    road.hub.up(road.node)
    await road.hub.pushes(road.node, f"update null/node/{road.node}")
    await road.client.create(PODS, free_pod("p", volumes=volumes), namespace=ns)
    await asyncio.sleep(0.1)
    assert not [route for route in road.hub.routes(road.node) if "/pod/" in route]
    began = time.perf_counter()
    await bind(road.client, ns, "p", road.node)
    pushed = await road.hub.until(lambda node, m: node == road.node and m.resource == f"{ns}/pod/p")
    for route in (f"insert {ns}/configmap/cm", f"update {ns}/secret/s"):
        await road.hub.pushes(road.node, route)
    assert time.perf_counter() - began < 2.0
    pod = pushed.content_value()
    assert pod["spec"]["nodeName"] == road.node
    assert pushed.resource_version == (await road.client.get(PODS, ns, "p"))["metadata"]["resourceVersion"]
    assert [route for route in road.hub.routes(road.node) if "/pod/p" in route] == [f"update {ns}/pod/p"]


async def test_a_config_map_that_comes_late_reaches_the_pod_that_waits_for_it(road: Road) -> None:
    ns = road.namespace
    await road.register()
    road.hub.up(road.node)
    await road.pod("p", containers=[{"name": "c", "image": "i", "envFrom": [{"configMapRef": {"name": "late"}}]}])
    await road.hub.pushes(road.node, f"insert {ns}/pod/p")
    missing = await road.ask("query", f"{ns}/configmap/late")
    assert missing.content_value()["ErrStatus"]["reason"] == "NotFound"
    await road.body(CONFIGMAPS, "late", a="1")
    pushed = await road.hub.pushes(road.node, f"insert {ns}/configmap/late")
    assert pushed.content_value()["data"] == {"a": "1"}


async def test_a_mirror_pod_is_made_reported_and_made_anew(road: Road) -> None:
    ns = road.namespace
    await road.register()
    road.hub.up(road.node)
    name = f"static-{road.node.replace('.', '-')}"
    annotations = {f"kubernetes.io/config.{key}": "abc" for key in ("mirror", "hash")}
    annotations["kubernetes.io/config.source"] = "file"
    mirror = {
        "metadata": {"name": name, "namespace": ns, "annotations": annotations, "uid": "", "creationTimestamp": None},
        "spec": {"nodeName": road.node, "containers": [{"name": "c", "image": "i"}], "enableServiceLinks": True},
        "status": {},
    }
    answer = (await road.ask("insert", f"{ns}/pod/{name}", mirror)).content_value()
    assert answer["Err"] is None
    uid = answer["Object"]["metadata"]["uid"]
    pushed = await road.hub.pushes(road.node, f"insert {ns}/pod/{name}")
    assert pushed.content_value()["metadata"]["annotations"]["kubernetes.io/config.mirror"] == "abc"
    again = (await road.ask("insert", f"{ns}/pod/{name}", mirror)).content_value()
    assert again["Err"]["ErrStatus"]["reason"] == "AlreadyExists"
    patch = json.dumps({"metadata": {"uid": uid}, "status": {"phase": "Running", "podIP": "10.0.0.9"}})
    patched = (await road.ask("patch", f"{ns}/podpatch/{name}", patch)).content_value()
    assert patched["Object"]["status"]["podIP"] == "10.0.0.9"
    options = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
    assert (await road.ask("delete", f"{ns}/pod/{name}", options)).content_value() == "OK"
    await road.hub.pushes(road.node, f"delete {ns}/pod/{name}")
    renewed = (await road.ask("insert", f"{ns}/pod/{name}", mirror)).content_value()
    assert renewed["Object"]["metadata"]["uid"] not in ("", uid)


async def test_a_status_of_a_pod_of_another_life_is_refused(road: Road) -> None:
    """A pod that was deleted and made anew while the node was away must not show the old one's status."""
    ns = road.namespace
    await road.register()
    made = await road.pod("p")
    patch = json.dumps({"metadata": {"uid": "00000000-0000-0000-0000-000000000000"}, "status": {"phase": "Failed"}})
    content = (await road.ask("patch", f"{ns}/podpatch/p", patch)).content_value()
    assert content["Object"] is None
    assert content["Err"]["ErrStatus"]["code"] in (409, 422)
    assert (await road.client.get(PODS, ns, "p"))["status"]["phase"] == "Pending"
    right = json.dumps({"metadata": {"uid": made["metadata"]["uid"]}, "status": {"phase": "Running"}})
    assert (await road.ask("patch", f"{ns}/podpatch/p", right)).content_value()["Err"] is None


async def test_a_status_merges_as_a_kubelet_means_it(road: Road) -> None:
    """podpatch is a strategic merge: conditions by type, addresses by ip, `$setElementOrder`, nulls that remove."""
    ns = road.namespace
    await road.register()
    uid = (await road.pod("p"))["metadata"]["uid"]

    async def send(status: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps({"metadata": {"uid": uid}, "status": status})
        content = (await road.ask("patch", f"{ns}/podpatch/p", text)).content_value()
        assert content["Err"] is None, content
        found: dict[str, Any] = content["Object"]["status"]
        return found

    ready = {"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "x"}
    waiting = {"name": "c", "state": {"waiting": {"reason": "ContainerCreating"}}, "ready": False, "restartCount": 0}
    waiting |= {"image": "i", "imageID": ""}
    await send(
        {
            "phase": "Pending",
            "conditions": [ready],
            "containerStatuses": [waiting],
            "podIP": "10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}],
        }
    )
    running = {**waiting, "state": {"running": {"startedAt": "2026-11-22T09:32:22Z"}}, "ready": True}
    status = await send(
        {
            "$setElementOrder/conditions": [{"type": "Initialized"}, {"type": "Ready"}],
            "phase": "Running",
            "conditions": [
                {"type": "Initialized", "status": "True"},
                {"type": "Ready", "status": "True", "reason": None, "message": None},
            ],
            "containerStatuses": [running],
            "podIP": "10.0.0.2",
            "$setElementOrder/podIPs": [{"ip": "10.0.0.2"}],
            "podIPs": [{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}],
        }
    )
    conditions = {item["type"]: item for item in status["conditions"] if item["type"] != "PodScheduled"}
    assert {kind: item["status"] for kind, item in conditions.items()} == {"Initialized": "True", "Ready": "True"}
    assert "reason" not in conditions["Ready"]
    assert list(status["containerStatuses"][0]["state"]) == ["running"]
    assert status["podIPs"] == [{"ip": "10.0.0.2"}]


@pytest.mark.parametrize("which_api", ["embedded"], indirect=True)
async def test_the_scheduler_of_the_embedded_api_brings_a_pod_to_a_connected_node(road: Road) -> None:
    ns = road.namespace
    await road.register()
    road.hub.up(road.node)
    status = {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"cpu": "2", "pods": "10"}}
    await road.ask("patch", f"null/nodepatch/{road.node}", json.dumps({"status": status}))
    began = time.perf_counter()
    await road.client.create(PODS, free_pod("p", schedulerName="default-scheduler"), namespace=ns)
    pushed = await road.hub.until(lambda node, m: m.resource == f"{ns}/pod/p", timeout=5)
    assert time.perf_counter() - began < 1.0
    assert pushed.content_value()["spec"]["nodeName"] == road.node
    bound = await road.client.get(PODS, ns, "p")
    assert [item["status"] for item in bound["status"]["conditions"] if item["type"] == "PodScheduled"] == ["True"]
    await road.client.delete(NODES, None, road.node)
