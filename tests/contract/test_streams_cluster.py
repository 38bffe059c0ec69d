"""kubectl through a real API server, which dials the gateway's stream port and speaks SPDY to the kubelet behind it."""

import asyncio
import os
import ssl
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from cloudgateway.cloudstream.endpoint import NODE_IP, TUNNEL
from cloudgateway.config import (
    CloudHubSettings,
    CloudStreamSettings,
    EnrolmentSettings,
    GatewaySettings,
    KubernetesSettings,
    MetricsSettings,
    default_addresses,
)
from cloudgateway.gateway import Gateway
from cloudgateway.kube.client import KubeClient, PatchType
from cloudgateway.kube.resources import NODES, PODS
from edgeappliance.kernel.web.client import HttpUnreachable
from edgeappliance.kernel.web.client import request as ask
from tests.support.kubectl_streams import VERSIONS, Client, client_of
from tests.support.net import free_port
from tests.support.process_kubelet import ProcessKubelet
from tests.support.real_api import RealApi
from tests.support.stand import eventually
from tests.support.tunnel import Edge, join_edge, node_identity, until

pytestmark = pytest.mark.real_cluster

ADDRESS = (default_addresses() or ["127.0.0.1"])[0]
"""Not loopback where it can be: an API server proxies no requests for nodes there."""


@dataclass
class Site:
    """A gateway on a real cluster, an edge with a kubelet, a pod on it."""

    gateway: Gateway
    edge: Edge
    kubelet: ProcessKubelet
    kubeconfig: Path
    node: str
    stack: AsyncExitStack
    directory: Path

    @property
    def client(self) -> KubeClient:
        return self.gateway.api.client


async def start_gateway(stack: AsyncExitStack, kubeconfig: Path) -> Gateway:
    gateway = Gateway(
        GatewaySettings(
            cloudhub=CloudHubSettings(host="127.0.0.1", port=0),
            enrolment=EnrolmentSettings(host="127.0.0.1", port=0, addresses=["127.0.0.1"]),
            cloudstream=CloudStreamSettings(
                host="127.0.0.1", tunnel_port=0, stream_host=ADDRESS, stream_port=0, address=ADDRESS
            ),
            kubernetes=KubernetesSettings(kubeconfig=str(kubeconfig), install_crds=True),
            metrics=MetricsSettings(enable=False),
        )
    )
    stack.push_async_callback(gateway.stop)
    await gateway.start()
    await gateway.wait_listening()
    return gateway


async def join(site_stack: AsyncExitStack, gateway: Gateway, directory: Path, node: str) -> Edge:
    authority = (await gateway.credentials.wait()).authority
    streams = gateway.streams
    assert streams is not None

    async def up(name: str) -> None:
        await until(lambda: streams.tunnel(name) is not None)

    context = node_identity(authority, node).context()
    directory.mkdir(exist_ok=True)
    return await join_edge(
        site_stack, directory, node, port=streams.port, context=context, make=ProcessKubelet, wait=up
    )


@pytest.fixture
async def site(real_api: RealApi, tmp_path: Path) -> AsyncIterator[Site]:
    if not real_api.own:
        pytest.skip("needs an API server that was started with a client certificate for kubelets")
    node = f"edge-{uuid.uuid4().hex[:6]}"
    async with AsyncExitStack() as stack:
        gateway = await start_gateway(stack, real_api.kubeconfig)
        edge = await join(stack, gateway, tmp_path, node)
        assert isinstance(edge.kubelet, ProcessKubelet)
        made = Site(gateway, edge, edge.kubelet, real_api.kubeconfig, node, stack, tmp_path)
        client = made.client
        addresses = [{"type": "InternalIP", "address": "192.0.2.7"}, {"type": "Hostname", "address": node}]
        await client.create(NODES, {"metadata": {"name": node}})
        await client.patch(NODES, None, node, {"status": {"addresses": addresses}}, subresource="status")
        spec = {
            "nodeName": node,
            "containers": [{"name": "c", "image": "busybox"}],
            "tolerations": [{"operator": "Exists"}],
        }
        await client.create(PODS, {"metadata": {"name": node}, "spec": spec}, namespace="default")
        status = {
            "phase": "Running",
            "containerStatuses": [
                {
                    "name": "c", "ready": True, "image": "busybox", "imageID": "", "restartCount": 0,
                    "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                }
            ],
        }  # fmt: skip
        await client.patch(PODS, "default", node, {"status": status}, subresource="status")
        await eventually(lambda: leads_to(made, gateway), what="the node's address")
        yield made
        await client.delete(PODS, "default", node, options={"gracePeriodSeconds": 0})
        await client.delete(NODES, None, node)


async def leads_to(site: Site, gateway: Gateway) -> bool:
    """Whether the node's status names the stream port of `gateway`."""
    node = await site.client.get(NODES, None, site.node)
    addresses = {item["type"]: item["address"] for item in node["status"].get("addresses") or ()}
    port = node["status"]["daemonEndpoints"]["kubeletEndpoint"].get("Port")
    assert gateway.stream_server is not None
    return addresses == {"InternalIP": ADDRESS, "Hostname": site.node} and port == gateway.stream_server.port


@pytest.fixture(params=VERSIONS)
def client(request: pytest.FixtureRequest, site: Site) -> Client:
    return client_of(request.param, site.kubeconfig)


async def test_exec_logs_and_copy(site: Site, client: Client, tmp_path: Path) -> None:
    done = await client.run("exec", "-i", site.node, "--", "cat", stdin=b"through\x00an API server\n" * 1000)
    assert (done.code, done.out) == (0, "through\x00an API server\n" * 1000), done.err
    done = await client.run("exec", site.node, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.code, done.out) == (7, "out\n"), done.err
    assert done.err.startswith("err\n")
    done = await client.run("logs", site.node, "--tail", "2")
    assert len(done.out.splitlines()) == 2, done.err
    async with client.running("logs", "-f", site.node, "--tail", "1") as process:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            await process.stdout.readline()
            assert await process.stdout.readline() == b"tick\n"
    await until(lambda: site.kubelet.open == 0)
    source, inside = tmp_path / "source", tmp_path / "inside"
    source.write_bytes(os.urandom(1_000_000))
    done = await client.run("cp", str(source), f"{site.node}:{inside}")
    assert done.code == 0, done.err
    assert inside.read_bytes() == source.read_bytes()


async def test_port_forward_and_attach(site: Site, client: Client) -> None:
    done = await client.run("attach", "-i", site.node, stdin=b"hello\n")
    assert (done.code, done.out) == (0, "hello\n"), done.err

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port, local = server.sockets[0].getsockname()[1], free_port()
    async with client.running("port-forward", f"pod/{site.node}", f"{local}:{port}") as process:
        assert process.stdout is not None
        async with asyncio.timeout(20):
            await process.stdout.readline()
            for _ in range(3):
                reader, writer = await asyncio.open_connection("127.0.0.1", local)
                writer.write(b"ping\n")
                assert await reader.readline() == b"ping\n"
                writer.close()
                await writer.wait_closed()
    server.close()


async def test_node_pages_and_what_they_cannot_say(site: Site) -> None:
    client = client_of("1.37", site.kubeconfig)
    if ADDRESS != "127.0.0.1":
        done = await client.run("get", "--raw", f"/api/v1/nodes/{site.node}/proxy/metrics/resource")
        assert done.out == "/metrics/resource\n", done.err
    node = await site.client.get(NODES, None, site.node)
    annotations = node["metadata"]["annotations"]
    assert annotations[TUNNEL].startswith(f"{ADDRESS}:")
    assert annotations[NODE_IP] == "127.0.0.1"


async def test_report_of_the_box_does_not_take_its_kubelet_away(site: Site) -> None:
    """An edge reports its own address, by patches and (old ones) as a whole: what was written is repaired."""
    addresses = [{"type": "InternalIP", "address": "192.0.2.7"}]
    await site.client.patch(
        NODES, None, site.node, {"status": {"addresses": addresses}}, content_type=PatchType.STRATEGIC,
        subresource="status",
    )  # fmt: skip
    await eventually(lambda: leads_to(site, site.gateway), what="the repaired address")


async def test_the_replica_to_which_the_edge_dialled_last_serves(site: Site) -> None:
    other = await start_gateway(site.stack, site.kubeconfig)
    assert site.gateway.streams is not None
    assert other.streams is not None
    first = site.gateway.streams.tunnel(site.node)
    assert first is not None
    await site.edge.supervisor.stop()
    edge = await join(site.stack, other, site.directory / "second", site.node)
    await eventually(lambda: leads_to(site, other), what="the address of the second gateway")
    client = client_of("1.37", site.kubeconfig)
    done = await client.run("exec", site.node, "--", "echo", "second")
    assert done.out == "second\n", done.err
    # And back; the first gateway's late goodbye takes nothing away.
    await edge.supervisor.stop()
    await join(site.stack, site.gateway, site.directory / "third", site.node)
    await eventually(lambda: leads_to(site, site.gateway), what="the address of the first gateway")
    done = await client.run("exec", site.node, "--", "echo", "first")
    assert done.out == "first\n", done.err


async def test_who_may_ask_at_the_stream_port(site: Site, real_api: RealApi) -> None:
    """Only who may use nodes/proxy in the cluster; a certificate of another CA, a node's own too, opens nothing."""
    server = site.gateway.stream_server
    assert server is not None
    target = f"/containerLogs/default/{site.node}/c?tailLines=1"

    async def status(pem: Path | None, target: str = target, method: str = "GET") -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        if pem is not None:
            context.load_cert_chain(pem)
        async with ask((ADDRESS, server.port), method, target, tls=context) as answer:
            await answer.read(10_000)
            return answer.status

    assert await status(None) == 401
    assert await status(real_api.stranger) == 403
    assert site.kubelet.asked == []
    assert await status(real_api.kubelet_client) == 200
    assert await status(real_api.kubelet_client, "/containerLogs/default/gone/c") == 404
    assert await status(real_api.kubelet_client, "/stats/summary") == 400, "which node?"
    assert await status(real_api.kubelet_client, "/run/default/p/c", "POST") == 404
    assert await status(real_api.kubelet_client, f"/exec/default/{site.node}/c", "POST") == 400
    authority = (await site.gateway.credentials.wait()).authority
    identity = node_identity(authority, site.node)
    own = site.directory / "own.pem"
    own.write_bytes(identity.key + identity.certificate)
    with pytest.raises((HttpUnreachable, ssl.SSLError)):
        await status(own)
