"""A whole site on loopback: cloudgateway with its embedded API, edgecore with its broker, a simulated meter, kubectl.

Every program is the real one, started as a user would start it.
"""

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import toml

from edgeappliance.kernel import control
from edgeappliance.kernel.errors import ApplianceError
from tests.support.net import free_port
from tests.support.programs import KUBECTL, PYTHON, ROOT, Program, ProgramFailed, output

NODE = "edge-demo"


class Stand:
    """Start parts with `start_*`; leaving the context stops everything and removes the directory."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        node: str = NODE,
        baud: int = 19200,
        cluster: Path | None = None,
        docker: Path | None = None,
    ) -> None:
        """`docker`: the socket of an engine for pods; without one the node runs none."""
        self._own = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="ea"))
        self.node = node
        self.baud = baud
        self.hub_port, self.enroll_port, self.api_port, self.gateway_metrics = (free_port() for _ in range(4))
        self.mqtt_port, self.edge_metrics = free_port(), free_port()
        self.tunnel_port, self.stream_port, self.kubelet_port = free_port(), free_port(), free_port()
        self.serial = self.directory / "ttyMETER"
        self.meter_control = self.directory / "meter.sock"
        self.api_directory = self.directory / "api"
        self.kubeconfig = cluster or self.api_directory / "admin.kubeconfig"
        self._api = ("--kubeconfig", str(cluster)) if cluster else ("--embedded", str(self.api_directory))
        self.edge_config = self.directory / "edgecore.toml"
        self.gateway_config = self.directory / "cloudgateway.toml"
        logs = self.directory / "log"
        logs.mkdir(parents=True, exist_ok=True)
        self.gateway = Program(
            "cloudgateway",
            [PYTHON, "-m", "cloudgateway", "run", "--config", self.gateway_config, *self._api],
            log=logs / "cloudgateway.log",
        )
        self.edge = Program(
            "edgecore", [PYTHON, "-m", "edgeappliance", "run", "--config", self.edge_config], log=logs / "edgecore.log"
        )
        self.meter = Program(
            "meter",
            [PYTHON, "-m", "edgeappliance.mappers.bench", "meter", "--link", self.serial, "--baud", str(baud),
             "--control", self.meter_control],
            log=logs / "meter.log",
        )  # fmt: skip
        self.edge_settings: dict[str, Any] = {
            "state_dir": str(self.directory / "state"),
            "runtime_dir": str(self.directory / "run"),
            "mqtt": {"port": self.mqtt_port},
            "metrics": {"port": self.edge_metrics},
            "mappers": {"directory": str(self.directory / "mappers.d")},
            "edged": {
                "enable": docker is not None,
                "docker": str(docker or "/run/docker.sock"),
                "manifests": str(self.directory / "manifests"),
                "kubelet_port": self.kubelet_port,
            },
            "edgestream": {"server": f"127.0.0.1:{self.tunnel_port}"},
        }
        self.gateway_settings: dict[str, Any] = {
            "cloudhub": {"host": "127.0.0.1", "port": self.hub_port},
            "enrolment": {"host": "127.0.0.1", "port": self.enroll_port, "addresses": ["127.0.0.1"]},
            "metrics": {"port": self.gateway_metrics},
            "cloudstream": {
                "host": "127.0.0.1",
                "tunnel_port": self.tunnel_port,
                "stream_host": "127.0.0.1",
                "stream_port": self.stream_port,
                "address": "127.0.0.1",
            },
        }
        if cluster:
            self.gateway_settings["kubernetes"] = {"install_crds": True}
        else:
            self.gateway_settings["embedded"] = {"directory": str(self.api_directory), "port": self.api_port}

    async def __aenter__(self) -> Self:
        self.write_settings()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        programs = [self.edge, self.gateway, self.meter]
        if error is not None:
            for program in programs:
                print(program.tail())
        for program in programs:
            try:
                await program.stop()
            except ProgramFailed as failure:
                if error is None:
                    raise
                print(failure)
        if self._own:
            shutil.rmtree(self.directory, ignore_errors=True)

    def write_settings(self) -> None:
        """Write both configuration files from `edge_settings` and `gateway_settings`."""
        self.edge_config.write_text(toml.dumps(self.edge_settings))
        self.gateway_config.write_text(toml.dumps(self.gateway_settings))

    # The parts.

    async def start_gateway(self) -> None:
        """Return when the API answers and the hub accepts."""
        await self.gateway.start()

        async def ready() -> bool:
            return await http_status(self.gateway_metrics, "/readyz") == 200

        await self.gateway.until(ready, what="/readyz", timeout=30)

    async def start_edge(self, *, connected: bool = True) -> None:
        """Return when its control socket answers and, with `connected`, the link is up."""
        await self.edge.start()
        await self.edge.until(self.edge_answers, what="control socket", timeout=30)
        if connected:
            await self.edge.until(self.edge_connected, what="the link", timeout=30)

    async def start_meter(self) -> None:
        await self.meter.start()
        await self.meter.until(self._meter_there, what="the serial line")

    async def _meter_there(self) -> bool:
        return self.serial.exists() and self.meter_control.exists()

    async def edge_answers(self) -> bool:
        return bool(await self.status())

    async def edge_connected(self) -> bool:
        report = await self.status()
        return bool(report) and report["components"].get("edgehub", {}).get("state") == "running"

    async def status(self) -> dict[str, Any]:
        """What `edgecore status` gets, {} while it does not answer."""
        try:
            report: dict[str, Any] = await control.call(
                Path(self.edge_settings["runtime_dir"]) / "control.sock", "status"
            )
        except ApplianceError:
            return {}
        return report

    # Verbs a user types.

    async def edgecore(self, *arguments: str) -> tuple[int, str, str]:
        return await output(PYTHON, "-m", "edgeappliance", *arguments, "--config", self.edge_config)

    async def cloudgateway(self, *arguments: str) -> tuple[int, str, str]:
        return await output(PYTHON, "-m", "cloudgateway", *arguments, "--config", self.gateway_config)

    async def token(self) -> str:
        code, out, err = await self.cloudgateway("token", "create", *self._api)
        if code:
            raise ProgramFailed(f"token create: {err}")
        return out.strip().splitlines()[-1]

    async def join(self, *, hub_port: int = 0) -> str:
        """Join with a fresh token, by way of `hub_port` if given (a relay); what it printed."""
        code, out, err = await self.edgecore(
            "join", "--cloud", f"127.0.0.1:{hub_port or self.hub_port}", "--enroll-port", str(self.enroll_port),
            "--token", await self.token(), "--name", self.node,
        )  # fmt: skip
        if code:
            raise ProgramFailed(f"join: {err}")
        return out

    def kubectl_environment(self) -> dict[str, str]:
        return {"KUBECONFIG": str(self.kubeconfig), "HOME": str(self.directory)}

    async def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """stdout of kubectl; ProgramFailed when it fails (unless `check` is False)."""
        code, out, err = await output(KUBECTL, *arguments, environment=self.kubectl_environment(), stdin=stdin)
        if code and check:
            raise ProgramFailed(f"kubectl {' '.join(arguments)}: {err.strip()}")
        return out

    async def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any]:
        """One object as kubectl shows it, {} when there is none."""
        text = await self.kubectl("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        value: dict[str, Any] = json.loads(text) if text.strip() else {}
        return value

    async def twins(self, device: str = "meter") -> dict[str, dict[str, Any]]:
        """The twins of a DeviceStatus by property."""
        status = (await self.get("devicestatus", device)).get("status", {})
        return {twin["propertyName"]: twin for twin in status.get("twins", [])}

    async def meter_registers(self) -> dict[str, Any]:
        """What stands in the simulated meter's registers, as engineering values."""
        reader, writer = await asyncio.open_unix_connection(str(self.meter_control))
        writer.write(b'{"get": true}\n')
        answer: dict[str, Any] = json.loads(await reader.readline())["values"]
        writer.close()
        await writer.wait_closed()
        return answer

    def manifest(self, *, limit: str = "5") -> str:
        """The demo's DeviceModel and Device."""
        text = (ROOT / "tests" / "demo" / "meter.yaml").read_text("utf-8")
        text = text.replace("${SERIAL_PORT}", str(self.serial)).replace("nodeName: edge-demo", f"nodeName: {self.node}")
        return text.replace('value: "5"', f'value: "{limit}"')


async def http_status(port: int, path: str) -> int:
    """Status of GET http://127.0.0.1:port/path, 0 when nothing answers."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return 0
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        line = await reader.readline()
        return int(line.split()[1]) if line else 0
    except OSError:
        return 0
    finally:
        writer.close()


async def eventually(
    condition: Callable[[], Awaitable[Any]], *, what: str, timeout: float = 20.0, every: float = 0.1
) -> Any:
    """The first true outcome of `condition`; AssertionError naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (outcome := await condition()):
        assert time.monotonic() < deadline, f"{what} did not come within {timeout} s"
        await asyncio.sleep(every)
    return outcome
