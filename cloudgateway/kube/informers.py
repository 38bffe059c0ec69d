"""Mirrors that several controllers share: one watch for one set of objects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.reflector import Reflector, Watched

__all__ = ["Informers", "Spawner"]


class Spawner(Protocol):
    """Runs background work and owns it (a kernel TaskScope)."""

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> object: ...


class Informers:
    """Gives each controller the mirror it asks for; a mirror runs from its first use until the scope ends."""

    def __init__(self, client: KubeClient, scope: Spawner, *, ready: asyncio.Event | None = None) -> None:
        """Nothing is asked of the API before `ready` is set: what is to be mirrored may be installed first."""
        self._client = client
        self._scope = scope
        self._ready = ready
        self._running: dict[Watched, Reflector] = {}
        self._paused = False

    def of(self, watched: Watched) -> Reflector:
        """The mirror of these objects. Must be called inside the running event loop."""
        found = self._running.get(watched)
        if found is None:
            found = self._running[watched] = Reflector(self._client, watched)
            if not self._paused:
                self._spawn(watched, found)
        return found

    def troubles(self) -> dict[str, str]:
        """What keeps mirrors from being true, by resource; empty when all is well."""
        return {
            watched.gvr.group_resource: reflector.last_error
            for watched, reflector in self._running.items()
            if reflector.last_error
        }

    def pause(self) -> None:
        """The scope ends the mirrors: what they hold stays, with their subscribers, until `resume`."""
        self._paused = True

    def resume(self) -> None:
        """Has every mirror run again, from where it stopped. Without an earlier `pause` nothing happens."""
        if not self._paused:
            return
        self._paused = False
        for watched, reflector in self._running.items():
            self._spawn(watched, reflector)

    def _spawn(self, watched: Watched, reflector: Reflector) -> None:
        self._scope.spawn(self._run(reflector), name=f"watch-{watched.gvr.group_resource}")

    async def _run(self, reflector: Reflector) -> None:
        if self._ready is not None:
            await self._ready.wait()
        await reflector.run()
