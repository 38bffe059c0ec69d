"""Answers that units still owe us. No I/O.

An RTU answer names neither the address nor the request it belongs to. One that comes after its time-out looks
like the answer to the next request of the same length: with a slow slave half of all values were wrong. A unit
answers in order, so an answer that can be told from all that are owed proves that those will not come any more;
until then a request with a confusable answer must not be sent.
"""

from dataclasses import dataclass, field
from enum import Enum, auto

from edgeappliance.mappers.modbus.pdu import Request, exception_of, read_request
from edgeappliance.mappers.modbus.spaces import Space

_FORGOTTEN_AFTER_S = 30.0
"""Slow slaves and radio gateways that queue requests answer seconds late. Only a unit that answers no probe either
has to wait for this."""
_MOST = 32
_OTHER_TABLE = {1: Space.DISCRETE, 2: Space.COIL, 3: Space.INPUT, 4: Space.HOLDING}
_SAME_TABLE = {1: Space.COIL, 2: Space.DISCRETE, 3: Space.HOLDING, 4: Space.INPUT}


class Verdict(Enum):
    """What a valid frame of the unit that was asked is."""

    ANSWER = auto()
    LATE = auto()  # to an earlier request
    AMBIGUOUS = auto()  # an exception that may belong to an earlier request
    WRONG = auto()  # of the right function, but not what was asked for
    STRAY = auto()  # to nothing that was asked


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

    def judge(self, request: Request, reply: bytes, now: float) -> Verdict:
        """What `reply` is while `request` is waited for."""
        if request.answered_by(reply):
            self._answered(request)
            return Verdict.ANSWER
        if exception_of(reply) is not None and reply[0] & 0x7F == request.function:
            self._forget(now)
            if any(owed.function == request.function and owed.pdu != request.pdu for owed, _ in self._owed):
                self._count_is_ambiguous = True
                return Verdict.AMBIGUOUS
            self._answered(request)
            return Verdict.ANSWER
        if self.came(reply):
            return Verdict.LATE
        return Verdict.WRONG if reply[0] == request.function else Verdict.STRAY

    def _answered(self, request: Request) -> None:
        """What was asked before the first request that the answer may belong to is void; if that is not `request`
        itself, its own answer may still come."""
        for index, (owed, at) in enumerate(self._owed):
            if owed.confusable(request):
                del self._owed[: index + 1]
                # Since the first one, not since now: a value that is polled every second would never be trusted.
                self.owe(request, at)
                return
        self._owed.clear()
        self._count_is_ambiguous = False

    def ambiguous(self, request: Request, now: float) -> bool:
        """An answer to `request` could be the one to an earlier request for something else."""
        self._forget(now)
        return any(owed.confusable(request) and owed.pdu != request.pdu for owed, _ in self._owed)

    def probe(self, request: Request) -> Request:
        """A read whose answer can be told from all that is owed: the same address with another count where
        possible, else the sister table (an exception answers that just as well)."""
        start = int.from_bytes(request.pdu[1:3], "big")
        most = int.from_bytes(request.pdu[3:5], "big") if request.function in _SAME_TABLE else 1
        candidates: list[tuple[Space, int]] = []
        if not self._count_is_ambiguous:
            same = _SAME_TABLE.get(request.function, Space.HOLDING)
            candidates += [(same, count) for count in (2, 1, 3) if count < most]
        other = _OTHER_TABLE.get(request.function, Space.INPUT)
        step = 8 if other.is_bits else 1
        candidates += [(other, 1 + step * index) for index in range(_MOST + 1)]
        for table, count in candidates:
            probe = read_request(table, start, count)
            if not any(owed.confusable(probe) for owed, _ in self._owed):
                return probe
        raise AssertionError("more candidates than owed answers")

    def _forget(self, now: float) -> None:
        self._owed = [(request, at) for request, at in self._owed if now - at < _FORGOTTEN_AFTER_S]
        if not self._owed:
            self._count_is_ambiguous = False
