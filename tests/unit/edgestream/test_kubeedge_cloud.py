"""Our edge at an unmodified cloudcore's tunnel port (reference 9.4)."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cloudgateway.onboarding.authority import CertificateAuthority
from cloudgateway.onboarding.tls import link_context
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.component import State
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.tunnel import MAX_CHANNELS
from tests.support.kubeedge_stream import (
    ATTACH,
    CLOSE,
    DATA,
    EXEC,
    LOGS,
    METRIC,
    REMOVE,
    CloudTunnel,
    TunnelServer,
    connect_data,
    tunnel_server,
)
from tests.support.net import free_port
from tests.support.tunnel import LINE, Edge, join_edge, node_identity, until

NODE = "edge-1"


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[tuple[TunnelServer, Edge]]:
    now = datetime.now(UTC)
    ca = CertificateAuthority.generate(now)
    context = link_context(ca.issue_server(["127.0.0.1"], now), ca.certificate_der)
    async with tunnel_server(context) as server, AsyncExitStack() as stack:
        edge = await join_edge(stack, tmp_path, NODE, port=server.port, context=node_identity(ca, NODE).context())
        await until(lambda: NODE in server.tunnels)
        yield server, edge


@pytest.fixture
def tunnel(cloud: tuple[TunnelServer, Edge]) -> CloudTunnel:
    return cloud[0].tunnels[NODE][0]


async def test_upgrade_headers(cloud: tuple[TunnelServer, Edge]) -> None:
    headers = cloud[0].headers[0]
    assert headers["SessionHostNameOverride"] == NODE
    assert headers["SessionInternalIP"] == "127.0.0.1"
    assert cloud[1].stream.health().state is State.RUNNING


async def test_logs_and_refusal(tunnel: CloudTunnel) -> None:
    await tunnel.send(7, LOGS, connect_data(7, "/containerLogs/default/p/c", "tailLines=2"))
    await tunnel.until(7, REMOVE)
    assert tunnel.data(7) == LINE % 0 + LINE % 1
    assert tunnel.kinds(7) == {DATA, REMOVE}, "no frame that KubeEdge does not know"
    await tunnel.send(8, LOGS, connect_data(8, "/containerLogs/default/p/nope", ""))
    await tunnel.until(8, REMOVE)
    assert tunnel.data(8) == b'container "nope" in pod "p" is waiting to start: ContainerCreating'


async def test_metrics(tunnel: CloudTunnel) -> None:
    await tunnel.send(1, METRIC, connect_data(1, "/stats/summary", "only_cpu_and_memory=true"))
    await tunnel.until(1, REMOVE)
    assert tunnel.data(1) == b"/stats/summary?only_cpu_and_memory=true\n"


@pytest.mark.parametrize("kind", [EXEC, ATTACH])
async def test_exec_with_the_head_of_the_kubelet(tunnel: CloudTunnel, kind: int) -> None:
    path = "/exec/default/p/c" if kind == EXEC else "/attach/default/p/uid/c"
    await tunnel.send(3, kind, connect_data(3, path, "command=sh&input=1", method="POST"))
    async with asyncio.timeout(10):
        while not tunnel.data(3).endswith(b"ready\n"):
            await asyncio.sleep(0.01)
    head = tunnel.data(3).lower()
    assert head.startswith(b"http/1.1 101 ")
    assert b"x-stream-protocol-version: v4.channel.k8s.io\r\n" in head
    await tunnel.send(3, DATA, b"\xff\x00raw")
    async with asyncio.timeout(10):
        while not tunnel.data(3).endswith(b"\xff\x00raw"):
            await asyncio.sleep(0.01)
    await tunnel.send(3, REMOVE)
    await tunnel.until(3, REMOVE)  # the edge answers with its own


async def test_frames_that_mean_nothing_do_no_harm(cloud: tuple[TunnelServer, Edge], tunnel: CloudTunnel) -> None:
    await tunnel.send(1, EXEC, b"{no json")
    await tunnel.send(1, EXEC, b'{"url": 7}')
    await tunnel.send(2, 7, b"port-forward is not KubeEdge's")
    await tunnel.send(3, 99, b"\x00")
    await tunnel.send(4, DATA, b"nobody")
    await tunnel.send(5, REMOVE)
    await tunnel.socket.send(b"", text=True)
    await tunnel.socket.send(b"\xff" * 30, text=True)
    await tunnel.send(6, LOGS, connect_data(6, "/run/default/p/c", ""))
    await tunnel.until(6, REMOVE)
    assert b"no path of the kubelet" in tunnel.data(6)
    assert not tunnel.kinds(1) | tunnel.kinds(4) | tunnel.kinds(5)
    await tunnel.send(9, LOGS, connect_data(9, "/containerLogs/default/p/c", ""))
    await tunnel.until(9, REMOVE)
    assert len(cloud[0].tunnels[NODE]) == 1, "still the first tunnel"


async def test_close_connect_ends_the_tunnel_and_the_edge_dials_again(
    cloud: tuple[TunnelServer, Edge], tunnel: CloudTunnel
) -> None:
    await tunnel.send(0, CLOSE, b"the port could not be set")
    await until(lambda: len(cloud[0].tunnels[NODE]) == 2)
    await until(lambda: cloud[1].stream.health().state is State.RUNNING)


async def test_thousands_of_opens_are_bounded(cloud: tuple[TunnelServer, Edge], tunnel: CloudTunnel) -> None:
    for number in range(1, 2001):
        await tunnel.send(number, LOGS, connect_data(number, "/containerLogs/default/p/c", "follow=1&tailLines=0"))
    await until(lambda: sum(REMOVE in {kind} for _, kind, _ in tunnel.came) >= 2000 - MAX_CHANNELS)
    assert cloud[1].stream.health().details["streams"] <= MAX_CHANNELS
    for number in range(1, 2001):
        await tunnel.send(number, REMOVE)
    await until(lambda: cloud[1].kubelet.open == 0)
    assert cloud[1].stream.health().details["streams"] == 0


async def test_the_link_wakes_a_tunnel_that_waits(tmp_path: Path) -> None:
    """A box whose network was away for long dials as soon as the link is there, not at the end of its back-off."""
    ca = CertificateAuthority.generate(datetime.now(UTC))
    context = node_identity(ca, NODE).context()
    port = free_port()
    async with AsyncExitStack() as stack:
        edge = await join_edge(
            stack, tmp_path, NODE, port=port, context=context, backoff=Backoff(initial=600.0, maximum=600.0)
        )
        await until(lambda: edge.stream.health().state is State.DEGRADED)
        assert f"127.0.0.1:{port} cannot be reached" in edge.stream.health().reason
        server_context = link_context(ca.issue_server(["127.0.0.1"], datetime.now(UTC)), ca.certificate_der)
        async with tunnel_server(server_context, port) as server:
            edge.stream.link_changed(True)
            await until(lambda: NODE in server.tunnels)


async def test_a_node_that_joins_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeappliance.edgestream.edgestream.IDENTITY_LOOK", 0.05)
    now = datetime.now(UTC)
    ca = CertificateAuthority.generate(now)
    identities: list[ssl.SSLContext] = []

    async def tls() -> ssl.SSLContext:
        if not identities:
            raise OperatorError("this node has no certificate yet", next_step="join")
        return identities[0]

    context = link_context(ca.issue_server(["127.0.0.1"], now), ca.certificate_der)
    async with tunnel_server(context) as server, AsyncExitStack() as stack:
        edge = await join_edge(
            stack, tmp_path, NODE, port=server.port, tls=tls, backoff=Backoff(initial=600, maximum=600)
        )
        await until(lambda: edge.stream.health().reason == "this node has no certificate yet")
        identities.append(node_identity(ca, NODE).context())
        await until(lambda: NODE in server.tunnels)


async def test_a_cloud_that_is_not_ours_is_not_trusted(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    ca, other = CertificateAuthority.generate(now), CertificateAuthority.generate(now)
    context = link_context(other.issue_server(["127.0.0.1"], now), ca.certificate_der)
    async with tunnel_server(context) as server, AsyncExitStack() as stack:
        edge = await join_edge(stack, tmp_path, NODE, port=server.port, context=node_identity(ca, NODE).context())
        await until(lambda: "was not accepted" in edge.stream.health().reason)
        assert not server.tunnels
