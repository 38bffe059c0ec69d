"""What the engine asks of a protocol: read a block, write a few addresses, say what went wrong."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from edgeappliance.kernel.errors import TransientError

UnitKey: TypeAlias = int | str
"""One device of a line as its protocol addresses it: a Modbus unit id, a Bluetooth address."""


@dataclass(frozen=True, slots=True)
class Block:
    """One read request: `count` addresses of `space` (such as ``HoldingRegister``) from `start`."""

    unit: UnitKey
    space: str
    start: int
    count: int

    @property
    def end(self) -> int:
        """The address after the last one."""
        return self.start + self.count


@dataclass(frozen=True, slots=True)
class SpaceCost:
    """What reading a space costs, in seconds of line time, and how much fits one request.

    `width` bytes come back per address. `max_gap` unwanted addresses may be read to merge two requests (fewer
    when that costs more than a request of its own).
    """

    per_request: float
    per_address: float
    max_count: int
    max_gap: int
    width: int = 2


@dataclass(frozen=True, slots=True)
class UnitProfile:
    """How to treat one unit. Times in seconds; `retries` are for broken answers, silence is never repeated."""

    timeout: float
    retries: int
    probe_interval: float
    spaces: Mapping[str, SpaceCost]


class DriverError(TransientError):
    """A request that gave no value; the text is for the operator."""


class NoAnswer(DriverError):
    """The unit stayed silent for its time-out."""


class BadAnswer(DriverError):
    """Something came, but not a valid answer to this request (check sum, length, another unit)."""


class Refused(DriverError):
    """The unit answered that it will not do this; it is alive.

    `splits`: a smaller request may do (an address of the block does not exist, too many at once).
    `lasting`: asking again soon is pointless; `busy`: asking again soon is the right thing.
    """

    def __init__(self, text: str, *, splits: bool = False, lasting: bool = False, busy: bool = False) -> None:
        super().__init__(text)
        self.splits = splits
        self.lasting = lasting
        self.busy = busy


class LineDown(DriverError):
    """The port or connection is gone: no unit of the line can be asked before it is open again."""


class Driver(Protocol):
    """One open line. All calls but `cancel` come from the thread that owns the line.

    `punctual`: a line whose protocol counts silences in milliseconds; its thread goes before all others.
    """

    punctual: bool

    def open(self) -> None:
        """Open the port or connection. Raises LineDown."""

    def close(self) -> None:
        """Close it; idempotent, never raises."""

    def read(self, block: Block, timeout: float) -> bytes:
        """The bytes of a block: `width` per address, in the order of the addresses. Raises DriverError."""

    def write(self, block: Block, data: bytes, timeout: float) -> None:
        """Write `data` to the addresses of `block`; returns when the unit has confirmed. Raises DriverError."""

    def cancel(self) -> None:
        """From another thread: make a call that waits return soon (it may raise LineDown). The
        driver is not used for anything but `close` and `dispose` after it."""

    def dispose(self) -> None:
        """Release what outlives `close`; called once, at the very end."""
