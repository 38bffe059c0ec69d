"""Both ends of the tunnel on real TLS, with a scripted kubelet behind the edge."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from cloudgateway.cloudstream.kubelet import KubeletCall, NotReached
from edgeappliance.kernel.component import State
from edgeappliance.kernel.tunnel import MAX_CHANNELS, TooManyChannels
from edgeappliance.wire.tunnel import WINDOW, FrameType
from tests.support.tunnel import LINE, TunnelSite, tunnel_site, until

LOGS = KubeletCall(kind=FrameType.LOGS_CONNECT, path="/containerLogs/default/p/c")


def logs(query: str = "", container: str = "c") -> KubeletCall:
    return KubeletCall(kind=FrameType.LOGS_CONNECT, path=f"/containerLogs/default/p/{container}", query=query)


def execute(container: str = "c") -> KubeletCall:
    return KubeletCall(
        kind=FrameType.EXEC_CONNECT,
        path=f"/exec/default/p/{container}",
        query="command=sh&input=1&output=1",
        method="POST",
        headers={"X-Stream-Protocol-Version": ["v4.channel.k8s.io"], "Authorization": ["Bearer secret"]},
    )


@pytest.fixture
async def site() -> AsyncIterator[TunnelSite]:
    async with tunnel_site() as made:
        yield made


async def test_logs_with_status_type_and_query(site: TunnelSite) -> None:
    edge = await site.join("edge-1")
    answer = await site.cloud.get("edge-1", logs("tailLines=3&timestamps=true"))
    assert (answer.status, answer.content_type) == (200, "text/plain; charset=utf-8")
    assert await answer.read(1 << 20) == b"".join(LINE % number for number in range(3))
    await answer.close()
    asked = edge.kubelet.asked[0]
    assert (asked.method, asked.target) == ("GET", "/containerLogs/default/p/c?tailLines=3&timestamps=true")


async def test_refusal_of_the_kubelet_keeps_status_and_text(site: TunnelSite) -> None:
    await site.join("edge-1")
    answer = await site.cloud.get("edge-1", logs(container="nope"))
    assert answer.status == 400
    assert b"is waiting to start: ContainerCreating" in await answer.read(1000)


async def test_upgrade_carries_bytes_both_ways_and_no_credentials(site: TunnelSite) -> None:
    edge = await site.join("edge-1")
    upgraded = await site.cloud.upgrade("edge-1", execute())
    assert upgraded.status == 101
    assert upgraded.headers["x-stream-protocol-version"] == "v4.channel.k8s.io"
    pipe = upgraded.duplex
    assert pipe is not None
    assert await pipe.read() == b"ready\n"
    await pipe.write(b"\x00\xff keystroke")
    assert await pipe.read() == b"\x00\xff keystroke"
    await pipe.close()
    await until(lambda: edge.kubelet.open == 0)
    asked = edge.kubelet.asked[0]
    assert asked.upgrades_to("spdy/3.1")
    assert "authorization" not in asked.headers


async def test_refused_upgrade(site: TunnelSite) -> None:
    await site.join("edge-1")
    upgraded = await site.cloud.upgrade("edge-1", execute("nope"))
    assert (upgraded.status, upgraded.duplex) == (404, None)
    assert upgraded.body == b'pod "nope" does not exist\n'


async def test_metrics_and_what_no_node_serves(site: TunnelSite) -> None:
    edge = await site.join("edge-1")
    answer = await site.cloud.get("edge-1", KubeletCall(kind=FrameType.METRIC_CONNECT, path="/stats/summary"))
    assert await answer.read(100) == b"/stats/summary\n"
    for path in ("/run/default/p/c", "/stats/../run/x", "/configz", "//pods"):
        answer = await site.cloud.get("edge-1", KubeletCall(kind=FrameType.METRIC_CONNECT, path=path))
        assert answer.status == 403, path
        assert b"connect.url.Path" in await answer.read(1000)
    assert len(edge.kubelet.asked) == 1


async def test_no_tunnel_is_said_with_the_node(site: TunnelSite) -> None:
    with pytest.raises(NotReached, match='node "edge-9" has no tunnel'):
        await site.cloud.get("edge-9", LOGS)


async def test_kubelet_that_is_down(site: TunnelSite) -> None:
    edge = await site.join("edge-1")
    await edge.kubelet.server.stop()
    answer = await site.cloud.get("edge-1", LOGS)
    assert answer.status == 502
    assert b"the kubelet API of node edge-1" in await answer.read(1000)
    upgraded = await site.cloud.upgrade("edge-1", execute())
    assert upgraded.status == 502


async def test_certificate_of_another_node_is_refused(site: TunnelSite) -> None:
    edge = await site.join("edge-1", name="edge-2", up=False)
    await until(lambda: "status 403" in edge.stream.health().reason)
    assert edge.stream.health().state is State.DEGRADED
    assert site.cloud.nodes() == []


async def test_node_limit() -> None:
    async with tunnel_site(node_limit=1) as site:
        await site.join("edge-1")
        second = await site.join("edge-2", up=False)
        await until(lambda: "status 503" in second.stream.health().reason)


async def test_follow_ends_at_the_kubelet_when_the_reader_leaves(site: TunnelSite) -> None:
    edge = await site.join("edge-1")
    answer = await site.cloud.get("edge-1", logs("follow=true&tailLines=0"))
    async for data in answer:
        assert data.startswith(b"tick")
        break
    await answer.close()
    await until(lambda: edge.kubelet.open == 0)
    assert edge.stream.health().details["streams"] == 0


async def test_a_reader_that_stands_still_holds_up_nobody(site: TunnelSite) -> None:
    await site.join("edge-1")
    slow = await site.cloud.get("edge-1", logs("tailLines=20000"))
    await asyncio.sleep(0.3)
    tunnel = site.cloud.tunnel("edge-1")
    assert tunnel is not None
    assert tunnel.tunnel.waiting <= WINDOW
    for _ in range(5):
        began = time.monotonic()
        fast = await site.cloud.get("edge-1", logs("tailLines=100"))
        assert len(await fast.read(1 << 20)) == 100 * 1024
        assert time.monotonic() - began < 1.0
    size = 0
    async for data in slow:
        size += len(data)
    assert size == 20000 * 1024, "what waited is all there"


async def test_keystroke_beside_a_flood(site: TunnelSite) -> None:
    await site.join("edge-1")
    flood = await site.cloud.get("edge-1", logs("tailLines=30000"))

    async def drain() -> int:
        return sum([len(data) async for data in flood])

    draining = asyncio.create_task(drain())
    upgraded = await site.cloud.upgrade("edge-1", execute())
    assert upgraded.duplex is not None
    await upgraded.duplex.read()
    times = []
    for _ in range(20):
        began = time.monotonic()
        await upgraded.duplex.write(b"k")
        assert await upgraded.duplex.read() == b"k"
        times.append(time.monotonic() - began)
    assert sorted(times)[10] < 0.3
    assert await draining == 30000 * 1024
    await upgraded.duplex.close()


async def test_large_upload_arrives_whole(site: TunnelSite) -> None:
    await site.join("edge-1")
    upgraded = await site.cloud.upgrade("edge-1", execute())
    pipe = upgraded.duplex
    assert pipe is not None
    await pipe.read()
    sent = bytes(range(256)) * 4096 * 4

    async def send() -> None:
        await pipe.write(sent)

    sending = asyncio.create_task(send())
    got = bytearray()
    while len(got) < len(sent):
        got += await pipe.read()
    await sending
    assert bytes(got) == sent
    await pipe.close()


async def test_cut_tunnel_fails_the_streams_and_is_dialled_again(site: TunnelSite) -> None:
    edge = await site.join("edge-1")
    upgraded = await site.cloud.upgrade("edge-1", execute())
    pipe = upgraded.duplex
    assert pipe is not None
    await pipe.read()
    first = site.cloud.tunnel("edge-1")
    assert first is not None
    first.line.abort("cut by the test")
    with pytest.raises(ConnectionResetError, match="the tunnel broke: cut by the test"):
        await pipe.read()
    with pytest.raises(ConnectionResetError):
        await pipe.write(b"x")
    await until(lambda: edge.kubelet.open == 0)
    await until(lambda: site.cloud.tunnel("edge-1") not in (None, first))
    answer = await site.cloud.get("edge-1", LOGS)
    assert answer.status == 200
    await answer.close()


async def test_new_tunnel_of_a_node_replaces_the_old_one(site: TunnelSite) -> None:
    seen: list[tuple[str, bool]] = []
    site.cloud.on_tunnel(lambda node, tunnel: seen.append((node, tunnel is not None)))
    first = await site.join("edge-1")
    await first.supervisor.stop()
    await until(lambda: site.cloud.tunnel("edge-1") is None)
    assert seen == [("edge-1", True), ("edge-1", False)]


async def test_many_opens_are_bounded_and_leave_nothing(site: TunnelSite) -> None:
    edge = await site.join("edge-1")
    held = [await site.cloud.get("edge-1", logs("follow=true&tailLines=0")) for _ in range(MAX_CHANNELS)]
    with pytest.raises(TooManyChannels):
        await site.cloud.get("edge-1", LOGS)
    for answer in held:
        await answer.close()
    await until(lambda: edge.kubelet.open == 0)

    async def once() -> None:
        answer = await site.cloud.get("edge-1", LOGS)
        assert len(await answer.read(1 << 20)) == 3 * 1024
        await answer.close()

    for _ in range(10):
        await asyncio.gather(*(once() for _ in range(100)))
    await until(lambda: edge.stream.health().details["streams"] == 0)
    assert site.cloud.health().details["streams"] == 0
