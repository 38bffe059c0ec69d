"""A mirror against a scripted API: expired versions, cut lines, objects that changed while nobody looked."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from cloudgateway.kube import reflector
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.errors import ApiUnavailable, api_error
from cloudgateway.kube.reflector import Reflector, Watched
from cloudgateway.kube.resources import CONFIGMAPS, DEVICES
from cloudgateway.kube.transport import Request, Response
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.supervisor import TaskScope


def config_map(name: str, version: int, *, uid: str = "") -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": "ns",
            "uid": uid or name,
            "resourceVersion": str(version),
            "managedFields": [{}],
        }
    }


def page(version: int, *items: dict[str, Any], token: str = "") -> Response:
    metadata = {"resourceVersion": str(version)}
    if token:
        metadata["continue"] = token
    return Response(200, msgspec.json.encode({"kind": "ConfigMapList", "metadata": metadata, "items": list(items)}))


def event(kind: str, obj: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"type": kind, "object": obj}) + b"\n"


GONE = event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})


class Ended(Exception):
    """In a script: the server ends the watch here."""


class Script:
    """A transport that answers lists and watches from two lists; the last watch stays open."""

    def __init__(self, lists: list[Response | Exception], watches: list[list[bytes | Exception]]) -> None:
        self.lists, self.watches = lists, watches
        self.requests: list[Request] = []
        self.exhausted = asyncio.Event()

    async def send(self, request: Request, *, timeout: float) -> Response:
        self.requests.append(request)
        answer = self.lists.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @asynccontextmanager
    async def stream(self, request: Request, *, read_timeout: float) -> AsyncIterator[AsyncIterator[bytes]]:
        self.requests.append(request)
        chunks = self.watches.pop(0)

        async def pieces() -> AsyncIterator[bytes]:
            for chunk in chunks:
                if isinstance(chunk, Ended):
                    return
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk
            if not self.watches:
                self.exhausted.set()
                await asyncio.Event().wait()

        yield pieces()

    async def close(self) -> None: ...

    def watched_from(self) -> list[str]:
        return [r.query["resourceVersion"] for r in self.requests if r.query.get("watch")]


async def run(script: Script, scope: TaskScope) -> tuple[Reflector, list[str]]:
    mirror = Reflector(KubeClient(script), Watched(CONFIGMAPS, "ns"), backoff=Backoff(initial=0.001, maximum=0.002))
    told: list[str] = []

    def tell(what: str) -> Callable[..., None]:
        return lambda *objects: told.append(f"{what} {objects[-1]['metadata']['name']}")

    mirror.subscribe(on_add=tell("add"), on_update=tell("update"), on_delete=tell("delete"))
    scope.spawn(mirror.run(), name="mirror")
    await asyncio.wait_for(script.exhausted.wait(), 5)
    return mirror, told


async def test_an_expired_version_is_listed_anew_and_the_difference_told(scope: TaskScope) -> None:
    script = Script(
        [
            page(10, config_map("a", 1), config_map("b", 2), config_map("c", 3, uid="old")),
            page(50, config_map("a", 1), config_map("b", 40), config_map("c", 41, uid="new"), config_map("d", 42)),
        ],
        [[GONE], []],
    )
    mirror, told = await run(script, scope)
    assert told == ["add a", "add b", "add c", "update b", "delete c", "add c", "add d"]
    assert script.watched_from() == ["10", "50"]
    assert "managedFields" not in mirror.get("ns", "a")["metadata"]  # type: ignore[index]


async def test_what_was_deleted_while_nobody_looked(scope: TaskScope) -> None:
    script = Script([page(10, config_map("a", 1)), page(20)], [[GONE], []])
    _, told = await run(script, scope)
    assert told == ["add a", "delete a"]


async def test_a_410_as_the_answer_of_the_watch(scope: TaskScope) -> None:
    too_old = api_error(410, b'{"kind":"Status","code":410,"reason":"Expired","message":"too old"}')
    script = Script([page(10), page(20, config_map("a", 15))], [[too_old], []])
    _, told = await run(script, scope)
    assert told == ["add a"]


async def test_a_cut_line_continues_after_the_last_bookmark(scope: TaskScope) -> None:
    bookmark = event("BOOKMARK", {"kind": "ConfigMap", "metadata": {"resourceVersion": "30"}})
    script = Script(
        [page(10)],
        [
            [event("ADDED", config_map("a", 11)), bookmark, ApiUnavailable("cut")],
            [event("MODIFIED", config_map("a", 31))],
        ],
    )
    mirror, told = await run(script, scope)
    assert script.watched_from() == ["10", "30"]
    assert told == ["add a", "update a"]
    assert mirror.last_error == ""
    assert mirror.resource_version == "31"


async def test_events_cut_anywhere_between_two_pieces(scope: TaskScope) -> None:
    text = (
        event("ADDED", config_map("a", 11))
        + event("MODIFIED", config_map("a", 12))
        + event("ADDED", config_map("b", 13))
    )
    script = Script([page(10)], [[bytes([byte]) for byte in text]])
    _, told = await run(script, scope)
    assert told == ["add a", "update a", "add b"]


async def test_the_same_version_twice_is_told_once(scope: TaskScope) -> None:
    script = Script([page(10, config_map("a", 1))], [[event("MODIFIED", config_map("a", 1))]])
    _, told = await run(script, scope)
    assert told == ["add a"]


async def test_an_api_that_is_away_at_first(scope: TaskScope) -> None:
    missing = api_error(404, b'{"kind":"Status","code":404,"reason":"NotFound","message":"no such resource"}')
    script = Script([ApiUnavailable("down"), missing, page(10, config_map("a", 1))], [[]])
    mirror, told = await run(script, scope)
    assert told == ["add a"]
    assert mirror.synced


async def test_a_resync_finds_what_no_event_told(scope: TaskScope) -> None:
    script = Script([page(10, config_map("a", 1)), page(11, config_map("a", 1), config_map("b", 2))], [[Ended()], []])
    mirror = Reflector(
        KubeClient(script), Watched(CONFIGMAPS, "ns"), resync=0.001, backoff=Backoff(initial=0.01, maximum=0.01)
    )
    told: list[str] = []
    mirror.subscribe(on_add=lambda obj: told.append(obj["metadata"]["name"]))
    scope.spawn(mirror.run(), name="mirror")
    await asyncio.wait_for(script.exhausted.wait(), 5)
    assert told == ["a", "b"]
    assert script.watched_from() == ["10", "11"]


async def test_a_subscriber_that_fails_does_not_stop_the_others(scope: TaskScope) -> None:
    script = Script([page(10)], [[event("ADDED", config_map("a", 11)), event("ADDED", config_map("b", 12))]])
    mirror = Reflector(KubeClient(script), Watched(CONFIGMAPS, "ns"))
    told: list[str] = []

    def broken(obj: dict[str, Any]) -> None:
        raise KeyError(obj["metadata"]["name"])

    mirror.subscribe(on_add=broken)
    end = mirror.subscribe(on_add=lambda obj: told.append(obj["metadata"]["name"]))
    scope.spawn(mirror.run(), name="mirror")
    await asyncio.wait_for(script.exhausted.wait(), 5)
    assert told == ["a", "b"]
    late: list[str] = []
    mirror.subscribe(on_add=lambda obj: late.append(obj["metadata"]["name"]))
    assert late == ["a", "b"]
    end()
    end()


async def test_pages_that_expire_are_listed_from_the_start() -> None:
    expired = Response(410, b'{"kind":"Status","code":410,"reason":"Expired","message":"continue expired"}')
    script = Script([page(10, config_map("a", 1), token="t"), expired, page(20, config_map("b", 15))], [])
    listed = await KubeClient(script).list(CONFIGMAPS, "ns")
    assert [item["metadata"]["name"] for item in listed.items] == ["b"]
    assert listed.resource_version == "20"
    assert script.requests[1].query["continue"] == "t"


async def test_a_busy_server_is_asked_again() -> None:
    busy = Response(429, b"slow down", retry_after=0.001)
    script = Script([busy, busy, page(10)], [])
    assert (await KubeClient(script).list(CONFIGMAPS)).items == []
    assert len(script.requests) == 3


async def test_a_resource_that_is_just_being_installed_is_no_trouble(
    scope: TaskScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = api_error(404, b"404 page not found\n")
    mirror, _ = await run(Script([missing, missing, page(10)], [[]]), scope)
    assert mirror.last_error == ""
    monkeypatch.setattr(reflector, "_NEWBORN", 0.0)
    script = Script([missing] * 50, [])
    lasting = Reflector(KubeClient(script), Watched(DEVICES), backoff=Backoff(initial=0.001, maximum=0.002))
    scope.spawn(lasting.run(), name="lasting")
    async with asyncio.timeout(5):
        while not lasting.last_error:
            await asyncio.sleep(0)
    assert lasting.last_error == "the API does not serve this resource"
    await scope.cancel()
