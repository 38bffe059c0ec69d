"""The Docker Engine as edged uses it: short calls on the pool, streams and waiting on the event loop."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from edgeappliance.edged.engine.api import (
    ContainerEvent,
    Credentials,
    EngineAway,
    EngineRefused,
    Image,
    LogQuery,
    PullFailed,
)
from edgeappliance.edged.engine.calls import Calls
from edgeappliance.edged.engine.connection import Connection, EngineFacts
from edgeappliance.edged.engine.multiplex import Demultiplexer, StampedFrames
from edgeappliance.edged.engine.observe import read_container, read_image
from edgeappliance.edged.engine.processes import end_exec
from edgeappliance.edged.engine.pull import parse, pull
from edgeappliance.edged.engine.streams import KEPT_KEYS, Logs, Stream, drained
from edgeappliance.edged.engine.wire import Answer, ask, refusal
from edgeappliance.edged.pods.observed import OWNER, ObservedContainer
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.errors import ApplianceError
from edgeappliance.kernel.log import get_logger

T = TypeVar("T")

PULLS = 2
"""Pulls that run at the same time: more would only share the same line and card."""

KILL_TIMEOUT = 30.0
"""Seconds in which SIGKILL must have worked. Longer means a process that hangs in the kernel."""

REMOVAL_TIMEOUT = 30.0

NOT_FOUND, CONFLICT = 404, 409


class DockerEngine:
    """engine.api.Engine on the Engine API 1.41 and newer. `node`: value of the OWNER label of what is ours.

    `open`, then `follow` as a background task, then `close`: service.DockerService does that.
    """

    def __init__(self, *, socket: Path, node: str, clock: Clock) -> None:
        self._socket = socket
        self._node = node
        self._ours = {"label": [f"{OWNER}={node}"]}
        self._calls = Calls(socket, hung=self._hung)
        self._connection = Connection(socket, node=node, clock=clock, met=self._meet)
        self._pulling = asyncio.Semaphore(PULLS)
        self._log = get_logger("docker")

    def open(self) -> None:
        """Start the threads."""
        self._calls.start()

    async def follow(self) -> None:
        """Stay connected, for ever."""
        await self._connection.follow()

    async def close(self) -> None:
        """End the threads."""
        await self._calls.stop()

    def _meet(self, facts: EngineFacts) -> None:
        self._calls.speak(facts.api)

    def _hung(self) -> None:
        self._connection.distrust()

    # -- the connection ----------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._connection.connected

    @property
    def connections(self) -> int:
        """How often it was connected."""
        return self._connection.connections

    @property
    def facts(self) -> EngineFacts | None:
        """Of the engine that was met last."""
        return self._connection.facts

    @property
    def version(self) -> str:
        return self.facts.version if self.facts is not None else ""

    @property
    def trouble(self) -> str:
        return "" if self.connected else self._connection.trouble.message

    @property
    def trouble_error(self) -> ApplianceError:
        """Why it is (or was last) not connected, with the next step."""
        return self._connection.trouble

    def on_connection(self, callback: Callable[[bool], None]) -> None:
        self._connection.on_connection(callback)

    def on_event(self, callback: Callable[[ContainerEvent], None]) -> None:
        self._connection.on_event(callback)

    async def root(self) -> Path:
        return self._known().root

    def _known(self) -> EngineFacts:
        if self.facts is None:
            raise EngineAway(self.trouble)
        return self.facts

    # -- containers --------------------------------------------------------------------------------------

    async def containers(self) -> list[ObservedContainer]:
        listed = await self._call(lambda client: client.containers(all=True, filters=self._ours))
        found = await asyncio.gather(*(self._seen(str(entry["Id"])) for entry in listed))
        return [container for container in found if container is not None]

    async def _seen(self, id: str) -> ObservedContainer | None:
        """One of a list: what the engine cannot describe (a broken card loses such files) must not hide the others."""
        try:
            return await self.inspect(id)
        except EngineRefused as error:
            self._log.warning("a container cannot be inspected", id=id[:12], error=error)
            return None

    async def inspect(self, id: str) -> ObservedContainer | None:
        document = await self._inspect(id)
        return None if document is None else read_container(document)

    async def _inspect(self, id: str) -> Mapping[str, Any] | None:
        document: Mapping[str, Any] | None = await self._or_none(lambda client: client.inspect_container(id))
        return document

    async def create(self, body: Mapping[str, Any], *, name: str) -> str:
        try:
            return await self._create(body, name)
        except EngineRefused as error:
            if error.code != CONFLICT:
                raise
            await self._make_room(name, error)
            return await self._create(body, name)

    async def _create(self, body: Mapping[str, Any], name: str) -> str:
        body = dict(body)
        host = body.get("HostConfig")
        if not self._connection.protects and isinstance(host, dict) and int(host.get("OomScoreAdj") or 0) < 0:
            # It would not start, and the error would not say why. Less protection is better than no pod.
            body["HostConfig"] = {**host, "OomScoreAdj": 0}
        created = await self._call(lambda client: client.create_container_from_config(body, name))
        for warning in created.get("Warnings") or ():
            self._log.debug("the Docker Engine warns", container=name, warning=warning)
        return str(created["Id"])

    async def _make_room(self, name: str, conflict: EngineRefused) -> None:
        """Remove what has the name, if it is ours and does not run: an answer that never reached us, or an old try."""
        document = await self._inspect(name)
        if document is None:
            return  # it has gone meanwhile
        found = read_container(document)
        ours = found is not None and found.labels.get(OWNER) == self._node
        if found is None or not ours or found.running:
            raise conflict
        await self.remove(found.id)

    async def start(self, id: str) -> None:
        await self._call(lambda client: client.start(id))

    async def stop(self, id: str, *, grace: int) -> None:
        document = await self._inspect(id)
        if document is None or not document["State"].get("Running"):
            return
        id = str(document["Id"])
        if document["State"].get("Paused"):
            await self._or_none(lambda client: client.unpause(id))
        first = str(document["Config"].get("StopSignal") or "SIGTERM")
        with self._connection.watching(id) as ended:
            if grace > 0 and await self._ended_by(id, first, ended, timeout=grace):
                return
            if not await self._ended_by(id, "SIGKILL", ended, timeout=KILL_TIMEOUT):
                raise EngineRefused(f"container {id[:12]} does not end after SIGKILL")

    async def _ended_by(self, id: str, number: str, ended: asyncio.Event, *, timeout: float) -> bool:
        """Send a signal and wait for the end. False when it runs on after `timeout` s."""
        try:
            await self._call(lambda client: client.kill(id, number))
        except EngineRefused as error:
            if error.code in (NOT_FOUND, CONFLICT):  # gone, or not running any more
                return True
            raise
        over = asyncio.get_running_loop().time() + timeout
        while True:
            try:
                async with asyncio.timeout_at(over):
                    await ended.wait()
            except TimeoutError:
                timeout = 0
            # Asked whatever woke us: an event may be of a run before this one, the engine may have been away.
            ended.clear()
            document = await self._inspect(id)
            if document is None or not document["State"].get("Running"):
                return True
            if timeout == 0:
                return False

    async def remove(self, id: str) -> None:
        with self._connection.watching(id) as gone:
            try:
                await self._or_none(lambda client: client.remove_container(id, v=True, force=True))
            except EngineRefused as error:
                if error.code != CONFLICT:
                    raise
                # Its removal is in progress already: the end of that is what the caller wants.
                if not await self._removed_within(id, gone, timeout=REMOVAL_TIMEOUT):
                    raise

    async def _removed_within(self, id: str, gone: asyncio.Event, *, timeout: float) -> bool:
        """Wait until the container is not there any more; `gone` is set when it ends and when it is removed."""
        try:
            async with asyncio.timeout(timeout):
                while await self._inspect(id) is not None:
                    await gone.wait()
                    gone.clear()
        except TimeoutError:
            return False
        return True

    # -- images ------------------------------------------------------------------------------------------

    async def images(self) -> list[Image]:
        listed = await self._call(lambda client: client.images())
        return [read_image(entry) for entry in listed]

    async def image(self, name: str) -> Image | None:
        document = await self._or_none(lambda client: client.inspect_image(name))
        return None if document is None else read_image(document)

    async def pull(self, name: str, credentials: Sequence[Credentials]) -> Image:
        parse(name)
        failure: PullFailed | None = None
        async with self._pulling:
            for candidate in credentials or (None,):
                try:
                    await pull(self._socket, f"/v{self._known().api}", name, candidate)
                except PullFailed as error:
                    failure = error
                    continue
                failure = None
                break
        if failure is not None:
            raise failure
        image = await self.image(name)
        if image is None:
            raise PullFailed(f"the Docker Engine ended the pull of {name} without the image")
        return image

    async def remove_image(self, id: str) -> None:
        document = await self._or_none(lambda client: client.inspect_image(id))
        if document is None:
            return
        # One by one, and not by force: an image that a container was made from is refused, whatever its names.
        names = [*(document.get("RepoTags") or ()), *(document.get("RepoDigests") or ())]
        for name in names or [str(document["Id"])]:
            await self._untag(name)

    async def _untag(self, name: str) -> None:
        await self._or_none(lambda client: client.remove_image(name))

    async def load(self, archive: bytes) -> None:
        def work(client: Any) -> None:
            for step in client.load_image(archive):
                if "error" in step:
                    raise EngineRefused(str(step["error"]))

        await self._call(work)

    # -- volumes -----------------------------------------------------------------------------------------

    async def create_volume(self, name: str, *, size: int | None, group: int | None = None) -> None:
        """`group`: owns it, and what is made in it (the pod's fsGroup)."""
        options = ["mode=1777" if group is None else f"mode=2777,gid={group}"]
        if size is not None:
            options.append(f"size={size}")
        await self._call(
            lambda client: client.create_volume(
                name,
                driver="local",
                driver_opts={"type": "tmpfs", "device": "tmpfs", "o": ",".join(options)},
                labels={OWNER: self._node},
            )
        )

    async def remove_volume(self, name: str) -> None:
        await self._or_none(lambda client: client.remove_volume(name))

    async def volumes(self) -> list[tuple[str, Mapping[str, str]]]:
        listed = await self._call(lambda client: client.volumes(filters=self._ours))
        return [(str(entry["Name"]), dict(entry.get("Labels") or {})) for entry in listed.get("Volumes") or ()]

    # -- streams -----------------------------------------------------------------------------------------

    async def logs(self, id: str, query: LogQuery) -> Logs:
        tty = await self._has_terminal(id)
        seconds, rest = divmod(query.since_ms, 1000)
        parameters = {
            "stdout": "1",
            "stderr": "1",
            "follow": "1" if query.follow else "0",
            "timestamps": "1" if query.timestamps else "0",
            "tail": "all" if query.tail is None else str(query.tail),
            "since": f"{seconds}.{rest:03}000000" if query.since_ms > 0 else "0",
        }
        answer = await self._open("GET", f"/containers/{quote(id, safe='')}/logs?{urlencode(parameters)}")
        if tty:
            return Logs(answer, None)
        return Logs(answer, StampedFrames() if query.timestamps else Demultiplexer())

    async def exec(
        self, id: str, command: Sequence[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> Stream:
        created = await self._call(
            lambda client: client.exec_create(
                id, list(command), stdin=stdin, stdout=stdout, stderr=stderr, tty=tty, detach_keys=KEPT_KEYS
            )
        )
        run = str(created["Id"])
        answer = await self._open("POST", f"/exec/{run}/start", body={"Detach": False, "Tty": tty})
        return Stream(
            answer,
            tty=tty,
            resized=lambda width, height: self._call(lambda client: client.exec_resize(run, height, width)),
            ended=lambda: self._exit_code(run),
            abandoned=lambda: end_exec(lambda: self._call(lambda client: client.exec_inspect(run))),
        )

    async def attach(self, id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Stream:
        parameters = {"stream": "1", "stdin": str(int(stdin)), "stdout": str(int(stdout)), "stderr": str(int(stderr))}
        parameters["detachKeys"] = KEPT_KEYS
        tty = await self._has_terminal(id)  # what the container has, whatever the caller believes
        answer = await self._open("POST", f"/containers/{quote(id, safe='')}/attach?{urlencode(parameters)}")
        return Stream(
            answer,
            tty=tty,
            resized=lambda width, height: self._call(lambda client: client.resize(id, height, width)),
        )

    async def run(self, id: str, command: Sequence[str], *, timeout: float, limit: int = 10240) -> tuple[int, bytes]:
        async with asyncio.timeout(timeout):
            session = await self.exec(id, command, stdin=False, stdout=True, stderr=True, tty=False)
            try:
                output = await drained(session, limit=limit)
                while (code := await session.exit_code()) is None:
                    pass  # it closed its output and goes on
                return code, output
            finally:
                await session.close()

    async def _exit_code(self, run: str) -> int | None:
        document = await self._call(lambda client: client.exec_inspect(run))
        return None if document.get("Running") else document.get("ExitCode")

    async def _has_terminal(self, id: str) -> bool:
        document = await self._inspect(id)
        if document is None:
            raise EngineRefused(f"No such container: {id}", code=NOT_FOUND)
        return bool(document["Config"].get("Tty"))

    async def _open(self, method: str, target: str, *, body: Any = None) -> Answer:
        """A request whose answer is a stream. Raises EngineRefused with what the engine says instead."""
        hijack = {"Connection": "Upgrade", "Upgrade": "tcp"} if method == "POST" else {}
        answer = await ask(self._socket, method, f"/v{self._known().api}{target}", headers=hijack, body=body)
        if answer.status not in (101, 200):
            try:
                raise refusal(answer.status, await answer.body())
            finally:
                await answer.close()
        return answer

    # -- calls -------------------------------------------------------------------------------------------

    async def _call(self, work: Callable[[Any], T]) -> T:
        return await self._calls.run(work)

    async def _or_none(self, work: Callable[[Any], T]) -> T | None:
        """As `_call`; None when the engine does not know what is asked for."""
        try:
            return await self._calls.run(work)
        except EngineRefused as error:
            if error.code == NOT_FOUND:
                return None
            raise
