"""Shared mirrors through a restart of their component."""

import asyncio
from typing import Any

from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.informers import Informers
from cloudgateway.kube.reflector import Watched
from cloudgateway.kube.resources import CONFIGMAPS
from edgeappliance.kernel.supervisor import TaskScope


async def test_subscribers_hear_after_a_restart_what_happened_meanwhile(
    local_client: KubeClient, scope: TaskScope
) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    informers = Informers(local_client, scope)
    mirror = informers.of(Watched(CONFIGMAPS, "default"))
    assert informers.of(Watched(CONFIGMAPS, "default")) is mirror

    def added(obj: dict[str, Any]) -> None:
        told.put_nowait(obj["metadata"]["name"])

    mirror.subscribe(on_add=added)
    await asyncio.wait_for(mirror.wait_synced(), 10)
    informers.pause()
    await scope.cancel()
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "meanwhile"}}
    await local_client.create(CONFIGMAPS, body, namespace="default")
    informers.resume()
    assert await asyncio.wait_for(told.get(), 10) == "meanwhile"
    informers.resume()
    assert len(scope) == 1
    assert informers.troubles() == {}


async def test_nothing_is_asked_before_it_can_be_there(local_client: KubeClient, scope: TaskScope) -> None:
    installed = asyncio.Event()
    informers = Informers(local_client, scope, ready=installed)
    mirror = informers.of(Watched(CONFIGMAPS, "default"))
    await asyncio.sleep(0.05)
    assert not mirror.synced
    installed.set()
    await asyncio.wait_for(mirror.wait_synced(), 10)
