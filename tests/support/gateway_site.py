"""A whole gateway in this process, on the embedded API or on a real API server, for edges that are not ours."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cloudgateway.config import (
    CloudHubSettings,
    CloudStreamSettings,
    EmbeddedSettings,
    EnrolmentSettings,
    GatewaySettings,
    KubernetesSettings,
    MetricsSettings,
)
from cloudgateway.gateway import Gateway
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.errors import ApiError
from cloudgateway.kube.resources import (
    CONFIGMAPS,
    CRDS,
    DEVICE_MODELS,
    DEVICES,
    GVR,
    NAMESPACES,
    NODES,
    PODS,
)
from tests.support import kubeedge_edge as edge


def gateway_settings(*, directory: Path | None = None, kubeconfig: Path | None = None) -> GatewaySettings:
    return GatewaySettings(
        cloudhub=CloudHubSettings(host="127.0.0.1", port=0),
        enrolment=EnrolmentSettings(host="127.0.0.1", port=0, addresses=["127.0.0.1"]),
        cloudstream=CloudStreamSettings(host="127.0.0.1", tunnel_port=0),
        embedded=EmbeddedSettings(directory=str(directory or ""), port=0),
        kubernetes=KubernetesSettings(kubeconfig=str(kubeconfig or ""), install_crds=True),
        metrics=MetricsSettings(port=0),
    )


@dataclass
class Site:
    """A gateway on one of the two kinds of API, and names that are its own on an API that others use too."""

    settings: GatewaySettings
    kubeconfig: Path
    gateway: Gateway
    node: str
    meter: str

    @property
    def client(self) -> KubeClient:
        return self.gateway.api.client

    async def start(self) -> None:
        self.gateway = Gateway(self.settings)
        await self.gateway.start()
        await self.gateway.wait_listening()

    async def join(self, node: str) -> edge.Identity:
        credentials = await self.gateway.credentials.wait()
        token, _ = await self.gateway.vault.create_token(
            credentials.authority, lifetime_s=60, note="", now=datetime.now(UTC)
        )
        return await edge.enrolled(self.gateway.enrolment.port, node, token)

    async def connect(self, identity: edge.Identity) -> edge.EdgeCore:
        core = edge.EdgeCore(identity.node)
        await core.connect(self.gateway.hub.port, identity.context())
        return core

    async def until(self, gvr: GVR, namespace: str | None, name: str, true: Any) -> dict[str, Any]:
        """The object once `true(object)` holds; `true(None)` for one that is gone."""
        async with asyncio.timeout(20):
            while True:
                try:
                    found = await self.client.get(gvr, namespace, name)
                except ApiError as error:
                    if not error.not_found:
                        raise
                    found = None
                if true(found):
                    return found or {}
                await asyncio.sleep(0.02)


@pytest.fixture(params=["embedded", pytest.param("real", marks=pytest.mark.real_cluster)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[GatewaySettings, Path]:
    """Settings for one of the two kinds of API, and its kubeconfig."""
    if request.param == "real":
        kubeconfig: Path = request.getfixturevalue("real_api").kubeconfig
        return gateway_settings(kubeconfig=kubeconfig), kubeconfig
    return gateway_settings(directory=tmp_path / "api"), tmp_path / "api" / "admin.kubeconfig"


@pytest.fixture
async def site(place: tuple[GatewaySettings, Path]) -> AsyncIterator[Site]:
    settings, kubeconfig = place
    own = uuid.uuid4().hex[:8]
    running = Site(settings, kubeconfig, Gateway(settings), f"edge-{own}", f"meter-{own}")
    await running.start()
    await running.until(NAMESPACES, None, "kubeedge", bool)
    await running.until(CRDS, None, "devices.devices.kubeedge.io", bool)
    yield running
    for gvr, namespace, name in [
        (DEVICES, "default", running.meter),
        (DEVICE_MODELS, "default", running.meter),
        (PODS, "default", running.meter),
        (CONFIGMAPS, "default", running.meter),
        (NODES, None, running.node),
    ]:
        with contextlib.suppress(ApiError):
            await running.client.delete(gvr, namespace, name, options={"gracePeriodSeconds": 0})
    await running.gateway.stop()


def node_object(name: str) -> dict[str, Any]:
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "node-role.kubernetes.io/edge": "", "zone": "roof"},
        },
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]},
    }
