"""/exec, /attach and /run: a peer on one side, a session on the engine on the other."""

import asyncio
import contextlib

from edgeappliance.edged.engine.api import Engine, Session
from edgeappliance.edged.kubelet.peers import Peer, open_peer
from edgeappliance.edged.kubelet.query import StreamOptions
from edgeappliance.kernel.errors import ApplianceError
from edgeappliance.kernel.web.exchange import Exchange
from edgeappliance.wire.remotecommand import Result


async def run_exec(exchange: Exchange, engine: Engine, id: str, options: StreamOptions) -> None:
    """Run a command in a running container, and stream it. Raises HttpError."""
    async with open_peer(exchange, options) as peer:
        try:
            session = await engine.exec(
                id,
                options.command,
                stdin=options.stdin,
                stdout=options.stdout,
                stderr=options.stderr,
                tty=options.tty,
            )
        except ApplianceError as error:
            await peer.finish(Result(error=f"error executing command in container: {error.message}"))
            return
        await _join(peer, session, options, what="executing command in container")


async def run_attach(exchange: Exchange, engine: Engine, id: str, options: StreamOptions) -> None:
    """Stream the main process of a running container. Raises HttpError."""
    async with open_peer(exchange, options) as peer:
        try:
            session = await engine.attach(
                id, stdin=options.stdin, stdout=options.stdout, stderr=options.stderr, tty=options.tty
            )
        except ApplianceError as error:
            await peer.finish(Result(error=f"error attaching to container: {error.message}"))
            return
        await _join(peer, session, options, what="attaching to container")


async def _join(peer: Peer, session: Session, options: StreamOptions, *, what: str) -> None:
    """Stream both ways until the session ends or the peer leaves; then the session is closed."""
    helpers = [asyncio.create_task(_input(peer, session), name="exec-stdin")] if options.stdin else []
    if options.tty:
        helpers.append(asyncio.create_task(_resize(peer, session), name="exec-resize"))
    output = asyncio.create_task(_output(peer, session, what), name="exec-output")
    gone = asyncio.create_task(peer.gone(), name="exec-gone")
    try:
        await asyncio.wait({output, gone}, return_when=asyncio.FIRST_COMPLETED)
        result = output.result() if output.done() else None
        if result is not None:
            await session.close()
            await peer.finish(result)
    finally:
        tasks = [*helpers, output, gone]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await session.close()


async def _output(peer: Peer, session: Session, what: str) -> Result | None:
    """Until the session ends; None when the peer left first."""
    try:
        while (piece := await session.read()) is not None:
            await peer.write(*piece)
        return Result(await session.exit_code())
    except ApplianceError as error:
        return Result(error=f"error {what}: {error.message}")
    except OSError:
        return None


async def _input(peer: Peer, session: Session) -> None:
    with contextlib.suppress(ApplianceError, OSError):  # it has ended: what reads its output tells
        while data := await peer.stdin():
            await session.write(data)
        await session.write_eof()


async def _resize(peer: Peer, session: Session) -> None:
    with contextlib.suppress(ApplianceError):
        while size := await peer.size():
            await session.resize(*size)
