"""Raw bytes of a device to the text of a twin and back. Total: any bytes give a value or a DecodeError."""

import base64
import binascii
import math
import struct
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from enum import StrEnum


class DecodeError(ValueError):
    """Bytes that are no value of this kind."""


class EncodeError(ValueError):
    """A text that cannot be written to this property."""


class Raw(StrEnum):
    """How the device stores the value."""

    UINT = "uint"
    INT = "int"
    FLOAT = "float"
    TEXT = "text"
    BYTES = "bytes"


class Shown(StrEnum):
    """How the twin shows it (the type words of KubeEdge reference 4.5)."""

    INT = "int"
    FLOAT = "float"
    BOOLEAN = "boolean"
    STRING = "string"


# Holds every product of a 64-bit integer or a double and a 17-digit scale without rounding.
_DIGITS = 60
_INT64 = 1 << 63
_EXACT = Context(prec=_DIGITS)
_SINGLE_BYTE = ("utf-8", "ascii", "iso8859-1", "cp1252")
"""Encodings (as codecs.lookup names them) in which a zero byte ends a text."""


@dataclass(frozen=True, slots=True)
class Codec:
    """One value in `size` bytes.

    `swap_words` reverses the order of the 16-bit words, `swap_bytes` the two bytes of each: together they give
    ABCD (neither), CDAB (words), BADC (bytes) and DCBA (both) for 16, 32 and 64 bits.
    `bit` and `bit_count` cut a field out of an integer, bit 0 being its lowest.
    shown = raw * scale + offset, rounded to `precision` decimals when that is given.
    `packed` is for bits that stand one in a byte (coils); they are bit 0 first.
    """

    raw: Raw
    shown: Shown
    size: int
    swap_words: bool = False
    swap_bytes: bool = False
    bit: int | None = None
    bit_count: int = 1
    scale: Decimal = Decimal(1)
    offset: Decimal = Decimal(0)
    precision: int | None = None
    encoding: str = "utf-8"
    packed: bool = False

    def decode(self, data: bytes) -> str:
        """The twin's text. Raises DecodeError."""
        if len(data) != self.size:
            raise DecodeError(f"{len(data)} bytes in place of {self.size}")
        ordered = self._order(data)
        if self.raw is Raw.TEXT:
            return self._decode_text(ordered)
        if self.raw is Raw.BYTES:
            return base64.b64encode(ordered).decode()
        if self.raw is Raw.FLOAT:
            number = _decimal_of_float(ordered)
        else:
            number = Decimal(self._integer(ordered))
        if self.shown is Shown.BOOLEAN:
            return "true" if number else "false"
        return self._show(number)

    def encode(self, text: str, before: bytes | None = None) -> bytes:
        """The bytes to write for a twin's text. `before` is what stands there, needed when `partial`.

        Raises EncodeError with what is wrong.
        """
        if self.raw is Raw.TEXT:
            return self._order(self._encode_text(text))
        if self.raw is Raw.BYTES:
            return self._order(self._encode_bytes(text))
        number = self._unshow(text)
        if self.raw is Raw.FLOAT:
            return self._order(_pack_float(number, self.size))
        integer = int(number.to_integral_value(ROUND_HALF_EVEN))
        if self.bit is not None:
            integer = self._merge_bits(integer, before)
        bits = self.size if self.packed else 8 * self.size
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if self.raw is Raw.INT else (0, (1 << bits) - 1)
        if not low <= integer <= high:
            raise EncodeError(f"{text} needs {integer} in the register, which holds {low} to {high}")
        if self.packed:
            return bytes(integer >> index & 1 for index in range(self.size))
        return self._order(integer.to_bytes(self.size, "big", signed=self.raw is Raw.INT))

    @property
    def partial(self) -> bool:
        """Writing needs the bits around the field."""
        return self.bit is not None

    def _order(self, data: bytes) -> bytes:
        """To and from big-endian; each swap undoes itself."""
        if self.swap_words:
            data = b"".join(data[index : index + 2] for index in range(len(data) - 2, -1, -2))
        if self.swap_bytes:
            swapped = bytearray(data)
            swapped[0::2], swapped[1::2] = data[1::2], data[0::2]
            data = bytes(swapped)
        return data

    def _integer(self, data: bytes) -> int:
        if self.packed:
            return sum((value & 1) << index for index, value in enumerate(data))
        integer = int.from_bytes(data, "big", signed=self.raw is Raw.INT and self.bit is None)
        if self.bit is not None:
            integer = integer >> self.bit & (1 << self.bit_count) - 1
            if self.raw is Raw.INT and integer >> self.bit_count - 1:
                integer -= 1 << self.bit_count
        return integer

    def _merge_bits(self, field: int, before: bytes | None) -> int:
        assert self.bit is not None  # noqa: S101 - the caller asked
        low, high = (0, (1 << self.bit_count) - 1)
        if self.raw is Raw.INT:
            low, high = -(1 << self.bit_count - 1), (1 << self.bit_count - 1) - 1
        if not low <= field <= high:
            raise EncodeError(f"{field} does not fit {self.bit_count} bits ({low} to {high})")
        if before is None or len(before) != self.size:
            raise EncodeError("the bits around it are not known")
        mask = (1 << self.bit_count) - 1
        whole = int.from_bytes(self._order(before), "big")
        whole = whole & ~(mask << self.bit) | (field & mask) << self.bit
        if self.raw is Raw.INT and whole >> 8 * self.size - 1:
            whole -= 1 << 8 * self.size
        return whole

    def _show(self, number: Decimal) -> str:
        shown = _EXACT.add(_EXACT.multiply(number, self.scale), self.offset)
        if self.shown is Shown.INT:
            # Truncated, as KubeEdge's mapper does (KubeEdge reference 7.5).
            whole = int(shown.to_integral_value(ROUND_DOWN))
            if not -_INT64 <= whole < _INT64:
                # The twin would refuse it, and with it every value that came in the same message.
                raise DecodeError(f"{whole} does not fit a 64-bit int; use type DOUBLE or STRING")
            return str(whole)
        if self.precision is not None and shown.adjusted() < _DIGITS - self.precision - 2:
            shown = _EXACT.quantize(shown, Decimal(1).scaleb(-self.precision))
        text = f"{shown:f}"
        if "." in text:
            text = text.rstrip("0").rstrip(".")
        if not math.isfinite(float(shown)):
            raise DecodeError(f"{shown:.3e} is beyond the numbers of a twin")
        return "0" if text == "-0" else text

    def _unshow(self, text: str) -> Decimal:
        if self.shown is Shown.BOOLEAN:
            if text not in ("true", "false"):
                raise EncodeError(f"{text!r} is neither true nor false")
            return Decimal(text == "true")
        try:
            number = Decimal(text)
        except InvalidOperation:
            raise EncodeError(f"{text!r} is not a number") from None
        # An exponent of a million would make the arithmetic below take all memory there is.
        if not number.is_finite() or number.adjusted() > 400:
            raise EncodeError(f"{text!r} is not a number that can be written")
        if self.shown is Shown.INT and number != number.to_integral_value():
            raise EncodeError(f"{text!r} is not a whole number")
        return _EXACT.divide(_EXACT.subtract(number, self.offset), self.scale)

    def _decode_text(self, data: bytes) -> str:
        # Devices pad with zeros or blanks; what follows the first zero is left over from a longer text.
        body = data.split(b"\0", 1)[0] if self.encoding in _SINGLE_BYTE else data
        try:
            text = body.decode(self.encoding).rstrip("\0 ")
            text.encode()  # some encodings let half a surrogate pair through
        except UnicodeDecodeError as error:
            raise DecodeError(f"not {self.encoding} text: {error.reason} at byte {error.start}") from None
        except UnicodeError as error:
            raise DecodeError(f"not {self.encoding} text: {error}") from None
        return text

    def _encode_text(self, text: str) -> bytes:
        try:
            body = text.encode(self.encoding)
        except UnicodeError:
            raise EncodeError(f"{text!r} has characters that {self.encoding} does not know") from None
        if len(body) > self.size:
            raise EncodeError(f"{len(body)} bytes do not fit {self.size}")
        return body.ljust(self.size, b"\0")

    def _encode_bytes(self, text: str) -> bytes:
        try:
            body = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise EncodeError("not base64") from None
        if len(body) != self.size:
            raise EncodeError(f"{len(body)} bytes in place of {self.size}")
        return body


def _decimal_of_float(data: bytes) -> Decimal:
    """The shortest decimal number that is this float32 or float64. Raises DecodeError for NaN and infinity."""
    form = ">f" if len(data) == 4 else ">d"
    (number,) = struct.unpack(form, data)
    if not math.isfinite(number):
        raise DecodeError(f"the device reports {number}")
    if form == ">d":
        return Decimal(repr(number))
    for digits in range(6, 9):
        text = f"{number:.{digits}g}"
        try:
            if struct.pack(form, float(text)) == data:
                return Decimal(text)
        except OverflowError:
            continue  # rounded up beyond the largest float32
    return Decimal(f"{number:.9g}")


def _pack_float(number: Decimal, size: int) -> bytes:
    try:
        packed = struct.pack(">f" if size == 4 else ">d", float(number))
    except OverflowError:
        packed = b""
    if not packed or not math.isfinite(struct.unpack(">f" if size == 4 else ">d", packed)[0]):
        raise EncodeError(f"{number} is too large for a {8 * size}-bit float")
    return packed
