"""The HTTP transport on a line that is cut or swallows everything."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cloudgateway.kube.access import load_kubeconfig
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.errors import ApiUnavailable, is_retryable
from cloudgateway.kube.http_transport import HttpTransport
from cloudgateway.kube.local_transport import LocalTransport
from cloudgateway.kube.reflector import Reflector, Watched
from cloudgateway.kube.resources import CONFIGMAPS
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.supervisor import TaskScope
from tests.support.kube_client import embedded_api
from tests.support.relay import Relay, relay


class Site:
    """An API over TLS, our client behind a relay to it, and another that is at the API itself."""

    def __init__(self, client: KubeClient, near: KubeClient, line: Relay) -> None:
        self.client, self.near, self.line = client, near, line

    async def add(self, name: str) -> None:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
        await self.near.create(CONFIGMAPS, body, namespace="default")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with embedded_api(tmp_path / "api") as embedded:
        shell = await embedded.serve()
        async with relay(urlsplit(shell.url).port or 0) as line:
            await embedded.write_kubeconfig(tmp_path / "kubeconfig", server=f"https://127.0.0.1:{line.port}")
            client = KubeClient(HttpTransport(load_kubeconfig(tmp_path / "kubeconfig")), timeout=0.5)
            yield Site(client, KubeClient(LocalTransport(embedded)), line)
            await client.close()


async def test_a_mirror_survives_cuts(site: Site, scope: TaskScope) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    mirror = Reflector(site.client, Watched(CONFIGMAPS, "default"), backoff=Backoff(initial=0.01, maximum=0.05))
    mirror.subscribe(on_add=lambda obj: told.put_nowait(obj["metadata"]["name"]))
    scope.spawn(mirror.run(), name="mirror")
    await asyncio.wait_for(mirror.wait_synced(), 10)
    for number in range(5):
        await site.add(f"c{number}")
        site.line.cut()
        assert await asyncio.wait_for(told.get(), 10) == f"c{number}"
    assert told.empty()


async def test_a_line_that_swallows_everything_ends_a_request_in_time(site: Site) -> None:
    await site.add("a")
    site.line.black_hole()
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(ApiUnavailable) as error:
        await site.client.get(CONFIGMAPS, "default", "a")
    assert loop.time() - started < 5
    assert is_retryable(error.value)
    assert error.value.next_step
    site.line.black_hole(False)
    site.line.cut()
    assert (await site.client.get(CONFIGMAPS, "default", "a"))["metadata"]["name"] == "a"


async def test_a_kept_connection_that_was_closed_costs_no_write(site: Site) -> None:
    await site.add("a")
    for number in range(5):
        patched = await site.client.patch(CONFIGMAPS, "default", "a", {"data": {"n": str(number)}})
        assert patched["data"] == {"n": str(number)}
        site.line.cut()
    await site.client.delete(CONFIGMAPS, "default", "a")


async def test_nobody_listens(tmp_path: Path, site: Site) -> None:
    await site.line.stop()
    with pytest.raises(ApiUnavailable):
        await site.client.get(CONFIGMAPS, "default", "a")
