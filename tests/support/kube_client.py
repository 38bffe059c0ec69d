"""Our client on every API that it must work with, and namespaces to work in."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from cloudgateway.apiserver.embedded import EmbeddedApi
from cloudgateway.kube.access import load_kubeconfig
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.crd_install import install_crds
from cloudgateway.kube.errors import ApiUnavailable
from cloudgateway.kube.http_transport import HttpTransport
from cloudgateway.kube.local_transport import LocalTransport
from cloudgateway.kube.resources import NAMESPACES
from cloudgateway.kube.transport import Request, Response
from edgeappliance.kernel.supervisor import TaskScope
from tests.support.real_api import RealApi

APIS = ("embedded", "served", "real")
"""The embedded API without a socket, the same over TLS, and a real kube-apiserver."""


@pytest.fixture(params=[*APIS[:-1], pytest.param(APIS[-1], marks=pytest.mark.real_cluster)])
def which_api(request: pytest.FixtureRequest) -> str | RealApi:
    """The name of an API in this process, or a real one."""
    if request.param == "real":
        real: RealApi = request.getfixturevalue("real_api")
        return real
    return str(request.param)


@pytest.fixture
async def kube_client(which_api: str | RealApi, tmp_path: Path) -> AsyncIterator[KubeClient]:
    """A client of each API in turn, with the custom resources installed."""
    if isinstance(which_api, RealApi):
        async with _client(HttpTransport(load_kubeconfig(which_api.kubeconfig))) as client:
            yield client
        return
    async with embedded_api(tmp_path / "api") as embedded:
        if which_api == "embedded":
            transport: HttpTransport | LocalTransport = LocalTransport(embedded)
        else:
            shell = await embedded.serve()
            await embedded.write_kubeconfig(tmp_path / "kubeconfig", server=shell.url)
            transport = HttpTransport(load_kubeconfig(tmp_path / "kubeconfig"))
        async with _client(transport) as client:
            yield client


@pytest.fixture
async def local_client(tmp_path: Path) -> AsyncIterator[KubeClient]:
    """A client of the embedded API alone, for tests that are not about the API."""
    async with embedded_api(tmp_path / "api") as embedded, _client(LocalTransport(embedded)) as client:
        yield client


@asynccontextmanager
async def embedded_api(directory: Path) -> AsyncIterator[EmbeddedApi]:
    """An embedded API with a database of its own."""
    embedded = await EmbeddedApi.open(directory)
    try:
        yield embedded
    finally:
        await embedded.close()


@asynccontextmanager
async def _client(transport: HttpTransport | LocalTransport) -> AsyncIterator[KubeClient]:
    client = KubeClient(transport)
    try:
        await install_crds(client)
        yield client
    finally:
        await client.close()


@pytest.fixture
async def scope() -> AsyncIterator[TaskScope]:
    """Background tasks of a component under test; a task that fails fails the test."""
    failures: list[BaseException] = []
    made = TaskScope("test", failures.append)
    yield made
    await made.cancel()
    assert not failures, failures


async def new_namespace(client: KubeClient) -> str:
    """A fresh namespace, so that tests on one API do not see each other's objects."""
    name = f"t-{uuid.uuid4().hex[:10]}"
    await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


class FaultyTransport:
    """A transport in front of another that holds, fails, refuses or loses requests of one method."""

    def __init__(self, inner: LocalTransport) -> None:
        self._inner = inner
        self._failing: dict[str, int] = {}
        self._refusing: dict[str, int] = {}
        self._losing: dict[str, int] = {}
        self._holding = ""
        self._free = asyncio.Event()
        self._free.set()
        self._held = asyncio.Event()
        self._refused = asyncio.Event()

    def fail(self, method: str, *, times: int) -> None:
        """The next requests are not delivered."""
        self._failing[method] = times

    def refuse(self, method: str, *, times: int) -> None:
        """The next requests are answered with 422."""
        self._refusing[method] = times

    def lose_answers(self, method: str, *, times: int) -> None:
        """The next requests are carried out, but nobody learns it."""
        self._losing[method] = times

    def hold(self, method: str) -> None:
        """Requests wait until `release`."""
        self._holding = method
        self._free.clear()
        self._held.clear()

    def release(self) -> None:
        self._holding = ""
        self._free.set()

    async def held(self) -> None:
        """Returns when a request waits."""
        await asyncio.wait_for(self._held.wait(), 10)

    async def refused(self) -> None:
        """Returns when a request was refused."""
        await asyncio.wait_for(self._refused.wait(), 10)

    async def send(self, request: Request, *, timeout: float) -> Response:
        if request.method == self._holding:
            self._held.set()
            await self._free.wait()
        if self._take(self._failing, request.method):
            raise ApiUnavailable("the line is cut")
        if self._take(self._refusing, request.method):
            self._refused.set()
            return Response(422, b'{"kind":"Status","code":422,"reason":"Invalid","message":"refused by the test"}')
        response = await self._inner.send(request, timeout=timeout)
        if self._take(self._losing, request.method):
            raise ApiUnavailable("the line was cut before the answer")
        return response

    def stream(self, request: Request, *, read_timeout: float) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        return self._inner.stream(request, read_timeout=read_timeout)

    async def close(self) -> None:
        await self._inner.close()

    def _take(self, counts: dict[str, int], method: str) -> bool:
        left = counts.get(method, 0)
        counts[method] = max(0, left - 1)
        return left > 0


@pytest.fixture
async def faulty_client(tmp_path: Path) -> AsyncIterator[tuple[KubeClient, FaultyTransport]]:
    """A client of the embedded API, and the faults that can be put in its way."""
    async with embedded_api(tmp_path / "api") as embedded:
        line = FaultyTransport(LocalTransport(embedded))
        client = KubeClient(line)
        await install_crds(client)
        yield client, line
