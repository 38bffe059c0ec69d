"""Our client on a real API server, and namespaces to work in."""

import uuid
from collections.abc import AsyncIterator

import pytest

from cloudgateway.kube.access import load_kubeconfig
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.crd_install import install_crds
from cloudgateway.kube.http_transport import HttpTransport
from cloudgateway.kube.resources import NAMESPACES
from edgeappliance.kernel.supervisor import TaskScope
from tests.support.real_api import RealApi


@pytest.fixture
async def real_client(real_api: RealApi) -> AsyncIterator[KubeClient]:
    """A client of the real API server, with the custom resources installed."""
    client = KubeClient(HttpTransport(load_kubeconfig(real_api.kubeconfig)))
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


@pytest.fixture
def kube_client(real_client: KubeClient) -> KubeClient:
    return real_client
