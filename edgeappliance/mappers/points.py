"""One property of a device as the engine sees it, and what the engine says of it."""

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import TypeAlias

from edgeappliance.mappers.codec import Codec
from edgeappliance.mappers.driver import UnitKey
from edgeappliance.mappers.planner import Span

PointKey: TypeAlias = tuple[str, str]
"""(device id, property name)."""


class Quality(StrEnum):
    """How far a published value can be trusted."""

    GOOD = "good"
    STALE = "stale"  # the last value that could be read; the device does not answer now
    BAD = "bad"  # the device answers, but not with a value
    WRITE_FAILED = "write-failed"  # the value is right, but a set-point did not reach the device


@dataclass(frozen=True, slots=True)
class ReportRule:
    """When a value goes out. `deadband` in shown units; `every` seconds, 0 for never on its own."""

    on_change: bool = True
    every: float = 60.0
    deadband: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Point:
    """A property bound to addresses of a unit. `cycle` in seconds; limits are in shown units."""

    device: str
    name: str
    unit: UnitKey
    space: str
    span: Span
    codec: Codec
    cycle: float
    report: ReportRule = ReportRule()
    writable: bool = False
    minimum: Decimal | None = None
    maximum: Decimal | None = None

    @property
    def key(self) -> PointKey:
        """Its identity over changes of configuration."""
        return (self.device, self.name)


@dataclass(frozen=True, slots=True)
class Sample:
    """A value to publish; `value` is None when none was ever read. `time_ms` is when it was read (Unix ms)."""

    key: PointKey
    value: str | None
    quality: Quality
    reason: str
    time_ms: int


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a set-point: `reason` is empty when the device holds it now."""

    key: PointKey
    text: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reachable:
    """A device began or ceased to answer."""

    device: str
    reachable: bool
    reason: str


Event: TypeAlias = Sample | Written | Reachable
