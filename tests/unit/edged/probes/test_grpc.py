"""The health question against what real gRPC servers answer, and against what is no answer."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeappliance.edged.probes.grpc import GrpcFailed, check
from edgeappliance.edged.probes.http2 import PREFACE, Http2Error, Reader, read_block, request

# What the server of grpcio 1.76 (its C core) sent on the wire: settings, headers, message, trailers.
_SETTINGS = (
    "000018040000000000000400400000000500400000000600004000fe0300000001"
    "000004080000000000003f0001"
    "000004010000000000"
    "000004080000000000"
    "00000005"
    "000008060000000000444a22a51900c4f9"
)
_HEADERS = (
    "00004f0104000000012088400c636f6e74656e742d74797065106170706c69636174696f6e2f67727063"
    "4014677270632d6163636570742d656e636f64696e67176964656e746974792c206465666c6174652c20677a6970"
)
_OK = "00001e010500000001400b677270632d7374617475730130000c677270632d6d65737361676500"
SERVING = bytes.fromhex(_SETTINGS + _HEADERS + "000007000000000001" + "00000000020801" + _OK)
NOT_SERVING = bytes.fromhex(_SETTINGS + _HEADERS + "000007000000000001" + "00000000020802" + _OK)
NOT_FOUND = bytes.fromhex(
    _SETTINGS + _HEADERS + "0000050000000000010000000000"
    "00001e010500000001400b677270632d7374617475730135000c677270632d6d65737361676500"
)
UNIMPLEMENTED = bytes.fromhex(
    _SETTINGS + "0000510105000000012088400c636f6e74656e742d74797065106170706c69636174696f6e2f67727063"
    "400b677270632d737461747573023132000c677270632d6d657373616765114d6574686f64206e6f7420666f756e6421"
)


@asynccontextmanager
async def server(answer: bytes) -> AsyncIterator[tuple[int, bytearray]]:
    """A server that answers with these bytes, whatever it is sent; its port and what it was sent."""
    seen = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.extend(await reader.read(65536))
        writer.write(answer)
        writer.write_eof()
        seen.extend(await reader.read())
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1], seen


async def ask(answer: bytes, service: str = "") -> str:
    async with server(answer) as (port, _):
        return await check("127.0.0.1", port, service, agent="kube-probe/1.32")


async def test_health_of_a_real_server() -> None:
    assert await ask(SERVING) == "SERVING"
    assert await ask(NOT_SERVING) == "NOT_SERVING"


async def test_a_service_that_the_server_does_not_know() -> None:
    with pytest.raises(GrpcFailed, match="code = NotFound"):
        await ask(NOT_FOUND, "nope")


async def test_a_server_without_the_health_service() -> None:
    with pytest.raises(GrpcFailed, match=r"does not implement the grpc health protocol .* desc = Method not found!"):
        await ask(UNIMPLEMENTED)


async def test_the_question_is_one_request_with_the_name_of_the_service() -> None:
    async with server(SERVING) as (port, seen):
        await check("127.0.0.1", port, "my.Service", agent="kube-probe/1.32")
        await asyncio.sleep(0)
    sent = bytes(seen)
    assert sent.startswith(PREFACE)
    assert b"/grpc.health.v1.Health/Check" in sent
    assert struct.pack("!BI", 0, 12) + b"\x0a\x0amy.Service" in sent


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed the connection"),
        (SERVING[:60], "closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a frame of"),
        (bytes.fromhex("000008070000000000" + "00000000" + "0000000d"), r"closed the connection \(code 13\)"),
        (bytes.fromhex("000004030000000001" + "00000008"), r"reset the stream \(code 8\)"),
        (bytes.fromhex("000005010500000001" + "0003782d79"), "ends early"),
        (bytes.fromhex("000001010500000001" + "88"), "HTTP status 200, no gRPC status"),
        (bytes.fromhex(_HEADERS + _OK), "without a message"),
        (bytes.fromhex(_HEADERS + "000007000000000001" + "00000000021201" + _OK), "no HealthCheckResponse"),
    ],
)
async def test_what_is_no_answer_is_named(answer: bytes, words: str) -> None:
    with pytest.raises(GrpcFailed, match=words):
        await ask(answer)


@settings(deadline=None)
@given(st.integers(0, len(SERVING)), st.integers(0, len(SERVING)))
def test_an_answer_may_be_cut_anywhere(first: int, second: int) -> None:
    reader = Reader()
    low, high = sorted((first, second))
    for piece in (SERVING[:low], SERVING[low:high], SERVING[high:]):
        reader.receive(piece)
    assert reader.answer.ended
    assert reader.answer.headers["grpc-status"] == "0"
    assert reader.answer.headers[":status"] == "200"


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, len(SERVING)))
def test_rubbish_is_an_error_or_waits_for_more(rubbish: bytes, at: int) -> None:
    reader = Reader()
    try:
        reader.receive(SERVING[:at] + rubbish)
    except Http2Error:
        return
    assert len(reader.answer.body) <= len(rubbish) + 16


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_a_header_block_of_rubbish_is_an_error_or_fields(block: bytes) -> None:
    try:
        fields = list(read_block(block))
    except Http2Error:
        return
    assert len(fields) <= len(block)


def test_huffman_codes_as_in_the_rfc() -> None:
    """RFC 7541, C.6.1: a response's block; what is in the static table but of no use here keeps its number."""
    block = bytes.fromhex(
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3"
    )
    assert list(read_block(block)) == [
        (":status", "302"),
        ("#24", "private"),
        ("#33", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("#46", "https://www.example.com"),
    ]


def test_a_long_header_is_written_with_a_long_length() -> None:
    block = request([("x", "y" * 300)], b"")
    start = block.index(b"\x01x")
    assert block[start + 2 : start + 5] == bytes([127, 300 - 127 - 128 + 128, 1])


def test_a_peer_that_never_stops_talking_is_stopped() -> None:
    reader = Reader()
    ping = bytes.fromhex("0000080600000000000000000000000000")
    with pytest.raises(Http2Error, match="more than"):  # noqa: PT012 - which one is refused does not matter
        for _ in range(10_000):
            reader.receive(ping)
    assert len(reader.take()) < 100_000
