"""kubectl looks into a pod of a real engine: through the embedded API and through a real API server, which speaks SPDY
to the kubelet; with a new kubectl over WebSockets, over SPDY, and with an old one."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.dockerd import Dockerd
from tests.support.kubectl_streams import VERSIONS, client_of
from tests.support.net import free_port
from tests.support.pods import SLEEPS, condition, pod, shell
from tests.support.real_api import RealApi
from tests.support.stand import Stand, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

NODE = "edge-look"
WEB = f"mkdir -p /www; echo hello >/www/index.html; httpd -p 8080 -h /www; echo started; {SLEEPS}"


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.real_cluster)])
def cluster(request: pytest.FixtureRequest) -> Path | None:
    """kubeconfig of a real API server, None for the embedded one."""
    if request.param == "embedded":
        return None
    api: RealApi = request.getfixturevalue("real_api")
    if not api.own:
        pytest.skip("needs an API server that was started with a client certificate for kubelets")
    return api.kubeconfig


@pytest.fixture
async def site(cluster: Path | None, dockerd: Dockerd, tmp_path: Path) -> AsyncIterator[Stand]:
    async with Stand(tmp_path / "s", node=NODE, cluster=cluster, docker=dockerd.socket) as stand:
        await stand.start_gateway()
        await stand.join()
        await stand.start_edge()
        await stand.kubectl("apply", "-f", "-", stdin=json.dumps(pod("look", shell(WEB), node=NODE)))

        async def ready() -> bool:
            return condition(await stand.get("pod", "look"), "Ready") == "True"

        await eventually(ready, what="pod look ready", timeout=60)
        yield stand
        await stand.kubectl("delete", "pod", "look", "--grace-period=1", "--timeout=60s")


async def test_kubectl_looks_into_a_pod(site: Stand, cluster: Path | None, tmp_path: Path) -> None:
    for version in VERSIONS:
        client = client_of(version, site.kubeconfig)

        done = await client.run("logs", "look", "--limit-bytes=8")
        assert done.out == "started\n", (version, done.err)
        done = await client.run("exec", "look", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
        assert (done.code, done.out) == (7, "out\n"), (version, done.err)
        assert done.err.startswith("err\n")
        sent = b"line\n" * 100_000
        done = await client.run("exec", "-i", "look", "--", "cat", stdin=sent)
        assert done.out.encode() == sent, (version, done.err)
        done = await client.run("exec", "look", "--", "no-such-program")
        assert done.code != 0
        assert "no-such-program" in done.out + done.err, version

        source, back = tmp_path / "source", tmp_path / "back"
        source.write_bytes(os.urandom(1_000_000))
        done = await client.run("cp", str(source), "look:/tmp/file")
        assert done.code == 0, (version, done.err)
        done = await client.run("cp", "look:/tmp/file", str(back))
        assert back.read_bytes() == source.read_bytes(), (version, done.err)

        local = free_port()
        async with client.running("port-forward", "pod/look", f"{local}:8080") as process:
            assert process.stdout is not None
            async with asyncio.timeout(30):
                await process.stdout.readline()
                for _ in range(3):
                    reader, writer = await asyncio.open_connection("127.0.0.1", local)
                    writer.write(b"GET / HTTP/1.0\r\n\r\n")
                    assert (await reader.read()).endswith(b"hello\n"), version
                    writer.close()
                    await writer.wait_closed()

        async with client.running("logs", "-f", "look", "--tail=0") as follow:
            assert follow.stdout is not None
            await asyncio.sleep(1)
            await client.run("exec", "look", "--", "sh", "-c", f"echo {version.split()[0]} >/proc/1/fd/1")
            async with asyncio.timeout(30):
                assert await follow.stdout.readline() == f"{version.split()[0]}\n".encode()


async def test_top(site: Stand, cluster: Path | None) -> None:
    client = client_of("1.37", site.kubeconfig)
    done = await client.run("top", "node")
    if cluster is not None:
        assert "Metrics API not available" in done.err, "a cluster needs a metrics-server"
        return
    assert done.out.splitlines()[1].split()[0] == NODE, done.err
    done = await client.run("top", "pod", "--containers")
    assert done.out.splitlines()[1].split()[:2] == ["look", "main"], done.err
