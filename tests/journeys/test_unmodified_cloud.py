"""The real edgecore with its real broker against a cloudcore that is not ours, played from the reference."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.broker import MqttApp
from tests.support.kubeedge_cloud import Json, KubeEdgeCloud, Received, kubeedge_cloud
from tests.support.stand import Stand

pytestmark = [pytest.mark.slow, pytest.mark.timeout(90)]

DEVICE = "default/pump"
TOPIC = f"$hw/events/device/{DEVICE}"
UPDATED = f"device/{DEVICE}/twin/edge_updated"


@pytest.fixture
async def cloud(stand: Stand) -> AsyncIterator[KubeEdgeCloud]:
    """The cloud that `stand`'s edge joins."""
    directory = stand.directory / "cloudcore"
    directory.mkdir()
    async with kubeedge_cloud(directory) as running:
        yield running


async def join(stand: Stand, cloud: KubeEdgeCloud) -> None:
    code, _, err = await stand.edgecore(
        "join", "--cloud", f"127.0.0.1:{cloud.ws_port}", "--enroll-port", str(cloud.http_port),
        "--token", cloud.token(), "--name", stand.node,
    )  # fmt: skip
    assert (code, err) == (0, "")


async def give_device(stand: Stand, cloud: KubeEdgeCloud, *, desired: str = "") -> Json:
    """What cloudcore sends for a new Device (reference 1.4 G): membership, model, device."""
    entry = {"id": DEVICE, "name": "pump"}
    body = {"event_id": "e1", "timestamp": 1, "added_devices": [entry], "removed_devices": None}
    await cloud.send(cloud.message("update", "membership", body, source="devicecontroller", group="twin"))
    model = cloud.object("DeviceModel", "default", "pumps")
    model["apiVersion"] = "devices.kubeedge.io/v1beta1"
    model["spec"] = {"protocol": "custom", "properties": [{"name": "speed", "type": "INT", "accessMode": "ReadWrite"}]}
    await cloud.push("insert", "default/devicemodel/pumps", model, source="devicecontroller")
    device = cloud.object("Device", "default", "pump")
    device["apiVersion"] = "devices.kubeedge.io/v1beta1"
    device["spec"] = {
        "deviceModelRef": {"name": "pumps"},
        "nodeName": stand.node,
        "protocol": {"protocolName": "custom"},
        "properties": [{"name": "speed", "visitors": {"protocolName": "custom"}}],
    }
    if desired:
        device["spec"]["properties"][0]["desired"] = {"value": desired}
    await cloud.push("insert", f"default/device/{DEVICE.split('/')[1]}", device, source="devicecontroller")
    return device


def speed(item: Received, half: str) -> str:
    """The value of `speed` in an edge_updated, "" when that half is not in it."""
    return str(item.content["twin"].get("speed", {}).get(half, {}).get("value", ""))


async def reported(cloud: KubeEdgeCloud, half: str, value: str, *, timeout: float = 20.0) -> Received:
    found: Received = await cloud.wait(
        lambda cloud: next((item for item in cloud.messages(UPDATED, "update") if speed(item, half) == value), None),
        timeout,
    )
    return found


async def update(app: MqttApp, value: str) -> dict[str, Any]:
    """Publish an actual value; the result that comes back."""
    app.take()
    app.publish(
        f"{TOPIC}/twin/update", json.dumps({"event_id": value, "twin": {"speed": {"actual": {"value": value}}}})
    )
    result: dict[str, Any] = json.loads(await app.wait_for(f"{TOPIC}/twin/update/result"))
    assert result["event_id"] == value
    return result


async def test_a_node_with_a_device_on_a_kubeedge_cloud(stand: Stand, cloud: KubeEdgeCloud) -> None:
    await join(stand, cloud)
    await stand.start_edge()
    await cloud.wait(lambda cloud: f"kube-node-lease/lease/{stand.node}" in cloud.objects)
    assert cloud.sessions[0].common_name == f"system:node:{stand.node}"
    async with MqttApp(stand.mqtt_port) as app:
        await app.subscribe(f"{TOPIC}/#")
        await app.subscribe(f"$hw/events/node/{stand.node}/#")
        device = await give_device(stand, cloud)
        assert json.loads(await app.wait_for(f"$hw/events/node/{stand.node}/membership/updated"))["added_devices"]

        await update(app, "700")
        message = await reported(cloud, "actual", "700")
        assert (message.route["source"], message.route["group"]) == ("twin", "resource")
        assert message.content["twin"]["speed"]["actual_version"]["edge"] >= 1

        device["spec"]["properties"][0]["desired"] = {"value": "900"}
        device["metadata"]["resourceVersion"] = cloud.next_version()
        await cloud.push("update", "default/device/pump", device, source="devicecontroller")
        delta = json.loads(await app.wait_for(f"{TOPIC}/twin/update/delta"))
        assert delta["delta"] == {"speed": "900"}
        await reported(cloud, "expected", "900")


async def test_an_outage_costs_nothing_and_only_the_newest_goes_up(stand: Stand, cloud: KubeEdgeCloud) -> None:
    await join(stand, cloud)
    await stand.start_edge()
    await give_device(stand, cloud)
    async with MqttApp(stand.mqtt_port) as app:
        await app.subscribe(f"{TOPIC}/#")
        await update(app, "1")
        await reported(cloud, "actual", "1")
        await cloud.stop_ws()
        for value in range(2, 30):
            await update(app, str(value))
        before = len(cloud.received)
        await cloud.start_ws()
        await reported(cloud, "actual", "29")
        values = [speed(item, "actual") for item in cloud.received[before:] if item.resource == UPDATED]
        assert values == ["29"]


async def test_unacknowledged_reports_survive_a_restart_of_the_edge(stand: Stand, cloud: KubeEdgeCloud) -> None:
    await join(stand, cloud)
    await stand.start_edge()
    await give_device(stand, cloud)
    async with MqttApp(stand.mqtt_port) as app:
        await app.subscribe(f"{TOPIC}/#")
        await update(app, "1")
        await reported(cloud, "actual", "1")
        await cloud.stop_ws()
        await update(app, "77")
    assert await stand.edge.stop() == 0
    before = len(cloud.received)
    await cloud.start_ws()
    await stand.start_edge()
    await reported(cloud, "actual", "77")
    assert not [item for item in cloud.received[before:] if item.resource == UPDATED and speed(item, "actual") == "1"]


async def test_messages_to_a_kubeedge_cloud_keep_its_pace(stand: Stand, cloud: KubeEdgeCloud) -> None:
    """30 a second, 60 in one go (reference 2.3): application data is what an edge can flood with."""
    await join(stand, cloud)
    await stand.start_edge()
    async with MqttApp(stand.mqtt_port) as app:
        for number in range(150):
            app.publish("plant/user/data", str(number))
        items: list[Received] = await cloud.wait(
            lambda cloud: (found := cloud.messages("plant/user/data", "upload")) and len(found) == 150 and found, 20
        )
    assert [item.content for item in items] == [str(number) for number in range(150)]
    assert items[-1].at - items[0].at > (150 - 60) / 30 - 0.3
    assert (items[0].route["source"], items[0].route["group"]) == ("bus", "user")


async def test_the_cloud_sends_again_what_a_killed_edge_did_not_acknowledge(stand: Stand, cloud: KubeEdgeCloud) -> None:
    cloud.resend_after = 0.5
    await join(stand, cloud)
    await stand.start_edge()
    names = [f"pod-{number}" for number in range(40)]
    acknowledged: list[str] = []

    async def push(name: str) -> None:
        await cloud.push("insert", f"default/pod/{name}", cloud.object("Pod", "default", name, spec={}))
        acknowledged.append(name)

    pushing = [asyncio.create_task(push(name)) for name in names]
    await cloud.wait(lambda _: len(acknowledged) >= 10)
    await stand.edge.kill()
    stand.edge.sweep()
    before = list(acknowledged)
    await stand.start_edge()
    await asyncio.gather(*pushing)
    assert await stand.edge.stop() == 0
    stored = await asyncio.to_thread(keys, stand)
    assert {f"default/pod/{name}" for name in before} <= stored
    assert {f"default/pod/{name}" for name in names} <= stored


def keys(stand: Stand) -> set[str]:

    with sqlite3.connect(stand.directory / "state" / "edge.db") as database:
        found = {str(key) for (key,) in database.execute("SELECT key FROM meta")}
    database.close()
    return found
