"""Frames of the stream tunnel (reference 9.4, F11): uvarint connection, uvarint type, data."""

from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

from edgeappliance.wire import gojson
from edgeappliance.wire.errors import WireError
from edgeappliance.wire.limits import MAX_TUNNEL_DATA


class FrameType(IntEnum):
    """What a frame is. Types from 7 up are spoken only between our own peers."""

    LOGS_CONNECT = 0
    EXEC_CONNECT = 1
    METRIC_CONNECT = 2
    DATA = 3
    REMOVE_CONNECT = 4
    CLOSE_CONNECT = 5
    ATTACH_CONNECT = 6


class Frame(NamedTuple):
    """One frame. `type` stays a number: an unknown one is the receiver's to refuse."""

    connection: int
    type: int
    data: bytes


class TunnelURL(msgspec.Struct):
    """Go's url.URL; missing keys are zero values."""

    Scheme: str = ""
    Opaque: str = ""
    User: dict[str, Any] | None = None
    Host: str = ""
    Path: str = ""
    Fragment: str = ""
    RawQuery: str = ""
    RawPath: str = ""
    RawFragment: str = ""
    ForceQuery: bool = False
    OmitHost: bool = False


class ConnectRequest(msgspec.Struct, omit_defaults=True):
    """Data of a *_CONNECT frame; `method` only for exec and attach."""

    MessID: int
    url: TunnelURL
    header: dict[str, list[str]] | None = None
    method: str = ""


def uvarint(value: int) -> bytes:
    """Base-128, least significant group first. `value` is 0 .. 2^64-1."""
    if not 0 <= value < 2**64:
        raise WireError("outside 64 bits", field="uvarint")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_uvarint(data: bytes, start: int, *, field: str) -> tuple[int, int]:
    """(value, index after it). Raises WireError when cut, or longer than 64 bits."""
    value = shift = 0
    for index in range(start, min(len(data), start + 10)):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 2**64:
                raise WireError("outside 64 bits", field=field)
            return value, index + 1
        shift += 7
    raise WireError("cut short" if len(data) < start + 10 else "outside 64 bits", field=field)


def encode_frame(frame: Frame) -> bytes:
    """The frame as the payload of one websocket message."""
    if len(frame.data) > MAX_TUNNEL_DATA:
        raise WireError(f"longer than {MAX_TUNNEL_DATA} bytes", field="data")
    return uvarint(frame.connection) + uvarint(frame.type) + frame.data


def decode_frame(payload: bytes) -> Frame:
    """The frame in one websocket message. Raises WireError."""
    connection, index = read_uvarint(payload, 0, field="connection")
    kind, index = read_uvarint(payload, index, field="type")
    if len(payload) - index > MAX_TUNNEL_DATA:
        raise WireError(f"longer than {MAX_TUNNEL_DATA} bytes", field="data")
    return Frame(connection, kind, payload[index:])


def encode_connect(request: ConnectRequest) -> bytes:
    """Data of a *_CONNECT frame."""
    return gojson.dumps(request)


def decode_connect(data: bytes) -> ConnectRequest:
    """The request in a *_CONNECT frame. Raises WireError."""
    return gojson.loads(data, ConnectRequest, field="connect")
