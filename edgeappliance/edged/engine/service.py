"""The component that keeps the Docker Engine connected; `engine` is what the rest of edged uses."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Protocol

from edgeappliance.edged.engine.docker_engine import DockerEngine
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.component import Condition, Health, State


class Scope(Protocol):
    """Owns our background task."""

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]: ...


class DockerService:
    """Component. It starts whether there is an engine or not, and follows it through its restarts."""

    def __init__(self, scope: Scope, *, socket: Path, node: str, clock: Clock) -> None:
        self._scope = scope
        self._following: asyncio.Task[Any] | None = None
        self._condition = Condition(clock)
        self.engine = DockerEngine(socket=socket, node=node, clock=clock)
        self.engine.on_connection(self._changed)

    async def start(self) -> None:
        self._condition.set(State.STARTING)
        self.engine.open()
        self._following = self._scope.spawn(self.engine.follow(), name="events")

    async def stop(self) -> None:
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.wait([following])
        await self.engine.close()
        self._condition.set(State.STOPPED)

    def health(self) -> Health:
        if self._following is not None and not self.engine.connected:
            self._condition.degrade(self.engine.trouble_error)
        facts = self.engine.facts
        details: dict[str, Any] = {"connections_total": self.engine.connections}
        if facts is not None:
            details |= {"engine": facts.version, "api": facts.api, "root": str(facts.root)}
            if facts.warnings:
                details["warnings"] = list(facts.warnings)
        return self._condition.health(details)

    def _changed(self, connected: bool) -> None:
        if connected:
            self._condition.set(State.RUNNING)
        else:
            self._condition.degrade(self.engine.trouble_error)
