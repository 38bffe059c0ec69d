"""The road down over a real TLS link: push, store, acknowledge, tell; and the node's own road up."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgeappliance.edged.node import Node
from edgeappliance.edgehub.hub import EdgeHub
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.component import State
from edgeappliance.kernel.supervisor import Supervisor
from edgeappliance.metamanager.metamanager import CloudError, MetaManager, NotFound
from edgeappliance.metamanager.objects import Change
from edgeappliance.store import MetaStore, open_store
from tests.support.edge_identity import NODE, Edge, edge
from tests.support.kubeedge_cloud import KubeEdgeCloud


@dataclass
class Appliance:
    edge: Edge
    store: MetaStore
    meta: MetaManager
    node: Node


@asynccontextmanager
async def appliance(cloud: KubeEdgeCloud, directory: Path, *, heartbeat: float = 10.0) -> AsyncIterator[Appliance]:
    directory.mkdir(exist_ok=True)
    database = await open_store(directory)
    parts: dict[str, Any] = {}

    def prepare(hub: EdgeHub, supervisor: Supervisor) -> None:
        store = MetaStore(database)
        meta = supervisor.add("metamanager", lambda scope: MetaManager(scope, store=store, cloud=hub))
        hub.route("resource", meta.receive)
        node = supervisor.add(
            "edged",
            lambda scope: Node(
                scope,
                cloud=hub,
                name=NODE,
                version="0.1.0",
                data_directory=directory,
                clock=SystemClock(),
                heartbeat=heartbeat,
            ),
        )
        parts.update(store=store, meta=meta, node=node)

    try:
        async with edge(cloud, directory / "id", prepare=prepare) as running:
            yield Appliance(edge=running, **parts)
    finally:
        await database.close()


async def test_node_is_registered_reported_and_leased(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with appliance(kubeedge, tmp_path / "edge") as running:
        await kubeedge.wait(lambda cloud: "kube-node-lease/lease/edge-1" in cloud.objects)
        node = kubeedge.objects["null/node/edge-1"]
        assert node["metadata"]["labels"]["node-role.kubernetes.io/edge"] == ""
        ready = {c["type"]: c["status"] for c in node["status"]["conditions"]}
        assert ready["Ready"] == "True"
        assert node["status"]["nodeInfo"]["kubeletVersion"] == "v1.32.10-kubeedge-v1.23.0-edgeappliance-0.1.0"
        assert {"type": "InternalIP", "address": "127.0.0.1"} in node["status"]["addresses"]
        lease = kubeedge.objects["kube-node-lease/lease/edge-1"]
        assert lease["spec"]["leaseDurationSeconds"] == 40
        assert lease["metadata"]["ownerReferences"][0]["uid"] == node["metadata"]["uid"]
        # The pushed Node object came back down, was stored and acknowledged.
        await kubeedge.wait_message("null/node/edge-1", "response")
        # The lease was asked for (not found) and then made; both answers are acknowledged.
        await kubeedge.wait(lambda cloud: len(cloud.messages("kube-node-lease/lease/edge-1", "response")) == 2)
        assert running.node.health().state is State.RUNNING


async def test_push_is_stored_before_it_is_acknowledged_and_told(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with appliance(kubeedge, tmp_path / "edge") as running:
        told: asyncio.Queue[Change] = asyncio.Queue()
        running.meta.subscribe("device", told.put)
        device = kubeedge.object("Device", "default", "meter", spec={"nodeName": NODE})
        ack = await kubeedge.push("insert", "default/device/meter", device, source="devicecontroller")
        row = await running.store.get("default/device/meter")
        assert row is not None
        assert row.uid == device["metadata"]["uid"]
        assert ack["content"] == "OK"
        assert ack["route"] == {
            "source": "devicecontroller",
            "group": "resource",
            "operation": "response",
            "resource": "default/device/meter",
        }
        assert "resourceversion" not in ack["header"]
        change = await told.get()
        assert (change.operation, str(change.resource), change.value) == ("insert", "default/device/meter", device)
        assert await running.meta.objects("device") == [device]


async def test_delete_of_another_object_of_the_name_keeps_the_row(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with appliance(kubeedge, tmp_path / "edge") as running:
        told: list[Change] = []

        async def note(change: Change) -> None:
            told.append(change)

        running.meta.subscribe("pod", note)
        pod = kubeedge.object("Pod", "default", "web", spec={})
        await kubeedge.push("insert", "default/pod/web", pod)
        stub = {"metadata": {"name": "web", "namespace": "default", "uid": "another"}}
        await kubeedge.push("delete", "default/pod/web", stub)
        assert await running.store.get("default/pod/web") is not None
        stub["metadata"]["uid"] = pod["metadata"]["uid"]
        await kubeedge.push("delete", "default/pod/web", stub)
        assert await running.store.get("default/pod/web") is None
        await kubeedge.push("delete", "default/pod/never-seen", stub)
        assert [(c.operation, c.resource.name) for c in told] == [
            ("insert", "web"),
            ("delete", "web"),
            ("delete", "never-seen"),
        ]


async def test_four_segments_are_stored_acknowledged_and_told_to_nobody(
    kubeedge: KubeEdgeCloud, tmp_path: Path
) -> None:
    async with appliance(kubeedge, tmp_path / "edge") as running:
        odd = kubeedge.object("Thing", "default", "x")
        ack = await kubeedge.push("insert", "default/thing/x/y", odd)
        assert ack["content"] == "OK"
        assert await running.store.get("default/thing/x/y") is not None
        assert await running.meta.objects("thing") == []


async def test_query_miss_asks_the_cloud_stores_and_acknowledges(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with appliance(kubeedge, tmp_path / "edge") as running:
        await running.edge.connected()
        kubeedge.objects["default/configmap/cm1"] = kubeedge.object("ConfigMap", "default", "cm1", data={"a": "<b>"})
        found = await running.meta.query("default/configmap/cm1")
        assert found["data"] == {"a": "<b>"}
        question = kubeedge.messages("default/configmap/cm1", "query")[0]
        assert question.route == {
            "source": "edged",
            "group": "meta",
            "operation": "query",
            "resource": "default/configmap/cm1",
        }
        await kubeedge.wait_message("default/configmap/cm1", "response")
        assert await running.meta.query("default/configmap/cm1") == found
        assert len(kubeedge.messages("default/configmap/cm1", "query")) == 1


async def test_query_errors(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with appliance(kubeedge, tmp_path / "edge") as running:
        await running.edge.connected()
        with pytest.raises(NotFound, match="not found"):
            await running.meta.query("default/secret/absent")
        assert await running.store.get("default/secret/absent") is None
        with pytest.raises(NotFound, match="not on this node"):
            await running.meta.query("default/pod/absent")
        assert (await running.meta.query("k8s/ca.crt")).startswith("-----BEGIN CERTIFICATE-----")


async def test_error_reply_of_the_cloud_reaches_the_asker(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with appliance(kubeedge, tmp_path / "edge") as running:
        await running.edge.connected()
        kubeedge.silent = re.compile("configmap/slow")
        asking = asyncio.create_task(running.meta.query("default/configmap/slow", timeout=5))
        question = await kubeedge.wait_message("default/configmap/slow", "query")
        await kubeedge.send(
            kubeedge.message("error", "default/configmap/slow", "boom", source="", group="resource", parent=question.id)
        )
        with pytest.raises(CloudError, match="boom"):
            await asking


async def test_put_without_an_object_is_answered_with_error(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with appliance(kubeedge, tmp_path / "edge"):
        message = kubeedge.message("insert", "default/pod/none", None)
        await kubeedge.send(message)
        answer = await kubeedge.wait_message(parent=message["header"]["msg_id"])
        assert answer.operation == "error"
        assert answer.route == {"operation": "error", "resource": "default/pod/none"}


async def test_unknown_operation_gets_no_answer(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with appliance(kubeedge, tmp_path / "edge"):
        message = kubeedge.message("dance", "default/pod/p", {"metadata": {}})
        await kubeedge.send(message)
        pod = kubeedge.object("Pod", "default", "after")
        await kubeedge.push("insert", "default/pod/after", pod)
        assert not [item for item in kubeedge.received if item.parent == message["header"]["msg_id"]]


async def test_objects_survive_a_restart_without_a_cloud(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with appliance(kubeedge, tmp_path / "edge"):
        pod = kubeedge.object("Pod", "default", "web", spec={})
        await kubeedge.push("insert", "default/pod/web", pod)
    await kubeedge.stop_ws()
    async with appliance(kubeedge, tmp_path / "edge") as running:
        assert await running.meta.objects("pod") == [pod]
        assert not running.edge.hub.connected
