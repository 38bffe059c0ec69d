"""pods/binding and pods/eviction: who may be placed, what an eviction leaves, bodies that are none."""

from typing import Any

import pytest

from edgeappliance.kernel.clock import ManualClock
from tests.support.embedded_api import MERGE, Api

PODS = "/api/v1/namespaces/default/pods"


def pod(name: str, **spec: Any) -> dict[str, Any]:
    spec.setdefault("schedulerName", "mine")
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}], **spec}}


def binding(name: str, node: str, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, **metadata},
        "target": {"kind": "Node", "name": node},
    }


def eviction(name: str, **options: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    return {**body, "deleteOptions": options} if options else body


async def test_a_scheduler_of_somebody_else_places_a_pod(embedded_api: Api) -> None:
    made = await embedded_api.ok("POST", PODS, pod("p"))
    uid = made["metadata"]["uid"]
    status = await embedded_api.ok("POST", f"{PODS}/p/binding", binding("p", "n", uid=uid, annotations={"by": "me"}))
    assert status["status"] == "Success"
    value = await embedded_api.ok("GET", f"{PODS}/p")
    assert (value["spec"]["nodeName"], value["metadata"]["annotations"]) == ("n", {"by": "me"})
    assert [(item["type"], item["status"]) for item in value["status"]["conditions"]] == [("PodScheduled", "True")]
    again = await embedded_api.fails(409, "POST", f"{PODS}/p/binding", binding("p", "m"))
    assert again["message"].endswith('pod p is already assigned to node "n"')
    assert (await embedded_api.ok("GET", f"{PODS}/p"))["spec"]["nodeName"] == "n"


async def test_what_may_not_be_placed(embedded_api: Api) -> None:
    await embedded_api.ok("POST", PODS, pod("gated", schedulingGates=[{"name": "x.io/wait"}]))
    held = pod("going", schedulerName="mine")
    held["metadata"]["finalizers"] = ["x.io/hold"]
    await embedded_api.ok("POST", PODS, held)
    await embedded_api.ok("DELETE", f"{PODS}/going")
    for name, words in (("gated", "non-empty .spec.schedulingGates"), ("going", "cannot be assigned to a host")):
        assert words in (await embedded_api.fails(409, "POST", f"{PODS}/{name}/binding", binding(name, "n")))["message"]
    wrong = await embedded_api.fails(409, "POST", f"{PODS}/gated/binding", binding("gated", "n", uid="other"))
    assert "UID in precondition: other" in wrong["message"]
    await embedded_api.ok("PATCH", f"{PODS}/going", {"metadata": {"finalizers": None}}, type=MERGE)


BAD_BODIES: tuple[tuple[int, str, Any], ...] = (
    (422, "binding", {"metadata": {"name": "p"}}),
    (422, "binding", {"metadata": {"name": "p"}, "target": {"kind": "Pod", "name": "n"}}),
    (422, "binding", {"target": {"name": 5}}),
    (422, "binding", {"target": "n"}),
    (400, "binding", {**binding("p", "n"), "kind": "Eviction"}),
    (400, "binding", {**binding("p", "n"), "metadata": {"name": "p", "annotations": {"a": 1}}}),
    (400, "binding", {**binding("p", "n"), "metadata": ["p"]}),
    (400, "binding", binding("p", "n", namespace="other")),
    (400, "eviction", {**eviction("p"), "apiVersion": "v1"}),
    (400, "eviction", eviction("q")),
    (400, "eviction", {**eviction("p"), "deleteOptions": "now"}),
    (400, "eviction", eviction("p", gracePeriodSeconds="5")),
    (422, "eviction", eviction("p", propagationPolicy="Sideways")),
    (409, "eviction", eviction("p", preconditions={"resourceVersion": "1"})),
)


@pytest.mark.parametrize(("code", "subresource", "body"), BAD_BODIES)
async def test_bodies_that_are_refused_change_nothing(
    embedded_api: Api, code: int, subresource: str, body: Any
) -> None:
    before = await embedded_api.ok("POST", PODS, pod("p"))
    await embedded_api.fails(code, "POST", f"{PODS}/p/{subresource}", body)
    assert await embedded_api.ok("GET", f"{PODS}/p") == before


@pytest.mark.parametrize("subresource", ["binding", "eviction"])
async def test_other_methods_are_refused(embedded_api: Api, subresource: str) -> None:
    await embedded_api.ok("POST", PODS, pod("p"))
    for method in ("GET", "PUT", "PATCH", "DELETE"):
        await embedded_api.fails(405, method, f"{PODS}/p/{subresource}", {})
    await embedded_api.fails(404, "POST", f"{PODS}/missing/{subresource}", {"target": {"name": "n"}})


async def test_an_evicted_pod_gets_its_grace_and_says_why_it_goes(embedded_api: Api, api_clock: ManualClock) -> None:
    made = await embedded_api.ok("POST", PODS, pod("p", nodeName="n", terminationGracePeriodSeconds=20))
    await embedded_api.ok("POST", f"{PODS}/p/eviction?dryRun=All", eviction("p"))
    assert await embedded_api.ok("GET", f"{PODS}/p") == made
    version = made["metadata"]["resourceVersion"]
    await embedded_api.ok("POST", f"{PODS}/p/eviction", eviction("p", preconditions={"resourceVersion": version}))
    value = await embedded_api.ok("GET", f"{PODS}/p")
    assert value["metadata"]["deletionGracePeriodSeconds"] == 20
    assert value["status"]["conditions"][0]["reason"] == "EvictionByEvictionAPI"
    await embedded_api.ok("POST", f"{PODS}/p/eviction", eviction("p", gracePeriodSeconds=0))
    await embedded_api.fails(404, "GET", f"{PODS}/p")


async def test_an_ended_pod_is_evicted_at_once(embedded_api: Api) -> None:
    await embedded_api.ok("POST", PODS, pod("p", nodeName="n"))
    await embedded_api.ok("PATCH", f"{PODS}/p/status", {"status": {"phase": "Failed"}}, type=MERGE)
    await embedded_api.ok("POST", f"{PODS}/p/eviction", eviction("p"))
    await embedded_api.fails(404, "GET", f"{PODS}/p")


async def test_discovery_tells_of_the_subresources(embedded_api: Api) -> None:
    listed = {item["name"]: item for item in (await embedded_api.ok("GET", "/api/v1"))["resources"]}
    assert {key: listed["pods/eviction"][key] for key in ("kind", "group", "version", "verbs")} == {
        "kind": "Eviction",
        "group": "policy",
        "version": "v1",
        "verbs": ["create"],
    }
    assert listed["pods/binding"]["kind"] == "Binding"
    assert "group" not in listed["pods/log"]
