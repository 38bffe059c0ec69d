"""RTU frames out of a stream of bytes that may hold noise. No I/O."""

from edgeappliance.mappers.modbus.pdu import crc16

_LONGEST = 256
_BYTE_COUNTED = (1, 2, 3, 4)
_FIXED = {5: 8, 6: 8, 15: 8, 16: 8}


def reply_size(head: bytes) -> int | None:
    """Bytes of the reply frame that begins with `head`; 0 when more must be known, None when it is no reply."""
    if len(head) < 2:
        return 0
    function = head[1]
    if function & 0x80:
        return 5
    if function in _BYTE_COUNTED:
        if len(head) < 3:
            return 0
        return 5 + head[2] if 1 <= head[2] <= _LONGEST - 5 else None
    return _FIXED.get(function)


class ReplyBuffer:
    """Bytes from the line; `take` returns valid frames in order, whoever sent them.

    `unit` and `function` are of the reply that is waited for: only such a frame is looked for behind noise, since
    a check sum of 16 bits alone would let one in 65 536 bits of noise through.
    """

    def __init__(self, unit: int, function: int) -> None:
        self._wanted = (unit, function)
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes)

    def feed(self, data: bytes) -> None:
        """Add what came."""
        self._bytes += data

    def missing(self) -> int:
        """Bytes that the frame at the front still lacks, as far as is known; at least 1."""
        size = reply_size(bytes(self._bytes[:3])) or 0
        return max(1, size - len(self._bytes))

    def take(self, *, final: bool = False) -> tuple[int, bytes] | None:
        """(unit, PDU) of the next frame; None when none is complete. `final`: nothing more will come."""
        buffer = bytes(self._bytes)
        size = reply_size(buffer[:3])
        if size and len(buffer) >= size and _sound(buffer[:size]):
            return self._cut(0, size)
        if buffer and (size == 0 or (size and len(buffer) < size)) and not final:
            return None
        for offset in range(1, len(buffer) - 4):
            if not self._is_wanted(buffer, offset):
                continue
            size = reply_size(buffer[offset : offset + 3])
            if size and len(buffer) >= offset + size and _sound(buffer[offset : offset + size]):
                return self._cut(offset, size)
        return None

    def _is_wanted(self, buffer: bytes, offset: int) -> bool:
        unit, function = self._wanted
        return buffer[offset] == unit and buffer[offset + 1] & 0x7F == function

    def _cut(self, offset: int, size: int) -> tuple[int, bytes]:
        frame = bytes(self._bytes[offset : offset + size])
        del self._bytes[: offset + size]
        return frame[0], frame[1:-2]


def _sound(frame: bytes) -> bool:
    return crc16(frame[:-2]) == frame[-2:]
