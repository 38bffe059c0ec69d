"""Our client on every API that it must work with, and namespaces to work in."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cloudgateway.apiserver.embedded import EmbeddedApi
from cloudgateway.kube.access import load_kubeconfig
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.crd_install import install_crds
from cloudgateway.kube.http_transport import HttpTransport
from cloudgateway.kube.local_transport import LocalTransport
from cloudgateway.kube.resources import NAMESPACES
from edgeappliance.kernel.supervisor import TaskScope

APIS = ("embedded", "served", "real")
"""The embedded API without a socket, the same over TLS, and a real kube-apiserver."""


@pytest.fixture(params=APIS)
async def kube_client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[KubeClient]:
    """A client of each API in turn, with the custom resources installed."""
    if request.param == "real":
        api = request.getfixturevalue("real_api")
        async with _client(HttpTransport(load_kubeconfig(api.kubeconfig))) as client:
            yield client
        return
    async with embedded_api(tmp_path / "api") as embedded:
        if request.param == "embedded":
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
