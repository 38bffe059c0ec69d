"""An independent witness: what was acknowledged, written down by those who were told so.

For apps: every `twin/update/result` without an error for a change of expected. For the cloud: every version that an
ObjectSync record says the node has.
"""

import asyncio
import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho

from tests.support.stand import Stand

DEVICE = "$hw/events/device/default/ledger"
KEYS = 5


@dataclass
class AppLedger:
    """An MQTT app that writes expected values as fast as they are acknowledged, and remembers which were."""

    port: int
    acknowledged: dict[str, int] = field(default_factory=dict)
    """The highest number of each key that got a result without an error."""
    sent: dict[str, int] = field(default_factory=dict)
    results: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    answers: "asyncio.Queue[dict[str, Any]]" = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._number = 0
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self._client.on_message = self._message
        self._client.on_connect = lambda client, *_: client.subscribe(
            [(f"{DEVICE}/twin/update/result", 1), (f"{DEVICE}/twin/get/result", 1)]
        )
        self._client.reconnect_delay_set(min_delay=1, max_delay=1)

    def start(self) -> None:
        self._client.connect_async("127.0.0.1", self.port)
        self._client.loop_start()

    def stop(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _message(self, client: Any, data: Any, message: paho.MQTTMessage) -> None:
        body = json.loads(message.payload)
        if message.topic.endswith("/get/result"):
            self._loop.call_soon_threadsafe(self.answers.put_nowait, body)
        elif body.get("code"):
            self.errors.append(body)
        else:
            self.results += 1
            for key, twin in body["twin"].items():
                number = int(twin["expected"]["value"])
                self.acknowledged[key] = max(number, self.acknowledged.get(key, -1))

    async def write(self, stop: asyncio.Event, *, every: float = 0.01) -> None:
        """Write numbers that only grow, until told to stop."""
        while not stop.is_set():
            key = f"k{self._number % KEYS}"
            body = {"event_id": str(self._number), "twin": {key: {"expected": {"value": str(self._number)}}}}
            if self._client.is_connected():
                self.sent[key] = self._number
                self._client.publish(f"{DEVICE}/twin/update", json.dumps(body), qos=1)
                self._number += 1
            await asyncio.sleep(every)

    async def lost(self) -> dict[str, tuple[int, int]]:
        """Keys whose stored value is older than an acknowledged one: {key: (acknowledged, stored)}."""
        acknowledged = dict(self.acknowledged)
        async with asyncio.timeout(30):
            while True:
                while not self.answers.empty():
                    self.answers.get_nowait()
                self._client.publish(f"{DEVICE}/twin/get", '{"event_id":"ledger"}', qos=1)
                try:
                    async with asyncio.timeout(1):
                        answer = await self.answers.get()
                        break
                except TimeoutError:
                    continue
        stored = {
            key: int(twin["expected"]["value"]) for key, twin in answer.get("twin", {}).items() if "expected" in twin
        }
        return {
            key: (number, stored.get(key, -1)) for key, number in acknowledged.items() if stored.get(key, -1) < number
        }


def ledger_device(node: str) -> str:
    """The DeviceModel and Device of the app."""
    names = [f"k{number}" for number in range(KEYS)]
    model = {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "DeviceModel",
        "metadata": {"name": "ledger", "namespace": "default"},
        "spec": {"properties": [{"name": name, "type": "INT", "accessMode": "ReadWrite"} for name in names]},
    }
    device = {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": "ledger", "namespace": "default"},
        "spec": {
            "deviceModelRef": {"name": "ledger"},
            "nodeName": node,
            "protocol": {"protocolName": "none"},
            "properties": [{"name": name} for name in names],
        },
    }
    return json.dumps(model) + "\n---\n" + json.dumps(device)


async def pushes_lost(stand: Stand, *, at_least: int) -> list[str]:
    """Objects whose acknowledged version (ObjectSync) is newer than what stands in edge.db, as texts.

    AssertionError when fewer than `at_least` records were there to compare: then the comparison says nothing.
    """
    listed = json.loads(await stand.kubectl("get", "objectsyncs", "-A", "-o", "json"))
    stored = edge_rows(Path(stand.edge_settings["state_dir"]) / "edge.db")
    lost = []
    compared = 0
    for record in listed["items"]:
        spec, acknowledged = record["spec"], record.get("status", {}).get("objectResourceVersion", "")
        if not record["metadata"]["name"].startswith(f"{stand.node}.") or not acknowledged.isdigit():
            continue
        key = f"{record['metadata']['namespace']}/{spec['objectKind'].lower()}/{spec['objectName']}"
        have = stored.get(key, -1)
        compared += 1
        if have < int(acknowledged):
            lost.append(f"{key}: acknowledged {acknowledged}, stored {have}")
    assert compared >= at_least, f"only {compared} acknowledged pushes to compare"
    return lost


def edge_rows(path: Path) -> dict[str, int]:
    """resourceVersion by key of the stored desired objects, read with SQLite alone."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        rows = {}
        for key, value in database.execute("SELECT key, value FROM meta"):
            try:
                rows[key] = int(json.loads(value)["metadata"]["resourceVersion"])
            except (ValueError, KeyError, TypeError):
                continue
    database.close()
    return rows
