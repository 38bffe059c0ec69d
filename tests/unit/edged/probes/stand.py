"""Peers for probes: HTTP servers on real sockets, and commands that really run."""

import asyncio
import shlex
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext

from edgeappliance.edged.engine.api import EngineAway, EngineRefused
from edgeappliance.edged.events import Regarding
from edgeappliance.edged.pods.observed import Kind, ObservedContainer, Phase

Reply = Callable[[str], bytes]
"""Bytes of an answer to a request's head."""


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Word", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Web:
    """A server that answers each request by `reply` and keeps the heads it was sent."""

    reply: Reply
    port: int = 0
    heads: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            writer.write(self.reply(head))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()


@asynccontextmanager
async def web(reply: Reply, *, tls: Path | None = None) -> AsyncIterator[Web]:
    """A server on 127.0.0.1; `tls`: a folder for a certificate that nobody trusts."""
    context = None
    if tls is not None:
        subprocess.run(
            shlex.split("openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out crt -subj /CN=x"),
            cwd=tls, check=True, capture_output=True,
        )  # fmt: skip
        context = SSLContext(PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "crt", tls / "key")
    made = Web(reply)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


class Commands:
    """Runs commands on this machine where an engine runs them in a container."""

    def __init__(self) -> None:
        self.away = False

    async def run(self, id: str, command: Sequence[str], *, timeout: float, limit: int = 10240) -> tuple[int, bytes]:
        if self.away:
            raise EngineAway("no Docker Engine answers")
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
        except FileNotFoundError:
            raise EngineRefused(f'exec: "{command[0]}": executable file not found in $PATH', code=400) from None
        try:
            async with asyncio.timeout(timeout):
                output, _ = await process.communicate()
        except BaseException:  # out of time, or the probe is not wanted any more
            process.kill()
            await process.communicate()
            raise
        assert process.returncode is not None
        return process.returncode, output[:limit]


@dataclass
class Told:
    """Events as they were told."""

    events: list[tuple[str, str, str]] = field(default_factory=list)

    def event(self, regarding: Regarding, type: str, reason: str, message: str) -> None:
        self.events.append((regarding.field_path, reason, message))


def container(id: str = "c1", *, started_ms: int = 0, name: str = "web", pid: int = 0) -> ObservedContainer:
    return ObservedContainer(
        id=id,
        name=name,
        kind=Kind.APP,
        pod_uid="u1",
        namespace="default",
        pod_name="p",
        attempt=0,
        phase=Phase.RUNNING,
        started_ms=started_ms,
        pid=pid,
    )
