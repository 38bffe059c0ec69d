"""Answers that units still owe us. No I/O.

An RTU answer names neither the address nor the request it belongs to. One that comes after its time-out looks
like the answer to the next request of the same length: with a slow slave half of all values were wrong. A unit
answers in order, so an answer that can be told from all that are owed proves that those will not come any more;
until then a request with a confusable answer must not be sent.
"""

from dataclasses import dataclass, field

from edgeappliance.mappers.modbus.pdu import Request, read_request
from edgeappliance.mappers.modbus.spaces import Space

_FORGOTTEN_AFTER_S = 5.0
_MOST = 8
_OTHER_TABLE = {1: Space.DISCRETE, 2: Space.COIL, 3: Space.INPUT, 4: Space.HOLDING}
_SAME_TABLE = {1: Space.COIL, 2: Space.DISCRETE, 3: Space.HOLDING, 4: Space.INPUT}


@dataclass(slots=True)
class OwedAnswers:
    """Of one unit. Seconds are monotonic."""

    _owed: list[tuple[Request, float]] = field(default_factory=list)
    _count_is_ambiguous: bool = False

    def owe(self, request: Request, now: float) -> None:
        """`request` was sent and not answered."""
        self._owed = [*self._owed[-_MOST + 1 :], (request, now)]

    def came(self, reply: bytes) -> bool:
        """A late answer: strike it off. False when it belongs to nothing that is owed."""
        for index, (request, _) in enumerate(self._owed):
            if request.answered_by(reply) or reply[0] == request.function | 0x80:
                # In order: whatever was asked before it is not answered any more.
                del self._owed[: index + 1]
                return True
        return False

    def answered(self, request: Request) -> None:
        """A proper answer to `request` came: all that is owed and can be told from it is void."""
        if not any(owed.confusable(request) for owed, _ in self._owed):
            self._owed.clear()
            self._count_is_ambiguous = False

    def ambiguous(self, request: Request, now: float) -> bool:
        """An answer to `request` could be the one to an earlier request for something else."""
        self._forget(now)
        return any(owed.confusable(request) and owed.pdu != request.pdu for owed, _ in self._owed)

    def ambiguous_exception(self, request: Request, now: float) -> bool:
        """An exception reply to `request` could belong to an earlier request."""
        self._forget(now)
        found = any(owed.function == request.function and owed.pdu != request.pdu for owed, _ in self._owed)
        self._count_is_ambiguous = self._count_is_ambiguous or found
        return found

    def probe(self, request: Request) -> Request:
        """A read whose answer can be told from all that is owed: the same address with another count where
        possible, else the sister table (an exception answers that just as well)."""
        start = int.from_bytes(request.pdu[1:3], "big")
        owed = [earlier for earlier, _ in self._owed]
        table = _SAME_TABLE.get(request.function, Space.HOLDING)
        most = int.from_bytes(request.pdu[3:5], "big") if request.function in _SAME_TABLE else 1
        if not self._count_is_ambiguous:
            for count in (2, 1, 3):
                candidate = read_request(table, start, count)
                if count < most and not any(earlier.confusable(candidate) for earlier in owed):
                    return candidate
        return read_request(_OTHER_TABLE.get(request.function, Space.INPUT), start, 1)

    def _forget(self, now: float) -> None:
        self._owed = [(request, at) for request, at in self._owed if now - at < _FORGOTTEN_AFTER_S]
        if not self._owed:
            self._count_is_ambiguous = False
