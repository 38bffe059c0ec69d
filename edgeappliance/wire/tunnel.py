"""Frames of the stream tunnel (reference 9.4, F11): uvarint connection, uvarint type, data."""

import re
from collections.abc import Mapping
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
    PORTFORWARD_CONNECT = 7
    """As EXEC_CONNECT. Ours only."""
    CREDIT = 8
    """Both ways: so many more bytes of DATA, as uvarint, may be sent on this connection. Ours only."""
    ANSWER = 9
    """Edge to cloud, before any DATA of logs and metrics: the head of the kubelet's answer. Ours only."""


CONNECTS = frozenset(
    {
        FrameType.LOGS_CONNECT,
        FrameType.EXEC_CONNECT,
        FrameType.METRIC_CONNECT,
        FrameType.ATTACH_CONNECT,
        FrameType.PORTFORWARD_CONNECT,
    }
)
"""Types that open a connection."""

RAW = frozenset({FrameType.EXEC_CONNECT, FrameType.ATTACH_CONNECT, FrameType.PORTFORWARD_CONNECT})
"""Those whose DATA is the raw stream of an upgraded HTTP connection, the kubelet's head included."""

KUBELET_PATHS: Mapping[FrameType, re.Pattern[str]] = {
    FrameType.LOGS_CONNECT: re.compile(r"/containerLogs/[^/]+/[^/]+/[^/]+"),
    FrameType.EXEC_CONNECT: re.compile(r"/exec/[^/]+/[^/]+(/[^/]+)?/[^/]+"),
    FrameType.ATTACH_CONNECT: re.compile(r"/attach/[^/]+/[^/]+(/[^/]+)?/[^/]+"),
    FrameType.PORTFORWARD_CONNECT: re.compile(r"/portForward/[^/]+/[^/]+(/[^/]+)?"),
    FrameType.METRIC_CONNECT: re.compile(
        r"/(stats(/[^/]+)*|metrics(/(cadvisor|probes|resource))?|pods|runningpods/?|healthz(/[^/]+)*)"
    ),
}
"""The kubelet's paths that each connect is for (reference 9.4, and the kubelet's own)."""

WINDOW = 512 * 1024
"""Bytes of DATA that may be sent on a new connection between our peers before there is CREDIT for more."""

CONNECT_PATH = "/v1/kubeedge/connect"
NODE_HEADER = "SessionHostNameOverride"
ADDRESS_HEADER = "SessionInternalIP"
OURS_HEADER = "Edge-Appliance"
"""Header by which our two programs know each other in the upgrade, value "1" both ways; KubeEdge's ignore it."""

KUBELET_HOST = "127.0.0.1:10350"
"""Host of the URL in a *_CONNECT frame, which the edge does not look at."""


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


def path_kind(path: str) -> FrameType | None:
    """The connect that a path of the kubelet, decoded, is asked for with; None for one that is not served."""
    if any(part in (".", "..") for part in path.split("/")):
        return None
    return next((kind for kind, pattern in KUBELET_PATHS.items() if pattern.fullmatch(path)), None)


class Answer(msgspec.Struct, omit_defaults=True):
    """Data of an ANSWER frame."""

    status: int
    contentType: str = ""


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


def encode_answer(answer: Answer) -> bytes:
    """Data of an ANSWER frame."""
    return gojson.dumps(answer)


def decode_answer(data: bytes) -> Answer:
    """The answer in an ANSWER frame. Raises WireError."""
    answer = gojson.loads(data, Answer, field="answer")
    if not 200 <= answer.status <= 599:
        raise WireError(f"{answer.status} is no HTTP status of an answer", field="answer.status")
    return answer


def decode_credit(data: bytes) -> int:
    """Bytes given by a CREDIT frame. Raises WireError."""
    value, index = read_uvarint(data, 0, field="credit")
    if index != len(data) or not 0 < value <= WINDOW:
        raise WireError(f"not 1 to {WINDOW} bytes", field="credit")
    return value
