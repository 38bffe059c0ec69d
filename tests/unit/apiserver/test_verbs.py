"""Create, update, patch, delete: what the server sets, what it keeps, what it refuses."""

import asyncio
from typing import Any

import pytest

from edgeappliance.kubeapi.request import ApiRequest, User
from tests.support.embedded_api import JSON_PATCH, MERGE, STRATEGIC, Api, widget, widget_definition

MAPS = "/api/v1/namespaces/default/configmaps"
NODES = "/api/v1/nodes"
PODS = "/api/v1/namespaces/default/pods"
WIDGETS = "/apis/test.example.com/v1/namespaces/default/widgets"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture
async def widgets(embedded_api: Api) -> Api:
    await embedded_api.ok("POST", CRDS, widget_definition())
    return embedded_api


def config_map(name: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **metadata}, "data": {"a": "1"}}


async def test_the_server_fills_in_what_is_its_own(embedded_api: Api) -> None:
    sent = config_map(
        "c", uid="mine", resourceVersion="", creationTimestamp=None, deletionTimestamp="2020-01-01T00:00:00Z"
    )
    value = await embedded_api.ok("POST", MAPS, sent)
    metadata = value["metadata"]
    assert (value["apiVersion"], value["kind"], metadata["namespace"]) == ("v1", "ConfigMap", "default")
    assert metadata["creationTimestamp"] == "2023-11-14T22:13:20Z"
    assert metadata["uid"] != "mine"
    assert "deletionTimestamp" not in metadata
    assert int(metadata["resourceVersion"]) > 1
    assert await embedded_api.ok("GET", f"{MAPS}/c") == value


async def test_what_cannot_be_created(embedded_api: Api) -> None:
    await embedded_api.ok("POST", MAPS, config_map("c"))
    assert (await embedded_api.fails(409, "POST", MAPS, config_map("c")))["reason"] == "AlreadyExists"
    assert (await embedded_api.fails(422, "POST", MAPS, config_map("Bad_Name")))["reason"] == "Invalid"
    await embedded_api.fails(422, "POST", MAPS, {"data": {}})
    await embedded_api.fails(400, "POST", MAPS, {**config_map("x"), "kind": "Secret"})
    await embedded_api.fails(400, "POST", MAPS, {**config_map("x"), "apiVersion": "v2"})
    await embedded_api.fails(400, "POST", MAPS, config_map("x", namespace="other"))
    await embedded_api.fails(400, "POST", MAPS, ["no object"])
    await embedded_api.fails(400, "POST", MAPS, {**config_map("x"), "data": {"a": 1}})
    await embedded_api.fails(422, "POST", MAPS, {**config_map("x"), "data": {"a/b": "1"}})
    await embedded_api.fails(415, "POST", MAPS, config_map("x"), type="application/yaml")
    await embedded_api.fails(404, "POST", "/api/v1/namespaces/missing/configmaps", config_map("x"))
    await embedded_api.fails(404, "POST", "/api/v1/gizmos", {})
    await embedded_api.fails(405, "PUT", MAPS, config_map("c"))
    raw = ApiRequest.of("POST", MAPS, body=b"{", user=User("x", ("system:masters",)))
    assert (await embedded_api.embedded.handle(raw)).status == 400


async def test_generated_names(embedded_api: Api) -> None:
    names = set()
    for _ in range(5):
        value = await embedded_api.ok("POST", MAPS, {"metadata": {"generateName": "run-"}})
        names.add(value["metadata"]["name"])
    assert len(names) == 5
    assert all(name.startswith("run-") and len(name) == 9 for name in names)


async def test_optimistic_concurrency(embedded_api: Api) -> None:
    first = await embedded_api.ok("POST", MAPS, config_map("c"))
    second = await embedded_api.ok("PUT", f"{MAPS}/c", {**first, "data": {"a": "2"}})
    refused = await embedded_api.fails(409, "PUT", f"{MAPS}/c", {**first, "data": {"a": "3"}})
    assert "the object has been modified" in refused["message"]
    stale = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"a": "4"}}
    await embedded_api.fails(409, "PATCH", f"{MAPS}/c", stale, type=MERGE)
    await embedded_api.fails(409, "PUT", f"{MAPS}/c", {**config_map("c"), "metadata": {"name": "c", "uid": "other"}})
    await embedded_api.fails(400, "PUT", f"{MAPS}/c", config_map("d"))
    await embedded_api.fails(404, "PUT", f"{MAPS}/d", config_map("d"))
    same = await embedded_api.ok("PUT", f"{MAPS}/c", second)
    assert same["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


async def test_many_patches_at_once_lose_nothing(embedded_api: Api) -> None:
    await embedded_api.ok("POST", MAPS, config_map("c"))
    answers = await asyncio.gather(
        *(embedded_api.ok("PATCH", f"{MAPS}/c", {"data": {f"k{n}": str(n)}}, type=MERGE) for n in range(50))
    )
    versions = [int(answer["metadata"]["resourceVersion"]) for answer in answers]
    assert len(set(versions)) == 50
    assert len((await embedded_api.ok("GET", f"{MAPS}/c"))["data"]) == 51


async def test_generation_counts_the_specification_only(widgets: Api) -> None:
    value = await widgets.ok("POST", WIDGETS, {**widget("w"), "status": {"phase": "dropped"}})
    assert value["metadata"]["generation"] == 1
    assert "status" not in value
    value = await widgets.ok(
        "PATCH", f"{WIDGETS}/w/status", {"status": {"phase": "x"}, "spec": {"size": 9}}, type=MERGE
    )
    assert (value["metadata"]["generation"], value["spec"]["size"], value["status"]) == (1, 1, {"phase": "x"})
    value = await widgets.ok("PATCH", f"{WIDGETS}/w", {"status": {"phase": "y"}, "spec": {"size": 9}}, type=MERGE)
    assert (value["metadata"]["generation"], value["spec"]["size"], value["status"]) == (2, 9, {"phase": "x"})
    value = await widgets.ok("PATCH", f"{WIDGETS}/w", {"metadata": {"labels": {"a": "b"}}}, type=MERGE)
    assert value["metadata"]["generation"] == 2
    await widgets.fails(422, "PUT", f"{WIDGETS}/w", widget("w"))  # a custom object must say which version it replaces


async def test_strict_warn_and_ignore(widgets: Api) -> None:
    refused = await widgets.fails(400, "POST", f"{WIDGETS}?fieldValidation=Strict", widget("w", weight=1))
    assert refused["message"] == 'strict decoding error: unknown field "spec.weight"'
    response = await widgets.send("POST", WIDGETS, widget("w", weight=1))
    assert response.warnings == ('unknown field "spec.weight"',)
    response = await widgets.send("POST", f"{WIDGETS}?fieldValidation=Ignore", widget("v", weight=1))
    assert response.warnings == ()
    await widgets.fails(422, "POST", f"{WIDGETS}?fieldValidation=Maybe", widget("u"))
    await widgets.fails(400, "POST", f"{MAPS}?fieldValidation=Strict", {**config_map("c"), "colour": "red"})


async def test_a_rehearsal_leaves_no_trace(embedded_api: Api) -> None:
    value = await embedded_api.ok("POST", f"{MAPS}?dryRun=All", config_map("c"))
    assert value["metadata"]["uid"]
    await embedded_api.fails(404, "GET", f"{MAPS}/c")
    await embedded_api.ok("POST", MAPS, config_map("c"))
    patched = await embedded_api.ok("PATCH", f"{MAPS}/c?dryRun=All", {"data": {"a": "9"}}, type=MERGE)
    assert patched["data"] == {"a": "9"}
    await embedded_api.ok("DELETE", f"{MAPS}/c?dryRun=All")
    await embedded_api.ok("DELETE", f"{MAPS}/c", {"dryRun": ["All"]})
    assert (await embedded_api.ok("GET", f"{MAPS}/c"))["data"] == {"a": "1"}
    await embedded_api.fails(422, "DELETE", f"{MAPS}/c?dryRun=Some")


async def test_patches_may_not_change_who_the_object_is(embedded_api: Api) -> None:
    before = await embedded_api.ok("POST", MAPS, config_map("c"))
    for patch in (
        {"metadata": {"name": "d"}},
        {"metadata": {"namespace": "d"}},
        {"kind": "Secret"},
        {"metadata": None},
    ):
        await embedded_api.fails(400, "PATCH", f"{MAPS}/c", patch, type=MERGE)
    await embedded_api.fails(422, "PATCH", f"{MAPS}/c", {"metadata": {"uid": "x"}}, type=MERGE)
    await embedded_api.fails(404, "PATCH", f"{MAPS}/d", {}, type=MERGE)
    await embedded_api.fails(400, "PATCH", f"{MAPS}/c", [], type=MERGE)
    await embedded_api.fails(400, "PATCH", f"{MAPS}/c", {}, type=JSON_PATCH)
    await embedded_api.fails(422, "PATCH", f"{MAPS}/c", [{"op": "remove", "path": "/x"}], type=JSON_PATCH)
    kept = {"metadata": {"creationTimestamp": "2020-01-01T00:00:00Z", "deletionTimestamp": "2020-01-01T00:00:00Z"}}
    after = await embedded_api.ok("PATCH", f"{MAPS}/c", kept, type=STRATEGIC)
    assert after == before


async def test_server_side_apply_is_refused_in_plain_words(embedded_api: Api) -> None:
    refused = await embedded_api.fails(415, "PATCH", f"{MAPS}/c", {}, type="application/apply-patch+yaml")
    assert "kubectl apply without --server-side" in refused["message"]


async def test_finalizers_hold_an_object(widgets: Api) -> None:
    value = widget("w")
    value["metadata"]["finalizers"] = ["x.io/a", "x.io/b"]
    await widgets.ok("POST", WIDGETS, value)
    deleting = await widgets.ok("DELETE", f"{WIDGETS}/w")
    assert deleting["metadata"]["deletionTimestamp"]
    again = await widgets.ok("DELETE", f"{WIDGETS}/w")
    assert again["metadata"]["resourceVersion"] == deleting["metadata"]["resourceVersion"]
    more = {"metadata": {"finalizers": ["x.io/a", "x.io/c"]}}
    assert "no new finalizers" in (await widgets.fails(422, "PATCH", f"{WIDGETS}/w", more, type=MERGE))["message"]
    await widgets.ok("PATCH", f"{WIDGETS}/w", {"metadata": {"finalizers": ["x.io/a"]}}, type=MERGE)
    await widgets.ok("PATCH", f"{WIDGETS}/w", {"metadata": {"finalizers": []}}, type=MERGE)
    await widgets.fails(404, "GET", f"{WIDGETS}/w")


async def test_preconditions_of_a_deletion(embedded_api: Api) -> None:
    value = await embedded_api.ok("POST", MAPS, config_map("c"))
    await embedded_api.fails(409, "DELETE", f"{MAPS}/c", {"preconditions": {"uid": "other"}})
    await embedded_api.fails(409, "DELETE", f"{MAPS}/c", {"preconditions": {"resourceVersion": "1"}})
    await embedded_api.fails(422, "DELETE", f"{MAPS}/c", {"propagationPolicy": "Sideways"})
    status = await embedded_api.ok("DELETE", f"{MAPS}/c", {"preconditions": {"uid": value["metadata"]["uid"]}})
    assert status["status"] == "Success"
    assert status["details"]["uid"] == value["metadata"]["uid"]
    await embedded_api.fails(404, "DELETE", f"{MAPS}/c")


async def test_deletecollection_takes_what_is_selected(embedded_api: Api) -> None:
    for name in "abc":
        await embedded_api.ok("POST", MAPS, config_map(name, labels={"n": name}))
    await embedded_api.ok("DELETE", f"{MAPS}?labelSelector=n%20in%20(a,b)")
    assert [item["metadata"]["name"] for item in (await embedded_api.ok("GET", MAPS))["items"]] == ["c"]
    await embedded_api.fails(405, "DELETE", "/api/v1/namespaces")


async def test_metadata_rules(embedded_api: Api) -> None:
    owner = {"apiVersion": "v1", "kind": "Node", "name": "n"}
    for metadata in (
        {"labels": {"a b": "c"}},
        {"labels": {"a": "-"}},
        {"annotations": {"a b": "c"}},
        {"annotations": {"a": "x" * 300_000}},
        {"finalizers": ["not a name"]},
        {"ownerReferences": [owner]},
        {"ownerReferences": [{**owner, "uid": "1", "controller": True}, {**owner, "uid": "2", "controller": True}]},
    ):
        await embedded_api.fails(422, "POST", MAPS, config_map("c", **metadata))


async def test_leases_are_made_by_an_update(embedded_api: Api) -> None:
    leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
    lease = {"metadata": {"name": "n"}, "spec": {"holderIdentity": "n", "renewTime": "2026-01-01T00:00:00.000000Z"}}
    await embedded_api.ok("PUT", f"{leases}/n", lease)
    assert (await embedded_api.ok("GET", f"{leases}/n"))["spec"]["holderIdentity"] == "n"
    wrong = {"spec": {"renewTime": "now"}}
    await embedded_api.fails(422, "PATCH", f"{leases}/n", wrong, type=MERGE)


async def test_secrets_and_immutable_maps(embedded_api: Api) -> None:
    secrets = "/api/v1/namespaces/default/secrets"
    value = await embedded_api.ok(
        "POST", secrets, {"metadata": {"name": "s"}, "stringData": {"a": "ü"}, "data": {"b": "Yg=="}}
    )
    assert value["data"] == {"a": "w7w=", "b": "Yg=="}
    assert "stringData" not in value
    await embedded_api.fails(400, "POST", secrets, {"metadata": {"name": "t"}, "data": {"a": "not base64!"}})
    await embedded_api.ok("POST", MAPS, {**config_map("c"), "immutable": True})
    await embedded_api.fails(422, "PATCH", f"{MAPS}/c", {"data": {"a": "2"}}, type=MERGE)
    await embedded_api.ok("PATCH", f"{MAPS}/c", {"metadata": {"labels": {"a": "b"}}}, type=MERGE)


async def test_pods_are_checked(embedded_api: Api) -> None:
    async def refused(spec: dict[str, Any]) -> str:
        return str((await embedded_api.fails(422, "POST", PODS, {"metadata": {"name": "p"}, "spec": spec}))["message"])

    assert "spec.containers: Required value" in await refused({})
    assert "spec.containers[0].image" in await refused({"containers": [{"name": "c"}]})
    twice = [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]
    assert "Duplicate" in await refused({"containers": twice})
    mount = {"name": "c", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    assert 'Not found: "v"' in await refused({"containers": [mount]})
    spec = {
        "containers": [
            {
                "name": "c",
                "image": "i:1",
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": 80}},
            }
        ],
        "volumes": [{"name": "v", "configMap": {"name": "c"}}, {"name": "e"}],
    }
    pod = await embedded_api.ok("POST", PODS, {"metadata": {"name": "p"}, "spec": spec, "status": {"phase": "Running"}})
    assert pod["status"] == {"phase": "Pending", "qosClass": "Guaranteed"}
    probe = pod["spec"]["containers"][0]["livenessProbe"]
    assert (probe["periodSeconds"], probe["httpGet"]["scheme"]) == (10, "HTTP")
    assert pod["spec"]["volumes"][0]["configMap"]["defaultMode"] == 420
    assert pod["spec"]["volumes"][1]["emptyDir"] == {}


async def test_who_may_ask(embedded_api: Api) -> None:
    async def status(user: User | None, method: str = "GET", path: str = MAPS, body: bytes = b"") -> int:
        return (await embedded_api.embedded.handle(ApiRequest.of(method, path, user=user, body=body))).status

    assert await status(None) == 401
    assert await status(User("someone")) == 403
    assert await status(User("someone", ("system:nodes",))) == 403
    assert await status(User("admin", ("system:masters",))) == 200
    assert await status(None, path="/healthz") == 200
    assert await status(None, path="/version") == 200
    assert await status(None, path="/api") == 401
    review = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    assert await status(User("someone"), "POST", review, b"{}") == 201
    assert await status(User("someone"), "GET", review) == 405


async def test_definitions_are_checked(embedded_api: Api) -> None:
    async def refused(change: Any) -> str:
        value = widget_definition()
        change(value)
        return str((await embedded_api.fails(422, "POST", CRDS, value))["message"])

    assert "spec.names.plural" in await refused(lambda v: v["spec"]["names"].pop("plural"))
    assert "metadata.name" in await refused(lambda v: v["metadata"].update(name="other.example.com"))
    assert "storage version" in await refused(lambda v: v["spec"]["versions"][0].update(storage=False))
    assert "schemas are required" in await refused(lambda v: v["spec"]["versions"][0].pop("schema"))
    assert "conversion" in await refused(lambda v: v["spec"].update(conversion={"strategy": "Webhook"}))
    assert "spec.scope" in await refused(lambda v: v["spec"].update(scope="Galaxy"))
    columns = [{"name": "x", "type": "string", "jsonPath": ".a["}]
    assert "jsonPath" in await refused(lambda v: v["spec"]["versions"][0].update(additionalPrinterColumns=columns))
    await embedded_api.ok("POST", CRDS, widget_definition())
    patch = {"spec": {"scope": "Cluster"}}
    await embedded_api.fails(422, "PATCH", f"{CRDS}/widgets.test.example.com", patch, type=MERGE)


async def test_a_second_version_shares_the_stored_objects(widgets: Api) -> None:
    await widgets.ok("POST", WIDGETS, widget("w"))
    definition = await widgets.ok("GET", f"{CRDS}/widgets.test.example.com")
    second = {**definition["spec"]["versions"][0], "name": "v2", "storage": False}
    definition["spec"]["versions"].append(second)
    await widgets.ok("PUT", f"{CRDS}/widgets.test.example.com", definition)
    other = WIDGETS.replace("/v1/", "/v2/")
    value = await widgets.ok("GET", f"{other}/w")
    assert value["apiVersion"] == "test.example.com/v2"
    await widgets.ok("PATCH", f"{other}/w", {"spec": {"size": 5}}, type=MERGE)
    value = await widgets.ok("GET", f"{WIDGETS}/w")
    assert (value["apiVersion"], value["spec"]["size"]) == ("test.example.com/v1", 5)
    listed = await widgets.ok("GET", other)
    assert [item["apiVersion"] for item in listed["items"]] == ["test.example.com/v2"]


async def test_node_status_and_taints(embedded_api: Api) -> None:
    await embedded_api.ok("POST", NODES, {"metadata": {"name": "n"}, "status": {"conditions": []}})
    ready = {
        "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}
    }
    value = await embedded_api.ok("PATCH", f"{NODES}/n/status", ready, type=STRATEGIC)
    assert value["status"]["conditions"][0]["status"] == "True"
    taint = {"spec": {"taints": [{"key": "k", "effect": "Sometimes"}]}}
    await embedded_api.fails(422, "PATCH", f"{NODES}/n", taint, type=STRATEGIC)
