"""Short calls to the Docker Engine through the package `docker`, on a few threads of their own.

Nothing that waits for a container, a registry or a person goes through here. The package is imported by the first
call, on one of these threads.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgeappliance.edged.engine.api import EngineAway, EngineRefused
from edgeappliance.kernel.errors import ApplianceError

if TYPE_CHECKING:
    from docker import APIClient

T = TypeVar("T")

THREADS = 4
TIMEOUT = 120
"""Seconds without a byte from the engine after which a call is given up: a start on a slow card takes long."""

_Job = tuple[Callable[[Any], Any], asyncio.Future[Any], asyncio.AbstractEventLoop]


class Calls:
    """A pool of threads, each with its own connection. `hung` is called on the loop when a call timed out."""

    def __init__(
        self, socket: Path, *, hung: Callable[[], None], threads: int = THREADS, timeout: int = TIMEOUT
    ) -> None:
        self._socket = socket
        self._hung = hung
        self._size = threads
        self._timeout = timeout
        self._version = ""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start the threads. They are daemons: a call that hangs does not keep the process."""
        self._jobs = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, args=(self._jobs,), name=f"docker-{number}", daemon=True)
            for number in range(self._size)
        ]
        for thread in self._threads:
            thread.start()

    async def stop(self) -> None:
        """End the threads after what they do now; waits for them a moment."""
        threads, self._threads = self._threads, []
        for _ in threads:
            self._jobs.put(None)
        for thread in threads:
            await asyncio.to_thread(thread.join, 1.0)

    def speak(self, version: str) -> None:
        """The API version of the calls from now on."""
        self._version = version

    async def run(self, work: Callable[[Any], T]) -> T:
        """Call `work` with a docker.APIClient on a thread. Raises EngineAway and EngineRefused.

        A caller that is cancelled leaves the call running.
        """
        if not self._threads or not self._version:
            raise EngineAway("the Docker Engine is not connected")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._jobs.put((work, future, loop))
        result: T = await future
        return result

    def _work(self, jobs: "queue.SimpleQueue[_Job | None]") -> None:
        client: APIClient | None = None
        spoken = ""
        while (job := jobs.get()) is not None:
            work, future, loop = job
            if future.cancelled():
                continue
            result, error = None, None
            try:
                if client is None or spoken != self._version:
                    from edgeappliance.edged.engine import transport

                    if client is not None:
                        client.close()
                    spoken = self._version
                    client = transport.client(self._socket, version=spoken, timeout=self._timeout)
                result = work(client)
            except Exception as raised:  # noqa: BLE001 - whatever it is, it belongs to the caller
                error = raised if isinstance(raised, ApplianceError) else self._translate(raised, loop)
            try:
                loop.call_soon_threadsafe(_resolve, future, result, error)
            except RuntimeError:
                break  # the loop is closed: nobody waits any more
        if client is not None:
            client.close()

    def _translate(self, error: Exception, loop: asyncio.AbstractEventLoop) -> Exception:
        import docker.errors
        import requests.exceptions
        import urllib3.exceptions

        if isinstance(error, docker.errors.APIError):
            return EngineRefused(str(error.explanation or error)[:4096], code=error.status_code or 0)
        if isinstance(error, requests.exceptions.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
            loop.call_soon_threadsafe(self._hung)
            return EngineAway(f"the Docker Engine does not answer within {self._timeout:g} s")
        # ValueError: half an answer, so no JSON.
        if isinstance(
            error,
            requests.exceptions.RequestException
            | urllib3.exceptions.HTTPError
            | docker.errors.DockerException
            | OSError
            | ValueError,
        ):
            cause = _innermost(error)
            if isinstance(cause, ConnectionRefusedError | FileNotFoundError):
                return EngineAway(f"no Docker Engine answers at {self._socket}: {cause.strerror}")
            return EngineAway(f"the Docker Engine went away: {cause}")
        return error


def _innermost(error: BaseException) -> BaseException:
    """The error at the end of the chain: `[Errno 111] Connection refused`, not five wrappings of it."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _resolve(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
