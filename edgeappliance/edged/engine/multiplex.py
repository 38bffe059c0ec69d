"""The frames that carry stdout and stderr on one stream (Engine API, "Stream format"): [kind, 0, 0, 0, length] data.

A stream of a container or exec with a terminal has no frames.
"""

import struct

from edgeappliance.edged.engine.api import EngineAway

STDOUT = 1
STDERR = 2

MAX_FRAME = 1024 * 1024
"""Bytes of a frame that is wanted as a whole: sixty times the engine's longest piece of a line."""

_HEADER = struct.Struct(">BxxxI")
_KINDS = {0: STDOUT, 1: STDOUT, 2: STDERR, 3: STDERR}
"""0 is what an attach writes of stdin; 3 is an error of the engine itself, for a person to read."""


class Demultiplexer:
    """Bytes in, (kind, bytes) out. Frames of one kind that came together leave together; nothing is held back."""

    def __init__(self) -> None:
        self._kind = STDOUT
        self._left = 0
        """Bytes of the present frame that have not come yet."""
        self._header = b""
        """Beginning of a header that was cut."""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """What `data` brings. Raises EngineAway when it is no such stream."""
        out: list[tuple[int, bytes]] = []
        pieces: list[bytes] = []
        kind = self._kind
        if self._header:
            data = self._header + data
            self._header = b""
        position, end = 0, len(data)
        while position < end:
            if self._left == 0:
                if end - position < _HEADER.size:
                    self._header = data[position:]
                    break
                number, self._left = _HEADER.unpack_from(data, position)
                position += _HEADER.size
                if number not in _KINDS or data[position - 7 : position - 4] != b"\0\0\0":
                    raise EngineAway("the Docker Engine's stream is not in frames")
                if _KINDS[number] != kind:
                    if pieces:
                        out.append((kind, b"".join(pieces)))
                        pieces = []
                    kind = _KINDS[number]
            piece = data[position : position + self._left]
            if piece:
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
        if pieces:
            out.append((kind, b"".join(pieces)))
        self._kind = kind
        return out


class StampedFrames:
    """As Demultiplexer, for logs with time stamps: takes those away that stand in the middle of a long line.

    The engine stores a line in pieces of 16 KiB, a frame each, and stamps every piece.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._open = {STDOUT: False, STDERR: False}

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames that `data` completes."""
        out: list[tuple[int, bytes]] = []
        data = self._buffer + data
        position = 0
        while len(data) - position >= _HEADER.size:
            number, length = _HEADER.unpack_from(data, position)
            if number not in _KINDS or length > MAX_FRAME:
                raise EngineAway("the Docker Engine's stream is not in frames")
            begin = position + _HEADER.size
            if len(data) - begin < length:
                break
            position = begin + length
            kind, piece = _KINDS[number], data[begin:position]
            inside, self._open[kind] = self._open[kind], not piece.endswith(b"\n")
            if inside:
                piece = piece.partition(b" ")[2]
            if piece:
                out.append((kind, piece))
        self._buffer = data[position:]
        return out
