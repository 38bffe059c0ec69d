"""Debian's kubectl 1.20, an independent SPDY client, against the kubelet API.

Between them stands as much of an API server as it takes: it answers with the pod and relays what is upgraded.
"""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import pytest

from edgeappliance.kernel.relay import relay
from edgeappliance.kernel.web import client
from edgeappliance.kernel.web.exchange import Exchange
from edgeappliance.kernel.web.server import WebServer
from tests.unit.edged.kubelet.conftest import Stand

KUBECTL = Path.home() / ".cache/edgeappliance/kubectl-1.20/kubectl"
FETCH = Path(__file__).parents[3] / "support" / "fetch_old_kubectl.sh"


PODS = {"name": "pods", "singularName": "", "namespaced": True, "kind": "Pod", "verbs": ["get"], "shortNames": ["po"]}
DISCOVERY = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [PODS]},
}
Start = Callable[..., contextlib.AbstractAsyncContextManager[asyncio.subprocess.Process]]


@pytest.fixture(scope="session")
def old_kubectl() -> Path:
    if not KUBECTL.exists():
        subprocess.run([FETCH], check=True, timeout=50)
    return KUBECTL


class Front:
    """The API server between kubectl and the kubelet API."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self.server = WebServer(self._serve)

    async def _serve(self, exchange: Exchange) -> None:
        if (known := DISCOVERY.get(exchange.request.path)) is not None:
            await exchange.answer(200, msgspec.json.encode(known), "application/json")
            return
        _, _, _, _, namespace, kind, name, *rest = [*exchange.request.path.split("/"), *[""] * 8][:9]
        pod = self._stand.object(namespace, name) if kind == "pods" else None
        if pod is None:
            await exchange.answer(404, b'{"kind":"Status","status":"Failure","reason":"NotFound","code":404}')
        elif rest[0] in ("exec", "attach", "portforward"):
            await self._relay(exchange, rest[0], f"{namespace}/{name}")
        else:
            full = {"kind": "Pod", "apiVersion": "v1", **pod, "status": {**pod["status"], "phase": "Running"}}
            await exchange.answer(200, msgspec.json.encode(full), "application/json")

    async def _relay(self, exchange: Exchange, action: str, where: str) -> None:
        request = exchange.request
        query = [(key, value) for key, values in request.query.items() for value in values if key != "container"]
        target = (
            f"/portForward/{where}" if action == "portforward" else f"/{action}/{where}/{request.first('container')}"
        )
        protocol = request.headers["x-stream-protocol-version"]
        answer = await client.upgrade(
            self._stand.socket,
            "POST",
            f"{target}?{urlencode(query)}",
            headers={"Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": protocol},
        )
        if answer.duplex is None:
            await exchange.answer(answer.status, answer.body)
            return
        chosen = answer.headers["x-stream-protocol-version"]
        try:
            duplex = await exchange.upgrade([("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", chosen)])
            await relay(duplex, answer.duplex)
        finally:
            await answer.duplex.close()


@pytest.fixture
async def kubectl(old_kubectl: Path, stand: Stand, tmp_path: Path) -> AsyncIterator[Start]:
    front = Front(stand)
    await front.server.start()

    @contextlib.asynccontextmanager
    async def start(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            old_kubectl,
            "--server",
            f"http://127.0.0.1:{front.server.port}",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        )
        try:
            async with asyncio.timeout(20):
                yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()

    yield start
    await front.server.stop()


async def test_exec(stand: Stand, kubectl: Start) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    async with kubectl("exec", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 5") as process:
        out, err = await process.communicate()
    assert out == b"out\n"
    assert b"err\n" in err
    assert b"command terminated with exit code 5" in err
    assert process.returncode == 5
    async with kubectl("exec", "-i", "web", "--", "wc", "-c") as process:
        out, err = await process.communicate(b"x" * 3_000_000)
    assert (out.strip(), process.returncode) == (b"3000000", 0), err


async def test_a_missing_container(stand: Stand, kubectl: Start) -> None:
    pod = await stand.pod("web", c=["true"])
    async with asyncio.timeout(10):
        while any(c.running and c.name == "c" for c in stand.observed("uid-web")):
            await stand.look()
    assert pod["status"]
    async with kubectl("exec", "web", "--", "ls") as process:
        _, err = await process.communicate()
    assert b'unable to upgrade connection: container not found ("c")' in err
    assert process.returncode == 1


async def test_copy(stand: Stand, kubectl: Start, tmp_path: Path) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    content = os.urandom(2_000_000)
    (tmp_path / "there").write_bytes(content)
    async with kubectl("cp", str(tmp_path / "there"), "web:/tmp-file") as process:
        _, err = await process.communicate()
    assert process.returncode == 0, err
    async with kubectl("cp", "web:/tmp-file", str(tmp_path / "back")) as process:
        _, err = await process.communicate()
    assert process.returncode == 0, err
    assert (tmp_path / "back").read_bytes() == content


async def test_attach(stand: Stand, kubectl: Start) -> None:
    await stand.pod("web", c=["sh", "-c", "sleep 2; echo seen"])
    async with kubectl("attach", "web") as process:
        out, _ = await process.communicate()
    assert out == b"seen\n"


async def test_port_forward(stand: Stand, kubectl: Start) -> None:
    await stand.pod("web", network="bridge", c=["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/etc"])
    async with kubectl("port-forward", "web", ":8080") as process:
        line = (await process.stdout.readline()).decode()
        port = int(line.split("127.0.0.1:")[1].split()[0])
        for _ in range(20):
            async with client.request(("127.0.0.1", port), "GET", "/hostname") as response:
                assert (response.status, len(await response.read(100))) == (200, 13)
