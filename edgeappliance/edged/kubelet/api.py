"""The kubelet API: its routes and where it listens. A component.

Routes and texts are a kubelet's; KubeEdge's tunnel asks for the same ones (reference 9.4).
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from edgeappliance.edged.engine.api import Engine, EngineAway, EngineRefused
from edgeappliance.edged.kubelet import figures, guard, lookup, netns
from edgeappliance.edged.kubelet.exec import run_attach, run_exec
from edgeappliance.edged.kubelet.logs import run_logs
from edgeappliance.edged.kubelet.needs import Figures, Pods
from edgeappliance.edged.kubelet.portforward import run_port_forward
from edgeappliance.edged.kubelet.query import log_options, stream_options
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.component import Condition, Health, State
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.files import replace_file
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.kernel.web.exchange import Exchange, HttpError
from edgeappliance.kernel.web.server import WebServer

SOCKET = "kubelet.sock"
TOKEN = "kubelet.token"  # noqa: S105 - the name of a file
RETRY = 30.0
"""Seconds after which a port that was taken is tried again."""

RUN_TIMEOUT = 60.0
RUN_LIMIT = 1024 * 1024

JSON = "application/json"
TEXT = "text/plain; version=0.0.4; charset=utf-8"

Route = Callable[[Exchange, list[str]], Awaitable[None]]


class KubeletApi:
    """On `<runtime>/kubelet.sock` for whoever may open it, and on a port of 127.0.0.1 for whoever may ask (`guard`).

    syncing: whether pods are being looked after. The socket is there even when the port is not to be had.
    """

    def __init__(
        self,
        scope: TaskScope,
        *,
        runtime: Path,
        port: int,
        open_to_all: bool,
        pods: Pods,
        engine: Engine,
        figures: Figures,
        syncing: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self._scope = scope
        self._token_file = runtime / TOKEN
        self._token = ""
        self._open = open_to_all
        self._pods = pods
        self._engine = engine
        self._figures = figures
        self._syncing = syncing
        self._clock = clock
        self._condition = Condition(clock)
        self._local = WebServer(self._serve, unix=runtime / SOCKET)
        self._tcp = WebServer(self._guarded, port=port)
        self._listening = False
        self._routes: dict[str, Route] = {
            "pods": self._get_pods,
            "runningpods": self._get_running,
            "containerLogs": self._get_logs,
            "exec": self._exec,
            "attach": self._attach,
            "portForward": self._port_forward,
            "run": self._run,
            "stats": self._get_stats,
            "metrics": self._get_metrics,
            "healthz": self._get_healthz,
        }

    # -- component ----------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """On 127.0.0.1."""
        return self._tcp.port

    async def start(self) -> None:
        """Write a new token and listen. Raises OperatorError when the socket cannot be made."""
        self._token = secrets.token_urlsafe(32)
        try:
            await asyncio.to_thread(replace_file, self._token_file, f"{self._token}\n".encode(), mode=0o600)
        except OSError as error:
            raise OperatorError(
                f"cannot write {self._token_file}: {error.strerror or error}",
                next_step="check runtime_dir and its mode",
            ) from None
        await self._local.start()
        if not await self._listen():
            self._scope.spawn(self._keep_trying(), name="port")

    async def stop(self) -> None:
        await self._scope.cancel()
        self._listening = False
        await self._tcp.stop()
        await self._local.stop()
        self._condition.set(State.STOPPED)

    def health(self) -> Health:
        connections = self._local.connections + self._tcp.connections
        return self._condition.health({"port": str(self.port) if self._listening else "", "connections": connections})

    async def _listen(self) -> bool:
        try:
            await self._tcp.start()
        except OperatorError as error:
            self._condition.set(State.DEGRADED, error.message, "set edged.kubelet_port, or stop what holds the port")
            return False
        self._listening = True
        self._condition.set(State.RUNNING)
        return True

    async def _keep_trying(self) -> None:
        while not self._listening:
            await asyncio.sleep(RETRY)
            await self._listen()

    # -- requests -----------------------------------------------------------------------------------------

    async def _guarded(self, exchange: Exchange) -> None:
        guard.check(exchange.request, token=self._token, open_to_all=self._open)
        await self._serve(exchange)

    async def _serve(self, exchange: Exchange) -> None:
        words = exchange.request.path.strip("/").split("/")
        route = self._routes.get(words[0])
        if route is None:
            raise HttpError(404, "404 page not found")
        posted = words[0] in guard.INTO_PODS
        if exchange.request.method not in (("GET", "POST") if posted else ("GET", "HEAD")):
            raise HttpError(405, "405: Method Not Allowed")
        try:
            await route(exchange, words[1:])
        except EngineAway as error:
            raise HttpError(503, self._engine.trouble or error.message) from None
        except EngineRefused as error:
            raise HttpError(500, error.message) from None

    async def _get_pods(self, exchange: Exchange, rest: list[str]) -> None:
        _nothing(rest)
        await _json(exchange, figures.pod_list(self._pods.objects()))

    async def _get_running(self, exchange: Exchange, rest: list[str]) -> None:
        _nothing(rest)
        await _json(exchange, figures.running_pods(self._pods))

    async def _get_logs(self, exchange: Exchange, rest: list[str]) -> None:
        namespace, name, _, container = _address(rest, uid=False)
        options = log_options(exchange.request, now_ms=self._clock.wall_ms())
        pod = lookup.pod_of(self._pods, namespace=namespace, name=name)
        id = lookup.log_source(pod, container, previous=options.previous)
        await run_logs(exchange, self._engine, id, options)

    async def _exec(self, exchange: Exchange, rest: list[str]) -> None:
        options = stream_options(exchange.request)
        if not options.command:
            raise HttpError(400, "you must specify at least 1 command")
        await run_exec(exchange, self._engine, self._running(rest), options)

    async def _attach(self, exchange: Exchange, rest: list[str]) -> None:
        options = stream_options(exchange.request)
        await run_attach(exchange, self._engine, self._running(rest), options)

    async def _run(self, exchange: Exchange, rest: list[str]) -> None:
        """The command is split at blanks, as a kubelet splits it; no shell reads it."""
        command = exchange.request.first("cmd").split()
        if not command:
            raise HttpError(400, "cmd: is missing")
        try:
            code, output = await self._engine.run(self._running(rest), command, timeout=RUN_TIMEOUT, limit=RUN_LIMIT)
        except TimeoutError:
            raise HttpError(504, f"the command did not end within {RUN_TIMEOUT:.0f} s") from None
        if code != 0:
            output += f"\ncommand terminated with exit code {code}\n".encode()
        await exchange.answer(200 if code == 0 else 500, output)

    async def _port_forward(self, exchange: Exchange, rest: list[str]) -> None:
        if len(rest) not in (2, 3):
            raise HttpError(404, "404 page not found")
        namespace, name, uid = rest[0], rest[1], rest[2] if len(rest) == 3 else ""
        pod = lookup.pod_of(self._pods, namespace=namespace, name=name, uid=uid)
        observed = self._pods.observed(lookup.uid_of(pod))
        sandbox = lookup.sandbox(observed, name)
        on_host = bool((pod.get("spec") or {}).get("hostNetwork"))
        inside = None if on_host else netns.Inside(sandbox.pid, sandbox.id, sandbox.ip)

        async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await netns.connect(port, inside)

        await run_port_forward(exchange, connect, pod=f"{name}_{namespace}")

    async def _get_stats(self, exchange: Exchange, rest: list[str]) -> None:
        if rest != ["summary"]:
            raise HttpError(404, "404 page not found")
        summary = await self._figures.summary()
        if exchange.request.first("only_cpu_and_memory") == "true":
            summary = figures.only_cpu_and_memory(summary)
        await _json(exchange, summary)

    async def _get_metrics(self, exchange: Exchange, rest: list[str]) -> None:
        kind = "/".join(rest)
        if kind not in ("", "cadvisor", "resource", "probes"):
            raise HttpError(404, "404 page not found")
        await exchange.answer(200, await self._figures.exposition(kind), TEXT)

    async def _get_healthz(self, exchange: Exchange, rest: list[str]) -> None:
        if rest not in ([], ["ping"], ["syncloop"]):
            raise HttpError(404, "404 page not found")
        if rest == ["syncloop"] and not self._syncing():
            raise HttpError(500, "pods are not looked after: the container engine does not answer")
        await exchange.answer(200, b"ok")

    def _running(self, rest: list[str]) -> str:
        """The engine's id of the container that a path names. Raises HttpError, EngineAway."""
        namespace, name, uid, container = _address(rest, uid=True)
        pod = lookup.pod_of(self._pods, namespace=namespace, name=name, uid=uid)
        if not self._engine.connected:  # what runs is not known
            raise EngineAway(self._engine.trouble)
        return lookup.running(self._pods.observed(lookup.uid_of(pod)), container).id


def _address(rest: list[str], *, uid: bool) -> tuple[str, str, str, str]:
    """namespace, pod, uid ("" when absent), container. Raises HttpError 404."""
    if len(rest) == 3:
        return rest[0], rest[1], "", rest[2]
    if uid and len(rest) == 4:
        return rest[0], rest[1], rest[2], rest[3]
    raise HttpError(404, "404 page not found")


def _nothing(rest: list[str]) -> None:
    if rest:
        raise HttpError(404, "404 page not found")


async def _json(exchange: Exchange, value: object) -> None:
    await exchange.answer(200, msgspec.json.encode(value), JSON)
