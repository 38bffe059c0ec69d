"""Channels of a tunnel without a network: hostile frames, room, turns."""

import asyncio
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeappliance.kernel.tunnel import Channel, Tunnel
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.tunnel import (
    WINDOW,
    Answer,
    ConnectRequest,
    Frame,
    FrameType,
    TunnelURL,
    decode_answer,
    decode_connect,
    decode_credit,
    decode_frame,
    encode_answer,
    encode_connect,
    encode_frame,
    path_kind,
    uvarint,
)


class FakeLine:
    """Keeps what is sent; `peer` gets it at `deliver`."""

    def __init__(self) -> None:
        self.sent: deque[bytes] = deque()
        self.stuck = False
        self.paused = False
        self.aborted = ""

    def send(self, payload: bytes) -> None:
        self.sent.append(payload)

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def abort(self, reason: str) -> None:
        self.aborted = reason

    def frames(self) -> list[Frame]:
        found = [decode_frame(payload) for payload in self.sent]
        self.sent.clear()
        return found


def request(path: str = "/exec/a/b/c") -> ConnectRequest:
    return ConnectRequest(MessID=0, url=TunnelURL(Path=path), method="POST")


class Pair:
    """A cloud's and an edge's tunnel with frames under way between them."""

    def __init__(self) -> None:
        self.cloud_line, self.edge_line = FakeLine(), FakeLine()
        self.accepted: list[Channel] = []
        self.cloud = Tunnel(self.cloud_line, ours=True)
        self.edge = Tunnel(self.edge_line, ours=True, accept=lambda channel, _: self.accepted.append(channel))

    def deliver(self) -> None:
        while self.cloud_line.sent or self.edge_line.sent:
            while self.cloud_line.sent:
                self.edge.message(self.cloud_line.sent.popleft())
            while self.edge_line.sent:
                self.cloud.message(self.edge_line.sent.popleft())


_HOSTILE = st.one_of(
    st.binary(max_size=64),
    st.builds(
        lambda connection, kind, data: uvarint(connection) + uvarint(kind) + data,
        st.integers(0, 4) | st.integers(0, 2**64 - 1),
        st.integers(0, 12) | st.integers(0, 2**64 - 1),
        st.binary(max_size=2000)
        | st.just(b"x" * 400_000)
        | st.builds(encode_connect, st.just(request()))
        | st.builds(uvarint, st.integers(0, 2**64 - 1))
        | st.just(b'{"status":200}'),
    ),
)


@given(payloads=st.lists(_HOSTILE, max_size=40), ours=st.booleans(), edge=st.booleans())
@settings(max_examples=200, deadline=None)
def test_hostile_frames_break_nothing_and_fill_nothing(payloads: list[bytes], ours: bool, edge: bool) -> None:
    async def run() -> None:
        line = FakeLine()
        tunnel = Tunnel(line, ours=ours, accept=(lambda channel, asked: None) if edge else None, channels=3)
        if not edge:
            tunnel.open(FrameType.EXEC_CONNECT, request())
            tunnel.open(FrameType.LOGS_CONNECT, request("/containerLogs/a/b/c"))
        for payload in payloads:
            tunnel.message(payload)
        assert len(tunnel) <= 3
        if ours:
            assert tunnel.waiting <= 3 * WINDOW
        tunnel.lost("over")
        assert len(tunnel) == 0

    asyncio.run(run())


@given(sizes=st.lists(st.integers(1, 300_000), min_size=1, max_size=12), reads=st.lists(st.booleans(), max_size=60))
@settings(max_examples=60, deadline=None)
def test_room_is_kept_and_everything_arrives_in_order(sizes: list[int], reads: list[bool]) -> None:
    async def run() -> None:
        pair = Pair()
        sender = pair.cloud.open(FrameType.EXEC_CONNECT, request())
        pair.deliver()
        receiver = pair.accepted[0]
        parts = [bytes((index % 256,)) * size for index, size in enumerate(sizes)]

        async def send() -> None:
            for part in parts:
                await sender.write(part)
            await sender.close()

        sending = asyncio.create_task(send())
        got = bytearray()
        ended = False
        for read in [*reads, *[True] * 1000]:
            await asyncio.sleep(0)
            pair.deliver()
            assert receiver.waiting <= WINDOW
            if read and (receiver.waiting or receiver.over):
                data = await receiver.read()
                got += data
                ended = not data
                if ended:
                    break
        await sending
        assert ended
        assert bytes(got) == b"".join(parts)

    asyncio.run(run())


async def test_who_sends_much_waits_behind_the_others() -> None:
    pair = Pair()
    line = pair.cloud_line
    much = pair.cloud.open(FrameType.EXEC_CONNECT, request())
    little = pair.cloud.open(FrameType.EXEC_CONNECT, request())
    line.frames()
    line.stuck = True
    first = asyncio.create_task(much.write(b"m" * 200_000))
    await asyncio.sleep(0)
    second = asyncio.create_task(little.write(b"key"))
    await asyncio.sleep(0)
    assert line.frames() == []
    order = []
    while not (first.done() and second.done()):
        line.stuck = False
        pair.cloud.writable()
        await asyncio.sleep(0)
        line.stuck = True
        order += [frame.connection for frame in line.frames()]
        await asyncio.sleep(0)
    assert order.index(little.id) <= 2
    assert order.count(much.id) >= 6


async def test_a_writer_that_is_cancelled_passes_its_turn_on() -> None:
    pair = Pair()
    pair.cloud_line.stuck = True
    one, two = (pair.cloud.open(FrameType.EXEC_CONNECT, request()) for _ in range(2))
    first = asyncio.create_task(one.write(b"1"))
    second = asyncio.create_task(two.write(b"2"))
    await asyncio.sleep(0)
    pair.cloud_line.stuck = False
    pair.cloud.writable()
    first.cancel()
    await asyncio.wait([first])
    async with asyncio.timeout(1):
        await second
    assert pair.cloud_line.frames()[-1] == Frame(two.id, FrameType.DATA, b"2")


async def test_end_of_a_channel_wakes_who_waits() -> None:
    pair = Pair()
    channel = pair.cloud.open(FrameType.EXEC_CONNECT, request())
    pair.deliver()
    writing = asyncio.create_task(channel.write(b"x" * 2 * WINDOW))
    await asyncio.sleep(0)
    pair.accepted[0].end()
    pair.deliver()
    with pytest.raises(BrokenPipeError):
        await asyncio.wait_for(writing, 1)
    assert await channel.read() == b""
    assert (len(pair.cloud), len(pair.edge)) == (0, 0)


async def test_more_than_there_is_room_for_ends_the_channel() -> None:
    line = FakeLine()
    tunnel = Tunnel(line, ours=True)
    channel = tunnel.open(FrameType.LOGS_CONNECT, request())
    for _ in range(3):
        tunnel.message(encode_frame(Frame(1, FrameType.DATA, b"x" * (WINDOW // 2))))
    assert line.frames()[-1] == Frame(1, FrameType.REMOVE_CONNECT, b"")
    assert len(await channel.read()) == WINDOW // 2
    assert len(await channel.read()) == WINDOW // 2
    with pytest.raises(ConnectionResetError, match="more than it was given room for"):
        await channel.read()


def test_answers_and_credit_on_the_wire() -> None:
    answer = Answer(404, "text/plain")
    assert decode_answer(encode_answer(answer)) == answer
    assert decode_credit(uvarint(1000)) == 1000
    for data in (b"", b"\x00", uvarint(WINDOW + 1), uvarint(5) + b"x"):
        with pytest.raises(WireError, match="credit"):
            decode_credit(data)
    for data in (b'{"status":99}', b'{"status":101}', b"{}", b"x"):
        with pytest.raises(WireError, match="answer"):
            decode_answer(data)
    assert decode_connect(encode_connect(request())).url.Path == "/exec/a/b/c"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/containerLogs/ns/p/c", FrameType.LOGS_CONNECT),
        ("/exec/ns/p/c", FrameType.EXEC_CONNECT),
        ("/exec/ns/p/uid/c", FrameType.EXEC_CONNECT),
        ("/attach/ns/p/c", FrameType.ATTACH_CONNECT),
        ("/portForward/ns/p", FrameType.PORTFORWARD_CONNECT),
        ("/stats/summary", FrameType.METRIC_CONNECT),
        ("/metrics/cadvisor", FrameType.METRIC_CONNECT),
        ("/pods", FrameType.METRIC_CONNECT),
        ("/run/ns/p/c", None),
        ("/exec/ns/p", None),
        ("/stats/../run/ns/p/c", None),
        ("/metrics/../exec/ns/p/c", None),
        ("/configz", None),
        ("", None),
    ],
)
def test_paths_of_the_kubelet(path: str, kind: FrameType | None) -> None:
    assert path_kind(path) is kind
