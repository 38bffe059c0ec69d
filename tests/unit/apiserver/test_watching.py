"""Lists and watches: selection, pages, resourceVersions, bookmarks, and what happens when history is gone."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from edgeappliance.kernel.clock import ManualClock
from edgeappliance.kubeapi import history
from edgeappliance.kubeapi.reading import BOOKMARK_INTERVAL, PIECE
from tests.support.embedded_api import MERGE, Api, widget, widget_definition

MAPS = "/api/v1/namespaces/default/configmaps"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


def config_map(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}}


async def take(events: AsyncIterator[dict[str, Any]], count: int) -> list[tuple[str, str]]:
    """Type and object name of the next events."""
    found = []
    async with asyncio.timeout(5):
        while len(found) < count:
            event = await anext(events)
            found.append((event["type"], event["object"]["metadata"].get("name", "")))
    return found


async def version(api: Api) -> str:
    return str((await api.ok("GET", MAPS))["metadata"]["resourceVersion"])


async def test_a_watch_goes_on_where_the_list_ended(embedded_api: Api) -> None:
    await embedded_api.ok("POST", MAPS, config_map("before"))
    since = await version(embedded_api)
    await embedded_api.ok("POST", MAPS, config_map("missed"))
    async with aclosing(embedded_api.events(f"{MAPS}?watch=1&resourceVersion={since}")) as events:
        assert await take(events, 1) == [("ADDED", "missed")]
        await embedded_api.ok("PATCH", f"{MAPS}/before", {"data": {"a": "1"}}, type=MERGE)
        await embedded_api.ok("DELETE", f"{MAPS}/before")
        assert await take(events, 2) == [("MODIFIED", "before"), ("DELETED", "before")]


async def test_a_watch_without_a_version_begins_with_what_is_there(embedded_api: Api) -> None:
    await embedded_api.ok("POST", MAPS, config_map("a"))
    async with aclosing(embedded_api.events(f"{MAPS}?watch=1")) as events:
        assert await take(events, 1) == [("ADDED", "a")]
        await embedded_api.ok("POST", MAPS, config_map("b"))
        assert await take(events, 1) == [("ADDED", "b")]


async def test_leaving_a_selection_is_a_deletion_to_the_watcher(embedded_api: Api) -> None:
    since = await version(embedded_api)
    target = f"{MAPS}?watch=1&labelSelector=on%3Dyes&resourceVersion={since}"
    async with aclosing(embedded_api.events(target)) as events:
        await embedded_api.ok("POST", MAPS, config_map("a", on="no"))
        await embedded_api.ok("POST", MAPS, config_map("b", on="yes"))
        for value in ("yes", "no"):
            await embedded_api.ok("PATCH", f"{MAPS}/a", {"metadata": {"labels": {"on": value}}}, type=MERGE)
        await embedded_api.ok("DELETE", f"{MAPS}/a")
        await embedded_api.ok("DELETE", f"{MAPS}/b")
        assert await take(events, 4) == [("ADDED", "b"), ("ADDED", "a"), ("DELETED", "a"), ("DELETED", "b")]


async def test_field_selectors_of_pods(embedded_api: Api) -> None:
    pods = "/api/v1/namespaces/default/pods"
    for name, node in (("a", "n1"), ("b", "n2")):
        spec = {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}
        await embedded_api.ok("POST", pods, {"metadata": {"name": name}, "spec": spec})
    found = await embedded_api.ok("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn2,status.phase!%3DFailed")
    assert [item["metadata"]["name"] for item in found["items"]] == ["b"]
    await embedded_api.fails(400, "GET", "/api/v1/pods?fieldSelector=spec.color%3Dred")


async def test_one_object_is_watched_by_its_url(embedded_api: Api) -> None:
    await embedded_api.ok("POST", MAPS, config_map("a"))
    await embedded_api.ok("POST", MAPS, config_map("b"))
    async with aclosing(embedded_api.events(f"{MAPS}/b?watch=true")) as events:
        assert await take(events, 1) == [("ADDED", "b")]


async def test_a_streamed_list_says_where_it_ends(embedded_api: Api) -> None:
    await embedded_api.ok("POST", MAPS, config_map("a"))
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    async with aclosing(embedded_api.events(f"{MAPS}?{query}")) as events:
        assert (await anext(events))["type"] == "ADDED"
        end = await anext(events)
        assert end["type"] == "BOOKMARK"
        assert end["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert end["object"]["metadata"]["resourceVersion"] == await version(embedded_api)
    await embedded_api.fails(400, "GET", f"{MAPS}?watch=1&sendInitialEvents=true")


async def test_bookmarks_move_the_version_on(embedded_api: Api, api_clock: ManualClock) -> None:
    since = await version(embedded_api)
    target = f"{MAPS}?watch=1&allowWatchBookmarks=true&resourceVersion={since}"
    async with aclosing(embedded_api.events(target)) as events:
        await embedded_api.ok("POST", MAPS, config_map("a"))
        assert await take(events, 1) == [("ADDED", "a")]
        await embedded_api.ok("POST", "/api/v1/namespaces/default/secrets", config_map("elsewhere"))
        api_clock.advance(BOOKMARK_INTERVAL)
        bookmark = await anext(events)
        assert bookmark["type"] == "BOOKMARK"
        assert bookmark["object"]["metadata"]["resourceVersion"] == await version(embedded_api)


async def test_a_watch_ends_after_its_time(embedded_api: Api, api_clock: ManualClock) -> None:
    await embedded_api.ok("POST", MAPS, config_map("a"))
    async with aclosing(embedded_api.events(f"{MAPS}?watch=1&timeoutSeconds=5")) as events:
        assert await take(events, 1) == [("ADDED", "a")]
        api_clock.advance(6)
        assert [event async for event in events] == []


async def test_a_forgotten_version_is_gone(embedded_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "COUNT_LIMIT", 10)
    since = await version(embedded_api)
    for index in range(20):
        await embedded_api.ok("POST", MAPS, config_map(f"c{index}"))
    async with aclosing(embedded_api.events(f"{MAPS}?watch=1&resourceVersion={since}")) as events:
        event = await anext(events)
        assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
    ahead = await embedded_api.fails(504, "GET", f"{MAPS}?watch=1&resourceVersion={10**12}")
    assert ahead["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
    await embedded_api.fails(504, "GET", f"{MAPS}?resourceVersion={10**12}")
    await embedded_api.fails(400, "GET", f"{MAPS}?resourceVersion=x")
    await embedded_api.fails(410, "GET", f"{MAPS}?resourceVersion=1&resourceVersionMatch=Exact")


async def test_a_watcher_that_falls_behind_is_told(embedded_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "COUNT_LIMIT", 10)
    since = await version(embedded_api)
    await embedded_api.ok("POST", MAPS, config_map("first"))
    async with aclosing(embedded_api.events(f"{MAPS}?watch=1&resourceVersion={since}")) as events:
        assert await take(events, 1) == [("ADDED", "first")]
        for index in range(30):
            await embedded_api.ok("POST", MAPS, config_map(f"c{index}"))
        assert (await anext(events))["object"]["code"] == 410


async def test_watches_end_with_their_definition(embedded_api: Api) -> None:
    crds, widgets = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "/apis/test.example.com/v1/widgets"
    inside = "/apis/test.example.com/v1/namespaces/default/widgets"
    await embedded_api.ok("POST", crds, widget_definition())
    await embedded_api.ok("POST", inside, widget("w"))
    since = (await embedded_api.ok("GET", widgets))["metadata"]["resourceVersion"]
    async with aclosing(embedded_api.events(f"{widgets}?watch=1&resourceVersion={since}")) as events:
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        await embedded_api.ok("DELETE", f"{crds}/widgets.test.example.com")
        assert (await waiting)["type"] == "DELETED"
        async with asyncio.timeout(5):
            assert [event async for event in events] == []
    await embedded_api.ok("POST", crds, widget_definition())
    async with aclosing(embedded_api.events(f"{widgets}?watch=1&resourceVersion={since}")) as events:
        assert (await anext(events))["object"]["code"] == 410


async def test_pages_show_one_moment(embedded_api: Api, api_clock: ManualClock) -> None:
    for index in range(5):
        await embedded_api.ok("POST", MAPS, config_map(f"c{index}"))
    first = await embedded_api.ok("GET", f"{MAPS}?limit=2")
    assert first["metadata"]["remainingItemCount"] == 3
    await embedded_api.ok("DELETE", f"{MAPS}/c3")
    await embedded_api.ok("POST", MAPS, config_map("c9"))
    names = [item["metadata"]["name"] for item in first["items"]]
    token = first["metadata"]["continue"]
    while token:
        page = await embedded_api.ok("GET", f"{MAPS}?limit=2&continue={token}")
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        names += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue", "")
    assert names == ["c0", "c1", "c2", "c3", "c4"]
    for wrong in ("x", "%%%", base64.urlsafe_b64encode(b"nothing").decode()):
        await embedded_api.fails(400, "GET", f"{MAPS}?continue={wrong}")
    forgotten = base64.urlsafe_b64encode(b"1-0:2").decode()
    await embedded_api.fails(410, "GET", f"{MAPS}?continue={forgotten}")


async def test_tables_and_partial_objects(embedded_api: Api) -> None:
    await embedded_api.ok("POST", MAPS, {**config_map("a"), "data": {"x": "1"}})
    value = await embedded_api.ok("GET", MAPS, accept=TABLE)
    assert [row["cells"][:2] for row in value["rows"]] == [["a", 1]]
    one = await embedded_api.ok("GET", f"{MAPS}/a", accept=TABLE)
    assert [column["name"] for column in one["columnDefinitions"]] == ["Name", "Data", "Age"]
    partial = await embedded_api.ok(
        "GET", MAPS, accept="application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
    )
    assert partial["kind"] == "PartialObjectMetadataList"
    assert [set(item) for item in partial["items"]] == [{"kind", "apiVersion", "metadata"}]
    response = await embedded_api.send("GET", MAPS, accept="application/vnd.kubernetes.protobuf")
    assert response.status == 406
    response = await embedded_api.send("GET", f"{MAPS}?watch=1", accept=TABLE)
    assert not isinstance(response.body, bytes)
    stream = response.body
    first = json.loads(await anext(aiter(stream)))
    assert first["object"]["columnDefinitions"]
    await stream.aclose()  # type: ignore[attr-defined]


async def test_hundreds_of_watchers_share_what_is_encoded(embedded_api: Api) -> None:
    since = await version(embedded_api)
    watchers = [embedded_api.events(f"{MAPS}?watch=1&resourceVersion={since}") for _ in range(200)]
    waiting = [asyncio.ensure_future(anext(watcher)) for watcher in watchers]
    await asyncio.sleep(0)
    await embedded_api.ok("POST", MAPS, config_map("a"))
    async with asyncio.timeout(10):
        events = await asyncio.gather(*waiting)
    assert {event["object"]["metadata"]["name"] for event in events} == {"a"}
    for watcher in watchers:
        await watcher.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("begun", ["with what is there", "behind"])
async def test_a_watch_is_handed_on_in_pieces(embedded_api: Api, begun: str) -> None:
    """A client that reads slowly holds one piece in memory, not the whole collection or its history."""
    since = await version(embedded_api)
    for index in range(20):
        await embedded_api.ok("POST", MAPS, config_map(f"c{index:02}") | {"data": {"t": "x" * 100_000}})
    target = f"{MAPS}?watch=1" + (f"&resourceVersion={since}" if begun == "behind" else "")
    response = await embedded_api.send("GET", target)
    assert not isinstance(response.body, bytes)
    names: list[str] = []
    async with aclosing(response.body) as pieces:  # type: ignore[type-var]
        async for piece in pieces:
            assert len(piece) < PIECE + 200_000
            names += [json.loads(line)["object"]["metadata"]["name"] for line in piece.splitlines()]
            if len(names) == 3:
                # What changes while a slow client reads comes after what was there.
                await embedded_api.ok("DELETE", f"{MAPS}/c19")
            if len(names) == 21:
                break
    assert names == [*(f"c{index:02}" for index in range(20)), "c19"]
