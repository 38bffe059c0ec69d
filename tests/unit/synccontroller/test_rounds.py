"""What a round costs when there are many records: only those of connected nodes, and never the event loop."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from cloudgateway.kube.client import KubeClient, WatchEvent
from cloudgateway.kube.reflector import Reflector, Watched
from cloudgateway.kube.resources import DEVICES, OBJECT_SYNCS
from cloudgateway.kube.transport import Request, Response
from cloudgateway.synccontroller import controller
from cloudgateway.synccontroller.controller import SyncController
from tests.support.recording_hub import RecordingHub


class Nowhere:
    """An API that is not asked."""

    async def send(self, request: Request, *, timeout: float) -> Response:
        raise AssertionError(f"{request.method} {request.path}")

    def stream(self, request: Request, *, read_timeout: float) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        raise AssertionError("nothing is watched")

    async def close(self) -> None:
        """Nothing is open."""


class Mirrors:
    """Mirrors that hold what a test puts into them."""

    def __init__(self) -> None:
        self._known: dict[Watched, Reflector] = {}

    def of(self, watched: Watched) -> Reflector:
        if watched not in self._known:
            self._known[watched] = made = Reflector(KubeClient(Nowhere()), watched)
            made._synced.set()
        return self._known[watched]


class Idle:
    """A scope in which nothing runs by itself."""

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> None:
        work.close()


def record(node: str, number: int, version: str = "7") -> dict[str, Any]:
    return {
        "metadata": {"name": f"{node}.u{number}", "namespace": "ns", "uid": f"{node}{number}", "resourceVersion": "1"},
        "spec": {"objectAPIVersion": DEVICES.api_version, "objectKind": "Device", "objectName": f"{node}-d{number}"},
        "status": {"objectResourceVersion": version},
    }


@pytest.fixture
async def site() -> AsyncIterator[tuple[Mirrors, RecordingHub, SyncController]]:
    mirrors, hub = Mirrors(), RecordingHub()
    sync = SyncController(KubeClient(Nowhere()), mirrors, hub, Idle())  # type: ignore[arg-type]
    await sync.start()
    for node in ("edge.1", "edge.2"):
        for number in range(500):
            name = f"{node}-d{number}"
            metadata = {"name": name, "namespace": "ns", "uid": f"u{number}", "resourceVersion": "7"}
            device = {"metadata": metadata, "spec": {"nodeName": node}}
            mirrors.of(Watched(DEVICES))._apply(WatchEvent("ADDED", device))
            mirrors.of(Watched(OBJECT_SYNCS))._apply(WatchEvent("ADDED", record(node, number)))
    yield mirrors, hub, sync
    await sync.stop()


async def test_a_round_looks_at_the_connected_nodes_records_only(
    site: tuple[Mirrors, RecordingHub, SyncController], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirrors, hub, sync = site
    looked: list[str] = []
    decide = controller.decide

    def counted(one: Any, obj: Any) -> Any:
        looked.append(one.node)
        return decide(one, obj)

    monkeypatch.setattr(controller, "decide", counted)
    monkeypatch.setattr(controller, "parse_record", lambda _: pytest.fail("parsed again"))
    assert await sync.round() == 0
    assert looked == []
    hub.up("edge.1")
    assert await sync.round() == 0
    assert looked == ["edge.1"] * 500
    mirrors.of(Watched(OBJECT_SYNCS))._apply(WatchEvent("DELETED", record("edge.1", 0)))
    looked.clear()
    await sync.round()
    assert len(looked) == 499


async def test_a_round_lets_others_run(site: tuple[Mirrors, RecordingHub, SyncController]) -> None:
    _, hub, sync = site
    hub.up("edge.1")
    hub.up("edge.2")
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(other())
    assert await sync.round() == 0
    task.cancel()
    assert turns >= 3
