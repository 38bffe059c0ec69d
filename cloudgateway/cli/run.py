"""`cloudgateway run`: the daemon's outermost ring: event loop, signals, systemd."""

import asyncio
import logging
import resource
import signal
import sys
import warnings

from cloudgateway.cli.crowd import Crowd
from cloudgateway.cli.troubles import Troubles
from cloudgateway.config import GatewaySettings
from cloudgateway.gateway import Gateway
from edgeappliance.kernel import log
from edgeappliance.kernel.systemd import notify

_PATIENCE = 1.0
"""Seconds between looks at what keeps the gateway from its job."""


def run_forever(config: GatewaySettings) -> int:
    """Run until SIGTERM or SIGINT. Raises what keeps it from starting.

    The event loop is asyncio's own: with its TLS buffers limited a session that has carried 64 KB each way keeps
    half of what it keeps on uvloop (150 against 280 KB).
    """
    log.setup(level=config.log.level, form=config.log.format)
    # cryptography's opinion on node names of more than 52 characters, which Go and Kubernetes allow.
    warnings.filterwarnings("ignore", "Attribute's length must be", UserWarning)
    _raise_file_limit()
    crowd = Crowd()
    if config.log.level != "debug":  # who asks for everything gets it
        for handler in logging.getLogger().handlers:
            handler.addFilter(crowd)
    try:
        asyncio.run(_run(config, crowd))
    finally:
        crowd.flush(everything=True)
    return 0


def _raise_file_limit() -> None:
    """A connection is a file, and the usual soft limit of 1 024 is less than a fleet."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(config: GatewaySettings, crowd: Crowd) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    gateway = Gateway(config)
    await gateway.start()
    told = [
        asyncio.create_task(_announce(gateway), name="announce"),
        asyncio.create_task(_watch_health(gateway, plain=config.log.format == "text"), name="health"),
        asyncio.create_task(_count_crowds(crowd), name="crowd"),
    ]
    try:
        await ended.wait()
        notify("STOPPING=1")
    finally:
        for task in told:
            task.cancel()
        await asyncio.gather(*told, return_exceptions=True)
        await gateway.stop()


async def _announce(gateway: Gateway) -> None:
    """Say where it listens, once it does."""
    await gateway.wait_listening()
    for line in gateway.listening():
        print(line, flush=True)
    print(
        "new edge        cloudgateway token create, then on the box: edgecore join --cloud HOST --token T", flush=True
    )
    notify("READY=1")


async def _count_crowds(crowd: Crowd) -> None:
    while True:
        await asyncio.sleep(_PATIENCE)
        crowd.flush()


async def _watch_health(gateway: Gateway, *, plain: bool) -> None:
    """Say what keeps it from its job, each thing once, and when it is over."""
    troubles, logger = Troubles(), log.get_logger("gateway")
    while True:
        await asyncio.sleep(_PATIENCE)
        fresh, well = troubles.look(gateway.health())
        for name, health in fresh.items():
            if not plain:
                logger.warning("trouble", component=name, reason=health.reason, next_step=health.next_step)
                continue
            print(f"cloudgateway: {name}: {health.reason}", file=sys.stderr)
            if health.next_step:
                print(f"  what to do: {health.next_step}", file=sys.stderr)
        for name in well:
            logger.info("well again", component=name)
