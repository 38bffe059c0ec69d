"""`kube`: the real kubectl in a namespace of its own, on the embedded API and on a real kube-apiserver."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cloudgateway.apiserver.embedded import EmbeddedApi
from tests.support.embedded_api import widget_definition
from tests.support.kubectl import Kubectl
from tests.support.real_api import RealApi


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.real_cluster)])
def kube_api(request: pytest.FixtureRequest) -> RealApi | None:
    """Which API: a running real one, or None for the embedded one."""
    # Not in the async fixture: starting the real one waits, and no event loop may wait with it.
    found: RealApi | None = request.getfixturevalue("real_api") if request.param == "real" else None
    return found


@pytest.fixture
async def kube(kube_api: RealApi | None, tmp_path: Path) -> AsyncIterator[Kubectl]:
    """kubectl on each API in turn, with the Widget definition installed."""
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    if kube_api is not None:
        kubectl = Kubectl("real", kube_api.kubeconfig, tmp_path, namespace)
        await _prepare(kubectl)
        yield kubectl
        await kubectl.run("delete", "namespace", namespace, "--wait=false", all=True)
        return
    embedded = await EmbeddedApi.open(tmp_path / "api")
    try:
        shell = await embedded.serve()
        await embedded.write_kubeconfig(tmp_path / "kubeconfig", server=shell.url)
        kubectl = Kubectl("embedded", tmp_path / "kubeconfig", tmp_path, namespace)
        await _prepare(kubectl)
        yield kubectl
    finally:
        await embedded.close()


async def _prepare(kubectl: Kubectl) -> None:
    await kubectl.run("create", "namespace", kubectl.namespace, all=True)
    await kubectl.apply(widget_definition())
    await kubectl.run("wait", "--for=condition=Established", "crd/widgets.test.example.com", "--timeout=20s")
