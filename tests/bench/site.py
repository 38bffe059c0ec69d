"""A site for benchmarks: gateway, edge and broker as processes, devices without hardware, a watch, an MQTT app.

The app is this process: paho on its own thread, so that it costs the event loop nothing.
"""

import asyncio
import base64
import json
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import paho.mqtt.client as paho
import yaml

from tests.support.stand import Stand, eventually

DEVICES = "/apis/devices.kubeedge.io/v1beta1"


class Site:
    """`devices` devices named d0, d1, ... with `properties` properties p0, p1, ... each of type `STRING`."""

    def __init__(
        self, *, devices: int, properties: int = 1, commit_interval: float = 10.0, cluster: Path | None = None
    ) -> None:
        self.stand = Stand(cluster=cluster)
        self.stand.edge_settings["twin"] = {"commit_interval": commit_interval}
        self.stand.edge_settings["mappers"]["modbus"] = False
        self._devices = devices
        self._properties = properties
        self.app = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self.results = 0
        self.refused: list[bytes] = []
        self.watching = asyncio.Event()

    async def __aenter__(self) -> "Site":
        await self.stand.__aenter__()
        try:
            await self.stand.start_gateway()
            await self.stand.join()
            await self.stand.start_edge()
            await self.stand.kubectl("apply", "-f", "-", stdin=self._manifests())

            async def all_known() -> bool:
                status = await self.stand.status()
                return bool(status["components"]["devicetwin"]["details"]["devices"] == self._devices)

            await eventually(all_known, what="devices on the edge", timeout=60)
            self.app.on_message = self._result
            self.app.max_inflight_messages_set(0)
            # A publish must not wait for the delayed TCP acknowledgement of the PUBACK before it.
            self.app.on_socket_open = lambda _c, _d, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.app.connect("127.0.0.1", self.stand.mqtt_port)
            self.app.subscribe("$hw/events/device/+/+/twin/update/result", qos=1)
            self.app.loop_start()
            await asyncio.sleep(0.5)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(self, *error: Any) -> None:
        self.app.loop_stop()
        await self.stand.__aexit__(*error)

    def _result(self, client: Any, data: Any, message: paho.MQTTMessage) -> None:
        self.results += 1
        if b'"code"' in message.payload:
            self.refused.append(message.payload)

    def publish(self, device: int, values: Mapping[str, str]) -> None:
        """One twin/update with these reported values."""
        twin = {key: {"actual": {"value": value}} for key, value in values.items()}
        payload = json.dumps({"event_id": "", "timestamp": time.time_ns() // 1_000_000, "twin": twin})
        self.app.publish(f"$hw/events/device/default/d{device}/twin/update", payload, qos=1)

    async def watch(self, see: Callable[[str, dict[str, str], float], None]) -> None:
        """Call `see(device, reported values, perf_counter)` for every event of a watch on DeviceStatus."""
        server, context, headers = client_access(self.stand.kubeconfig)
        async with aiohttp.ClientSession(headers=headers, read_bufsize=2**22) as session:
            url = f"{server}{DEVICES}/devicestatuses?watch=true"
            timeout = aiohttp.ClientTimeout(total=None)
            async with session.get(url, ssl=context, timeout=timeout) as response:
                response.raise_for_status()
                self.watching.set()
                async for line in response.content:
                    now = time.perf_counter()
                    event = json.loads(line)
                    twins = event["object"].get("status", {}).get("twins", [])
                    if twins:
                        values = {twin["propertyName"]: twin["reported"]["value"] for twin in twins}
                        see(event["object"]["metadata"]["name"], values, now)

    async def reported(self) -> dict[str, dict[str, str]]:
        """Reported values by device and property, as the API has them."""
        listed = json.loads(await self.stand.kubectl("get", "devicestatuses", "-o", "json"))
        return {
            item["metadata"]["name"]: {
                twin["propertyName"]: twin["reported"]["value"] for twin in item.get("status", {}).get("twins", [])
            }
            for item in listed["items"]
        }

    def _manifests(self) -> str:
        names = [f"p{number}" for number in range(self._properties)]
        model = {
            "apiVersion": "devices.kubeedge.io/v1beta1",
            "kind": "DeviceModel",
            "metadata": {"name": "bench", "namespace": "default"},
            "spec": {
                "protocol": "none",
                "properties": [{"name": name, "type": "STRING", "accessMode": "ReadWrite"} for name in names],
            },
        }
        devices = [
            {
                "apiVersion": "devices.kubeedge.io/v1beta1",
                "kind": "Device",
                "metadata": {"name": f"d{number}", "namespace": "default"},
                "spec": {
                    "deviceModelRef": {"name": "bench"},
                    "nodeName": self.stand.node,
                    "protocol": {"protocolName": "none"},
                    "properties": [{"name": name} for name in names],
                },
            }
            for number in range(self._devices)
        ]
        return "\n---\n".join(json.dumps(item) for item in [model, *devices])


def client_access(kubeconfig: Path) -> tuple[str, ssl.SSLContext, dict[str, str]]:
    """Address, TLS context and headers of a kubeconfig's first cluster and user; file names are relative to it."""
    config = yaml.safe_load(kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]

    def data(part: dict[str, str], key: str) -> bytes:
        if f"{key}-data" in part:
            return base64.b64decode(part[f"{key}-data"])
        return (kubeconfig.parent / part[key]).read_bytes() if key in part else b""

    context = ssl.create_default_context(cadata=data(cluster, "certificate-authority").decode())
    certificate, key = data(user, "client-certificate"), data(user, "client-key")
    if certificate:
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(certificate + b"\n" + key)
            pair.flush()
            context.load_cert_chain(pair.name)
    headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
    return cluster["server"], context, headers
