"""The recent changes of one collection, kept for watches: each watcher reads on at its own position."""

import asyncio
from bisect import bisect_right

from edgeappliance.kubeapi.storage import Change

COUNT_LIMIT = 8192
BYTES_LIMIT = 16 * 1024 * 1024
"""Bounds of one collection's history; a watcher that falls behind them lists again (410 Expired)."""


class History:
    """An append-only window over changes, addressed by absolute position."""

    def __init__(self, floor: int) -> None:
        self.floor = floor
        """Changes up to this resourceVersion are no longer known."""
        self.closed = False
        """The collection is served no more: its watches end when they have read everything."""
        self._changes: list[Change] = []
        self._start = 0
        self._bytes = 0
        self._wake = asyncio.Event()

    def append(self, change: Change) -> None:
        """Add the newest change and wake the watchers."""
        self._changes.append(change)
        self._bytes += len(change.entry.value)
        if len(self._changes) > COUNT_LIMIT or self._bytes > BYTES_LIMIT:
            self._trim()
        self._wake.set()
        self._wake = asyncio.Event()

    def close(self) -> None:
        """End the watches of a collection that is served no more."""
        self.closed = True
        self._wake.set()

    def _trim(self) -> None:
        """Forget the older half: one slice now and then instead of a shift with every change."""
        count = max(1, len(self._changes) // 2)
        gone = self._changes[:count]
        del self._changes[:count]
        self._start += count
        self._bytes -= sum(len(change.entry.value) for change in gone)
        self.floor = gone[-1].version

    @property
    def end(self) -> int:
        """The position of the next change."""
        return self._start + len(self._changes)

    def position_after(self, version: int) -> int | None:
        """Where to read on after a resourceVersion; None when changes since then are forgotten."""
        if version < self.floor:
            return None
        return self._start + bisect_right(self._changes, version, key=lambda change: change.version)

    def read(self, position: int) -> list[Change] | None:
        """The changes from a position on; None when the reader has fallen behind the window."""
        if position < self._start:
            return None
        return self._changes[position - self._start :]

    async def wait(self, timeout: float) -> None:
        """Return at the next change, or after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            return
