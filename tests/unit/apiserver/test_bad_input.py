"""Input that no honest client sends: each has a named refusal, and none holds the API up."""

import json
import time
from typing import Any

import pytest

from tests.support.embedded_api import JSON_PATCH, MERGE, STRATEGIC, Api, widget, widget_definition

MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WIDGETS = "/apis/test.example.com/v1/namespaces/default/widgets"


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.fixture
async def api(embedded_api: Api) -> Api:
    await embedded_api.ok("POST", CRDS, widget_definition())
    await embedded_api.ok("POST", WIDGETS, widget("w", free={"a": "x" * 1000}))
    await embedded_api.ok("POST", MAPS, {"metadata": {"name": "m"}})
    await embedded_api.ok(
        "POST",
        PODS,
        {"metadata": {"name": "p"}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}},
    )
    return embedded_api


async def test_copies_of_copies_are_counted(api: Api) -> None:
    """Thirty operations would make 2^30 values."""
    bomb = [{"op": "copy", "from": "/spec/free", "path": f"/spec/free/c{index}"} for index in range(30)]
    status = await api.fails(413, "PATCH", f"{WIDGETS}/w", bomb, type=JSON_PATCH)
    assert "copy" in status["message"]
    assert (await api.ok("PATCH", f"{WIDGETS}/w", bomb[:3], type=JSON_PATCH))["spec"]["free"]["c0"] == {"a": "x" * 1000}


async def test_no_object_is_nested_deeper_than_what_walks_it_can_go(api: Api) -> None:
    for depth in (200, 900):
        for type, body in ((MERGE, {"spec": {"free": nested(depth)}}), (STRATEGIC, {"data": nested(depth)})):
            path = f"{WIDGETS}/w" if type == MERGE else f"{MAPS}/m"
            await api.fails(400, "PATCH", path, body, type=type)
        await api.fails(400, "POST", WIDGETS, widget("deep", free=nested(depth)))
    stack = [{"op": "add", "path": "/spec/free" + "/a" * (100 * step), "value": nested(101)} for step in range(2)]
    await api.fails(400, "PATCH", f"{WIDGETS}/w", stack, type=JSON_PATCH)
    await api.ok("PATCH", f"{WIDGETS}/w", {"spec": {"free": nested(60)}}, type=MERGE)
    await api.ok("PATCH", f"{WIDGETS}/w", [{"op": "remove", "path": "/spec/free/a"}], type=JSON_PATCH)


async def test_an_object_cannot_grow_without_end(api: Api) -> None:
    for index in range(2):
        body = {"spec": {"free": {f"part{index}": "x" * 700_000}}}
        await api.ok("PATCH", f"{WIDGETS}/w", body, type=MERGE)
    status = await api.fails(413, "PATCH", f"{WIDGETS}/w", {"spec": {"free": {"more": "x" * 700_000}}}, type=MERGE)
    assert status["reason"] == "RequestEntityTooLarge"
    assert "larger than 1572864 bytes" in status["message"]
    # The limit of a ConfigMap is one of bytes, not of characters.
    await api.ok("PATCH", f"{MAPS}/m", {"data": {"t": "x" * 1_000_000}}, type=MERGE)
    await api.fails(422, "PATCH", f"{MAPS}/m", {"data": {"t": "\u00fc" * 300_000 + "x" * 500_000}}, type=MERGE)


async def test_long_keyed_lists_do_not_hold_the_api_up(api: Api) -> None:
    """Each of these took half a minute, in which no node was served."""
    owners = [{"uid": str(index), "name": "x", "kind": "y", "apiVersion": "v1"} for index in range(15_000)]
    started = time.process_time()
    await api.ok(
        "PATCH", f"{MAPS}/m", {"metadata": {"finalizers": [f"a.b/c{i}" for i in range(15_000)]}}, type=STRATEGIC
    )
    await api.ok("PATCH", f"{MAPS}/m?dryRun=All", {"metadata": {"ownerReferences": owners}}, type=STRATEGIC)
    assert time.process_time() - started < 5.0


async def test_a_url_with_an_empty_namespace_means_nothing(api: Api) -> None:
    """Least of all every namespace there is."""
    await api.fails(404, "DELETE", "/api/v1/namespaces//configmaps")
    await api.fails(404, "GET", "/api/v1/namespaces//configmaps")
    await api.ok("GET", f"{MAPS}/m")


@pytest.mark.parametrize("path", ["/healthzzz", "/livezoo", "/readyz-not"])
async def test_only_the_health_paths_are_health_paths(api: Api, path: str) -> None:
    await api.fails(404, "GET", path)


DIRECTIVES: dict[str, Any] = {
    "unknown directive": {"$patch": "explode"},
    "directive of the wrong type": {"spec": {"$patch": {"a": 1}}},
    "retained keys that are no list": {"spec": {"$retainKeys": "x"}},
    "an order that is no list": {"spec": {"$setElementOrder/containers": 3}},
    "an order of something that is no list": {
        "spec": {"$setElementOrder/containers": [{"name": "c"}], "containers": 3}
    },
    "primitives that are no list": {"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}},
    "an item without its key": {"spec": {"containers": [{"image": "x"}]}},
    "an item that is no object": {"spec": {"containers": [None]}},
    "a key that is an object": {"spec": {"containers": [{"name": {"a": 1}, "image": "x"}]}},
}


@pytest.mark.parametrize("what", DIRECTIVES)
async def test_directives_that_make_no_sense_are_refused(api: Api, what: str) -> None:
    response = await api.send("PATCH", f"{PODS}/p", DIRECTIVES[what], type=STRATEGIC)
    assert response.status in (400, 422), response.body


async def test_a_null_in_a_list_is_a_zero_value_as_go_reads_it(api: Api) -> None:
    status = await api.fails(422, "PATCH", f"{PODS}/p", {"spec": {"containers": [None]}}, type=MERGE)
    assert "spec.containers[0].name" in status["message"]


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        "x",
        [],
        {"name": 1},
        {"name": ["a"]},
        {"name": {"a": 1}},
        {"generateName": {"a": 1}},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("path", [MAPS, WIDGETS, "/api/v1/namespaces", "/api/v1/nodes", CRDS])
async def test_metadata_of_the_wrong_shape_is_named(api: Api, path: str, metadata: Any) -> None:
    response = await api.send("POST", path, {"metadata": metadata})
    assert response.status in (400, 422), response.body


async def test_a_namespace_that_is_no_text_is_refused(api: Api) -> None:
    await api.fails(400, "POST", MAPS, {"metadata": {"name": "x", "namespace": 3}})


@pytest.mark.parametrize(
    "options",
    [
        {"preconditions": "x"},
        {"gracePeriodSeconds": "x"},
        {"gracePeriodSeconds": True},
        {"propagationPolicy": {"a": 1}},
        {"orphanDependents": "x"},
        {"dryRun": "All"},
    ],
    ids=json.dumps,
)
async def test_delete_options_of_the_wrong_type_delete_nothing(api: Api, options: Any) -> None:
    await api.fails(400, "DELETE", f"{MAPS}/m", options)
    await api.ok("GET", f"{MAPS}/m")
