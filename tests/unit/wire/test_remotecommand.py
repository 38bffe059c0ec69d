"""exec and attach: channels, results, sizes, negotiation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.wire.errors import WireError
from edgeappliance.wire.remotecommand import (
    SPDY_PROTOCOLS,
    WEBSOCKET_PROTOCOLS,
    Channel,
    Result,
    SizeReader,
    WebSocketProtocol,
    decode_result,
    encode_result,
    encode_size,
    has_status,
    negotiate,
)


@pytest.mark.parametrize(
    ("result", "status", "text"),
    [
        (Result(0), True, b'{"metadata":{},"status":"Success"}'),
        (Result(), True, b'{"metadata":{},"status":"Success"}'),
        (
            Result(3),
            True,
            b'{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: command '
            b'terminated with exit code 3","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode",'
            b'"message":"3"}]}}',
        ),
        (
            Result(error="no such file"),
            True,
            b'{"metadata":{},"status":"Failure","message":"no such file","reason":"InternalError",'
            b'"details":{"causes":[{"message":"no such file"}]},"code":500}',
        ),
        (Result(0), False, b""),
        (Result(3), False, b"command terminated with exit code 3"),
        (Result(error="no such file"), False, b"no such file"),
    ],
)
def test_results(result: Result, status: bool, text: bytes) -> None:
    assert encode_result(result, status=status) == text
    read = decode_result(text)
    assert read.succeeded == result.succeeded
    assert (read.code or None, read.error) == (result.code or None, result.error)


@given(st.binary(max_size=200))
def test_any_result_is_read(data: bytes) -> None:
    assert isinstance(decode_result(data), Result)


def test_a_failure_without_a_code_is_an_error() -> None:
    assert decode_result(b'{"status":"Failure","reason":"NonZeroExitCode"}').error
    assert decode_result(b'{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{}]}}').error
    assert decode_result(b"[" * 100_000).error


@given(st.lists(st.tuples(st.integers(1, 65535), st.integers(1, 65535)), max_size=5), st.integers(1, 30))
def test_sizes_are_read_wherever_they_are_cut(sizes: list[tuple[int, int]], step: int) -> None:
    data = b"".join(encode_size(*size) for size in sizes)
    reader = SizeReader()
    found = [size for i in range(0, len(data), step) for size in reader.feed(data[i : i + step])]
    assert found == sizes


@pytest.mark.parametrize(
    "junk", [b"}", b"null}", b'{"Width":0,"Height":1}', b'{"Width":-1,"Height":70000}', b"x" * 9000]
)
def test_what_is_no_size_is_skipped(junk: bytes) -> None:
    reader = SizeReader()
    assert reader.feed(junk) == []
    assert reader.feed(b'{"Width":80,"Height":24}{"Width":81,"Height":25}') == [(80, 24), (81, 25)] or junk[:1] == b"x"
    assert len(reader._rest) <= 4096


@pytest.mark.parametrize("protocol", WEBSOCKET_PROTOCOLS, ids=lambda p: p.name)
@given(data=st.binary(max_size=100))
def test_messages(protocol: WebSocketProtocol, data: bytes) -> None:
    assert protocol.decode(protocol.encode(Channel.STDERR, data)) == (2, data)


@pytest.mark.parametrize(("name", "message"), [("v4.channel.k8s.io", b""), ("base64.channel.k8s.io", b"xYQ==")])
def test_messages_that_are_none(name: str, message: bytes) -> None:
    protocol = next(p for p in WEBSOCKET_PROTOCOLS if p.name == name)
    with pytest.raises(WireError, match="message"):
        protocol.decode(message)


def test_bad_base64_is_named() -> None:
    with pytest.raises(WireError, match="base64"):
        WEBSOCKET_PROTOCOLS[2].decode(b"0!!")


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([], ""),
        (["v5.channel.k8s.io", "v4.channel.k8s.io"], "v4.channel.k8s.io"),
        (["v3.channel.k8s.io"], "v3.channel.k8s.io"),
        (["v9.channel.k8s.io"], None),
    ],
)
def test_negotiation(offered: list[str], chosen: str | None) -> None:
    assert negotiate(offered, SPDY_PROTOCOLS) == chosen
    assert [has_status(name) for name in SPDY_PROTOCOLS] == [True, False, False, False]
