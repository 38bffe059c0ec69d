"""What can go wrong on a line, decided per request."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias


class FaultKind(StrEnum):
    """Faults of one answer."""

    SILENCE = "silence"
    LATE = "late"  # the answer comes `value` seconds after it was due
    CRC = "crc"  # the last byte of the check sum is wrong
    EXCEPTION = "exception"  # exception code `value` in place of the data
    GARBAGE = "garbage"  # `value` random bytes in front of the answer
    SHORT = "short"  # a valid frame with `value` registers fewer than asked
    FOREIGN = "foreign"  # a valid answer, but with the next unit's number


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault with its number: seconds, code, bytes or registers as its kind says."""

    kind: FaultKind
    value: float = 0


FaultPlan: TypeAlias = Callable[[int, bytes], Fault | None]
"""Called with unit number and request PDU; the fault of the answer, None for a proper one."""


def every(period: int, fault: Fault, *, unit: int | None = None) -> FaultPlan:
    """`fault` on each `period`-th request (of `unit`, when given)."""
    seen = 0

    def plan(number: int, _pdu: bytes) -> Fault | None:
        nonlocal seen
        if unit is not None and number != unit:
            return None
        seen += 1
        return fault if seen % period == 0 else None

    return plan


def sometimes(probability: float, fault: Fault, *, seed: int = 0) -> FaultPlan:
    """`fault` on that part of the requests, at random but the same in every run."""
    dice = random.Random(seed)  # noqa: S311 - a repeatable fault, no secret
    return lambda _number, _pdu: fault if dice.random() < probability else None


def parse_fault(text: str) -> FaultPlan:
    """``KIND[:VALUE][/PERIOD][@UNIT]``, such as ``late:0.4/10@3``. ValueError for anything else."""
    rest, _, unit = text.partition("@")
    rest, _, period = rest.partition("/")
    kind, _, value = rest.partition(":")
    fault = Fault(FaultKind(kind), float(value or 0))
    return every(int(period or 1), fault, unit=int(unit) if unit else None)


def apply_pdu(fault: Fault | None, request: bytes, response: bytes) -> bytes | None:
    """The response PDU after the fault; None for silence."""
    if fault is None:
        return response
    if fault.kind is FaultKind.SILENCE:
        return None
    if fault.kind is FaultKind.EXCEPTION:
        return bytes([request[0] | 0x80, int(fault.value) or 4])
    if fault.kind is FaultKind.SHORT and request[0] in (3, 4) and not response[0] & 0x80:
        keep = max(2, response[1] - 2 * (int(fault.value) or 1))
        return bytes([response[0], keep]) + response[2 : 2 + keep]
    return response
