"""What a component is: two verbs and a health."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class State(StrEnum):
    """State of a component as `status` shows it."""

    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Health:
    """State, why, what to do next, since when (Unix ms, 0 = unknown), and figures for `status`."""

    state: State
    reason: str = ""
    next_step: str = ""
    since_ms: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)


class Component(Protocol):
    """A part of the appliance.

    `start` returns when local callers can be served, or raises and leaves nothing behind; being connected to
    anything remote is no part of it. `stop` is idempotent, bounded in time and never raises. Stop and start of
    the same object is a restart: unsent state stays.
    """

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def health(self) -> Health: ...
