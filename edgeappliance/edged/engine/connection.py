"""Whether there is an engine, which one, and what it reports: one stream of events that is always open."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeappliance.edged.engine.api import ContainerEvent, EngineAway
from edgeappliance.edged.engine.events import events, subscribe
from edgeappliance.edged.engine.wire import Answer, ask_json
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.errors import ApplianceError, OperatorError
from edgeappliance.kernel.log import get_logger

OLDEST = (1, 41)
"""API version of Docker Engine 20.10."""
NEWEST = (1, 47)
"""The newest API version whose documents we know; engines offer older ones than their own."""

CAP_SYS_RESOURCE = 24

RETRY = 0.1
RETRY_MAX = 5.0

_ENDS = frozenset({"die", "destroy"})


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What the engine says of itself. version `20.10.24`; api `1.41`; architecture as in GOARCH; root on this host."""

    version: str
    api: str
    architecture: str
    root: Path
    warnings: tuple[str, ...] = ()


class Connection:
    """Follows one engine through its restarts. Callbacks run on the loop and must not raise."""

    def __init__(self, socket: Path, *, node: str, clock: Clock, met: Callable[[EngineFacts], None]) -> None:
        self._socket = socket
        self._node = node
        self._clock = clock
        self._met = met
        self._answer: Answer | None = None
        self._listeners: list[Callable[[bool], None]] = []
        self._observers: list[Callable[[ContainerEvent], None]] = []
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._log = get_logger("docker")
        self.connected = False
        self.connections = 0
        self.protects = True
        """Whether the engine may shield a container from the OOM killer (a negative oom_score_adj)."""
        self.facts: EngineFacts | None = None
        self.trouble: ApplianceError = EngineAway("the Docker Engine has not been asked yet")

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        self._listeners.append(callback)

    def on_event(self, callback: Callable[[ContainerEvent], None]) -> None:
        self._observers.append(callback)

    async def follow(self) -> None:
        """Connect, receive, and again, for ever."""
        backoff = Backoff(initial=RETRY, maximum=RETRY_MAX, reset_after=10.0)
        while True:
            since = self._clock.monotonic()
            try:
                await self._receive()
            except ApplianceError as error:
                self._say(error)
            finally:
                self._down()
            backoff.succeeded(self._clock.monotonic() - since)
            await asyncio.sleep(backoff.next_delay())

    async def _receive(self) -> None:
        self.facts = facts = await meet(self._socket)
        self._met(facts)
        self._answer = answer = await subscribe(
            self._socket, f"/v{facts.api}", node=self._node, wall_ms=self._clock.wall_ms()
        )
        try:
            self.protects = await asyncio.to_thread(may_protect, answer.peer)
            self._up(facts)
            async for event in events(answer):
                self._report(event)
        finally:
            self._answer = None
            await answer.close()
        raise EngineAway("the Docker Engine went away")

    def _up(self, facts: EngineFacts) -> None:
        self.connected = True
        self.connections += 1
        self._log.info("connected to the Docker Engine", version=facts.version, api=facts.api)
        self._wake_all()
        for callback in self._listeners:
            callback(True)

    def _down(self) -> None:
        if not self.connected:
            return
        self.connected = False
        self._wake_all()
        for callback in self._listeners:
            callback(False)

    def _wake_all(self) -> None:
        """Who waits for the end of a container looks for himself: its event may have been missed."""
        for waiters in self._waiting.values():
            for waiter in waiters:
                waiter.set()

    def _say(self, error: ApplianceError) -> None:
        if self.connected or error.message != self.trouble.message:
            self._log.warning("no Docker Engine", error=error)
        self.trouble = error

    def _report(self, event: ContainerEvent) -> None:
        if event.action in _ENDS:
            for waiter in self._waiting.get(event.id, ()):
                waiter.set()
        for callback in self._observers:
            callback(event)

    @contextlib.contextmanager
    def watching(self, id: str) -> Iterator[asyncio.Event]:
        """Set when the container `id` (all 64 digits) ends or is removed, and when the engine goes or comes."""
        event = asyncio.Event()
        self._waiting.setdefault(id, set()).add(event)
        try:
            yield event
        finally:
            self._waiting[id].discard(event)
            if not self._waiting[id]:
                del self._waiting[id]

    def distrust(self) -> None:
        """A call was not answered: begin anew, which finds out whether anybody is there."""
        if self._answer is not None:
            self._answer.abort()


async def meet(socket: Path) -> EngineFacts:
    """Ask the engine who it is. Raises EngineAway, and OperatorError when it is too old."""
    version = await ask_json(socket, "/version")
    if not isinstance(version, dict):
        raise EngineAway("the Docker Engine does not say its version")
    name = str(version.get("Version", ""))
    newest, oldest = _api(version.get("ApiVersion")), _api(version.get("MinAPIVersion")) or OLDEST
    if newest is None:
        raise EngineAway("the Docker Engine does not say which API it speaks")
    if newest < OLDEST:
        raise OperatorError(f"Docker Engine {name} is too old", next_step="install version 20.10 or newer")
    spoken = max(oldest, min(newest, NEWEST))
    api = f"{spoken[0]}.{spoken[1]}"
    info = await ask_json(socket, f"/v{api}/info")
    if not isinstance(info, dict) or not isinstance(info.get("DockerRootDir"), str):
        raise EngineAway("the Docker Engine does not describe itself")
    return EngineFacts(
        version=name,
        api=api,
        architecture=str(version.get("Arch", "")),
        root=Path(info["DockerRootDir"]),
        warnings=tuple(str(warning) for warning in info.get("Warnings") or ()),
    )


def may_protect(pid: int) -> bool:
    """Whether process `pid` has CAP_SYS_RESOURCE; yes when that cannot be seen."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return True
    found = next((line for line in lines if line.startswith("CapEff:")), "")
    try:
        return bool(int(found.partition(":")[2], 16) >> CAP_SYS_RESOURCE & 1)
    except ValueError:
        return True


def _api(text: object) -> tuple[int, int] | None:
    major, dot, minor = text.partition(".") if isinstance(text, str) else ("", "", "")
    return (int(major), int(minor)) if dot and major.isdecimal() and minor.isdecimal() else None
