"""One set-point on its way into a device: what stands there is read when it must be, written, read back. Pure."""

from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from edgeappliance.mappers.codec import DecodeError, EncodeError, Raw
from edgeappliance.mappers.points import Point


def check_set_point(point: Point, text: str) -> None:
    """Raise EncodeError when `text` cannot be written to `point`, before anything is sent."""
    if not point.writable:
        raise EncodeError("the property is read only")
    if point.codec.raw not in (Raw.TEXT, Raw.BYTES) and (point.minimum, point.maximum) != (None, None):
        try:
            number = Decimal(text)
        except InvalidOperation:
            number = Decimal(0)  # encode() says what is wrong with it
        if number.is_nan():
            raise EncodeError(f"{text!r} is not a number")
        if point.minimum is not None and number < point.minimum:
            raise EncodeError(f"out of range: {text} is below the minimum {point.minimum}")
        if point.maximum is not None and number > point.maximum:
            raise EncodeError(f"out of range: {text} is above the maximum {point.maximum}")
    point.codec.encode(text, bytes(point.codec.size))


@dataclass(slots=True)
class SetPointWrite:
    """`step` names what is being done, for the reason of a failure."""

    point: Point
    text: str
    step: str = field(default="write", init=False)
    arrived: bool = field(default=False, init=False)
    _data: bytes = field(default=b"", init=False)

    def __post_init__(self) -> None:
        if self.point.codec.partial:
            self.step = "read before write"
        else:
            self._data = self.point.codec.encode(self.text)

    def data(self) -> bytes | None:
        """What this step writes; None when it reads."""
        return self._data if self.step == "write" else None

    def advance(self, answer: bytes) -> bool:
        """Take the answer of a step; True when that was the last one. Raises EncodeError."""
        if self.step == "read before write":
            self._data = self.point.codec.encode(self.text, answer)
            self.step = "write"
            return False
        if self.step == "write":
            self.step = "read back"
            return False
        self.arrived = answer == self._data or self._reads_the_same(answer)
        return True

    def _reads_the_same(self, answer: bytes) -> bool:
        """The rest of a shared register, or the padding of a text, may have changed meanwhile."""
        try:
            return self.point.codec.decode(answer) == self.point.codec.decode(self._data)
        except DecodeError:
            return False
