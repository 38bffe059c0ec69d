"""The only owner of background tasks: starts components in order, restarts what fails, stops in reverse."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.clock import Clock, SystemClock
from edgeappliance.kernel.component import RESTARTS, Component, Health, State
from edgeappliance.kernel.errors import ApplianceError, OperatorError, PermanentError
from edgeappliance.kernel.log import get_logger

C = TypeVar("C", bound=Component)

STOP_TIMEOUT = 10.0
"""Seconds that one component's stop may take before it is left behind."""


class TaskScope:
    """The background tasks of one component. A task that raises fails its component; one that returns is done."""

    def __init__(self, component: str, failed: Callable[[BaseException], None]) -> None:
        self._component = component
        self._failed = failed
        self._tasks: set[asyncio.Task[Any]] = set()
        self._log = get_logger("supervisor")

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run `work` in the background until it ends or the component stops."""
        task = asyncio.get_running_loop().create_task(work, name=f"{self._component}/{name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            return
        self._log.error("task failed", task=task.get_name(), error=error, exc_info=_unforeseen(error))
        self._failed(error)

    async def cancel(self) -> None:
        """Cancel every task and wait for them; the caller's own task is spared."""
        current = asyncio.current_task()
        doomed = [task for task in self._tasks if task is not current]
        for task in doomed:
            task.cancel()
        if doomed:
            await asyncio.wait(doomed, timeout=STOP_TIMEOUT)

    def __len__(self) -> int:
        return len(self._tasks)


class _Entry:
    def __init__(self, name: str, backoff: Backoff, order: int) -> None:
        self.name = name
        self.backoff = backoff
        self.order = order
        self.component: Component
        self.scope: TaskScope
        self.failure: Health | None = None
        self.restarting: asyncio.Task[None] | None = None
        self.up = False
        self.started_at = 0.0
        self.started_ms = 0
        self.restarts = 0


class Supervisor:
    """Named components, started in the order they were added.

    A component whose start raises, or one of whose tasks fails, is stopped and started again with back-off while
    the others go on.
    """

    def __init__(self, *, clock: Clock | None = None, initial: float = 1.0, maximum: float = 60.0) -> None:
        self._clock = clock or SystemClock()
        self._initial = initial
        self._maximum = maximum
        self._entries: dict[str, _Entry] = {}
        self._stopping = False
        self._log = get_logger("supervisor")

    def add(self, name: str, build: Callable[[TaskScope], C], *, order: int = 0) -> C:
        """Build a component with its task scope and own it from now on.

        Components start in the order of `order`, then of their adding: what others hold a reference to can be built
        first and started last.
        """
        if name in self._entries:
            raise ValueError(f"two components named {name!r}")
        entry = _Entry(name, Backoff(initial=self._initial, maximum=self._maximum), order)
        entry.scope = TaskScope(name, lambda error: self._fail(entry, error))
        component = build(entry.scope)
        entry.component = component
        self._entries[name] = entry
        self._entries = dict(sorted(self._entries.items(), key=lambda item: item[1].order))
        return component

    async def start(self) -> None:
        """Start every component once, in order; one that raises is retried in the background."""
        self._stopping = False
        for entry in self._entries.values():
            await self._start_one(entry)

    async def _start_one(self, entry: _Entry) -> None:
        try:
            await entry.component.start()
        except Exception as error:  # noqa: BLE001 - whatever a component raises, the others go on
            await entry.scope.cancel()
            self._log.error("component did not start", component=entry.name, error=error, exc_info=_unforeseen(error))
            self._fail(entry, error)
            return
        entry.up = True
        entry.failure = None
        entry.started_at = self._clock.monotonic()
        entry.started_ms = self._clock.wall_ms()
        self._log.debug("component started", component=entry.name)

    def _fail(self, entry: _Entry, error: BaseException) -> None:
        """Record the failure and, unless a restart is under way, begin one."""
        entry.failure = self._describe(error)
        if self._stopping or (entry.restarting is not None and not entry.restarting.done()):
            return
        if entry.up:
            entry.backoff.succeeded(self._clock.monotonic() - entry.started_at)
        delay = entry.backoff.next_delay()
        if isinstance(error, PermanentError | OperatorError):
            delay = self._maximum  # only a person or a new configuration cures it; look again now and then
        entry.restarting = asyncio.get_running_loop().create_task(
            self._restart(entry, delay), name=f"supervisor/restart-{entry.name}"
        )

    async def _restart(self, entry: _Entry, delay: float) -> None:
        await self._stop_one(entry)
        await asyncio.sleep(delay)
        entry.restarts += 1
        entry.restarting = None
        await self._start_one(entry)

    def _describe(self, error: BaseException) -> Health:
        if isinstance(error, ApplianceError):
            reason, step = error.message, error.next_step
        else:
            reason, step = f"{type(error).__name__}: {error}", "this is a fault of ours: please report it with the log"
        return Health(State.FAILED, reason, step, self._clock.wall_ms())

    async def _stop_one(self, entry: _Entry) -> None:
        entry.up = False
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await entry.component.stop()
        except TimeoutError:
            self._log.error("component did not stop in time", component=entry.name, seconds=STOP_TIMEOUT)
        except Exception as error:  # noqa: BLE001 - stop never raises; one that does must not keep the others up
            self._log.error("component raised while stopping", component=entry.name, error=error, exc_info=error)
        await entry.scope.cancel()

    async def stop(self) -> None:
        """Stop every component in reverse order of starting. Idempotent, bounded, never raises."""
        self._stopping = True
        pending = [entry.restarting for entry in self._entries.values() if entry.restarting is not None]
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=STOP_TIMEOUT)
        for entry in reversed(self._entries.values()):
            await self._stop_one(entry)

    def health(self) -> dict[str, Health]:
        """Health of every component, with the supervisor's word where one is down."""
        report = {}
        for name, entry in self._entries.items():
            if entry.failure is not None and not entry.up:
                health = entry.failure
            else:
                health = entry.component.health()
            since_ms = health.since_ms or entry.started_ms
            details = {**health.details, RESTARTS: entry.restarts}
            report[name] = replace(health, since_ms=since_ms, details=details)
        return report


def _unforeseen(error: BaseException) -> BaseException | None:
    """The error when its traceback says something: one of ours says all in its text."""
    return None if isinstance(error, ApplianceError) else error
