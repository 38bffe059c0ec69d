"""One call of grpc.health.v1.Health/Check (gRPC health checking protocol; gRPC over HTTP/2)."""

import struct
from urllib.parse import unquote

from edgeappliance.edged.probes.dial import dial
from edgeappliance.edged.probes.http2 import Http2Error, Reader, request
from edgeappliance.kernel.http import close_all

_STATUSES = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_CODES = (
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
)
_UNIMPLEMENTED = 12

MAX_SERVICE = 4096
"""Bytes of a name that go into one frame with the rest."""

_CHUNK = 16 * 1024


class GrpcFailed(Exception):
    """The call gave no health; the text is what a kubelet says."""


async def check(host: str, port: int, service: str, *, agent: str) -> str:
    """SERVING, NOT_SERVING, ...: the health of `service` ("" = the whole server).

    The caller bounds the time. Raises DialFailed and GrpcFailed.
    """
    reader, writer = await dial(host, port)
    answer = Reader()
    try:
        writer.write(_request(host, port, service, agent))
        while not answer.answer.ended:
            data = await reader.read(_CHUNK)
            if not data:
                raise Http2Error("the server closed the connection")
            answer.receive(data)
            writer.write(answer.take())
    except (Http2Error, OSError) as error:
        raise GrpcFailed(f"error: health rpc failed: {error}") from None
    finally:
        writer.transport.abort()
        await close_all([writer])
    return _health(answer)


def _request(host: str, port: int, service: str, agent: str) -> bytes:
    name = service.encode("utf-8", "replace")[:MAX_SERVICE]
    message = b"\x0a" + _varint(len(name)) + name if name else b""
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/grpc.health.v1.Health/Check"),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("user-agent", agent),
        ("te", "trailers"),
    ]
    return request(headers, struct.pack("!BI", 0, len(message)) + message)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _health(reader: Reader) -> str:
    headers, body = reader.answer.headers, reader.answer.body
    status = headers.get("grpc-status", "")
    if status != "0":
        raise GrpcFailed(_failure(headers, status))
    if len(body) < 5 or body[0] != 0:
        raise GrpcFailed("error: health rpc failed: an answer without a message")
    message = bytes(body[5 : 5 + int.from_bytes(body[1:5], "big")])
    if not message:
        return _STATUSES[0]  # a field of value 0 is not sent
    if message[0] != 0x08 or len(message) < 2:
        raise GrpcFailed("error: health rpc failed: an answer that is no HealthCheckResponse")
    return _STATUSES.get(message[1], str(message[1]))


def _failure(headers: dict[str, str], status: str) -> str:
    if not (status.isdecimal() and len(status) < 4):
        return f"error: health rpc failed: HTTP status {headers.get(':status', 'unknown')}, no gRPC status"
    code = int(status)
    word = _CODES[code] if code < len(_CODES) else status
    text = f"rpc error: code = {word} desc = {unquote(headers.get('grpc-message', ''))}"
    if code == _UNIMPLEMENTED:
        return f"error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {text}"
    return f"error: health rpc failed: {text}"
