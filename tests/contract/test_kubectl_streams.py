"""kubectl logs, exec, attach, cp, port-forward and top, with two kubectls, on the embedded API with a real tunnel."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloudgateway.apiserver.embedded import EmbeddedApi
from edgeappliance.kubeapi.request import ApiRequest, User
from tests.support.kubectl_streams import VERSIONS, Client, client_of
from tests.support.net import free_port
from tests.support.process_kubelet import ProcessKubelet
from tests.support.tunnel import Edge, TunnelSite, tunnel_site, until

ADMIN = User("admin", ("system:masters",))
NODE = "edge-1"


@dataclass
class Site:
    """The API, the tunnel and an edge with a kubelet."""

    api: EmbeddedApi
    tunnels: TunnelSite
    edge: Edge
    kubelet: ProcessKubelet
    kubeconfig: Path
    url: str

    async def create(self, path: str, value: object) -> None:
        answer = await self.api.handle(
            ApiRequest(
                method="POST", path=path, body=json.dumps(value).encode(), content_type="application/json", user=ADMIN
            )
        )
        assert answer.status == 201, answer.body

    async def status(self, path: str, value: object) -> None:
        answer = await self.api.handle(
            ApiRequest(
                method="PATCH",
                path=f"{path}/status",
                body=json.dumps({"status": value}).encode(),
                content_type="application/merge-patch+json",
                user=ADMIN,
            )
        )
        assert answer.status == 200, answer.body

    async def pod(self, name: str, *containers: str, node: str = NODE) -> None:
        listed = [{"name": item, "image": "busybox"} for item in containers]
        spec = {"containers": listed, **({"nodeName": node} if node else {})}
        await self.create("/api/v1/namespaces/default/pods", {"metadata": {"name": name}, "spec": spec})
        await self.status(
            f"/api/v1/namespaces/default/pods/{name}",
            {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [
                    {
                        "name": item, "ready": True, "image": "busybox", "imageID": "", "restartCount": 0,
                        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                    }
                    for item in containers
                ],
            },
        )  # fmt: skip


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with tunnel_site() as tunnels:
        api = await EmbeddedApi.open(tmp_path / "api")
        try:
            api.reach_kubelets(tunnels.cloud)
            shell = await api.serve()
            kubeconfig = tmp_path / "kubeconfig"
            await api.write_kubeconfig(kubeconfig, server=shell.url)
            edge = await tunnels.join(NODE, make=ProcessKubelet)
            assert isinstance(edge.kubelet, ProcessKubelet)
            made = Site(api, tunnels, edge, edge.kubelet, kubeconfig, shell.url)
            await made.create("/api/v1/nodes", {"metadata": {"name": NODE}})
            await made.pod("p", "c")
            yield made
        finally:
            await api.close()


@pytest.fixture(params=VERSIONS)
def client(request: pytest.FixtureRequest, site: Site) -> Client:
    """New and old kubectl; a new one can be made to speak SPDY."""
    return client_of(request.param, site.kubeconfig)


async def test_exec_carries_input_output_errors_and_the_exit_code(site: Site, client: Client) -> None:
    done = await client.run("exec", "-i", "p", "--", "cat", stdin=b"through\x00the tunnel\n" * 1000)
    assert (done.code, done.out) == (0, "through\x00the tunnel\n" * 1000)
    done = await client.run("exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.code, done.out) == (7, "out\n")
    assert done.err.startswith("err\n")
    assert "command terminated with exit code 7" in done.err
    done = await client.run("exec", "p", "--", "/no/such/program")
    assert done.code == 1
    assert "/no/such/program: No such file or directory" in done.err


async def test_exec_of_what_is_not_there(site: Site, client: Client) -> None:
    done = await client.run("exec", "gone", "--", "true")
    assert 'Error from server (NotFound): pods "gone" not found' in done.err
    await site.pod("nopod", "nope")
    done = await client.run("exec", "nopod", "--", "true")
    assert 'container not found ("nope")' in done.err
    assert done.code == 1
    done = await client.run("exec", "p", "-c", "zzz", "--", "true")
    assert "container zzz is not valid for pod p" in done.err or "container not found" in done.err
    assert site.edge.stream.health().details["streams"] == 0


async def test_attach(site: Site, client: Client) -> None:
    done = await client.run("attach", "-i", "p", stdin=b"hello\n")
    assert (done.code, done.out) == (0, "hello\n"), done.err


async def test_copy_both_ways(site: Site, client: Client, tmp_path: Path) -> None:
    source, inside, back = tmp_path / "source", tmp_path / "inside", tmp_path / "back"
    source.write_bytes(os.urandom(3_000_000))
    done = await client.run("cp", str(source), f"p:{inside}")
    assert done.code == 0, done.err
    assert inside.read_bytes() == source.read_bytes()
    done = await client.run("cp", f"p:{inside}", str(back))
    assert done.code == 0, done.err
    assert back.read_bytes() == source.read_bytes()


async def test_port_forward(site: Site, client: Client) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port, local = server.sockets[0].getsockname()[1], free_port()
    async with client.running("port-forward", "pod/p", f"{local}:{port}") as process:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            await process.stdout.readline()
        for round in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", local)
            sent = os.urandom(300_000)
            writer.write(sent)
            writer.write_eof()
            async with asyncio.timeout(20):
                assert await reader.read(-1) == sent, round
            writer.close()
            await writer.wait_closed()
        assert sum(request.path.startswith("/portForward/default/p") for request in site.kubelet.asked) == 1
    server.close()
    await until(lambda: site.edge.stream.health().details["streams"] == 0)


async def test_logs(site: Site, client: Client) -> None:
    done = await client.run("logs", "p", "--tail", "2", "--timestamps", "--since", "1h")
    assert done.code == 0, done.err
    assert done.out.splitlines()[0].startswith("0000000 xxx")
    assert len(done.out.splitlines()) == 2
    assert dict(site.kubelet.asked[-1].query) == {
        "tailLines": ["2"], "timestamps": ["true"], "sinceSeconds": ["3600"],
    }  # fmt: skip
    async with client.running("logs", "-f", "p", "--tail", "1") as process:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            await process.stdout.readline()
            assert await process.stdout.readline() == b"tick\n"
    await until(lambda: site.kubelet.open == 0)


async def test_logs_that_cannot_be(site: Site) -> None:
    client = client_of("1.37", site.kubeconfig)
    await site.pod("two", "a", "b")
    await site.pod("waiting", "nope")
    await site.pod("lost", "c", node="edge-9")
    await site.pod("placeless", "c", node="")
    texts = {
        ("gone",): '(NotFound): pods "gone" not found',
        ("p", "-c", "x"): "container x is not valid for pod p",
        ("waiting",): 'Error from server (BadRequest): container "nope" in pod "p" is waiting to start: Container',
        ("lost",): 'Error from server (ServiceUnavailable): node "edge-9" has no tunnel to this gateway',
    }
    for args, text in texts.items():
        done = await client.run("logs", *args)
        assert text in done.err, (args, done.err)
    done = await client.run("get", "--raw", "/api/v1/namespaces/default/pods/two/log")
    assert "a container name must be specified for pod two, choose one of: [a b]" in done.err
    done = await client.run("get", "--raw", "/api/v1/namespaces/default/pods/p/log?tailLines=-1&limitBytes=0")
    assert "tailLines: Invalid value: -1: must be greater than or equal to 0" in done.err
    assert "limitBytes: Invalid value: 0: must be greater than 0" in done.err


async def test_node_pages(site: Site) -> None:
    client = client_of("1.37", site.kubeconfig)
    done = await client.run("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/metrics/resource")
    assert done.out == "/metrics/resource\n"
    done = await client.run("get", "--raw", f"/api/v1/nodes/{NODE}/proxy/run/default/p/c")
    assert "no path of the kubelet" in done.err
    done = await client.run("get", "--raw", "/api/v1/nodes/gone/proxy/metrics")
    assert 'nodes "gone" not found' in done.err


def summary(*, rate: int | None) -> bytes:
    """What a kubelet measured; without `rate` it has looked only once."""
    cpu = {"time": "2026-01-01T00:00:00Z", **({} if rate is None else {"usageNanoCores": rate})}
    memory = {"time": "2026-01-01T00:00:00Z", "workingSetBytes": 64 * 1024 * 1024}
    containers = [{"name": name, "cpu": cpu, "memory": memory} for name in ("a", "b")]
    pods = [{"podRef": {"name": "two", "namespace": "default", "uid": "x"}, "containers": containers}]
    pods.append({"podRef": {"name": "foreign", "namespace": "default"}, "containers": containers})
    return json.dumps({"node": {"nodeName": NODE, "cpu": cpu, "memory": memory}, "pods": pods}).encode()


@pytest.mark.parametrize("version", ["1.37", "1.20"])
async def test_top(site: Site, version: str) -> None:
    client = client_of(version, site.kubeconfig)
    await site.pod("two", "a", "b")
    await site.create("/api/v1/nodes", {"metadata": {"name": "edge-9"}})
    await site.pod("foreign", "a", node="edge-9")
    await site.status(f"/api/v1/nodes/{NODE}", {"allocatable": {"cpu": "2", "memory": "1Gi"}, "capacity": {"cpu": "2"}})
    site.kubelet.summary = summary(rate=250_000_000)
    done = await client.run("top", "node", NODE)
    assert done.out.split()[-5:] == [NODE, "250m", "12%", "64Mi", "6%"], done.err
    done = await client.run("top", "pod", "--containers", "-l", "missing!=x")
    rows = [line.split() for line in done.out.splitlines()[1:]]
    assert rows == [["two", "a", "250m", "64Mi"], ["two", "b", "250m", "64Mi"]], done.err
    done = await client.run("top", "pod", "two")
    assert done.out.split()[-3:] == ["two", "500m", "128Mi"], done.err
    assert sum(request.path == "/stats/summary" for request in site.kubelet.asked) == 1, "many looks, one question"
    done = await client.run("top", "pod", "gone")
    assert "not found" in done.err
    done = await client.run("get", "--raw", "/apis/metrics.k8s.io/v1beta1/nodes/edge-9")
    assert 'nodes.metrics.k8s.io "edge-9" not found' in done.err
    done = await client.run("get", "nodes")
    assert "edge-9" in done.out, "nodes without a group are still the core ones"


async def test_first_look_of_a_kubelet(site: Site) -> None:
    """A rate needs two looks: the second one is waited for."""
    site.kubelet.summary = summary(rate=None)

    async def later() -> None:
        await asyncio.sleep(0.5)
        site.kubelet.summary = summary(rate=1_000_000)

    measuring = asyncio.create_task(later())
    done = await client_of("1.37", site.kubeconfig).run("top", "node")
    await measuring
    assert NODE in done.out, done.err


async def test_tunnel_cut_in_the_middle(site: Site, client: Client) -> None:
    """Nobody hangs: the terminal ends with an error, the command ends on the box, the next exec works."""
    async with (
        client.running("exec", "-i", "p", "--", "cat") as terminal,
        client.running("logs", "-f", "p", "--tail", "1") as log,
    ):
        assert terminal.stdin is not None
        assert terminal.stdout is not None
        assert log.stdout is not None
        terminal.stdin.write(b"before\n")
        async with asyncio.timeout(20):
            assert await terminal.stdout.readline() == b"before\n"
            await log.stdout.readline()
        tunnel = site.tunnels.cloud.tunnel(NODE)
        assert tunnel is not None
        tunnel.line.abort("cut by the test")
        async with asyncio.timeout(20):
            code = await terminal.wait()
            # Over SPDY kubectl takes an end without a result for success, whoever its peer is.
            assert code != 0 or client.speaks_spdy
            await log.wait()
    await until(lambda: site.kubelet.running == 0 and site.kubelet.open == 0)
    await until(lambda: site.tunnels.cloud.tunnel(NODE) not in (None, tunnel))
    done = await client.run("exec", "p", "--", "echo", "again")
    assert done.out == "again\n", done.err


async def test_client_killed_in_the_middle(site: Site, client: Client) -> None:
    async with client.running("exec", "-i", "p", "--", "cat") as terminal:
        assert terminal.stdin is not None
        assert terminal.stdout is not None
        terminal.stdin.write(b"before\n")
        async with asyncio.timeout(20):
            await terminal.stdout.readline()
        terminal.kill()
    await until(lambda: site.kubelet.running == 0 and site.kubelet.open == 0)
    assert site.edge.stream.health().details["streams"] == 0


async def test_output_that_is_not_read_holds_up_nobody(site: Site, client: Client) -> None:
    """A kubectl that stands still beside others: what it does not read stays on the box."""
    async with client.running("exec", "p", "--", "cat", "/dev/zero") as flood:
        await until(lambda: site.kubelet.running == 1, timeout=20)
        await asyncio.sleep(1.0)
        tunnel = site.tunnels.cloud.tunnel(NODE)
        assert tunnel is not None
        assert tunnel.tunnel.waiting < 2_000_000
        done = await client.run("exec", "p", "--", "echo", "beside")
        assert done.out == "beside\n", done.err
        flood.kill()
    await until(lambda: site.kubelet.running == 0)


async def test_api_closes_in_the_middle(site: Site) -> None:
    client = client_of("1.37", site.kubeconfig)
    async with client.running("exec", "-i", "p", "--", "cat") as terminal:
        assert terminal.stdin is not None
        assert terminal.stdout is not None
        terminal.stdin.write(b"before\n")
        async with asyncio.timeout(20):
            await terminal.stdout.readline()
            await site.api.close()
            assert await terminal.wait() != 0
    await until(lambda: site.kubelet.running == 0 and site.kubelet.open == 0)


async def test_size_of_the_terminal(site: Site, client: Client) -> None:
    """kubectl under a pty of its own tells the size, and has one output only."""
    arguments = ["exec", "-it", "p", "--", "cat"]
    command = " ".join([client.program, "--kubeconfig", str(client.kubeconfig), *arguments])
    process = await asyncio.create_subprocess_exec(
        "script", "-qec", f"stty cols 123 rows 45; exec {command}", "/dev/null",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "HOME": str(site.kubeconfig.parent), "SHELL": "/bin/sh", **client.settings},
    )  # fmt: skip
    try:
        await until(lambda: (123, 45) in site.kubelet.sizes, timeout=20)
        query = site.kubelet.asked[-1].query
        assert "error" not in query
        assert query["tty"] == ["1"]
    finally:
        process.kill()
        await process.communicate()
    await until(lambda: site.kubelet.running == 0)
