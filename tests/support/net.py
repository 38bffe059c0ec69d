"""Loopback helpers: ports and readiness."""

import asyncio
import random
import socket

_GIVEN: set[int] = set()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now and that was not given out before by this process.

    From below the ephemeral range: the kernel hands those out to outgoing connections at any moment.
    """
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        if port in _GIVEN:
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _GIVEN.add(port)
        return port


async def wait_port(port: int, timeout: float = 10.0) -> None:
    """Return when something accepts on 127.0.0.1:port; TimeoutError otherwise."""
    async with asyncio.timeout(timeout):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            await writer.wait_closed()
            return
