"""What a component is: two verbs and a health."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.errors import ApplianceError

RESTARTS = "restarts_total"
"""The detail that the supervisor adds to those of every component."""


class State(StrEnum):
    """State of a component as `status` shows it."""

    STARTING = "starting"
    RUNNING = "running"
    DEGRADED = "degraded"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Health:
    """State, why, what to do next, since when (Unix ms, 0 = since it was started), and details for `status`.

    A number among the details becomes a metric, so its key is named like one, unit last: `_total` for what only
    grows, `size_bytes`, `load_percent`, `expiry_timestamp_seconds`. What names something (a pid) is a text.
    """

    state: State
    reason: str = ""
    next_step: str = ""
    since_ms: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)


class Condition:
    """The state that a component is in, with its reason; remembers since when."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._state = State.STOPPED
        self._reason = ""
        self._next_step = ""
        self._since_ms = 0

    @property
    def state(self) -> State:
        return self._state

    @property
    def reason(self) -> str:
        return self._reason

    def set(self, state: State, reason: str = "", next_step: str = "") -> None:
        """The state from now on. A new reason for the same state does not change since when."""
        if state is not self._state:
            self._since_ms = self._clock.wall_ms()
        self._state, self._reason, self._next_step = state, reason, next_step

    def degrade(self, error: ApplianceError) -> None:
        """Degraded because of `error`."""
        self.set(State.DEGRADED, error.message, error.next_step)

    def health(self, details: Mapping[str, Any] | None = None) -> Health:
        """The state as `status` shows it."""
        return Health(self._state, self._reason, self._next_step, self._since_ms, details or {})


class Component(Protocol):
    """A part of the appliance.

    `start` returns when local callers can be served, or raises and leaves nothing behind; being connected to
    anything remote is no part of it. `stop` is idempotent, bounded in time and never raises. Stop and start of
    the same object is a restart: unsent state stays.
    """

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def health(self) -> Health: ...
