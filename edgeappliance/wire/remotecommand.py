"""exec and attach as Kubernetes streams them (KEP-4006 and the `*.channel.k8s.io` protocols): channels, the result on
the error stream, terminal sizes, and which protocol two peers agree on. No I/O.

Over SPDY each channel is a stream with the header `streamtype`; over a WebSocket it is the first byte of a message.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgspec

from edgeappliance.wire.errors import WireError

STREAM_TYPE = "streamtype"
"""SPDY header: error, stdin, stdout, stderr or resize; data or error for port-forward."""

PORT = "port"
REQUEST_ID = "requestid"
"""Headers of the two streams of one forwarded connection."""

PROTOCOL_HEADER = "X-Stream-Protocol-Version"
PORT_FORWARD = "portforward.k8s.io"

SPDY_PROTOCOLS = ("v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
"""Over SPDY, newest first. Since v2 the end of stdin is told, since v3 sizes, since v4 the result is a Status."""

MAX_RESULT = 64 * 1024
MAX_RESIZE = 4096


class Channel(IntEnum):
    """First byte of a WebSocket message."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    ERROR = 3
    RESIZE = 4
    CLOSE = 255
    """v5: the second byte is the channel that ends."""


@dataclass(frozen=True, slots=True)
class WebSocketProtocol:
    """How a WebSocket carries the channels.

    status: the result is a Status, else a text and nothing for success. closes: ends of channels are told.
    """

    name: str
    encoded: bool = False
    """base64: the channel is an ASCII digit, what follows is base64, messages are text."""
    status: bool = False
    closes: bool = False

    def encode(self, channel: int, data: bytes) -> bytes:
        """One message."""
        if self.encoded:
            return b"%d" % channel + base64.b64encode(data)
        return bytes((channel,)) + data

    def decode(self, message: bytes) -> tuple[int, bytes]:
        """Channel and data. Raises WireError."""
        if not message:
            raise WireError("is empty", field="message")
        if not self.encoded:
            return message[0], message[1:]
        try:
            return int(chr(message[0])), base64.b64decode(message[1:], validate=True)
        except (ValueError, binascii.Error) as error:
            raise WireError(f"is no digit with base64: {error}", field="message") from None


WEBSOCKET_PROTOCOLS = (
    WebSocketProtocol("v5.channel.k8s.io", status=True, closes=True),
    WebSocketProtocol("v4.channel.k8s.io", status=True),
    WebSocketProtocol("v4.base64.channel.k8s.io", encoded=True, status=True),
    WebSocketProtocol("channel.k8s.io"),
    WebSocketProtocol("base64.channel.k8s.io", encoded=True),
)


def negotiate(offered: Sequence[str], ours: Iterable[str]) -> str | None:
    """The first of the client's protocols that we speak. "" when it offers none (that is the oldest); None: no way."""
    if not offered:
        return ""
    known = set(ours)
    return next((name for name in offered if name in known), None)


def has_status(protocol: str) -> bool:
    """Whether the result on the error stream is a Status."""
    return protocol.startswith(("v4.", "v5."))


# -- the result ----------------------------------------------------------------------------------------------


class _Cause(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Details(msgspec.Struct):
    causes: list[_Cause] | None = None


class _Status(msgspec.Struct):
    status: str = ""
    message: str = ""
    reason: str = ""
    details: _Details | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended: its exit code (None when it is not known, as after attach), or why it could not run."""

    code: int | None = None
    error: str = ""

    @property
    def succeeded(self) -> bool:
        return not self.error and not self.code


def encode_result(result: Result, *, status: bool) -> bytes:
    """What goes onto the error stream: a Status, or (before v4) a text, nothing for success."""
    text = result.error or (f"command terminated with exit code {result.code}" if result.code else "")
    if not status:
        return text.encode()
    answer: dict[str, Any] = {"metadata": {}, "status": "Success" if result.succeeded else "Failure"}
    if result.error:
        answer |= {
            "message": text,
            "reason": "InternalError",
            "details": {"causes": [{"message": result.error}]},
            "code": 500,
        }
    elif result.code:
        answer |= {
            "message": f"command terminated with non-zero exit code: {text}",
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": str(result.code)}]},
        }
    return msgspec.json.encode(answer)


_EXIT = re.compile(r"command terminated with exit code (\d+)")


def decode_result(data: bytes) -> Result:
    """The result on an error stream, of any protocol version. Never raises: what cannot be read is an error text."""
    if not data:
        return Result(0)
    text = data[:MAX_RESULT].decode("utf-8", "replace")
    try:
        found = msgspec.json.decode(data, type=_Status)
    except (msgspec.MsgspecError, RecursionError):
        match = _EXIT.fullmatch(text)
        return Result(int(match[1][:9])) if match else Result(error=text)
    if found.status == "Success":
        return Result(0)
    if found.reason == "NonZeroExitCode" and found.details is not None:
        for cause in found.details.causes or []:
            if cause.reason == "ExitCode" and cause.message.isascii() and cause.message.isdigit():
                return Result(int(cause.message[:9]))
    return Result(error=found.message or text)


# -- terminal sizes ------------------------------------------------------------------------------------------


class _Size(msgspec.Struct):
    """uint16 each, as remotecommand.TerminalSize."""

    Width: int = 0
    Height: int = 0


def encode_size(width: int, height: int) -> bytes:
    """One size, as it goes onto the resize stream."""
    return msgspec.json.encode(_Size(width, height)) + b"\n"


class SizeReader:
    """Reads sizes from a stream that may cut and join them anywhere. What is no size is skipped."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[tuple[int, int]]:
        """(width, height) of each size that is now complete; only those between 1 and 65535."""
        *whole, self._rest = (self._rest + data).split(b"}")
        if len(self._rest) > MAX_RESIZE:
            self._rest = b""
        sizes = []
        for text in whole:
            try:
                size = msgspec.json.decode(text[-MAX_RESIZE:].strip() + b"}", type=_Size)
            except (msgspec.MsgspecError, RecursionError):
                continue
            if 0 < size.Width < 65536 and 0 < size.Height < 65536:
                sizes.append((size.Width, size.Height))
        return sizes
