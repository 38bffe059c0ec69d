"""The control socket: how the command line asks the running process. One JSON line each way, on a Unix socket."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.errors import ApplianceError, OperatorError, TransientError
from edgeappliance.kernel.http import close_all
from edgeappliance.kernel.log import get_logger

MAX_REQUEST = 64 * 1024
MAX_ANSWER = 256 * 1024 * 1024
MODE = 0o660

Verb = Callable[[Mapping[str, Any]], Awaitable[Any]]


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What the command line sends."""

    verb: str
    arguments: dict[str, Any] = {}


class Response(msgspec.Struct):
    """What it gets: a result, or an error text with its next step."""

    result: Any = None
    error: str = ""
    next_step: str = ""


class ControlServer:
    """Answers verbs on a Unix socket of mode 0660. A component."""

    def __init__(self, *, path: Path, verbs: Mapping[str, Verb]) -> None:
        self._path = path
        self._verbs = dict(verbs)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._log = get_logger("control")

    async def start(self) -> None:
        """Listen. Raises OperatorError when another process answers on the socket."""
        if self._path.exists() and await self._somebody_listens():
            raise OperatorError(
                f"another edgecore answers on {self._path}", next_step="stop it first, or use another state directory"
            )
        self._path.unlink(missing_ok=True)
        previous = os.umask(0o777 & ~MODE)
        try:
            self._server = await asyncio.start_unix_server(self._serve, path=str(self._path), limit=MAX_REQUEST)
        except OSError as error:
            raise OperatorError(
                f"cannot listen on {self._path}: {error.strerror or error}",
                next_step="check the directory and its mode",
            ) from None
        finally:
            os.umask(previous)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            self._path.unlink(missing_ok=True)
            await close_all(self._writers)

    def health(self) -> Health:
        state = State.RUNNING if self._server is not None else State.STOPPED
        return Health(state, details={"socket": str(self._path)})

    async def _somebody_listens(self) -> bool:
        try:
            _, writer = await asyncio.open_unix_connection(str(self._path))
        except OSError:
            return False
        await close_all({writer})
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            line = await reader.readline()
            if line:
                writer.write(msgspec.json.encode(await self._answer(line)) + b"\n")
                await writer.drain()
        except (OSError, ValueError) as error:  # ValueError: the line was longer than MAX_REQUEST
            self._log.warning("control request dropped", error=error)
        finally:
            self._writers.discard(writer)
            await close_all({writer})

    async def _answer(self, line: bytes) -> Response:
        try:
            request = msgspec.json.decode(line, type=Request)
        except msgspec.MsgspecError as error:
            return Response(error=f"request: {error}")
        verb = self._verbs.get(request.verb)
        if verb is None:
            return Response(error=f"verb: unknown {request.verb!r}", next_step="; ".join(sorted(self._verbs)))
        try:
            return Response(result=await verb(request.arguments))
        except ApplianceError as error:
            return Response(error=error.message, next_step=error.next_step)
        except Exception as error:  # noqa: BLE001 - whoever asks must get an answer, and the socket goes on
            self._log.error("verb failed", verb=request.verb, error=error, exc_info=error)
            return Response(error=f"{type(error).__name__}: {error}", next_step="please report it with the log")


async def call(path: Path, verb: str, *, timeout: float = 10.0, **arguments: Any) -> Any:
    """Ask the process behind the socket. Raises OperatorError when none answers, TransientError when it refuses."""
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=MAX_ANSWER)
            try:
                writer.write(msgspec.json.encode(Request(verb, arguments)) + b"\n")
                line = await reader.readline()
            finally:
                await close_all({writer})
    except PermissionError:
        raise OperatorError(f"no permission for {path}", next_step="run as root or as a member of its group") from None
    except (OSError, TimeoutError):
        raise OperatorError(
            f"nothing answers on {path}", next_step="is it running? start it with: edgecore run"
        ) from None
    if not line.endswith(b"\n"):
        raise TransientError("the process closed the connection before its answer was complete", next_step="try again")
    response = msgspec.json.decode(line, type=Response)
    if response.error:
        raise TransientError(response.error, next_step=response.next_step)
    return response.result
