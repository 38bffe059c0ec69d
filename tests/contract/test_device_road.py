"""devicecontroller on a Kubernetes API: devices down, twins and states up (KubeEdge reference 1.4 G-J, 6.3)."""

import asyncio
from typing import Any

import pytest

from cloudgateway.devicecontroller.controller import DeviceController
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.informers import Informers
from cloudgateway.kube.reflector import Reflector, Watched
from cloudgateway.kube.resources import DEVICE_MODELS, DEVICE_STATUSES, DEVICES
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.wire.message import Message
from tests.support.kube_client import new_namespace
from tests.support.real_api import RealApi
from tests.support.recording_hub import RecordingHub


class Road:
    """A running devicecontroller with a namespace of its own."""

    def __init__(self, client: KubeClient, namespace: str, hub: RecordingHub, controller: DeviceController) -> None:
        self.client, self.namespace, self.hub, self.controller = client, namespace, hub, controller
        self.node, self.other = f"edge-1.{namespace}", f"edge-2.{namespace}"

    async def model(self, name: str = "meter", *properties: str) -> dict[str, Any]:
        return await self.client.create(
            DEVICE_MODELS,
            {
                "apiVersion": "devices.kubeedge.io/v1beta1",
                "kind": "DeviceModel",
                "metadata": {"name": name, "namespace": self.namespace},
                "spec": {"protocol": "modbus", "properties": [{"name": p, "type": "INT"} for p in properties]},
            },
            namespace=self.namespace,
        )

    async def device(self, name: str = "d1", *properties: str, node: str = "") -> dict[str, Any]:
        return await self.client.create(
            DEVICES,
            {
                "apiVersion": "devices.kubeedge.io/v1beta1",
                "kind": "Device",
                "metadata": {"name": name, "namespace": self.namespace, "labels": {"description": "a-meter"}},
                "spec": {
                    "nodeName": node or self.node,
                    "deviceModelRef": {"name": "meter"},
                    "properties": [{"name": p} for p in properties],
                },
            },
            namespace=self.namespace,
        )

    async def report(self, twin: dict[str, Any], *, device: str = "d1") -> Message:
        """Sends edge_updated and waits for its OK."""
        message = Message.new(
            source="twin",
            group="resource",
            operation="update",
            resource=f"device/{self.namespace}/{device}/twin/edge_updated",
            content={"event_id": "e", "timestamp": 1700000000123, "twin": twin},
        )
        await self.controller.handle(self.node, message)
        return await self.hub.reply(message)

    async def state(self, content: str) -> Message:
        message = Message.new(
            source="twin",
            group="resource",
            operation="update",
            resource=f"device/{self.namespace}/d1/state/update",
            content=content,
        )
        await self.controller.handle(self.node, message)
        return await self.hub.reply(message)

    async def status(self, device: str = "d1") -> dict[str, Any]:
        return await self.client.get(DEVICE_STATUSES, self.namespace, device)


@pytest.fixture
async def road(kube_client: KubeClient, scope: TaskScope) -> Any:
    hub = RecordingHub()
    controller = DeviceController(kube_client, Informers(kube_client, scope), hub, scope)
    await controller.start()
    yield Road(kube_client, await new_namespace(kube_client), hub, controller)
    await controller.stop()


def value(text: str, timestamp: int = 0, **extra: str) -> dict[str, Any]:
    metadata: dict[str, Any] = dict(extra)
    if timestamp:
        metadata["timestamp"] = timestamp
    return {"value": text, "metadata": metadata}


async def test_a_new_device_is_announced_with_its_model(road: Road) -> None:
    road.hub.up(road.node)
    model = await road.model("meter", "temp")
    device = await road.device("d1", "temp")
    ns = road.namespace
    pushed = await road.hub.pushes(road.node, f"insert {ns}/device/d1")
    assert pushed.source == "devicecontroller"
    assert pushed.group == "resource"
    assert pushed.resource_version == device["metadata"]["resourceVersion"]
    assert pushed.content_value()["metadata"]["uid"] == device["metadata"]["uid"]
    assert pushed.content_value()["kind"] == "Device"
    routes = road.hub.routes(road.node)
    membership = next(m for _, m in road.hub.pushed if m.resource == "membership")
    assert membership.group == "twin"
    content = membership.content_value()
    assert content["added_devices"] == [{"id": f"{ns}/d1", "name": "d1", "description": "a-meter"}]
    assert content["removed_devices"] is None
    assert routes.index("update membership") < routes.index(f"insert {ns}/device/d1")
    models = [m for _, m in road.hub.pushed if m.resource == f"{ns}/devicemodel/meter"]
    assert models[0].content_value()["metadata"]["uid"] == model["metadata"]["uid"]


async def test_a_session_begins_with_everything_the_node_must_know(road: Road) -> None:
    ns = road.namespace
    await road.model("meter", "temp")
    await road.device("d1", "temp")
    await road.device("d2", "temp")
    await road.device("other", "temp", node=road.other)
    road.hub.up(road.other)
    await road.hub.pushes(road.other, f"insert {ns}/device/other")
    assert road.hub.routes(road.node) == []  # nobody holds that session here
    road.hub.up(road.node)
    await road.hub.pushes(road.node, f"insert {ns}/device/d1")
    await road.hub.pushes(road.node, f"insert {ns}/device/d2")
    routes = road.hub.routes(road.node)
    assert f"insert {ns}/device/other" not in routes
    assert routes.index(f"insert {ns}/devicemodel/meter") < routes.index(f"insert {ns}/device/d1")


async def test_a_desired_value_goes_down_as_an_update_of_model_and_device(road: Road) -> None:
    ns = road.namespace
    road.hub.up(road.node)
    await road.model("meter", "temp")
    await road.device("d1", "temp")
    await road.hub.pushes(road.node, f"insert {ns}/device/d1")
    changed = {"spec": {"properties": [{"name": "temp", "desired": {"value": "42"}}]}}
    await road.client.patch(DEVICES, ns, "d1", changed)
    pushed = await road.hub.pushes(road.node, f"update {ns}/device/d1")
    assert pushed.content_value()["spec"]["properties"][0]["desired"]["value"] == "42"
    assert f"update {ns}/devicemodel/meter" in road.hub.routes(road.node)


async def test_a_device_that_moves_leaves_the_old_node(road: Road) -> None:
    ns = road.namespace
    road.hub.up(road.node)
    road.hub.up(road.other)
    await road.model("meter", "temp")
    await road.device("d1", "temp")
    await road.hub.pushes(road.node, f"insert {ns}/device/d1")
    await road.client.patch(DEVICES, ns, "d1", {"spec": {"nodeName": road.other}})
    await road.hub.pushes(road.other, f"insert {ns}/device/d1")
    await road.hub.pushes(road.node, f"delete {ns}/device/d1")
    await road.hub.pushes(road.node, f"delete {ns}/devicemodel/meter")
    removed = await road.hub.until(
        lambda node, m: node == road.node and m.resource == "membership" and bool(m.content_value()["removed_devices"])
    )
    assert removed.content_value()["removed_devices"] == [{"id": f"{ns}/d1", "name": "d1"}]
    assert removed.content_value()["added_devices"] is None


async def test_a_deleted_device_leaves_its_node(road: Road) -> None:
    ns = road.namespace
    road.hub.up(road.node)
    await road.model("meter", "temp")
    device = await road.device("d1", "temp")
    await road.device("d2", "temp")
    await road.hub.pushes(road.node, f"insert {ns}/device/d2")
    await road.client.delete(DEVICES, ns, "d1")
    pushed = await road.hub.pushes(road.node, f"delete {ns}/device/d1")
    assert pushed.content_value()["metadata"]["uid"] == device["metadata"]["uid"]
    assert f"delete {ns}/devicemodel/meter" not in road.hub.routes(road.node)  # d2 uses it


async def test_the_status_object_belongs_to_its_device(road: Road) -> None:
    await road.model("meter", "temp")
    device = await road.device("d1", "temp")
    mirror = Reflector(road.client, Watched(DEVICE_STATUSES, road.namespace))
    found: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    mirror.subscribe(on_add=found.set_result)
    task = asyncio.create_task(mirror.run())
    status = await asyncio.wait_for(found, 10)
    task.cancel()
    assert status["metadata"]["name"] == "d1"
    assert status["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "devices.kubeedge.io/v1beta1",
            "kind": "Device",
            "name": "d1",
            "uid": device["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]
    await asyncio.wait([task])


async def test_the_first_report_is_in_the_status_before_it_is_answered(road: Road) -> None:
    road.hub.up(road.node)
    await road.model("meter", "temp", "power")
    await road.device("d1", "temp")
    answer = await road.report(
        {
            "temp": {"actual": value("9", 1700000000100), "optional": True, "metadata": {"type": "int"}},
            "power": {"actual": value("1"), "metadata": {"type": "int"}},
            "nobody": {"actual": value("7"), "metadata": {"type": "int"}},
        }
    )
    assert (answer.source, answer.group, answer.operation, answer.resource) == (
        "devicecontroller",
        "twin",
        "response",
        "twin",
    )
    assert answer.content_value() == "OK"
    assert (await road.status())["status"]["twins"] == [
        {
            "propertyName": "temp",
            "reported": {"value": "9", "metadata": {"timestamp": "1700000000100", "type": "int"}},
            "observedDesired": {"value": ""},
        },
        {
            "propertyName": "power",
            "reported": {"value": "1", "metadata": {"type": "int"}},
            "observedDesired": {"value": ""},
        },
    ]


async def test_reports_add_up_and_quality_is_kept(road: Road) -> None:
    road.hub.up(road.node)
    await road.model("meter", "temp")
    await road.device("d1", "temp", "limit")
    await road.report({"temp": {"actual": value("9", 1), "metadata": {"type": "int"}}})
    await road.report({"limit": {"expected": value("5", 2), "metadata": {"type": "int"}}})
    bad = value("9", 3, quality="bad", reason="no answer from unit 4")
    await road.report({"temp": {"actual": bad, "metadata": {"type": "int"}}})
    twins = {entry["propertyName"]: entry for entry in (await road.status())["status"]["twins"]}
    assert twins["temp"]["reported"]["metadata"] == {
        "timestamp": "3",
        "type": "int",
        "quality": "bad",
        "reason": "no answer from unit 4",
    }
    assert twins["limit"]["observedDesired"]["value"] == "5"
    assert twins["limit"]["reported"] == {"value": ""}


async def test_a_state_is_kept_with_its_last_online_time(road: Road) -> None:
    road.hub.up(road.node)
    await road.device("d1", "temp")
    await road.report({"temp": {"actual": value("9", 1), "metadata": {"type": "int"}}})
    answer = await road.state(
        '{"event_id":"e","timestamp":1,"device":{"name":"d1","state":"online","lastOnlineTime":"2026-08-06T00:00:00Z"}}'
    )
    assert answer.content_value() == "OK"
    await road.state('{"event_id":"e","timestamp":1,"device":{"name":"d1","state":"offline"}}')
    status = (await road.status())["status"]
    assert status["state"] == "offline"
    assert status["lastOnlineTime"] == "2026-08-06T00:00:00Z"
    assert status["twins"][0]["reported"]["value"] == "9"


async def test_a_property_that_left_the_device_leaves_the_status(road: Road) -> None:
    road.hub.up(road.node)
    await road.device("d1", "a", "b")
    twin = {"actual": value("1"), "metadata": {"type": "int"}}
    await road.report({"a": twin, "b": twin})
    versions = Reflector(road.client, Watched(DEVICE_STATUSES, road.namespace))
    changed = asyncio.Event()
    versions.subscribe(on_update=lambda _, new: changed.set() if len(new["status"]["twins"]) == 1 else None)
    task = asyncio.create_task(versions.run())
    await versions.wait_synced()
    await road.client.patch(DEVICES, road.namespace, "d1", {"spec": {"properties": [{"name": "a"}]}})
    await asyncio.wait_for(changed.wait(), 10)
    task.cancel()
    await asyncio.wait([task])


async def test_a_report_for_an_unknown_device_is_answered_and_the_node_told(road: Road) -> None:
    road.hub.up(road.node)
    answer = await road.report({"a": {"actual": value("1")}}, device="ghost")
    assert answer.content_value() == "OK"
    told = await road.hub.until(lambda _, m: m.resource == "membership")
    assert told.content_value()["removed_devices"] == [{"id": f"{road.namespace}/ghost", "name": "ghost"}]


async def test_a_status_deleted_by_hand_comes_back_whole(road: Road) -> None:
    road.hub.up(road.node)
    await road.device("d1", "a", "b")
    twin = {"actual": value("1"), "metadata": {"type": "int"}}
    await road.report({"a": twin, "b": twin})
    await road.client.delete(DEVICE_STATUSES, road.namespace, "d1")
    await road.report({"b": {"actual": value("2"), "metadata": {"type": "int"}}})
    values = {entry["propertyName"]: entry["reported"]["value"] for entry in (await road.status())["status"]["twins"]}
    assert values == {"a": "1", "b": "2"}


async def test_many_reports_are_all_answered_with_few_writes_and_the_newest_value(road: Road) -> None:
    road.hub.up(road.node)
    await road.device("d1", "a")
    messages = [
        Message.new(
            source="twin",
            group="resource",
            operation="update",
            resource=f"device/{road.namespace}/d1/twin/edge_updated",
            content={"event_id": "e", "timestamp": 1, "twin": {"a": {"actual": value(str(n), n + 1)}}},
        )
        for n in range(300)
    ]
    for message in messages:
        await road.controller.handle(road.node, message)
    for message in messages:
        assert (await road.hub.reply(message)).content_value() == "OK"
    twins = (await road.status())["status"]["twins"]
    assert twins[0]["reported"]["value"] == "299"
    figures = road.controller.writer.figures
    assert figures.writes < 30
    assert figures.superseded >= 270
    assert figures.reports == 300


async def test_a_malformed_report_is_refused_by_field(road: Road) -> None:
    message = Message.new(
        source="twin",
        group="resource",
        operation="update",
        resource=f"device/{road.namespace}/d1/twin/edge_updated",
        content={"twin": {"a": {"actual": {"value": 5}}}},
    )
    await road.controller.handle(road.node, message)
    answer = await road.hub.reply(message)
    assert answer.operation == "error"
    assert "content" in answer.content_value()


async def test_the_status_goes_with_its_device(road: Road, which_api: object) -> None:
    if isinstance(which_api, RealApi):
        pytest.skip("the garbage collector of a real cluster is in its controller manager, which does not run here")
    road.hub.up(road.node)
    await road.device("d1", "a")
    await road.report({"a": {"actual": value("1")}})
    await road.client.delete(DEVICES, road.namespace, "d1")
    async with asyncio.timeout(10):
        while (await road.client.list(DEVICE_STATUSES, road.namespace)).items:
            await asyncio.sleep(0.02)
    # The name is free again, with nothing of the old device in it.
    await road.device("d1", "a")
    await road.report({"a": {"actual": value("2")}})
    assert (await road.status())["status"]["twins"][0]["reported"]["value"] == "2"


async def test_a_new_device_under_an_old_name_gets_a_status_of_its_own(road: Road) -> None:
    road.hub.up(road.node)
    await road.device("d1", "a", "b")
    twin = {"actual": value("1")}
    await road.report({"a": twin, "b": twin})
    await road.client.delete(DEVICES, road.namespace, "d1")
    fresh = await road.device("d1", "a")
    async with asyncio.timeout(10):
        while fresh["metadata"]["uid"] not in str((await road.client.list(DEVICE_STATUSES, road.namespace)).items):
            await asyncio.sleep(0.02)
    await road.report({"a": {"actual": value("2")}})
    status = await road.status()
    assert status["metadata"]["ownerReferences"][0]["uid"] == fresh["metadata"]["uid"]
    assert [entry["propertyName"] for entry in status["status"]["twins"]] == ["a"]


async def test_the_gateway_without_the_session_stays_out(road: Road, scope: TaskScope) -> None:
    hub = RecordingHub()
    other = DeviceController(road.client, Informers(road.client, scope), hub, scope)
    await other.start()
    road.hub.up(road.node)
    await road.model("meter", "a")
    await road.device("d1", "a")
    await road.report({"a": {"actual": value("1")}})
    await road.client.patch(DEVICES, road.namespace, "d1", {"spec": {"properties": [{"name": "b"}]}})
    await road.hub.pushes(road.node, f"update {road.namespace}/device/d1")
    assert hub.pushed == []
    assert other.writer.figures.writes == 0
    # The session moves: the other one tells everything and knows what the first one wrote.
    road.hub.down(road.node)
    hub.up(road.node)
    await hub.pushes(road.node, f"insert {road.namespace}/device/d1")
    moved = Road(road.client, road.namespace, hub, other)
    await moved.report({"b": {"actual": value("2")}})
    twins = {entry["propertyName"]: entry["reported"]["value"] for entry in (await road.status())["status"]["twins"]}
    assert twins == {"a": "1", "b": "2"}
    await other.stop()
