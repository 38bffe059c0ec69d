"""One try of a probe, its output in the words of a kubelet."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from edgeappliance.edged.engine.api import EngineAway, EngineRefused
from edgeappliance.edged.pods.spec import Container, Exec, Grpc, HttpGet, IntOrText, Probe, TcpSocket
from edgeappliance.edged.probes import grpc
from edgeappliance.edged.probes.dial import DialFailed, dial
from edgeappliance.edged.probes.http import HttpFailed, Url, get
from edgeappliance.edged.probes.outcome import Answer, Verdict
from edgeappliance.kernel.errors import ApplianceError
from edgeappliance.kernel.http import close_all

AGENT = "kube-probe/1.32"

_URL = "".join(map(chr, range(0x21, 0x7F)))
"""What goes as it is into a URL: a path may bring its own query and escapes."""

OUTPUT_LIMIT = 10 * 1024
"""Bytes of a command's output that are kept, as a kubelet does."""


class Runner(Protocol):
    """What an exec probe needs of the engine."""

    async def run(self, id: str, command: Sequence[str], *, timeout: float, limit: int = ...) -> tuple[int, bytes]: ...


@dataclass(frozen=True, slots=True)
class Target:
    """The container that is probed: its id, its specification (for names of ports), and the address of its pod."""

    id: str
    spec: Container
    address: str


async def attempt(probe: Probe, target: Target, engine: Runner) -> Answer:
    """Ask once, at most `timeoutSeconds` long. Never raises but when it is cancelled."""
    timeout = max(1, probe.timeout_seconds)
    if probe.exec is not None:
        return await _exec(probe.exec, target, engine, timeout)
    try:
        if probe.http_get is not None:
            return await _http(probe.http_get, target, timeout)
        if probe.tcp_socket is not None:
            return await _tcp(probe.tcp_socket, target, timeout)
        if probe.grpc is not None:
            return await _grpc(probe.grpc, target, timeout)
    except UnknownPort as error:
        return Answer(Verdict.UNKNOWN, str(error))
    return Answer(Verdict.UNKNOWN, f"missing probe handler for {target.spec.name}")


class UnknownPort(Exception):
    """A port that is neither a number nor the name of one of the container's."""


def port_of(port: IntOrText, spec: Container) -> int:
    """The number of a port that may be named. Raises UnknownPort."""
    number = int(port) if isinstance(port, int) or (port.isascii() and port.isdecimal()) else 0
    if not number:
        number = next((p.container_port for p in spec.ports if p.name == port), 0)
    if not number:
        raise UnknownPort(f"couldn't find port: {port}")
    if not 0 < number < 65536:
        raise UnknownPort(f"invalid port number: {port}")
    return number


def url_of(action: HttpGet, target: Target) -> Url:
    """Where an httpGet goes. Raises UnknownPort."""
    path = action.path or "/"
    return Url(
        action.scheme.lower() or "http",
        action.host or target.address,
        port_of(action.port, target.spec),
        quote(path if path.startswith("/") else f"/{path}", safe=_URL),
    )


async def _exec(action: Exec, target: Target, engine: Runner, timeout: int) -> Answer:
    try:
        code, output = await engine.run(target.id, action.command, timeout=timeout, limit=OUTPUT_LIMIT)
    except TimeoutError:
        return Answer(Verdict.FAILURE, f'command timed out: "{" ".join(action.command)}" timed out after {timeout}s')
    except EngineAway:
        return Answer(Verdict.UNKNOWN)  # the node says so; each probe of each pod need not
    except EngineRefused as error:
        # Also a command that is not there: the engine says so instead of an exit code, a kubelet fails the probe.
        return Answer(Verdict.FAILURE if _no_such_command(error) else Verdict.UNKNOWN, error.message)
    except (ApplianceError, OSError) as error:
        return Answer(Verdict.UNKNOWN, str(error))
    return Answer(Verdict.SUCCESS if code == 0 else Verdict.FAILURE, output.decode("utf-8", "replace"))


def _no_such_command(error: EngineRefused) -> bool:
    text = error.message
    return "executable file not found" in text or "no such file or directory" in text or "permission denied" in text


async def _http(action: HttpGet, target: Target, timeout: int) -> Answer:
    url = url_of(action, target)
    try:
        async with asyncio.timeout(timeout):
            answer = await get(url, action.http_headers, agent=AGENT)
    except HttpFailed as error:
        return Answer(Verdict.FAILURE, str(error))
    except TimeoutError:
        return Answer(
            Verdict.FAILURE,
            f'Get "{url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)',
        )
    body = answer.body.decode("utf-8", "replace")
    if answer.stopped:
        return Answer(Verdict.SUCCESS, f"{answer.stopped}, Response body: {body}", warning=True)
    if 200 <= answer.status < 400:
        return Answer(Verdict.SUCCESS, body)
    return Answer(Verdict.FAILURE, f"HTTP probe failed with statuscode: {answer.status}")


async def _tcp(action: TcpSocket, target: Target, timeout: int) -> Answer:
    host, port = action.host or target.address, port_of(action.port, target.spec)
    try:
        async with asyncio.timeout(timeout):
            _, writer = await dial(host, port)
    except DialFailed as error:
        return Answer(Verdict.FAILURE, str(error))
    except TimeoutError:
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return Answer(Verdict.FAILURE, f"dial tcp {address}: i/o timeout")
    await close_all([writer])
    return Answer(Verdict.SUCCESS)


async def _grpc(action: Grpc, target: Target, timeout: int) -> Answer:
    try:
        async with asyncio.timeout(timeout):
            health = await grpc.check(target.address, action.port, action.service, agent=AGENT)
    except (TimeoutError, DialFailed) as error:
        detail = "context deadline exceeded" if isinstance(error, TimeoutError) else str(error)
        address = f"{target.address}:{action.port}"
        return Answer(Verdict.FAILURE, f'timeout: failed to connect service "{address}" within {timeout}s: {detail}')
    except grpc.GrpcFailed as error:
        return Answer(Verdict.FAILURE, str(error))
    if health == "SERVING":
        return Answer(Verdict.SUCCESS, "service healthy")
    return Answer(Verdict.FAILURE, f'service unhealthy (responded with "{health}")')
