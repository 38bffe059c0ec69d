"""Requests and replies as bytes. The only module that knows pymodbus, so that its renames end here.

pymodbus encodes the requests and names the exceptions. Replies are judged here: pymodbus accepts one with fewer
registers than asked for, and one that answers an earlier request.
"""

from dataclasses import dataclass

from pymodbus.constants import ExcCodes
from pymodbus.framer import FramerRTU
from pymodbus.pdu.bit_message import (
    ReadCoilsRequest,
    ReadDiscreteInputsRequest,
    WriteMultipleCoilsRequest,
    WriteSingleCoilRequest,
)
from pymodbus.pdu.pdu import ModbusPDU
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadInputRegistersRequest,
    WriteMultipleRegistersRequest,
    WriteSingleRegisterRequest,
)

from edgeappliance.mappers.driver import DriverError, NoAnswer, Refused
from edgeappliance.mappers.modbus.spaces import Space

_READS: dict[Space, type[ModbusPDU]] = {
    Space.COIL: ReadCoilsRequest,
    Space.DISCRETE: ReadDiscreteInputsRequest,
    Space.HOLDING: ReadHoldingRegistersRequest,
    Space.INPUT: ReadInputRegistersRequest,
}
_EXCEPTION_WORDS: dict[int, str] = {
    ExcCodes.ILLEGAL_FUNCTION: "illegal function",
    ExcCodes.ILLEGAL_ADDRESS: "illegal data address",
    ExcCodes.ILLEGAL_VALUE: "illegal data value",
    ExcCodes.DEVICE_FAILURE: "device failure",
    ExcCodes.ACKNOWLEDGE: "acknowledged, not done yet",
    ExcCodes.DEVICE_BUSY: "device busy",
    ExcCodes.NEGATIVE_ACKNOWLEDGE: "negative acknowledge",
    ExcCodes.MEMORY_PARITY_ERROR: "memory parity error",
    ExcCodes.GATEWAY_PATH_UNAVIABLE: "gateway path unavailable",
    ExcCodes.GATEWAY_NO_RESPONSE: "gateway target does not respond",
}
_SMALLER_MAY_DO = (ExcCodes.ILLEGAL_ADDRESS, ExcCodes.ILLEGAL_VALUE)
_FIXED_REPLY = 5
"""Function, address and value or count: what a write is confirmed with."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request PDU and what its reply must look like: `size` bytes, beginning with `head`."""

    pdu: bytes
    size: int
    head: bytes
    bits: int = 0

    @property
    def function(self) -> int:
        """Function code."""
        return self.pdu[0]

    def confusable(self, other: "Request") -> bool:
        """A proper reply to `other` could be taken for one to this."""
        return (self.head, self.size) == (other.head, other.size)

    def answered_by(self, reply: bytes) -> bool:
        """`reply` has the form of an answer with data."""
        return len(reply) == self.size and reply.startswith(self.head)

    def data(self, reply: bytes) -> bytes:
        """What was read: two bytes per register, one (0 or 1) per coil."""
        if self.bits:
            packed = int.from_bytes(reply[2:], "little")
            return bytes(packed >> index & 1 for index in range(self.bits))
        return reply[2:]


def read_request(space: Space, start: int, count: int) -> Request:
    """Read `count` coils or registers."""
    kind = _READS[space]
    message = kind(address=start, count=count)
    size = (count + 7) // 8 if space.is_bits else 2 * count
    head = bytes([message.function_code, size])
    return Request(_encoded(message), 2 + size, head, bits=count if space.is_bits else 0)


def write_request(space: Space, start: int, data: bytes, *, multiple: bool) -> Request:
    """Write coils (a byte 0 or 1 each) or registers; `multiple` uses functions 15 and 16 for a single one too."""
    message: ModbusPDU
    if space is Space.COIL:
        bits = [bool(value) for value in data]
        if len(bits) == 1 and not multiple:
            message = WriteSingleCoilRequest(address=start, bits=bits)
        else:
            message = WriteMultipleCoilsRequest(address=start, bits=bits)
    elif space is Space.HOLDING:
        words = [int.from_bytes(data[index : index + 2], "big") for index in range(0, len(data), 2)]
        if len(words) == 1 and not multiple:
            message = WriteSingleRegisterRequest(address=start, registers=words)
        else:
            message = WriteMultipleRegistersRequest(address=start, registers=words)
    else:
        raise Refused(f"a {space} cannot be written")
    pdu = _encoded(message)
    return Request(pdu, _FIXED_REPLY, pdu[:_FIXED_REPLY])


def exception_of(reply: bytes) -> int | None:
    """The code of an exception reply, None when it is none."""
    return reply[1] if len(reply) == 2 and reply[0] & 0x80 else None


def refusal(code: int) -> DriverError:
    """The error for an exception code, in words. Those of a gateway are about a unit that is not there."""
    words = _EXCEPTION_WORDS.get(code, "unknown")
    if code in (ExcCodes.GATEWAY_PATH_UNAVIABLE, ExcCodes.GATEWAY_NO_RESPONSE):
        return NoAnswer(f"exception {code}: {words}")
    return Refused(
        f"exception {code}: {words}",
        splits=code in _SMALLER_MAY_DO,
        lasting=code == ExcCodes.ILLEGAL_FUNCTION,
        busy=code in (ExcCodes.ACKNOWLEDGE, ExcCodes.DEVICE_BUSY),
    )


def crc16(data: bytes) -> bytes:
    """CRC-16/MODBUS as it stands on the wire."""
    return FramerRTU.compute_CRC(data).to_bytes(2, "big")


def _encoded(message: ModbusPDU) -> bytes:
    return bytes([message.function_code]) + message.encode()
