"""edge-start: from exec to connected; and 50 edges back, with their state, after the gateway was killed."""

import asyncio
import json
import statistics
import sys
import time
from typing import Any

import paho.mqtt.publish as publish
import toml

from edgeappliance.kernel import control
from edgeappliance.kernel.errors import ApplianceError
from tests.bench.figure import figure
from tests.support.net import free_port
from tests.support.programs import PYTHON, Program, output
from tests.support.stand import Stand, eventually

STARTS = 10
EDGES = 50
DOWN = 3.0
"""Seconds that the gateway is away."""


async def main() -> int:
    async with Stand() as stand:
        await stand.start_gateway()
        await stand.join()
        took = [await one_start(stand) for _ in range(STARTS)]
        how = f"exec of edgecore (from source, own broker) to connected, median of {STARTS}, slowest {max(took):.2f} s"
        figure("edge-start", statistics.median(took), "s", target=0.9, how=how)
    async with Stand() as stand:
        await outage(stand)
    return 0


async def one_start(stand: Stand) -> float:
    """Seconds from exec until its status says that the link is up."""
    begin = time.perf_counter()
    await stand.edge.start()
    while not await stand.edge_connected():
        await asyncio.sleep(0.005)
    took = time.perf_counter() - begin
    await stand.edge.stop()
    return took


class Edge:
    """One real edgecore of many."""

    def __init__(self, stand: Stand, number: int) -> None:
        self.name = f"edge-{number}"
        self.device = f"d{number}"
        self.mqtt_port = free_port()
        self._stand = stand
        directory = stand.directory / self.name
        directory.mkdir()
        self._config = directory / "edgecore.toml"
        self.socket = directory / "run" / "control.sock"
        settings = {
            "state_dir": str(directory / "state"),
            "runtime_dir": str(directory / "run"),
            "mqtt": {"port": self.mqtt_port},
            "metrics": {"enable": False},
            "mappers": {"modbus": False, "directory": str(directory / "mappers.d")},
        }
        self._config.write_text(toml.dumps(settings))
        self.program = Program(
            self.name, [PYTHON, "-m", "edgeappliance", "run", "--config", self._config], log=directory / "log"
        )

    async def join(self, token: str) -> None:
        code, _, err = await output(
            PYTHON, "-m", "edgeappliance", "join", "--config", self._config, "--token", token, "--name", self.name,
            "--cloud", f"127.0.0.1:{self._stand.hub_port}", "--enroll-port", str(self._stand.enroll_port),
        )  # fmt: skip
        assert code == 0, err

    async def component(self, name: str) -> dict[str, Any]:
        try:
            report: dict[str, Any] = await control.call(self.socket, "status")
        except ApplianceError:
            return {"state": "", "details": {}}
        part: dict[str, Any] = report["components"][name]
        return part

    def manifest(self) -> str:
        return json.dumps(
            {
                "apiVersion": "devices.kubeedge.io/v1beta1",
                "kind": "Device",
                "metadata": {"name": self.device, "namespace": "default"},
                "spec": {
                    "deviceModelRef": {"name": "bench"},
                    "nodeName": self.name,
                    "protocol": {"protocolName": "none"},
                    "properties": [{"name": f"p{index}"} for index in range(10)],
                },
            }
        )

    async def report(self, value: str) -> None:
        """Ten new values on MQTT."""
        twin = {f"p{index}": {"actual": {"value": value}} for index in range(10)}
        topic = f"$hw/events/device/default/{self.device}/twin/update"
        await asyncio.to_thread(
            publish.single, topic, json.dumps({"twin": twin}), qos=1, hostname="127.0.0.1", port=self.mqtt_port
        )


async def outage(stand: Stand) -> None:
    """Kill the gateway, let every edge have news, bring it back, and wait for all news."""
    await stand.start_gateway()
    token = await stand.token()
    edges = [Edge(stand, number) for number in range(EDGES)]
    try:
        for edge in edges:
            await edge.join(token)
            await edge.program.start()
        model = {
            "apiVersion": "devices.kubeedge.io/v1beta1",
            "kind": "DeviceModel",
            "metadata": {"name": "bench", "namespace": "default"},
            "spec": {"properties": [{"name": f"p{index}", "type": "STRING"} for index in range(10)]},
        }
        text = "\n---\n".join([json.dumps(model), *(edge.manifest() for edge in edges)])
        await stand.kubectl("apply", "-f", "-", stdin=text)
        for edge in edges:
            await eventually(lambda edge=edge: knows_device(edge), what=f"device on {edge.name}", timeout=60)
        await asyncio.gather(*(edge.report("before") for edge in edges))
        await eventually(lambda: all_have(stand, "before"), what="first values", timeout=30)
        await stand.gateway.kill()
        killed = time.perf_counter()
        await asyncio.gather(*(edge.report("after") for edge in edges))
        await asyncio.sleep(max(0.0, DOWN - (time.perf_counter() - killed)))
        await stand.start_gateway()
        back = time.perf_counter()
        await eventually(lambda: all_have(stand, "after"), what="all news", timeout=60, every=0.05)
        took = time.perf_counter() - back
        how = (
            f"{EDGES} real edgecores, gateway killed and ready again after {back - killed:.1f} s; from ready until the "
            "10 values that each edge got meanwhile are in DeviceStatus"
        )
        figure("edge-reconnect", took, "s", target=3.0, how=how)
    finally:
        for edge in edges:
            await edge.program.stop()


async def knows_device(edge: Edge) -> bool:
    part = await edge.component("devicetwin")
    return bool(part["details"].get("devices") == 1) and (await edge.component("broker"))["state"] == "running"


async def all_have(stand: Stand, value: str) -> bool:
    listed = json.loads(await stand.kubectl("get", "devicestatuses", "-o", "json"))["items"]
    reported = [[twin["reported"]["value"] for twin in item.get("status", {}).get("twins", [])] for item in listed]
    return len(reported) == EDGES and all(len(values) == 10 and set(values) == {value} for values in reported)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
