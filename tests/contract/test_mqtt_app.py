"""What an app on the broker receives, byte by byte (KubeEdge reference 4 and F7-F9). Event ids are random."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

from edgeappliance.config.settings import Mqtt
from edgeappliance.devicetwin import DeviceTwin
from edgeappliance.eventbus import EventBus
from edgeappliance.kernel.clock import ManualClock
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.store import SubscriptionStore, TwinStore, open_store
from edgeappliance.wire.message import Message
from tests.support.broker import Mosquitto, MqttApp

NOW = 1_700_000_000_123
D1 = "$hw/events/device/default/d1"
UUID = re.compile(rb'"event_id":"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"')


class NoCloud:
    connected = False

    def send(self, message: Message) -> bool:
        return False


@contextlib.asynccontextmanager
async def edge(port: int, directory: Path) -> AsyncIterator[DeviceTwin]:
    """Event bus and twin service on a broker; device default/d1 is a member; the clock stands at NOW."""
    database = await open_store(directory)
    failures: list[BaseException] = []
    bus = EventBus(
        settings=Mqtt(mode="external", port=port),
        node="edge-1",
        cloud=NoCloud(),
        subscriptions=SubscriptionStore(database),
        scope=TaskScope("eventbus", failures.append),
    )
    twin = DeviceTwin(
        node="edge-1",
        store=TwinStore(database),
        bus=bus,
        cloud=NoCloud(),
        scope=TaskScope("devicetwin", failures.append),
        clock=ManualClock(wall_ms=NOW),
    )
    bus.twin_inbox(twin.mqtt)
    connected = asyncio.Event()
    bus.on_connection(lambda up: connected.set() if up else None)
    try:
        await bus.start()
        await twin.start()
        async with asyncio.timeout(10):
            await connected.wait()
        yield twin
        assert failures == []
    finally:
        await twin.stop()
        await bus.stop()
        await database.close()


async def member(twin: DeviceTwin) -> None:
    content = {"event_id": "e1", "timestamp": NOW, "added_devices": [{"id": "default/d1", "name": "d1"}]}
    await twin.handle(Message.new(group="twin", operation="update", resource="membership", content=content))


def readable(messages: list[tuple[str, bytes]]) -> list[tuple[str, str]]:
    """Topics and payloads, a fresh event id shown as NEW."""
    return [(topic, UUID.sub(b'"event_id":"NEW"', payload).decode()) for topic, payload in messages]


async def test_round_trip_of_f8(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with edge(mosquitto.port, tmp_path) as twin, MqttApp(mosquitto.port) as app:
        await app.subscribe("$hw/events/node/edge-1/membership/updated")
        await app.subscribe("$hw/events/device/+/+/twin/update/+")
        await app.subscribe("$hw/events/device/+/+/twin/get/result")
        await member(twin)
        app.publish(
            f"{D1}/twin/update",
            '{"event_id":"e1","timestamp":1700000000000,"twin":{"temp":{"expected":{"value":"10"},'
            '"actual":{"value":"9"}}}}',
        )
        app.publish(f"{D1}/twin/get", '{"event_id":"g","timestamp":0}')
        halves = (
            '"expected":{"value":"10","metadata":{"timestamp":1700000000123}},'
            '"actual":{"value":"9","metadata":{"timestamp":1700000000123}},'
            '"optional":true,"metadata":{"type":"string"}'
        )
        assert readable(await app.wait(5)) == [
            (
                "$hw/events/node/edge-1/membership/updated",
                '{"event_id":"NEW","timestamp":1700000000123,"added_devices":[{"id":"default/d1","name":"d1"}],'
                '"removed_devices":null}',
            ),
            (f"{D1}/twin/update/result", f'{{"event_id":"e1","timestamp":{NOW},"twin":{{"temp":{{{halves}}}}}}}'),
            (
                f"{D1}/twin/update/document",
                f'{{"event_id":"e1","timestamp":{NOW},"twin":{{"temp":{{"last":null,"current":{{{halves}}}}}}}}}',
            ),
            (
                f"{D1}/twin/update/delta",
                f'{{"event_id":"NEW","timestamp":{NOW},"twin":{{"temp":{{{halves}}}}},"delta":{{"temp":"10"}}}}',
            ),
            (f"{D1}/twin/get/result", f'{{"event_id":"g","timestamp":{NOW},"twin":{{"temp":{{{halves}}}}}}}'),
        ]


async def test_deletion_escapes_and_order(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with edge(mosquitto.port, tmp_path) as twin, MqttApp(mosquitto.port) as app:
        await member(twin)
        await app.subscribe("$hw/events/device/+/+/twin/update/result")
        app.publish(f"{D1}/twin/update", '{"event_id":"<1>","twin":{"z":{},"gone":{"actual":{"value":"\u2028&"}}}}')
        app.publish(f"{D1}/twin/update", '{"event_id":"2","twin":{"gone":null}}')
        app.publish(f"{D1}/twin/update", '{"twin":{}}')
        assert readable(await app.wait(3)) == [
            (
                f"{D1}/twin/update/result",
                f'{{"event_id":"\\u003c1\\u003e","timestamp":{NOW},"twin":{{"gone":{{"actual":{{"value":"\\u2028\\u0026",'
                f'"metadata":{{"timestamp":{NOW}}}}},"optional":true,"metadata":{{"type":"string"}}}},'
                '"z":{"optional":true,"metadata":{"type":"string"}}}}',
            ),
            (f"{D1}/twin/update/result", f'{{"event_id":"2","timestamp":{NOW},"twin":{{"gone":null}}}}'),
            (f"{D1}/twin/update/result", f'{{"event_id":"","timestamp":{NOW},"twin":{{}}}}'),
        ]


async def test_refusals_of_f9(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with edge(mosquitto.port, tmp_path) as twin, MqttApp(mosquitto.port) as app:
        await member(twin)
        await app.subscribe("$hw/events/device/#")
        for payload in ('{"twin":{"t":{"actual":{"value":5}}}}', "", '{"event_id":1,"twin":{}}'):
            app.publish(f"{D1}/twin/update", payload)
        app.publish(f"{D1}/twin/update", '{"event_id":"e"}')
        app.publish("$hw/events/device/default/ghost/twin/update", '{"event_id":"e","TWIN":{}}')
        requests = 5
        answers = [item for item in await app.wait(2 * requests) if not item[0].endswith("/twin/update")]
        unparsed = (
            "$hw/events/device//twin/update/result",
            f'{{"event_id":"","timestamp":{NOW},"code":400,'
            '"reason":"Unmarshal update request body failed, please check the request"}',
        )
        assert readable(answers) == [
            unparsed,
            unparsed,
            unparsed,
            (
                "$hw/events/device//twin/update/result",
                f'{{"event_id":"","timestamp":{NOW},"code":400,"reason":"Update twin error, key:twin does not exist"}}',
            ),
            (
                "$hw/events/device/default/ghost/twin/update/result",
                f'{{"event_id":"e","timestamp":{NOW},"code":404,'
                '"reason":"update rejected due to the device is not existed"}',
            ),
        ]


async def test_state_and_membership(mosquitto: Mosquitto, tmp_path: Path) -> None:
    async with edge(mosquitto.port, tmp_path) as twin, MqttApp(mosquitto.port) as app:
        await app.subscribe("$hw/events/device/+/+/state/update/result")
        await app.subscribe("$hw/events/node/edge-1/membership/get/result")
        app.publish("$hw/events/node/edge-1/membership/get", "{}")
        await app.wait(1)
        await member(twin)
        app.publish(f"{D1}/state/update", '{"event_id":"e","state":"Online"}')
        app.publish(f"{D1}/state/update", '{"state":"offline"}')
        assert readable(await app.wait(3)) == [
            (
                "$hw/events/node/edge-1/membership/get/result",
                f'{{"event_id":"","timestamp":{NOW},"devices":[]}}',
            ),
            (
                f"{D1}/state/update/result",
                f'{{"event_id":"NEW","timestamp":{NOW},"device":{{"name":"d1","state":"Online",'
                '"lastOnlineTime":"2023-11-14T22:13:20Z"}}',
            ),
            (
                f"{D1}/state/update/result",
                f'{{"event_id":"NEW","timestamp":{NOW},"device":{{"name":"d1","state":"offline"}}}}',
            ),
        ]


async def test_what_was_answered_survives_the_broker_and_the_process(mosquitto: Mosquitto, tmp_path: Path) -> None:
    """An acknowledged expected value is on the disk: the files copied at that moment hold it."""
    async with edge(mosquitto.port, tmp_path) as twin, MqttApp(mosquitto.port) as app:
        await member(twin)
        await app.subscribe(f"{D1}/twin/update/result")
        app.publish(f"{D1}/twin/update", '{"event_id":"e","twin":{"k":{"expected":{"value":"42"}}}}')
        await app.wait(1)
        copy = tmp_path / "copy"
        copy.mkdir()
        for name in ("edge.db", "edge.db-wal"):
            (copy / name).write_bytes((tmp_path / name).read_bytes())
    async with edge(mosquitto.port, copy), MqttApp(mosquitto.port) as app:
        await app.subscribe(f"{D1}/twin/get/result")
        app.publish(f"{D1}/twin/get", "{}")
        ((_, payload),) = await app.wait(1)
        assert b'"k":{"expected":{"value":"42"' in payload
