"""`edgecore run`: the daemon's outermost ring: event loop, signals, systemd."""

import asyncio
import signal

from edgeappliance.appliance import Appliance
from edgeappliance.config.settings import EdgeSettings
from edgeappliance.kernel import log
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.systemd import notify


def run_forever(config: EdgeSettings) -> int:
    """Run until SIGTERM or SIGINT. Raises what keeps it from starting."""
    log.setup(level=config.log.level, form=config.log.format)
    with asyncio.Runner(loop_factory=_loop_factory(config.event_loop)) as runner:
        runner.run(_run(config))
    return 0


def _loop_factory(wanted: str) -> "type[asyncio.AbstractEventLoop] | None":
    # "auto" is asyncio: measured with 300 updates a second, uvloop saves a tenth of the CPU and costs 2 MB.
    if wanted != "uvloop":
        return None
    try:
        import uvloop
    except ImportError:
        raise OperatorError(
            "event_loop is uvloop, which is not installed", next_step='set event_loop = "auto"'
        ) from None
    return uvloop.Loop


async def _run(config: EdgeSettings) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    pause = Backoff(initial=1.0, maximum=60.0)
    suspect = False
    while not ended.is_set():
        appliance = Appliance(config, suspect=suspect)
        began = loop.time()
        await appliance.start()
        try:
            notify("READY=1")
            await _until(ended, appliance)
        finally:
            if ended.is_set():
                notify("STOPPING=1")
            await appliance.stop()
        # Only a damaged database leads here before a signal. One that is so again at once must not make a storm.
        suspect = True
        pause.succeeded(loop.time() - began)
        await _at_most(pause.next_delay(), ended)


async def _at_most(seconds: float, event: asyncio.Event) -> None:
    """Wait for the event, but not longer than that."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


async def _until(ended: asyncio.Event, appliance: Appliance) -> None:
    """Return at a signal, or when the database must be replaced."""
    waits = [asyncio.ensure_future(ended.wait()), asyncio.ensure_future(appliance.damaged())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await asyncio.wait(waits)
