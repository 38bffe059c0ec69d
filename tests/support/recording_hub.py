"""A hub that keeps what controllers push, in place of cloudhub. It plays no peer: the Protocol is ours."""

import asyncio
from collections.abc import Callable
from typing import Any

from edgeappliance.wire.message import Message


class RecordingHub:
    """Sessions come and go by `up` and `down`; pushes are kept in order."""

    def __init__(self) -> None:
        self.pushed: list[tuple[str, Message]] = []
        self._nodes: set[str] = set()
        self._callbacks: list[Callable[[str, bool, Any], None]] = []
        self._changed = asyncio.Event()

    def connected(self, node: str) -> bool:
        return node in self._nodes

    def push(self, node: str, message: Message) -> None:
        self.pushed.append((node, message))
        self._changed.set()

    def on_session(self, callback: Callable[[str, bool, Any], None]) -> None:
        self._callbacks.append(callback)

    def up(self, node: str) -> None:
        self._nodes.add(node)
        for callback in self._callbacks:
            callback(node, True, None)

    def down(self, node: str) -> None:
        self._nodes.discard(node)
        for callback in self._callbacks:
            callback(node, False, None)

    def routes(self, node: str) -> list[str]:
        """`operation resource` of every push to a node, in order."""
        return [f"{message.operation} {message.resource}" for target, message in self.pushed if target == node]

    async def until(self, wanted: Callable[[str, Message], bool], *, timeout: float = 10.0) -> Message:
        """The first push, past or coming, for which `wanted(node, message)` holds."""
        seen = 0
        async with asyncio.timeout(timeout):
            while True:
                for node, message in self.pushed[seen:]:
                    if wanted(node, message):
                        return message
                seen = len(self.pushed)
                self._changed.clear()
                await self._changed.wait()

    async def reply(self, request: Message, *, timeout: float = 10.0) -> Message:
        """The answer to `request`."""
        return await self.until(lambda _, message: message.parent_id == request.id, timeout=timeout)

    async def pushes(self, node: str, route: str, *, timeout: float = 10.0) -> Message:
        """The first push to `node` whose `operation resource` is `route`."""
        return await self.until(
            lambda target, message: target == node and f"{message.operation} {message.resource}" == route,
            timeout=timeout,
        )
