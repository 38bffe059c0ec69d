"""Looking at paths of this host that may not answer: a network mount whose server is gone, a disk that was pulled out.

Such a look hangs in the kernel. It gets a thread of its own, so that no other work of the process waits behind it.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

TIMEOUT = 10.0
"""Seconds that a look may take."""

MAX_HANGING = 16
"""Looks at once. Those that hang stay until the kernel lets them go."""


class NoAnswer(ValueError):
    """The path does not answer."""


class Patience:
    """Runs looks at paths, each on a thread of its own."""

    def __init__(self, *, timeout: float = TIMEOUT, limit: int = MAX_HANGING) -> None:
        self._timeout = timeout
        self._free = limit

    async def look(self, path: str, work: Callable[[], T]) -> T:
        """What `work` returns or raises. NoAnswer after the time-out: the thread is left behind."""
        if self._free <= 0:
            raise NoAnswer(f"{path}: too many paths of this node do not answer")
        self._free -= 1
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def run() -> None:
            result: Any = None
            error: BaseException | None = None
            try:
                result = work()
            except BaseException as raised:  # noqa: BLE001 - whatever it is, it belongs to the caller
                error = raised
            try:
                loop.call_soon_threadsafe(self._done, future, result, error)
            except RuntimeError:
                pass  # the loop is closed: nobody waits any more

        # A daemon, or the process could not end before the kernel answers.
        threading.Thread(target=run, name=f"look {path}"[:60], daemon=True).start()
        try:
            async with asyncio.timeout(self._timeout):
                return await future
        except TimeoutError:
            raise NoAnswer(f"{path}: does not answer within {self._timeout:g} s") from None

    def _done(self, future: "asyncio.Future[T]", result: T, error: BaseException | None) -> None:
        self._free += 1
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
