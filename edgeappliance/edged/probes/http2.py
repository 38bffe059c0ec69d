"""Just enough HTTP/2 to ask one question of a gRPC server. Sans-I/O (RFC 9113, RFC 7541).

One stream, sent whole at once; the answer's DATA and, of its header blocks, the fields. The size of HPACK's dynamic
table is declared 0, which spares keeping one; Huffman codes must be read all the same.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME = 16384
"""The largest frame that a peer may send us: we never raise the default."""

MAX_ANSWER = 64 * 1024

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _CONTINUATION = 0, 1, 3, 4, 6, 7, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 1, 1, 4, 8, 32
_HEADER_TABLE_SIZE, _ENABLE_PUSH = 1, 2

_STATUS = {8: "200", 9: "204", 10: "206", 11: "304", 12: "400", 13: "404", 14: "500"}
"""Of HPACK's static table what is told apart here: `:status` with its values (RFC 7541, appendix A)."""

# Bit lengths of the Huffman codes of the 256 octets (RFC 7541, appendix B), run-length coded as (length, how many).
# The code is canonical: the codes of one length are consecutive in the order of the octets, after the shorter ones.
_LENGTHS = (
    "13 23 28*7 24 30 28*2 30 28*8 30 28*9 6 10*2 12 13 6 8 11 10*2 8 11 8 6*3 5*3 6*7 7 8 15 6 12 10 13 6 7*22 8 7"
    " 8 13 19 13 14 6 15 5 6 5 6 5 6*3 5 7*2 6*3 5 6 7 6 5*2 6 7*5 15 11 14 13 28 20 22 20*2 22*3 23 22 23*5 24 23"
    " 24*2 22 23 24 23*4 21 22 23 22 23*2 24 22 21 20 22*2 23*2 21 23 22*2 24 21 22 23*2 21*2 22 21 23 22 23*2 20"
    " 22*3 23 22*2 23 26*2 20 19 22 23 22 25 26*3 27*2 26 24 25 19 21 26 27*2 26 27 24 21*2 26*2 28 27*3 20 24 20 21"
    " 22 21*2 23 22*2 25*2 24*2 26 23 26 27 26*2 27*5 28 27*5 26"
)


class Http2Error(Exception):
    """The peer does not speak HTTP/2 as it must."""


@dataclass(slots=True)
class Answer:
    """What came back: fields of the header blocks, the trailers among them, and the body."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False


def request(headers: list[tuple[str, str]], body: bytes) -> bytes:
    """Everything that the client sends at first: preface, settings, one whole request on stream 1."""
    block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers)
    settings = struct.pack("!HIHI", _HEADER_TABLE_SIZE, 0, _ENABLE_PUSH, 0)
    return (
        PREFACE
        + _frame(_SETTINGS, 0, 0, settings)
        + _frame(_HEADERS, _END_HEADERS, 1, block)
        + _frame(_DATA, _END_STREAM, 1, body)
    )


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def _text(value: str) -> bytes:
    raw = value.encode("latin-1", "replace")
    return _integer(len(raw), 7) + raw


def _integer(value: int, bits: int) -> bytes:
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([value])
    value -= limit
    out = bytearray([limit])
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """Reads the peer's frames. `answer` grows with `receive`; `take` gives what must be sent back."""

    def __init__(self) -> None:
        self.answer = Answer()
        self._buffer = bytearray()
        self._block = bytearray()
        self._block_ends = False
        self._out = bytearray()
        self._got = 0

    def receive(self, data: bytes) -> None:
        """More bytes. Raises Http2Error."""
        self._got += len(data)
        if self._got > MAX_ANSWER:
            raise Http2Error(f"an answer of more than {MAX_ANSWER} bytes")
        self._buffer += data
        while len(self._buffer) >= 9 and not self.answer.ended:
            length = int.from_bytes(self._buffer[:3], "big")
            if length > MAX_FRAME:
                raise Http2Error(f"a frame of {length} bytes")
            if len(self._buffer) < 9 + length:
                return
            kind, flags, stream = struct.unpack_from("!BBI", self._buffer, 3)
            payload = bytes(self._buffer[9 : 9 + length])
            del self._buffer[: 9 + length]
            self._take_frame(kind, flags, stream & 0x7FFFFFFF, payload)

    def take(self) -> bytes:
        """Bytes to send: acknowledgements of settings and pings."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def _take_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._out += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._out += _frame(_PING, _ACK, 0, payload)
        elif kind == _GOAWAY:
            raise Http2Error(f"the server closed the connection (code {int.from_bytes(payload[4:8], 'big')})")
        elif stream == 1:
            self._take_stream_frame(kind, flags, payload)

    def _take_stream_frame(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _RST_STREAM:
            raise Http2Error(f"the server reset the stream (code {int.from_bytes(payload[:4], 'big')})")
        if kind == _DATA:
            self.answer.body += _unpadded(payload, flags)
            self.answer.ended = bool(flags & _END_STREAM)
        elif kind == _HEADERS:
            payload = _unpadded(payload, flags)
            self._block[:] = payload[5:] if flags & _PRIORITY else payload
            self._block_ends = bool(flags & _END_STREAM)
        elif kind == _CONTINUATION:
            self._block += payload
        if kind in (_HEADERS, _CONTINUATION) and flags & _END_HEADERS:
            self.answer.headers.update(read_block(bytes(self._block)))
            self.answer.ended = self._block_ends


def _unpadded(payload: bytes, flags: int) -> bytes:
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Http2Error("padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def read_block(block: bytes) -> Iterator[tuple[str, str]]:
    """Name and value of each field of an HPACK block; of the static table's names only `:status`. Raises Http2Error."""
    at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80:  # indexed
            index, at = _read_integer(block, at, 7)
            if index in _STATUS:
                yield ":status", _STATUS[index]
            continue
        if first & 0xE0 == 0x20:  # a new size of the dynamic table
            _, at = _read_integer(block, at, 5)
            continue
        index, at = _read_integer(block, at, 6 if first & 0x40 else 4)
        name = ":status" if index in _STATUS else f"#{index}"
        if index == 0:
            name, at = _read_text(block, at)
        value, at = _read_text(block, at)
        yield name, value


def _read_integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    limit = (1 << bits) - 1
    value, shift = block[at] & limit, 0
    at += 1
    if value < limit:
        return value, at
    while at < len(block) and shift <= 28:
        octet = block[at]
        at += 1
        value += (octet & 127) << shift
        shift += 7
        if octet < 128:
            return value, at
    raise Http2Error("a broken number in a header block")


def _read_text(block: bytes, at: int) -> tuple[str, int]:
    if at >= len(block):
        raise Http2Error("a header block that ends early")
    coded = block[at] & 0x80
    length, at = _read_integer(block, at, 7)
    raw = block[at : at + length]
    if len(raw) < length:
        raise Http2Error("a header block that ends early")
    text = _unhuffman(raw) if coded else raw
    return text.decode("latin-1"), at + length


def _unhuffman(raw: bytes) -> bytes:
    codes = _codes()
    out = bytearray()
    code, length = 0, 0
    for octet in raw:
        for bit in range(7, -1, -1):
            code, length = code << 1 | octet >> bit & 1, length + 1
            found = codes.get((length, code))
            if found is not None:
                out.append(found)
                code, length = 0, 0
            elif length >= 30:
                raise Http2Error("a broken Huffman code in a header block")
    return bytes(out)


def _codes() -> dict[tuple[int, int], int]:
    """(bits, code) -> octet. Made for each answer: probes by gRPC are rare, and it takes a tenth of a millisecond."""
    lengths: list[int] = []
    for item in _LENGTHS.split():
        bits, _, times = item.partition("*")
        lengths += [int(bits)] * int(times or 1)
    made: dict[tuple[int, int], int] = {}
    code, width = 0, 0
    for length, octet in sorted(zip(lengths, range(256), strict=True)):
        code <<= length - width
        width = length
        made[length, code] = octet
        code += 1
    return made
