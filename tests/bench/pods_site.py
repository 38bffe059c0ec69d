"""A site with pods for benchmarks: a Docker Engine, gateway and edge, and a client of the API that watches pods."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import aiohttp

from tests.bench.site import client_access
from tests.support.docker_fixtures import BUSYBOX
from tests.support.dockerd import Dockerd
from tests.support.stand import Stand

PODS = "/api/v1/namespaces/default/pods"


class PodSite:
    """`stand`, `engine`, and pods by way of the API. `edged`: settings beside those of the stand."""

    def __init__(self, *, edged: dict[str, Any] | None = None) -> None:
        self._edged = edged or {}
        self.engine = Dockerd()
        self.stand: Stand
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> "PodSite":
        await self.engine.start()
        try:
            await self.engine.image(BUSYBOX, changes=['CMD ["sh"]', "ENV PATH=/bin"])
            self.stand = await Stand(docker=self.engine.socket).__aenter__()
            self.stand.edge_settings["edged"] |= self._edged
            self.stand.write_settings()
            await self.stand.start_gateway()
            await self.stand.join()
            await self.stand.start_edge()
        except BaseException:
            await self.engine.close()
            raise
        self.server, self.context, headers = client_access(self.stand.kubeconfig)
        self._session = aiohttp.ClientSession(headers=headers, read_bufsize=2**22)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._session.close()
        try:
            await self.stand.__aexit__(*error)
        finally:
            await self.engine.close()

    async def create(self, pod: dict[str, Any]) -> float:
        """POST a pod; the perf_counter at which it was sent."""
        sent = time.perf_counter()
        async with self._session.post(f"{self.server}{PODS}", json=pod, ssl=self.context) as response:
            assert response.status == 201, await response.text()
        return sent

    async def delete(self, name: str) -> None:
        """DELETE a pod, without waiting for its end."""
        async with self._session.delete(f"{self.server}{PODS}/{name}", ssl=self.context) as response:
            assert response.status in (200, 202, 404), await response.text()

    async def list(self) -> list[dict[str, Any]]:
        """All pods."""
        async with self._session.get(f"{self.server}{PODS}", ssl=self.context) as response:
            items: list[dict[str, Any]] = (await response.json())["items"]
            return items

    async def watch(self, see: Callable[[dict[str, Any], float], None], ready: asyncio.Event) -> None:
        """Call `see(pod, perf_counter)` for every event."""
        url = f"{self.server}{PODS}?watch=true"
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.get(url, ssl=self.context, timeout=timeout) as response:
            ready.set()
            async for line in response.content:
                see(json.loads(line)["object"], time.perf_counter())


def runs(pod: dict[str, Any]) -> bool:
    """Whether all its containers run, as the API knows it."""
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return bool(statuses) and all("running" in item["state"] for item in statuses)
