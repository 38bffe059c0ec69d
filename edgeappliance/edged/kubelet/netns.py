"""A TCP connection into a pod: from inside its network namespace where we may, else to its address.

From inside, also what listens on the pod's loopback is reached, as a kubelet does.
"""

import asyncio
import ctypes
import errno
import os
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000
CONNECT_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Inside:
    """The process of a container (0: it is not known), the container's id, and the address of its pod."""

    pid: int
    id: str
    ip: str


async def connect(port: int, inside: Inside | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to `port` by way of localhost: in the network namespace of a container, or (None) in our own.

    Where that namespace may not be entered, the address of the pod is tried. Raises OSError.
    """
    fallback = inside.ip if inside is not None else ""
    error: OSError = ConnectionRefusedError(f"no way to port {port}")
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            sock = _plain(family) if inside is None else await _socket_in(inside, family)
        except PermissionError:
            if not fallback:
                raise
            sock, host = _plain(socket.AF_INET6 if ":" in fallback else socket.AF_INET), fallback
        except OSError as problem:  # no IPv6 here
            error = problem if family == socket.AF_INET else error
            continue
        try:
            return await _connected(sock, host, port)
        except OSError as problem:
            sock.close()
            error = problem if family == socket.AF_INET else error
        except BaseException:
            sock.close()
            raise
    raise error


async def _connected(sock: socket.socket, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    sock.setblocking(False)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except TimeoutError:
        raise TimeoutError(f"no answer from {host}:{port} within {CONNECT_TIMEOUT:.0f} s") from None
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return await asyncio.open_connection(sock=sock)


def _plain(family: socket.AddressFamily) -> socket.socket:
    return socket.socket(family, socket.SOCK_STREAM)


async def _socket_in(inside: Inside, family: socket.AddressFamily) -> socket.socket:
    """A socket that belongs to another namespace: it stays there wherever it is used. Raises OSError."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[socket.socket] = loop.create_future()

    def make() -> None:
        # In a thread of its own that ends at once: a thread that has changed its namespace is of no other use.
        try:
            sock = _enter(inside, family)
        except OSError as problem:
            loop.call_soon_threadsafe(_settle, made, None, problem)
        else:
            loop.call_soon_threadsafe(_settle, made, sock, None)

    threading.Thread(target=make, name=f"netns-{inside.pid}", daemon=True).start()
    return await made


def _settle(made: "asyncio.Future[socket.socket]", sock: socket.socket | None, problem: OSError | None) -> None:
    if made.cancelled():
        if sock is not None:
            sock.close()
    elif sock is not None:
        made.set_result(sock)
    elif problem is not None:
        made.set_exception(problem)


def _enter(inside: Inside, family: socket.AddressFamily) -> socket.socket:
    """Blocking, and for a thread that ends after it. Raises OSError."""
    if inside.pid == 0:
        raise PermissionError("the process of the container is not known")
    namespace = os.open(f"/proc/{inside.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Looked at with the namespace in hand: a number that now belongs to another process opens no other door.
        if inside.id not in Path(f"/proc/{inside.pid}/cgroup").read_text():
            raise ProcessLookupError(errno.ESRCH, "the container has ended")
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(namespace, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(namespace)
    return _plain(family)
