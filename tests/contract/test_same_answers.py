"""The same requests to the embedded API and to a real kube-apiserver get the same answers.

Compared: the status code, the reason of a refusal, the object without what differs from server to server.
"""

import asyncio
import json
import re
import ssl
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudgateway.apiserver.embedded import TOKEN_FILE, EmbeddedApi
from tests.support.bad_pods import SPECS
from tests.support.embedded_api import JSON_PATCH, MERGE, STRATEGIC, widget, widget_definition
from tests.support.real_api import RealApi

pytestmark = pytest.mark.real_cluster

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
VOLATILE = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "selfLink", "deletionTimestamp")
# What one of them says and the other has no reason to: newer defaults, service addresses, tokens.
ASIDE = {"tolerations", "priority", "preemptionPolicy", "clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"}
ASIDE |= {"serviceAccount", "serviceAccountName"}  # the real one runs without their admission


@dataclass(frozen=True)
class Server:
    """One API server reached over HTTPS with a token, and a namespace in it."""

    session: aiohttp.ClientSession
    namespace: str

    async def send(self, method: str, path: str, body: Any = None, media: str = "application/json") -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).replace("{ns}", self.namespace)
        target = path.replace("{ns}", self.namespace)
        async with self.session.request(method, target, data=data, headers={"Content-Type": media}) as answer:
            text = (await answer.text()).replace(self.namespace, "{ns}")
            try:
                return answer.status, json.loads(text)
            except ValueError:
                return answer.status, text  # the real one answers unknown paths with a line of text


@dataclass(frozen=True)
class Both:
    """The embedded API and the real one."""

    embedded: Server
    real: Server

    async def same(self, method: str, path: str, body: Any = None, media: str = "application/json") -> tuple[int, Any]:
        """Send a request to both, compare, and give the embedded one's answer."""
        ours, theirs = (
            await self.embedded.send(method, path, body, media),
            await self.real.send(method, path, body, media),
        )
        assert essence(*ours) == essence(*theirs), f"{method} {path} {body}\nours:   {ours}\ntheirs: {theirs}"
        return ours


def essence(code: int, value: Any) -> Any:
    """What must be equal of an answer."""
    if isinstance(value, dict) and value.get("kind") == "Status":
        details = value.get("details") or {}
        causes = {
            (
                cause.get("reason", "").replace("FieldValueTypeInvalid", "FieldValueInvalid"),
                re.sub(r"\[\d+\]", "", cause.get("field", "")),
            )
            for cause in details.get("causes") or ()
        }
        # Ours names the object of a patch whose outcome is no object; the real one does not.
        name = None if ("FieldValueInvalid", "patch") in causes else details.get("name")
        return code, value.get("status"), value.get("reason"), name, causes
    return code, _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        result = {key: _plain(item) for key, item in value.items() if key not in ASIDE}
        if isinstance(result.get("items"), list):
            for item in result["items"]:  # the real one leaves out what the list says already
                item.pop("kind", None)
                item.pop("apiVersion", None)
        metadata = result.get("metadata")
        if isinstance(metadata, dict):
            for key in VOLATILE:
                if key in metadata:
                    metadata[key] = "set" if metadata[key] else ""
            metadata.pop("managedFields", None)
            metadata.pop("selfLink", None)
        return {key: item for key, item in result.items() if item not in (None, {}, [])}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


@pytest.fixture
async def both(real_api: RealApi, tmp_path: Path) -> AsyncIterator[Both]:
    if not real_api.own:
        pytest.skip("the answers of a cluster of somebody else depend on its admission")
    embedded = await EmbeddedApi.open(tmp_path / "api")
    namespace = f"s-{uuid.uuid4().hex[:8]}"
    sessions = []
    try:
        shell = await embedded.serve()
        token = (tmp_path / "api" / TOKEN_FILE).read_text().strip()
        places = (
            (shell.url, str(tmp_path / "api" / "pki" / "ca.crt"), token),
            (real_api.server, str(real_api.ca), real_api.admin_token),
        )
        servers = []
        for url, ca, bearer in places:
            connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=ca))
            session = aiohttp.ClientSession(url, connector=connector, headers={"Authorization": f"Bearer {bearer}"})
            sessions.append(session)
            server = Server(session, namespace)
            await server.send("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
            await server.send("POST", CRDS, widget_definition())
            servers.append(server)
        both = Both(*servers)
        await _established(both.real)
        yield both
        await both.real.send("DELETE", "/api/v1/namespaces/{ns}")
    finally:
        for session in sessions:
            await session.close()
        await embedded.close()


async def _established(server: Server) -> None:
    for _ in range(200):
        code, _ = await server.send("GET", WIDGETS)
        if code == 200:
            return
    raise AssertionError("the real API does not serve the definition")


MAPS = "/api/v1/namespaces/{ns}/configmaps"
PODS = "/api/v1/namespaces/{ns}/pods"
SECRETS = "/api/v1/namespaces/{ns}/secrets"
WIDGETS = "/apis/test.example.com/v1/namespaces/{ns}/widgets"


def named(name: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, **more}


POD = named("p", spec={"nodeName": "n", "containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "i:1"}]})


async def test_creation(both: Both) -> None:
    await both.same("POST", MAPS, named("c", data={"a": "1"}))
    await both.same("POST", MAPS, named("c"))
    await both.same("GET", f"{MAPS}/c")
    await both.same("GET", f"{MAPS}/missing")
    await both.same("POST", MAPS, named("Bad"))
    await both.same("POST", MAPS, {"data": {}})
    await both.same("POST", MAPS, {"kind": "Secret", "apiVersion": "v1", **named("x")})
    await both.same("POST", MAPS, {"metadata": {"name": "x", "namespace": "other"}})
    await both.same("POST", "/api/v1/namespaces/missing/configmaps", named("x"))
    await both.same("POST", MAPS, named("x", data={"a/b": "1"}))
    await both.same("POST", MAPS, named("x", data={"a": 1}))
    await both.same("POST", "/api/v1/namespaces/{ns}/gizmos", named("x"))
    await both.same("POST", SECRETS, named("s", stringData={"a": "b"}))
    await both.same("POST", SECRETS, named("t", data={"a": "%"}))
    await both.same("POST", f"{MAPS}?dryRun=All", named("dry"))
    await both.same("GET", f"{MAPS}/dry")
    await both.same("POST", f"{MAPS}?dryRun=Some", named("dry"))
    await both.same("POST", MAPS, {"metadata": {"name": "l", "labels": {"a b": "c"}}})
    await both.same("POST", MAPS, {"metadata": {"name": "f", "finalizers": ["no slash"]}})


async def test_custom_objects(both: Both) -> None:
    await both.same("POST", WIDGETS, widget("w", weight=1, free={"x": 1}, parts=[{"name": "a"}]))
    await both.same("POST", WIDGETS, widget("v", size=0, color="blue"))
    await both.same("POST", WIDGETS, widget("v", size="big"))
    await both.same("POST", WIDGETS, {**widget("v"), "spec": {}})
    await both.same("POST", WIDGETS, widget("v", parts=[{"name": "a"}, {"name": "a"}]))
    await both.same("POST", WIDGETS, widget("v", parts=[{"name": "A"}]))
    await both.same("POST", WIDGETS, widget("v", port=1.5))
    await both.same("POST", WIDGETS, {**widget("s"), "status": {"phase": "x"}})
    await both.same("PATCH", f"{WIDGETS}/w", {"spec": {"size": 2}, "status": {"phase": "x"}}, MERGE)
    await both.same("PATCH", f"{WIDGETS}/w/status", {"spec": {"size": 3}, "status": {"phase": "x"}}, MERGE)
    await both.same("PATCH", f"{WIDGETS}/w", {"spec": {"size": 2}}, STRATEGIC)
    await both.same("PATCH", f"{WIDGETS}/w", {"spec": {"size": 999}}, MERGE)
    await both.same("PUT", f"{WIDGETS}/w", widget("w"))
    await both.same("PUT", f"{WIDGETS}/other", widget("w"))
    await both.same("GET", f"{WIDGETS}/w")
    await both.same("DELETE", f"{WIDGETS}/w")
    await both.same("DELETE", f"{WIDGETS}/w")


async def test_patches_and_conflicts(both: Both) -> None:
    await both.same("POST", MAPS, named("c", data={"a": "1", "b": "2"}))
    for body, media in (
        ({"data": {"a": None, "c": "3"}}, MERGE),
        ({"data": {"a": None, "d": "4"}}, STRATEGIC),
        ([{"op": "add", "path": "/data/e", "value": "5"}], JSON_PATCH),
        ([{"op": "remove", "path": "/data/missing"}], JSON_PATCH),
        ([{"op": "test", "path": "/data/e", "value": "no"}], JSON_PATCH),
        ({"metadata": {"resourceVersion": "1"}}, MERGE),
        ({"metadata": {"uid": "1"}}, MERGE),
        ({"metadata": {"labels": {"x": "y"}}}, MERGE),
        ({"metadata": {"labels": None}}, MERGE),
        ({}, MERGE),
        ({"data": {"a": 1}}, MERGE),
        ({"data": "x"}, MERGE),
        ({"x": 1}, "application/x-nonsense"),
    ):
        await both.same("PATCH", f"{MAPS}/c", body, media)
    await both.same("PATCH", f"{MAPS}/missing", {}, MERGE)
    _, value = await both.embedded.send("GET", f"{MAPS}/c")
    await both.same("PUT", f"{MAPS}/c", named("c", data={"z": "1"}))
    code, _ = await both.embedded.send("PUT", f"{MAPS}/c", value)
    assert code == 409
    await both.same("PUT", f"{MAPS}/missing", named("missing"))
    await both.same(
        "PUT", "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases/l", named("l", spec={"holderIdentity": "x"})
    )


async def test_pods(both: Both) -> None:
    await both.same("POST", PODS, POD)
    await both.same("POST", PODS, named("q", spec={}))
    await both.same("POST", PODS, named("q", spec={"containers": [{"name": "a"}]}))
    await both.same("POST", PODS, named("q", spec={"containers": [{"name": "A", "image": "i"}]}))
    mount = {"name": "a", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    await both.same("POST", PODS, named("q", spec={"containers": [mount]}))
    await both.same("PATCH", f"{PODS}/p", {"spec": {"containers": [{"name": "b", "image": "i:2"}]}}, STRATEGIC)
    await both.same("PATCH", f"{PODS}/p", {"spec": {"nodeName": "m"}}, STRATEGIC)
    status = {"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}
    await both.same("PATCH", f"{PODS}/p/status", status, STRATEGIC)
    more = {"status": {"conditions": [{"type": "Initialized", "status": "True"}]}}
    await both.same("PATCH", f"{PODS}/p/status", more, STRATEGIC)
    await both.same("GET", f"{PODS}?fieldSelector=spec.nodeName%3Dn")
    await both.same("GET", f"{PODS}?fieldSelector=spec.color%3Dn")
    await both.same("DELETE", f"{PODS}/p?gracePeriodSeconds=5")
    await both.same("DELETE", f"{PODS}/p?gracePeriodSeconds=0")
    await both.same("GET", f"{PODS}/p")


# Where ours names the field more exactly than this release does, or knows what it does not know.
OF_THEIR_OWN = {
    "proc mount",
    "downward",
    "downward field",
    "downward resource",
    "projected token",
    "projected token path",
    "seccomp back",
}


async def test_pods_that_are_refused(both: Both) -> None:
    for name, spec in SPECS.items():
        body = named("q", spec=spec)
        ours = await both.embedded.send("POST", f"{PODS}?dryRun=All", body)
        assert ours[0] == 422, (name, ours)
        if name in OF_THEIR_OWN:
            continue
        theirs = await both.real.send("POST", f"{PODS}?dryRun=All", body)
        assert essence(*ours) == essence(*theirs), f"{name}\nours:   {ours}\ntheirs: {theirs}"


async def test_changes_of_pods(both: Both) -> None:
    toleration = {"key": "k", "operator": "Exists"}
    spec = {**POD["spec"], "activeDeadlineSeconds": 100, "tolerations": [toleration]}
    await both.same("POST", PODS, named("p", spec=spec))
    for change in (
        {"activeDeadlineSeconds": 50},
        {"activeDeadlineSeconds": 60},
        {"activeDeadlineSeconds": None},
        {"hostNetwork": True},
        {"terminationGracePeriodSeconds": 5},
        {"containers": [{"name": "a", "image": "i:9"}]},
        {"containers": [{"name": "a", "image": "i:9"}, {"name": "b", "image": "i:9"}]},
        {"containers": [{"name": "a", "image": "i:9"}, {"name": "b", "image": ""}]},
        {"restartPolicy": "Never"},
    ):
        ours = await both.embedded.send("PATCH", f"{PODS}/p?dryRun=All", {"spec": change}, STRATEGIC)
        theirs = await both.real.send("PATCH", f"{PODS}/p?dryRun=All", {"spec": change}, STRATEGIC)
        assert ours[0] == theirs[0], f"{change}\nours:   {ours}\ntheirs: {theirs}"


async def test_nulls_in_maps_and_lists_are_zero_values(both: Both) -> None:
    await both.same("POST", MAPS, named("c", data={"a": None, "b": "1"}))
    await both.same("POST", SECRETS, named("s", data={"a": None}))
    spec = {
        "nodeName": "n",
        "nodeSelector": {"a": None},
        "containers": [{"name": "a", "image": "i:1", "args": [None], "resources": {"limits": {"memory": None}}}],
    }
    await both.same("POST", PODS, named("p", spec=spec))
    await both.same("POST", PODS, named("q", spec={"containers": [None]}))


async def test_binding_and_eviction(both: Both) -> None:
    free = {"containers": [{"name": "a", "image": "i:1"}], "schedulerName": "nobody"}
    await both.same("POST", PODS, named("p", spec=free))
    await both.same("POST", f"{PODS}/missing/binding", named("missing", target={"kind": "Node", "name": "n"}))
    await both.same("POST", f"{PODS}/p/binding", named("other", target={"kind": "Node", "name": "n"}))
    await both.same("GET", f"{PODS}/p/binding")
    await both.same("POST", f"{PODS}/p/binding?dryRun=All", named("p", target={"name": "n"}))
    target = {"kind": "Node", "name": "n"}
    bound = {"metadata": {"name": "p", "annotations": {"by": "me"}}, "target": target}
    await both.same("POST", f"{PODS}/p/binding", bound)
    await both.same("POST", f"{PODS}/p/binding", named("p", target={"kind": "Node", "name": "m"}))
    await both.same("GET", f"{PODS}/p")
    eviction = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": "p"}}
    await both.same("POST", f"{PODS}/p/eviction?dryRun=All", eviction)
    await both.same("POST", f"{PODS}/missing/eviction", {**eviction, "metadata": {"name": "missing"}})
    await both.same("POST", f"{PODS}/p/eviction", {**eviction, "metadata": {"name": "q"}})
    wrong = {"preconditions": {"uid": "no"}}
    await both.same("POST", f"{PODS}/p/eviction", {**eviction, "deleteOptions": wrong})
    await both.same("POST", f"{PODS}/p/eviction", {**eviction, "deleteOptions": {"gracePeriodSeconds": 0}})
    await both.same("GET", f"{PODS}/p")
    await both.same("POST", PODS, named("q", spec=free))
    await both.same("POST", f"{PODS}/q/eviction", {**eviction, "metadata": {"name": "q"}})
    await both.same("GET", f"{PODS}/q")


# Not here: `+5`, `5.` and `12E6`, which the real one keeps as they were written.
QUANTITIES: tuple[Any, ...] = (
    *(1, 0.5, "1000m", "0.1", "1500m", "1Gi", "0.5Gi", "1024Mi", "1.5Ki", "100", "1e3", "1e-3", "1n", "0.1n", "2048"),
    *("1000k", "1000000k", "0", "0Gi", "1023Ki", "0.3Ki", ".5", "1Zi", "x", "", "1 Gi", "1ee3", "9E", "12345678M"),
)


@pytest.mark.parametrize("text", QUANTITIES)
async def test_quantities(both: Both, text: Any) -> None:
    volumes = [{"name": "v", "emptyDir": {"sizeLimit": text}}]
    spec = {"nodeName": "n", "containers": [{"name": "a", "image": "i:1"}], "volumes": volumes}
    ours = await both.embedded.send("POST", f"{PODS}?dryRun=All", named("q", spec=spec))
    theirs = await both.real.send("POST", f"{PODS}?dryRun=All", named("q", spec=spec))
    assert ours[0] == theirs[0], (text, ours, theirs)
    if ours[0] == 201:
        assert ours[1]["spec"]["volumes"] == theirs[1]["spec"]["volumes"]


async def test_lists_and_deletion(both: Both) -> None:
    for name in "abc":
        await both.same("POST", MAPS, {"metadata": {"name": name, "labels": {"n": name}}})
    await both.same("GET", f"{MAPS}?labelSelector=n%20in%20(a,b)")
    await both.same("GET", f"{MAPS}?labelSelector=a%20b")
    await both.same("GET", f"{MAPS}?fieldSelector=metadata.name%3Da")
    await both.same("GET", f"{MAPS}?continue=nonsense&limit=1")
    await both.same("DELETE", f"{MAPS}/a", {"preconditions": {"uid": "no"}})
    await both.same("DELETE", f"{MAPS}/a", {"propagationPolicy": "Sideways"})
    await both.same("DELETE", f"{MAPS}?labelSelector=n%3Db")
    await both.same("GET", MAPS)
    await both.same("DELETE", "/api/v1/namespaces/default")
    held = {"metadata": {"name": "held", "finalizers": ["x.io/a"]}}
    await both.same("POST", MAPS, held)
    await both.same("DELETE", f"{MAPS}/held")
    await both.same("PATCH", f"{MAPS}/held", {"metadata": {"finalizers": ["x.io/a", "x.io/b"]}}, MERGE)
    await both.same("PATCH", f"{MAPS}/held", {"metadata": {"finalizers": None}}, MERGE)
    await both.same("GET", f"{MAPS}/held")


async def test_definitions(both: Both) -> None:
    def changed(change: Callable[[Any], Any]) -> Any:
        value = widget_definition()
        value["metadata"]["name"] = "gizmos.test.example.com"
        value["spec"]["names"] = {"plural": "gizmos", "kind": "Gizmo"}
        change(value)
        return value

    for change in (
        lambda v: v["spec"]["versions"][0].update(storage=False),
        lambda v: v["spec"]["names"].pop("kind"),
        lambda v: v["metadata"].update(name="x.test.example.com"),
        lambda v: v["spec"].update(scope="Galaxy"),
    ):
        ours = await both.embedded.send("POST", CRDS, changed(change))
        theirs = await both.real.send("POST", CRDS, changed(change))
        assert (ours[0], ours[1]["reason"]) == (theirs[0], theirs[1]["reason"]), (ours, theirs)


names = st.sampled_from(["a", "b", "c", "d"])
items = st.lists(
    st.fixed_dictionaries(
        {"name": names}, optional={"value": st.sampled_from(["1", "2"]), "$patch": st.just("delete")}
    ),
    max_size=3,
    unique_by=lambda item: item["name"],
)
labels = st.dictionaries(names, st.none() | st.sampled_from(["1", "2"]), max_size=3)
patches = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.fixed_dictionaries(
            {},
            optional={
                "labels": labels,
                "finalizers": st.lists(st.sampled_from(["x.io/a", "x.io/c", "x.io/d"]), unique=True, max_size=3),
                # What is added and deleted at once is undecided there (Go's map order), so never the same here.
                "$deleteFromPrimitiveList/finalizers": st.lists(st.just("x.io/b"), max_size=1),
            },
        ),
        "spec": st.fixed_dictionaries(
            {},
            optional={
                "containers": st.lists(
                    st.fixed_dictionaries(
                        {"name": names, "image": st.sampled_from(["i:1", "i:2"])}, optional={"env": items}
                    ),
                    max_size=3,
                    unique_by=lambda item: item["name"],
                ),
                "$setElementOrder/containers": st.lists(
                    names.map(lambda name: {"name": name}), unique_by=str, max_size=4
                ),
                "nodeSelector": labels,
                "tolerations": st.lists(
                    st.fixed_dictionaries({"key": names, "operator": st.just("Exists")}), max_size=2
                ),
            },
        ),
    },
)


async def test_strategic_merge_gives_what_the_real_one_gives(both: Both) -> None:
    """Random patches of a PodTemplate-like object: a pod that is only rehearsed, so every field may change."""
    spec = {
        "containers": [
            {"name": "a", "image": "i:1", "env": [{"name": "a", "value": "1"}, {"name": "b", "value": "1"}]},
            {"name": "b", "image": "i:1"},
        ],
        "nodeSelector": {"a": "1"},
        "schedulerName": "nobody",
    }
    start = {"metadata": {"name": "p", "labels": {"a": "1"}, "finalizers": ["x.io/a", "x.io/b"]}, "spec": spec}
    await both.same("POST", PODS, start)
    found: list[Any] = []

    @settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(patches)
    def collect(patch: Any) -> None:
        found.append(patch)

    await asyncio.to_thread(collect)
    for patch in found:
        await _compare(both, patch)
    await both.same("PATCH", f"{PODS}/p", {"metadata": {"finalizers": None}}, MERGE)


async def _compare(both: Both, patch: Any) -> None:
    target = f"{PODS}/p?dryRun=All"
    ours = await both.embedded.send("PATCH", target, patch, STRATEGIC)
    theirs = await both.real.send("PATCH", target, patch, STRATEGIC)
    # An order that does not fit gets a 500 from the real one; that both refuse is what counts.
    assert (ours[0] < 400) == (theirs[0] < 400), json.dumps([patch, ours, theirs])
    if ours[0] == 200:
        assert essence(*ours) == essence(*theirs), json.dumps([patch, essence(*ours), essence(*theirs)])
