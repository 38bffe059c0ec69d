"""The line to the cloud is cut again and again, or swallows everything for a while."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.broker import MqttApp
from tests.support.kubeedge_cloud import KubeEdgeCloud, kubeedge_cloud
from tests.support.relay import Relay, relay
from tests.support.stand import Stand, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

HOLE_SECONDS = 40.0
TOPIC = "$hw/events/device/default/pump"
UPDATED = "device/default/pump/twin/edge_updated"


@pytest.fixture
async def cloud(stand: Stand) -> AsyncIterator[KubeEdgeCloud]:
    """A KubeEdge cloud."""
    directory = stand.directory / "cloudcore"
    directory.mkdir()
    async with kubeedge_cloud(directory) as running:
        yield running


@pytest.fixture
async def line(cloud: KubeEdgeCloud) -> AsyncIterator[Relay]:
    """The line between the two."""
    async with relay(cloud.ws_port) as running:
        yield running


async def running_edge(stand: Stand, cloud: KubeEdgeCloud, line: Relay) -> None:
    """An edge that joined through the line."""
    code, _, err = await stand.edgecore(
        "join", "--cloud", f"127.0.0.1:{line.port}", "--enroll-port", str(cloud.http_port),
        "--token", cloud.token(), "--name", stand.node,
    )  # fmt: skip
    assert (code, err) == (0, "")
    await stand.start_edge()


async def give_device(stand: Stand, cloud: KubeEdgeCloud, app: MqttApp) -> None:
    """One device, known to the appliance when this returns."""
    updated = f"$hw/events/node/{stand.node}/membership/updated"
    await app.subscribe(updated)
    await app.subscribe(f"{TOPIC}/twin/update/result")
    entry = {"id": "default/pump", "name": "pump"}
    body = {"event_id": "e1", "timestamp": 1, "added_devices": [entry], "removed_devices": None}
    await cloud.send(cloud.message("update", "membership", body, source="devicecontroller", group="twin"))
    await app.wait_for(updated)


async def update(app: MqttApp, value: int) -> None:
    """One update by an app, answered by the appliance itself."""
    app.take()
    app.publish(f"{TOPIC}/twin/update", json.dumps({"twin": {"speed": {"actual": {"value": str(value)}}}}))
    result = json.loads(await app.wait_for(f"{TOPIC}/twin/update/result"))
    assert result["twin"]["speed"]["actual"]["value"] == str(value)


def newest(cloud: KubeEdgeCloud) -> str:
    """The last value of `speed` that the cloud got."""
    for item in reversed(cloud.messages(UPDATED, "update")):
        if "actual" in item.content["twin"].get("speed", {}):
            return str(item.content["twin"]["speed"]["actual"]["value"])
    return ""


async def test_a_black_hole_is_noticed_said_and_survived(stand: Stand, cloud: KubeEdgeCloud, line: Relay) -> None:
    await running_edge(stand, cloud, line)
    async with MqttApp(stand.mqtt_port) as app:
        await give_device(stand, cloud, app)
        await update(app, 1)
        await cloud.wait(lambda cloud: newest(cloud) == "1")
        line.black_hole()
        began = time.monotonic()

        async def noticed() -> bool:
            return (await stand.status())["components"]["edgehub"]["state"] == "degraded"

        await eventually(noticed, what="the dead link in status", timeout=30)
        value = 1
        while time.monotonic() - began < HOLE_SECONDS:
            value += 1
            await update(app, value)
            await asyncio.sleep(0.5)
        line.black_hole(False)
        await cloud.wait(lambda cloud: newest(cloud) == str(value), 25)
        # The values of the outage were superseded on the appliance, not carried up one by one.
        assert len(cloud.messages(UPDATED, "update")) < 8


async def test_a_line_that_breaks_all_the_time_loses_nothing(stand: Stand, cloud: KubeEdgeCloud, line: Relay) -> None:
    await running_edge(stand, cloud, line)
    cloud.resend_after = 1.0
    async with MqttApp(stand.mqtt_port) as app:
        await give_device(stand, cloud, app)
        secrets = [cloud.object("Secret", "default", f"s{number}") for number in range(60)]
        pushed = [cloud.push("insert", f"default/secret/{item['metadata']['name']}", item) for item in secrets]
        for value in range(1, 31):
            await update(app, value)
            if value % 5 == 0:
                line.cut()
            await asyncio.sleep(0.3)
        async with asyncio.timeout(60):
            await asyncio.gather(*pushed)
        await cloud.wait(lambda cloud: newest(cloud) == "30", 30)
    report = await stand.status()
    assert report["components"]["edgehub"]["details"]["connections_total"] >= 3
    assert report["components"]["metamanager"]["details"]["objects_stored_total"] >= 60
