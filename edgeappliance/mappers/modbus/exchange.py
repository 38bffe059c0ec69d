"""Reads and writes of a Modbus line in terms of one exchange: a request out, its own reply in."""

from abc import ABC, abstractmethod

from edgeappliance.mappers.driver import Block
from edgeappliance.mappers.modbus.pdu import Request, exception_of, read_request, refusal, write_request
from edgeappliance.mappers.modbus.spaces import Space

_ILLEGAL_FUNCTION = 1


class ModbusDriver(ABC):
    """What RTU and TCP share; implements the reading and writing half of `mappers.driver.Driver`."""

    def __init__(self) -> None:
        self._only_multiple: set[int] = set()

    @abstractmethod
    def _exchange(self, unit: int, request: Request, timeout: float) -> bytes:
        """The reply PDU to `request`, an exception reply included. Raises DriverError."""

    def read(self, block: Block, timeout: float) -> bytes:
        """Two bytes per register, one per coil. Raises DriverError."""
        request = read_request(Space(block.space), block.start, block.count)
        return request.data(self._asked(int(block.unit), request, timeout))

    def write(self, block: Block, data: bytes, timeout: float) -> None:
        """Write coils or registers. A unit that does not know the single-value function gets the other one."""
        unit, space = int(block.unit), Space(block.space)
        request = write_request(space, block.start, data, multiple=unit in self._only_multiple)
        reply = self._exchange(unit, request, timeout)
        if exception_of(reply) == _ILLEGAL_FUNCTION and block.count == 1 and unit not in self._only_multiple:
            request = write_request(space, block.start, data, multiple=True)
            reply = self._exchange(unit, request, timeout)
            if exception_of(reply) is None:
                self._only_multiple.add(unit)
        _raise_refusal(reply)

    def _asked(self, unit: int, request: Request, timeout: float) -> bytes:
        reply = self._exchange(unit, request, timeout)
        _raise_refusal(reply)
        return reply


def _raise_refusal(reply: bytes) -> None:
    code = exception_of(reply)
    if code is not None:
        raise refusal(code)
