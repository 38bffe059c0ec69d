"""A Modbus slave as a function: request PDU in, response PDU out (Modbus Application Protocol V1.1b3). No I/O."""

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

ILLEGAL_FUNCTION = 1
ILLEGAL_ADDRESS = 2
ILLEGAL_VALUE = 3
DEVICE_FAILURE = 4


class Table(StrEnum):
    """The four tables of a slave, named as in a visitor's ``register`` key (KubeEdge reference 7.5)."""

    COIL = "CoilRegister"
    DISCRETE = "DiscreteInputRegister"
    HOLDING = "HoldingRegister"
    INPUT = "InputRegister"


@dataclass(frozen=True, slots=True)
class Written:
    """A write that the slave accepted. `values` are register words, or 0 and 1 for coils."""

    unit: int
    table: Table
    address: int
    values: tuple[int, ...]


class _Refused(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


Refresh: TypeAlias = Callable[["Unit"], None]


@dataclass(slots=True)
class Unit:
    """One slave: its tables as address -> value; what is not in a table answers with an illegal address.

    `refresh` is called before each read and may change the tables; `on_write` sees every accepted write.
    """

    number: int
    tables: dict[Table, dict[int, int]] = field(default_factory=lambda: {table: {} for table in Table})
    refresh: Refresh | None = None
    on_write: Callable[[Written], None] | None = None

    def fill(self, table: Table, start: int, values: Iterable[int]) -> None:
        """Set consecutive addresses from `start`."""
        for address, value in enumerate(values, start):
            self.tables[table][address] = value & 0xFFFF

    def words(self, table: Table, start: int, count: int) -> tuple[int, ...]:
        """The values of consecutive addresses; KeyError for one that does not exist."""
        return tuple(self.tables[table][address] for address in range(start, start + count))

    def answer(self, request: bytes) -> bytes:
        """The response PDU to a request PDU, an exception response where the request is not possible."""
        function = request[0] if request else 0
        try:
            serve = _FUNCTIONS.get(function)
            if serve is None:
                raise _Refused(ILLEGAL_FUNCTION)
            return bytes([function]) + serve(self, function, request[1:])
        except _Refused as refused:
            return bytes([function | 0x80, refused.code])
        except (struct.error, IndexError):
            return bytes([function | 0x80, ILLEGAL_VALUE])

    def _values(self, table: Table, start: int, count: int) -> tuple[int, ...]:
        if self.refresh is not None:
            self.refresh(self)
        try:
            return self.words(table, start, count)
        except KeyError:
            raise _Refused(ILLEGAL_ADDRESS) from None

    def _store(self, table: Table, start: int, values: tuple[int, ...]) -> None:
        self._values(table, start, len(values))
        self.fill(table, start, values)
        if self.on_write is not None:
            self.on_write(Written(self.number, table, start, values))

    def _read_bits(self, function: int, body: bytes) -> bytes:
        start, count = struct.unpack(">HH", body)
        if not 1 <= count <= 2000:
            raise _Refused(ILLEGAL_VALUE)
        values = self._values(Table.COIL if function == 1 else Table.DISCRETE, start, count)
        packed = sum((value & 1) << index for index, value in enumerate(values))
        size = (count + 7) // 8
        return bytes([size]) + packed.to_bytes(size, "little")

    def _read_words(self, function: int, body: bytes) -> bytes:
        start, count = struct.unpack(">HH", body)
        if not 1 <= count <= 125:
            raise _Refused(ILLEGAL_VALUE)
        values = self._values(Table.HOLDING if function == 3 else Table.INPUT, start, count)
        return struct.pack(f">B{count}H", 2 * count, *values)

    def _write_coil(self, _function: int, body: bytes) -> bytes:
        address, value = struct.unpack(">HH", body)
        if value not in (0, 0xFF00):
            raise _Refused(ILLEGAL_VALUE)
        self._store(Table.COIL, address, (int(value != 0),))
        return body

    def _write_word(self, _function: int, body: bytes) -> bytes:
        address, value = struct.unpack(">HH", body)
        self._store(Table.HOLDING, address, (value,))
        return body

    def _write_coils(self, _function: int, body: bytes) -> bytes:
        start, count, size = struct.unpack(">HHB", body[:5])
        if not 1 <= count <= 1968 or size != (count + 7) // 8 or len(body) != 5 + size:
            raise _Refused(ILLEGAL_VALUE)
        packed = int.from_bytes(body[5:], "little")
        self._store(Table.COIL, start, tuple(packed >> index & 1 for index in range(count)))
        return body[:4]

    def _write_words(self, _function: int, body: bytes) -> bytes:
        start, count, size = struct.unpack(">HHB", body[:5])
        if not 1 <= count <= 123 or size != 2 * count or len(body) != 5 + size:
            raise _Refused(ILLEGAL_VALUE)
        self._store(Table.HOLDING, start, struct.unpack(f">{count}H", body[5:]))
        return body[:4]

    def _mask_word(self, _function: int, body: bytes) -> bytes:
        address, keep, put = struct.unpack(">HHH", body)
        (old,) = self._values(Table.HOLDING, address, 1)
        self._store(Table.HOLDING, address, (old & keep | put & ~keep & 0xFFFF,))
        return body


_FUNCTIONS: dict[int, Callable[[Unit, int, bytes], bytes]] = {
    1: Unit._read_bits,
    2: Unit._read_bits,
    3: Unit._read_words,
    4: Unit._read_words,
    5: Unit._write_coil,
    6: Unit._write_word,
    15: Unit._write_coils,
    16: Unit._write_words,
    22: Unit._mask_word,
}


def request_size(head: bytes) -> int | None:
    """Bytes of the RTU request that starts with `head` (unit and CRC counted); 0: more is needed, None: unknown."""
    if len(head) < 2:
        return 0
    function = head[1]
    if function in (1, 2, 3, 4, 5, 6):
        return 8
    if function == 22:
        return 10
    if function in (15, 16):
        return 9 + head[6] if len(head) > 6 else 0
    return None


def crc16(data: bytes) -> bytes:
    """CRC-16/MODBUS of `data` as it stands on the wire, low byte first (Modbus over Serial Line V1.02, 6.2.2)."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0xA001 if crc & 1 else crc >> 1
    return crc.to_bytes(2, "little")
