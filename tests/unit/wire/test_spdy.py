"""SPDY/3.1: two cores talking, hostile bytes, limits."""

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeappliance.wire import spdy
from edgeappliance.wire.spdy import Data, GoneAway, Opened, Ponged, Replied, Reset, SpdyCore, SpdyError


def pair() -> tuple[SpdyCore, SpdyCore]:
    return SpdyCore(client=True), SpdyCore(client=False)


def test_the_dictionary_is_the_one_of_the_draft() -> None:
    assert len(spdy.DICTIONARY) == 1423
    assert zlib.adler32(spdy.DICTIONARY) == 0xE3C6A7C2  # the DICTID that every SPDY/3 header block begins with


def test_a_whole_conversation() -> None:
    client, server = pair()
    id = client.open({"streamType": "stdin", "X": "a\0b"})
    assert server.receive(client.take()) == [Opened(1, {"streamtype": "stdin", "x": "a\0b"}, False)]
    server.reply(id, {"ok": "yes"})
    assert client.receive(server.take()) == [Replied(1, {"ok": "yes"}, False)]
    client.send(id, b"hello")
    client.send(id, b"", fin=True)
    assert server.receive(client.take()) == [Data(1, b"hello", False), Data(1, b"", True)]
    assert not client.send(id, b"more")
    server.send(id, b"bye", fin=True)
    assert client.receive(server.take()) == [Data(1, b"bye", True)]
    assert client.streams == server.streams == 0
    assert client.open({}) == 3
    assert server.open({}) == 2


def test_long_data_is_framed_and_handed_on_as_it_comes() -> None:
    client, server = pair()
    id = client.open({})
    client.send(id, b"x" * 200_000, fin=True)
    data = client.take()
    events = [event for i in range(0, len(data), 1000) for event in server.receive(data[i : i + 1000])]
    assert b"".join(event.data for event in events if isinstance(event, Data)) == b"x" * 200_000
    assert [event.fin for event in events].count(True) == 1
    assert events[-1] == Data(id, events[-1].data, True)


def test_an_endless_data_frame_is_never_stored() -> None:
    client, server = pair()
    id = client.open({})
    server.receive(client.take() + struct.pack(">II", id, 0xFFFFFF))
    for _ in range(10):
        assert server.receive(b"x" * 100_000) == [Data(id, b"x" * 100_000, False)]
        assert len(server._in) == 0


def test_reset_ping_goaway() -> None:
    client, server = pair()
    id = client.open({})
    server.receive(client.take())
    server.reset(id, spdy.ResetCode.REFUSED_STREAM)
    server.reset(id)
    assert client.receive(server.take()) == [Reset(id, 3)]
    client.send(id, b"too late")
    ping = client.ping()
    client.goaway()
    assert server.receive(client.take()) == [GoneAway(0, 0)]
    assert client.receive(server.take()) == [Ponged(ping)]


def test_data_after_the_end_resets_the_stream() -> None:
    client, server = pair()
    id = client.open({})
    client.send(id, b"", fin=True)
    server.receive(client.take())
    events = server.receive(struct.pack(">II", id, 3) + b"abc")
    assert events == [Reset(id, spdy.ResetCode.STREAM_ALREADY_CLOSED)]
    assert client.receive(server.take()) == [Reset(id, 9)]


def test_data_for_nobody_is_dropped() -> None:
    _, server = pair()
    assert server.receive(struct.pack(">II", 77, 3) + b"abc") == []


def control(kind: int, payload: bytes, *, flags: int = 0, version: int = 3) -> bytes:
    return struct.pack(">HHI", 0x8000 | version, kind, flags << 24 | len(payload)) + payload


def block(raw: bytes) -> bytes:
    packer = zlib.compressobj(zdict=spdy.DICTIONARY)
    return packer.compress(raw) + packer.flush(zlib.Z_SYNC_FLUSH)


def syn(raw: bytes, *, id: int = 1) -> bytes:
    return control(1, struct.pack(">IIH", id, 0, 0) + block(raw))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (control(1, b"", version=2), "version: is 2"),
        (control(1, b"x" * 4), "SYN_STREAM: cut short"),
        (control(3, b"x" * 4), "RST_STREAM: cut short"),
        (control(6, b""), "PING: cut short"),
        (control(7, b""), "GOAWAY: cut short"),
        (struct.pack(">HHI", 0x8003, 1, 0xFFFFFF), "control frame: 16777215 bytes"),
        (control(1, struct.pack(">IIH", 1, 0, 0) + b"nonsense"), "headers: cannot be unpacked"),
        (syn(struct.pack(">I", 100_000)), "headers: 100000 of them"),
        (syn(struct.pack(">II", 1, 1000)), "headers: cut short"),
        (syn(struct.pack(">I", 0) + b"rest"), "headers: bytes after the last pair"),
        (syn(b"\0" * 10_000_000), "headers: longer than 65536"),
        (syn(struct.pack(">I", 0), id=2), "SYN_STREAM: 2 is not a number"),
        (syn(struct.pack(">I", 0), id=0), "SYN_STREAM: 0 is not a number"),
        (control(1, struct.pack(">IIH", 1, 0, 0) + zlib.compress(b"")), "headers: "),
    ],
)
def test_what_breaks_the_protocol(data: bytes, reason: str) -> None:
    server = SpdyCore(client=False)
    with pytest.raises(SpdyError, match=reason):
        server.receive(data)
    with pytest.raises(SpdyError, match=reason):
        server.receive(b"")
    assert server.failed is not None


def test_what_came_before_the_breach_is_given() -> None:
    client, server = pair()
    client.open({})
    assert server.receive(client.take() + control(1, b"", version=9)) == [Opened(1, {}, False)]
    assert "version" in str(server.failed)


def test_unknown_frames_are_ignored() -> None:
    server = SpdyCore(client=False)
    assert server.receive(control(4, b"\0" * 12) + control(9, b"\0" * 8) + control(10, b"?") + control(99, b"x")) == []


def test_streams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spdy, "MAX_STREAMS", 2)
    client, server = pair()
    client.open({}), client.open({})
    with pytest.raises(SpdyError, match="2 streams are open"):
        client.open({})
    monkeypatch.setattr(spdy, "MAX_STREAMS", 3)
    client.open({})
    monkeypatch.setattr(spdy, "MAX_STREAMS", 2)
    assert len(server.receive(client.take())) == 2
    assert client.receive(server.take()) == [Reset(5, 3)]


def test_pings_that_nobody_reads_take_no_memory() -> None:
    server = SpdyCore(client=False)
    for _ in range(100):
        server.receive(control(6, struct.pack(">I", 1)) * 1000)
    assert server.pending <= spdy.MAX_CONTROL + 100


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["open", "send", "fin", "reset", "ping"]), st.integers(0, 5), st.binary(max_size=300)),
    max_size=30,
)


def play(actions: list[tuple[str, int, bytes]]) -> tuple[bytes, dict[int, bytes]]:
    """What a client writes, and the data of the streams that it did not reset."""
    client, sent = SpdyCore(client=True), {}
    for what, which, data in actions:
        id = 1 + 2 * which
        if what == "open":
            sent[client.open({"streamtype": data.hex()})] = b""
        elif what in ("send", "fin") and client.send(id, data, fin=what == "fin"):
            sent[id] = sent[id] + data
        elif what == "reset":
            client.reset(id)
            sent.pop(id, None)
        elif what == "ping":
            client.ping()
    return client.take(), sent


@given(ACTIONS, st.lists(st.integers(1, 200), min_size=1, max_size=50))
def test_cuts_change_nothing(actions: list[tuple[str, int, bytes]], cuts: list[int]) -> None:
    traffic, sent = play(actions)
    server = SpdyCore(client=False)
    got: dict[int, bytes] = {}
    index = turn = 0
    while index < len(traffic):
        step = cuts[turn % len(cuts)]
        for event in server.receive(traffic[index : index + step]):
            if isinstance(event, Opened):
                got[event.id] = b""
            elif isinstance(event, Data):
                got[event.id] += event.data
            elif isinstance(event, Reset):
                del got[event.id]
        index, turn = index + step, turn + 1
    assert {id: data for id, data in got.items() if id in sent} == sent


@settings(max_examples=300)
@given(ACTIONS, st.data())
def test_mutated_traffic_raises_nothing_else(actions: list[tuple[str, int, bytes]], data: st.DataObject) -> None:
    traffic = bytearray(play([("open", 0, b""), *actions])[0])
    for _ in range(data.draw(st.integers(1, 4))):
        traffic[data.draw(st.integers(0, len(traffic) - 1))] = data.draw(st.integers(0, 255))
    server = SpdyCore(client=False)
    try:
        for event in server.receive(bytes(traffic)):
            if isinstance(event, Opened):
                server.reply(event.id)
                server.send(event.id, b"x")
    except SpdyError:
        assert server.failed is not None
    server.take()


@settings(max_examples=300)
@given(st.booleans(), st.lists(st.binary(max_size=64), max_size=20))
def test_random_bytes_raise_nothing_else(client: bool, chunks: list[bytes]) -> None:
    core = SpdyCore(client=client)
    for chunk in chunks:
        try:
            core.receive(chunk)
        except SpdyError:
            assert core.failed is not None
