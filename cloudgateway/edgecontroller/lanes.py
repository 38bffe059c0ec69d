"""Requests of nodes, each object's in order, all others side by side."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from cloudgateway.kube.informers import Spawner

__all__ = ["Lanes"]

Lane = tuple[str, str]
"""Node and resource."""
Work = Callable[[], Awaitable[None]]


class Lanes:
    """Runs work in lanes: one after the other within a lane, lanes at the same time.

    A node may have `depth` requests under way or waiting; then `submit` waits, which in turn stops that node's
    inbox and no other's.
    """

    def __init__(self, scope: Spawner, *, depth: int = 64) -> None:
        self._scope = scope
        self._depth = depth
        self._lanes: dict[Lane, deque[Work]] = {}
        self._load: dict[str, int] = {}
        self._room: dict[str, asyncio.Event] = {}

    async def submit(self, node: str, resource: str, work: Work) -> None:
        """Queues `work`. It must handle its own failures; an exception fails the component."""
        while self._load.get(node, 0) >= self._depth:
            await self._room.setdefault(node, asyncio.Event()).wait()
        self._load[node] = self._load.get(node, 0) + 1
        lane = (node, resource)
        waiting = self._lanes.get(lane)
        if waiting is not None:
            waiting.append(work)
            return
        self._lanes[lane] = deque([work])
        self._scope.spawn(self._run(lane), name=f"{node}/{resource}")

    def clear(self) -> None:
        """The scope has ended all work."""
        self._lanes.clear()
        self._load.clear()
        for room in self._room.values():
            room.set()
        self._room.clear()

    @property
    def load(self) -> int:
        """Requests under way or waiting."""
        return sum(self._load.values())

    async def _run(self, lane: Lane) -> None:
        waiting = self._lanes[lane]
        while waiting:
            try:
                await waiting[0]()
            finally:
                waiting.popleft()
                self._done(lane[0])
        if self._lanes.get(lane) is waiting:
            del self._lanes[lane]

    def _done(self, node: str) -> None:
        load = self._load.get(node, 0) - 1
        if load > 0:
            self._load[node] = load
        else:
            self._load.pop(node, None)
        room = self._room.pop(node, None)
        if room is not None:
            room.set()
