"""What the rest of edged may ask of a container engine."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgeappliance.edged.pods.observed import ObservedContainer
from edgeappliance.kernel.errors import PermanentError, TransientError


class EngineAway(TransientError):
    """No Docker Engine answers on its socket."""


class EngineRefused(PermanentError):
    """The engine answered with an error. `code` is its HTTP status, 0 where it sent none."""

    def __init__(self, message: str, *, code: int = 0) -> None:
        super().__init__(message, code=code)
        self.code = code


class PullFailed(TransientError):
    """An image could not be pulled. `reason` is the kubelet's word: ErrImagePull, InvalidImageName.

    unreachable: nobody answered at the registry, or it was in no state to; that says nothing about the image.
    """

    def __init__(self, message: str, *, reason: str = "ErrImagePull", unreachable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.unreachable = unreachable


@dataclass(frozen=True, slots=True)
class Image:
    """One image on this machine. size in bytes; created in Unix ms; user: of its configuration ("" = root)."""

    id: str
    names: tuple[str, ...]
    """Tags and digests."""
    size: int
    created_ms: int = 0
    user: str = ""
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of one registry, from a docker config JSON."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """As the kubelet's: `tail` lines (None = all), `since_ms` Unix ms (0 = all), timestamps prefixed RFC 3339 nano."""

    follow: bool = False
    tail: int | None = None
    since_ms: int = 0
    timestamps: bool = False


class LogStream(Protocol):
    """The output of a container: (1 stdout | 2 stderr, bytes). Use `aclose`."""

    def __aiter__(self) -> AsyncIterator[tuple[int, bytes]]: ...

    async def aclose(self) -> None: ...


class Session(Protocol):
    """An open exec or attach. Its socket is on the event loop; no thread is held."""

    async def read(self) -> tuple[int, bytes] | None:
        """(1 stdout | 2 stderr, bytes); with a terminal always 1. None at the end."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def write_eof(self) -> None:
        """End of stdin."""
        ...

    async def resize(self, width: int, height: int) -> None: ...

    async def exit_code(self) -> int | None:
        """Of an exec that has ended; None for attach, or while it runs."""
        ...

    async def close(self) -> None:
        """Idempotent, never raises."""
        ...


@dataclass(frozen=True, slots=True)
class ContainerEvent:
    """Something happened to a container of ours: create, start, die, oom, destroy, ..."""

    id: str
    action: str
    pod_uid: str


class Engine(Protocol):
    """A container engine. Every call may raise EngineAway and EngineRefused."""

    @property
    def connected(self) -> bool: ...

    @property
    def version(self) -> str:
        """`20.10.24`, "" before the first connection."""
        ...

    @property
    def trouble(self) -> str:
        """Why it is not connected."""
        ...

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        """Called with True after each (re)connection, when events are being received; with False when it is lost."""
        ...

    def on_event(self, callback: Callable[[ContainerEvent], None]) -> None: ...

    async def containers(self) -> list[ObservedContainer]:
        """All of ours, whatever their state."""
        ...

    async def inspect(self, id: str) -> ObservedContainer | None: ...

    async def create(self, body: Mapping[str, Any], *, name: str) -> str:
        """POST /containers/create; the id. A container of that name that is ours and not running is replaced."""
        ...

    async def start(self, id: str) -> None: ...

    async def stop(self, id: str, *, grace: int) -> None:
        """SIGTERM (or the image's stop signal), SIGKILL after `grace` seconds. Returns when it has ended, also when it
        is gone. Does not occupy the pool while it waits."""
        ...

    async def remove(self, id: str) -> None:
        """Also when it runs, with its anonymous volumes. No error when it is gone."""
        ...

    async def images(self) -> list[Image]: ...

    async def image(self, name: str) -> Image | None: ...

    async def pull(self, name: str, credentials: Sequence[Credentials]) -> Image:
        """Try each of `credentials` in turn, without any when there is none. Raises PullFailed."""
        ...

    async def remove_image(self, id: str) -> None: ...

    async def load(self, archive: bytes) -> None:
        """docker load."""
        ...

    async def create_volume(self, name: str, *, size: int | None, group: int | None = None) -> None:
        """A tmpfs that the engine mounts as long as a running container uses it; size in bytes.

        `group` owns it, and what is made in it (the pod's fsGroup).
        """
        ...

    async def remove_volume(self, name: str) -> None: ...

    async def volumes(self) -> list[tuple[str, Mapping[str, str]]]:
        """Name and labels of ours."""
        ...

    async def logs(self, id: str, query: LogQuery) -> LogStream: ...

    async def exec(
        self, id: str, command: Sequence[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> Session: ...

    async def attach(self, id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Session: ...

    async def run(self, id: str, command: Sequence[str], *, timeout: float, limit: int = 10240) -> tuple[int, bytes]:
        """Exec to its end: exit code and at most `limit` bytes of its output. TimeoutError after `timeout` s."""
        ...

    async def root(self) -> Path:
        """The engine's data directory on this host (DockerRootDir)."""
        ...
