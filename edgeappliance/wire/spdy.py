"""SPDY/3.1 as Kubernetes speaks it for exec, attach and port-forward: frames in, events out. No I/O.

Source: draft-mbelshe-httpbis-spdy-00, sections 2.2 to 2.6. Kubernetes' peers send no WINDOW_UPDATE and expect no
windows; so a window is neither counted nor given, and back-pressure is the connection's own.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from edgeappliance.wire.errors import WireError

MAX_CONTROL = 64 * 1024
"""Bytes of one control frame; a header block of exec has about 100."""

MAX_HEADERS = 64 * 1024
"""Bytes of one header block when unpacked."""

MAX_PAIRS = 256
MAX_STREAMS = 4096
"""Streams open at a time; a port-forward has two for each of its connections."""

MAX_DATA = 64 * 1024
"""Bytes of one data frame of ours. The peer's may be longer: they are handed on in parts as they arrive."""

_VERSION = 3
_MAX_ID = 2**31 - 1


class SpdyError(WireError):
    """The peer broke the protocol: the connection cannot go on."""


class FrameKind(IntEnum):
    """Control frames."""

    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class ResetCode(IntEnum):
    """Status of RST_STREAM (2.6.3)."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    UNSUPPORTED_VERSION = 4
    CANCEL = 5
    INTERNAL_ERROR = 6
    FLOW_CONTROL_ERROR = 7
    STREAM_IN_USE = 8
    STREAM_ALREADY_CLOSED = 9


@dataclass(frozen=True, slots=True)
class Opened:
    """The peer opened a stream. Header names are in lower case; several values of one are joined by NUL."""

    id: int
    headers: Mapping[str, str]
    fin: bool


@dataclass(frozen=True, slots=True)
class Replied:
    """The peer accepted a stream of ours."""

    id: int
    headers: Mapping[str, str]
    fin: bool


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream, perhaps none; `fin`: the peer sends no more."""

    id: int
    data: bytes
    fin: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """The peer ended a stream in both directions."""

    id: int
    code: int


@dataclass(frozen=True, slots=True)
class Ponged:
    """The answer to a ping of ours."""

    id: int


@dataclass(frozen=True, slots=True)
class GoneAway:
    """The peer opens and accepts no more streams."""

    last: int
    status: int


Event = Opened | Replied | Data | Reset | Ponged | GoneAway


class _Half(IntEnum):
    BOTH = 0
    LOCAL_ENDED = 1
    REMOTE_ENDED = 2


_FIN = 0x01
_HEAD = struct.Struct(">HHI")
_U32 = struct.Struct(">I")
_PAIR = struct.Struct(">II")


class SpdyCore:
    """One connection. Feed `receive`, call the verbs, and write what `take` gives.

    client: this side opened the connection; its streams have odd numbers.
    """

    def __init__(self, *, client: bool) -> None:
        self._next = 1 if client else 2
        self._peer_parity = 0 if client else 1
        self._last_peer = 0
        self._pings = 1 if client else 2
        self._streams: dict[int, _Half] = {}
        self._in = bytearray()
        self._out = bytearray()
        self._data_id = 0
        self._data_left = 0
        self._data_fin = False
        self._failed: SpdyError | None = None
        self._unpacker = zlib.decompressobj(zdict=DICTIONARY)
        # A small window keeps the memory of a connection down (zlib: 2^(bits+2) + 2^(level+9) bytes).
        self._packer = zlib.compressobj(level=6, wbits=12, memLevel=5, zdict=DICTIONARY)

    @property
    def pending(self) -> int:
        """Bytes that wait for `take`."""
        return len(self._out)

    @property
    def streams(self) -> int:
        """Streams that are open in some direction."""
        return len(self._streams)

    @property
    def failed(self) -> SpdyError | None:
        """Why nothing more is received."""
        return self._failed

    def alive(self, id: int) -> bool:
        """Whether a stream is open in some direction."""
        return id in self._streams

    def take(self) -> bytes:
        """What must be written now."""
        data = bytes(self._out)
        self._out.clear()
        return data

    # -- sending ------------------------------------------------------------------------------------------

    def open(self, headers: Mapping[str, str], *, fin: bool = False) -> int:
        """Open a stream; its number. Raises SpdyError when too many are open or the numbers are used up."""
        if len(self._streams) >= MAX_STREAMS or self._next > _MAX_ID:
            raise SpdyError(f"{len(self._streams)} streams are open", field="stream")
        id = self._next
        self._next += 2
        self._streams[id] = _Half.LOCAL_ENDED if fin else _Half.BOTH
        self._control(FrameKind.SYN_STREAM, struct.pack(">IIH", id, 0, 0) + self._pack(headers), flags=fin)
        return id

    def reply(self, id: int, headers: Mapping[str, str] | None = None) -> None:
        """Accept a stream of the peer's."""
        if id in self._streams:
            self._control(FrameKind.SYN_REPLY, _U32.pack(id) + self._pack(headers or {}))

    def send(self, id: int, data: bytes, *, fin: bool = False) -> bool:
        """Data of a stream; False when it cannot be sent any more because the stream has ended."""
        if self._streams.get(id, _Half.LOCAL_ENDED) is _Half.LOCAL_ENDED:
            return False
        view = memoryview(data)
        start = 0
        while True:
            part = view[start : start + MAX_DATA]
            start += len(part)
            last = start >= len(view)
            if len(part) or fin:
                self._out += _PAIR.pack(id, (_FIN << 24 if fin and last else 0) | len(part))
                self._out += part
            if last:
                break
        if fin:
            self._end(id, _Half.LOCAL_ENDED)
        return True

    def reset(self, id: int, code: int = ResetCode.CANCEL) -> None:
        """End a stream in both directions. Nothing when it has ended."""
        if self._streams.pop(id, None) is not None:
            self._reset(id, code)

    def ping(self) -> int:
        """Ask for a sign of life; the number that `Ponged` will bear."""
        id = self._pings
        self._pings = self._pings + 2 if self._pings + 2 < 2**32 else 2 - self._pings % 2
        self._control(FrameKind.PING, _U32.pack(id))
        return id

    def goaway(self, status: int = 0) -> None:
        """Say that no more streams are accepted."""
        self._control(FrameKind.GOAWAY, _PAIR.pack(self._last_peer, status))

    # -- receiving ----------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes say. Raises SpdyError when they say nothing before they break the protocol, and whenever it
        is called after that; what came before the breach is given first, and then `failed` is set."""
        if self._failed is not None:
            raise self._failed
        events: list[Event] = []
        self._in += data
        try:
            while self._step(events):
                pass
        except SpdyError as error:
            self._failed = error
            if not events:
                raise
        return events

    def _step(self, events: list[Event]) -> bool:
        """Take one frame, or a part of a data frame. False when more bytes are needed."""
        if self._data_left:
            return self._data(events)
        if len(self._in) < 8:
            return False
        first, word = _PAIR.unpack_from(self._in)
        flags, length = word >> 24, word & 0xFFFFFF
        if not first & 0x80000000:
            del self._in[:8]
            self._data_id, self._data_left, self._data_fin = first, length, bool(flags & _FIN)
            if length == 0:
                self._deliver(b"", events)
            return True
        if length > MAX_CONTROL:
            raise SpdyError(f"{length} bytes; at most {MAX_CONTROL}", field="control frame")
        if len(self._in) < 8 + length:
            return False
        payload = bytes(self._in[8 : 8 + length])
        del self._in[: 8 + length]
        version = first >> 16 & 0x7FFF
        if version != _VERSION:
            raise SpdyError(f"is {version}, not {_VERSION}", field="version")
        self._take_control(first & 0xFFFF, flags, payload, events)
        return True

    def _data(self, events: list[Event]) -> bool:
        if not self._in:
            return False
        part = bytes(self._in[: self._data_left])
        del self._in[: len(part)]
        self._data_left -= len(part)
        self._deliver(part, events)
        return True

    def _deliver(self, part: bytes, events: list[Event]) -> None:
        id, fin = self._data_id, self._data_fin and not self._data_left
        half = self._streams.get(id)
        if half is None:
            return  # reset or refused by us, and the peer did not know yet
        if half is _Half.REMOTE_ENDED:
            self.reset(id, ResetCode.STREAM_ALREADY_CLOSED)
            events.append(Reset(id, ResetCode.STREAM_ALREADY_CLOSED))
            return
        if part or fin:
            events.append(Data(id, part, fin))
        if fin:
            self._end(id, _Half.REMOTE_ENDED)

    def _take_control(self, kind: int, flags: int, payload: bytes, events: list[Event]) -> None:
        if kind == FrameKind.SYN_STREAM:
            self._take_syn(flags, payload, events)
        elif kind == FrameKind.SYN_REPLY:
            id = _word(payload, 0, "SYN_REPLY") & _MAX_ID
            headers = self._unpack(payload[4:])
            if id in self._streams:
                events.append(Replied(id, headers, bool(flags & _FIN)))
                self._ended_by(flags, id)
        elif kind == FrameKind.HEADERS:
            id = _word(payload, 0, "HEADERS") & _MAX_ID
            self._unpack(payload[4:])  # nobody here uses them; the compressor's state must follow
            if id in self._streams and flags & _FIN:
                events.append(Data(id, b"", True))
                self._ended_by(flags, id)
        elif kind == FrameKind.RST_STREAM:
            id, code = _word(payload, 0, "RST_STREAM") & _MAX_ID, _word(payload, 4, "RST_STREAM")
            if self._streams.pop(id, None) is not None:
                events.append(Reset(id, code))
        elif kind == FrameKind.PING:
            self._take_ping(_word(payload, 0, "PING"), events)
        elif kind == FrameKind.GOAWAY:
            events.append(GoneAway(_word(payload, 0, "GOAWAY") & _MAX_ID, _word(payload, 4, "GOAWAY")))
        # SETTINGS, WINDOW_UPDATE and what is unknown say nothing to us (2.2.1: unknown frames are ignored).

    def _take_syn(self, flags: int, payload: bytes, events: list[Event]) -> None:
        id = _word(payload, 0, "SYN_STREAM") & _MAX_ID
        if len(payload) < 10:
            raise SpdyError("cut short", field="SYN_STREAM")
        headers = self._unpack(payload[10:])
        if id % 2 != self._peer_parity or id <= self._last_peer:
            raise SpdyError(f"{id} is not a number that the peer may use now", field="SYN_STREAM")
        self._last_peer = id
        if len(self._streams) >= MAX_STREAMS:
            self._reset(id, ResetCode.REFUSED_STREAM)
            return
        self._streams[id] = _Half.BOTH
        events.append(Opened(id, headers, bool(flags & _FIN)))
        self._ended_by(flags, id)

    def _take_ping(self, id: int, events: list[Event]) -> None:
        if id % 2 != self._peer_parity:
            events.append(Ponged(id))
        elif len(self._out) < MAX_CONTROL:  # a peer that pings and never reads gets no more memory
            self._control(FrameKind.PING, _U32.pack(id))

    def _ended_by(self, flags: int, id: int) -> None:
        if flags & _FIN:
            self._end(id, _Half.REMOTE_ENDED)

    def _end(self, id: int, half: _Half) -> None:
        before = self._streams.get(id)
        if before is _Half.BOTH:
            self._streams[id] = half
        elif before is not None and before is not half:
            del self._streams[id]

    # -- frames -------------------------------------------------------------------------------------------

    def _reset(self, id: int, code: int) -> None:
        self._control(FrameKind.RST_STREAM, _PAIR.pack(id, code))

    def _control(self, kind: FrameKind, payload: bytes, *, flags: int = 0) -> None:
        self._out += _HEAD.pack(0x8000 | _VERSION, kind, int(flags) << 24 | len(payload))
        self._out += payload

    def _pack(self, headers: Mapping[str, str]) -> bytes:
        block = bytearray(_U32.pack(len(headers)))
        for name, value in headers.items():
            for text in (name.lower().encode("latin-1", "replace"), value.encode("utf-8")):
                block += _U32.pack(len(text))
                block += text
        return self._packer.compress(bytes(block)) + self._packer.flush(zlib.Z_SYNC_FLUSH)

    def _unpack(self, packed: bytes) -> dict[str, str]:
        try:
            block = self._unpacker.decompress(packed, MAX_HEADERS)
        except zlib.error as error:
            raise SpdyError(f"cannot be unpacked: {error}", field="headers") from None
        if self._unpacker.eof:
            raise SpdyError("the compressed stream has ended", field="headers")
        if self._unpacker.unconsumed_tail:
            raise SpdyError(f"longer than {MAX_HEADERS} bytes", field="headers")
        count = _word(block, 0, "headers")
        if count > MAX_PAIRS:
            raise SpdyError(f"{count} of them; at most {MAX_PAIRS}", field="headers")
        headers: dict[str, str] = {}
        index = 4
        for _ in range(count):
            name, index = _text(block, index)
            value, index = _text(block, index)
            headers[name.lower()] = value
        if index != len(block):
            raise SpdyError("bytes after the last pair", field="headers")
        return headers


def _word(data: bytes, at: int, field: str) -> int:
    if len(data) < at + 4:
        raise SpdyError("cut short", field=field)
    return int(_U32.unpack_from(data, at)[0])


def _text(block: bytes, index: int) -> tuple[str, int]:
    length = _word(block, index, "headers")
    end = index + 4 + length
    if end > len(block):
        raise SpdyError("cut short", field="headers")
    return block[index + 4 : end].decode("utf-8", "replace"), end


_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)

DICTIONARY = (
    b"".join(_U32.pack(len(word)) + word.replace("_", " ").encode() for word in _WORDS.split()) + _TAIL.encode()
)
"""What header compression starts from (2.6.10.1): words with their lengths, then a text. 1423 bytes."""
