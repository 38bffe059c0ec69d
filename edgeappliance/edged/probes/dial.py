"""Opening a TCP connection, with failures in the words of a kubelet (Go's net package)."""

import asyncio
import errno
import os
import socket
import ssl

_WORDS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network is unreachable",
    errno.ECONNRESET: "connection reset by peer",
    errno.ETIMEDOUT: "connection timed out",
}


class DialFailed(Exception):
    """`dial tcp 10.1.2.3:80: connect: connection refused`."""


async def dial(
    host: str, port: int, *, tls: ssl.SSLContext | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection; the caller bounds the time. Raises DialFailed."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        return await asyncio.open_connection(host, port, ssl=tls, server_hostname=(host or None) if tls else None)
    except (socket.gaierror, ValueError):  # ValueError: not even a name
        raise DialFailed(f"dial tcp: lookup {host}: no such host") from None
    except ssl.SSLError as error:
        raise DialFailed(f"tls: {error.reason or error}") from None
    except OSError as error:
        word = _WORDS.get(error.errno or 0) or (os.strerror(error.errno).lower() if error.errno else str(error))
        raise DialFailed(f"dial tcp {address}: connect: {word}") from None
