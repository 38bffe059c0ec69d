"""An unmodified KubeEdge edge behind our gateway: no credit, no answers, frames of 256 bytes."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from cloudgateway.cloudstream.kubelet import KubeletCall
from edgeappliance.kernel import tunnel as mux
from edgeappliance.wire.tunnel import FrameType
from tests.support.kubeedge_stream import EdgeTunnel, edge_tunnel
from tests.support.tunnel import TunnelSite, node_identity, tunnel_site, until

LINES = [b"%06d " % number + b"y" * 1000 + b"\n" for number in range(200)]
LOGS = KubeletCall(kind=FrameType.LOGS_CONNECT, path="/containerLogs/default/p/c", query="tailLines=5")
EXEC = KubeletCall(
    kind=FrameType.EXEC_CONNECT, path="/exec/default/p/c", query="command=sh", method="POST",
    headers={"X-Stream-Protocol-Version": ["v4.channel.k8s.io"]},
)  # fmt: skip


@pytest.fixture
async def site() -> AsyncIterator[TunnelSite]:
    async with tunnel_site() as made:
        yield made


@pytest.fixture
async def edge(site: TunnelSite) -> AsyncIterator[EdgeTunnel]:
    async with edge_tunnel(site.cloud.port, "ke-1", node_identity(site.ca, "ke-1").context(), LINES) as made:
        await until(lambda: site.cloud.tunnel("ke-1") is not None)
        yield made


async def test_logs(site: TunnelSite, edge: EdgeTunnel) -> None:
    tunnel = site.cloud.tunnel("ke-1")
    assert tunnel is not None
    assert (tunnel.ours, tunnel.address) == (False, "192.0.2.9")
    answer = await site.cloud.get("ke-1", LOGS)
    assert answer.status == 200
    assert await answer.read(1 << 20) == b"".join(LINES)
    await answer.close()
    connect = edge.connects[1]
    assert connect["MessID"] == 1
    assert (connect["url"]["Host"], connect["url"]["Path"]) == ("127.0.0.1:10350", "/containerLogs/default/p/c")
    assert connect["url"]["RawQuery"] == "tailLines=5"


async def test_exec_and_its_end(site: TunnelSite, edge: EdgeTunnel) -> None:
    upgraded = await site.cloud.upgrade("ke-1", EXEC)
    pipe = upgraded.duplex
    assert upgraded.status == 101
    assert pipe is not None
    await pipe.write(b"z" * 100_000)
    got = b""
    while len(got) < 100_000:
        got += await pipe.read()
    assert got == b"z" * 100_000
    await pipe.close()
    await until(lambda: edge.removed == [1])
    assert edge.connects[1]["method"] == "POST"


async def test_slow_reader_slows_the_edge_and_loses_nothing(
    site: TunnelSite, edge: EdgeTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mux, "UPSTREAM_WINDOW", 20_000)
    slow = await site.cloud.get("ke-1", LOGS)
    tunnel = site.cloud.tunnel("ke-1")
    assert tunnel is not None
    await until(lambda: tunnel.line.reading_paused)
    assert tunnel.tunnel.waiting < 200_000
    got = b""
    async for data in slow:
        got += data
        await asyncio.sleep(0.001)
    assert got == b"".join(LINES)
    assert not tunnel.line.reading_paused


async def test_reader_that_takes_nothing_is_given_up(
    site: TunnelSite, edge: EdgeTunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mux, "UPSTREAM_WINDOW", 20_000)
    monkeypatch.setattr(mux, "STALL", 0.2)
    stuck = await site.cloud.get("ke-1", LOGS)
    await until(lambda: edge.removed == [1])
    other = await site.cloud.get("ke-1", LOGS)
    assert await other.read(1 << 20) == b"".join(LINES), "the others go on"
    with pytest.raises(ConnectionResetError, match="took nothing while others waited"):
        await stuck.read(1 << 30)
