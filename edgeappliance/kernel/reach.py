"""Reaching a host that has several addresses, some of which lead nowhere."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def reach(host: str, port: int, attempt: Callable[[str], Awaitable[T]], *, timeout: float) -> T:
    """The outcome of the first `attempt(address)` that gets through, within `timeout` seconds in all.

    Every address gets its share of the time: on sites where IPv6 is announced and dropped, the operating
    system's own patience would use up all of it on the first one. What TLS or the peer says about a
    connection that was made is final. Raises what the last address raised.
    """
    async with asyncio.timeout(timeout):
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError as error:  # the codec of host names, for an empty label or one that is too long
            raise OSError(f"{host!r} is no host name: {error}") from error
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        for address in addresses[:-1]:
            try:
                async with asyncio.timeout(timeout / len(addresses)):
                    return await attempt(address)
            except ssl.SSLError:
                raise
            except OSError:  # TimeoutError is one
                continue
        return await attempt(addresses[-1])
