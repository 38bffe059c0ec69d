"""edgecontroller and synccontroller on a Kubernetes API (KubeEdge reference 1.4 A-F, 2.9, F2-F4)."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cloudgateway.cloudstream.endpoint import Endpoint
from cloudgateway.edgecontroller.controller import EdgeController
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.errors import ApiError
from cloudgateway.kube.informers import Informers
from cloudgateway.kube.resources import (
    CLUSTER_OBJECT_SYNCS,
    CONFIGMAPS,
    DEVICES,
    EVENTS,
    GVR,
    LEASES,
    NODES,
    OBJECT_SYNCS,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
    find_by_kind,
)
from cloudgateway.synccontroller.controller import SyncController
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.wire.message import Message
from tests.support.kube_client import new_namespace
from tests.support.recording_hub import RecordingHub

EDGE = "node-role.kubernetes.io/edge"


class Road:
    """A running edgecontroller, a namespace and a node name of its own."""

    def __init__(self, client: KubeClient, namespace: str, hub: RecordingHub, controller: EdgeController) -> None:
        self.client, self.namespace, self.hub, self.controller = client, namespace, hub, controller
        self.node = f"edge.{namespace}"
        self.endpoints: dict[str, Endpoint] = {}

    async def ask(self, operation: str, resource: str, content: Any = None) -> Message:
        """Sends what an edge sends and waits for the answer."""
        message = await self.tell(operation, resource, content)
        answer = await self.hub.reply(message)
        assert (answer.source, answer.group, answer.operation) == ("edgecontroller", "resource", "response")
        assert answer.resource == resource
        return answer

    async def tell(self, operation: str, resource: str, content: Any = None) -> Message:
        message = Message.new(source="edged", group="meta", operation=operation, resource=resource, content=content)
        await self.controller.handle(self.node, message)
        return message

    async def register(self, **labels: str) -> dict[str, Any]:
        """The node as an edge registers it; gives the Node of the answer."""
        node = {
            "metadata": {
                "name": self.node,
                "creationTimestamp": None,
                "labels": {EDGE: "", "kubernetes.io/hostname": self.node, "site": "lab", **labels},
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
            },
            "spec": {},
            "status": {"capacity": {"cpu": "2", "pods": "110"}, "conditions": []},
        }
        answer = await self.ask("insert", f"null/node/{self.node}", node)
        content = answer.content_value()
        assert content["Err"] is None
        assert answer.resource_version == content["Object"]["metadata"]["resourceVersion"]
        return dict(content["Object"])

    async def pod(self, name: str, **spec: Any) -> dict[str, Any]:
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {"nodeName": self.node, "containers": [{"name": "c", "image": "i"}], **spec},
        }
        return await self.client.create(PODS, body, namespace=self.namespace)

    async def body(self, gvr: GVR, name: str, **data: str) -> dict[str, Any]:
        key = "data" if gvr is CONFIGMAPS else "stringData"
        made = {"apiVersion": "v1", "kind": gvr.kind, "metadata": {"name": name}, key: data}
        return await self.client.create(gvr, made, namespace=self.namespace)


@pytest.fixture
async def informers(kube_client: KubeClient, scope: TaskScope) -> Informers:
    return Informers(kube_client, scope)


@pytest.fixture
async def road(kube_client: KubeClient, informers: Informers, scope: TaskScope) -> AsyncIterator[Road]:
    hub = RecordingHub()
    made: Road
    controller = EdgeController(
        kube_client, informers, hub, scope, address="192.0.2.7", endpoint=lambda node: made.endpoints.get(node)
    )
    await controller.start()
    made = Road(kube_client, await new_namespace(kube_client), hub, controller)
    yield made
    await controller.stop()
    for gvr, namespace, name in ((NODES, None, made.node),):
        try:
            await kube_client.delete(gvr, namespace, name)
        except ApiError as error:
            if not error.not_found:
                raise


async def test_a_node_registers_with_all_its_labels(road: Road) -> None:
    node = await road.register()
    assert node["metadata"]["labels"][EDGE] == ""
    assert node["metadata"]["labels"]["site"] == "lab"
    assert node["metadata"]["labels"]["kubernetes.io/hostname"] == road.node
    assert node["metadata"]["annotations"]["cloudcore"] == "192.0.2.7"
    assert (await road.client.get(NODES, None, road.node))["status"]["capacity"]["cpu"] == "2"


async def test_registering_twice_says_so_and_mends_the_labels(road: Road) -> None:
    await road.register()
    await road.client.patch(NODES, None, road.node, {"metadata": {"labels": {EDGE: None, "site": "plant"}}})
    again = {"metadata": {"name": road.node, "labels": {EDGE: "", "site": "lab"}}, "spec": {}, "status": {}}
    content = (await road.ask("insert", f"null/node/{road.node}", again)).content_value()
    assert content["Err"]["ErrStatus"]["code"] == 409
    assert content["Err"]["ErrStatus"]["reason"] == "AlreadyExists"
    assert content["Err"]["ErrStatus"]["message"] == f'nodes "{road.node}" already exists'
    assert content["Err"]["ErrStatus"]["details"] == {"name": road.node, "kind": "nodes"}
    labels = (await road.client.get(NODES, None, road.node))["metadata"]["labels"]
    assert labels[EDGE] == ""
    assert labels["site"] == "plant"  # what a person set stays


async def test_node_status_and_labels_from_the_edge(road: Road) -> None:
    await road.register()
    patch = {"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "EdgeReady"}]}}
    answer = await road.ask("patch", f"null/nodepatch/{road.node}", json.dumps(patch))
    content = answer.content_value()
    assert content["Err"] is None
    assert content["Object"]["status"]["conditions"][0]["reason"] == "EdgeReady"
    assert answer.resource_version == content["Object"]["metadata"]["resourceVersion"]
    update = {"metadata": {"labels": {"rack": "7"}, "annotations": {"note": "x"}}}
    assert (await road.ask("update", f"null/node/{road.node}", update)).content_value() == "OK"
    metadata = (await road.client.get(NODES, None, road.node))["metadata"]
    assert metadata["labels"]["rack"] == "7"
    assert metadata["labels"]["site"] == "lab"
    assert metadata["annotations"]["note"] == "x"
    assert (await road.ask("query", f"null/node/{road.node}")).content_value()["metadata"]["name"] == road.node


async def test_a_node_is_reached_through_the_gateway_that_holds_its_tunnel(road: Road) -> None:
    """The box reports its own address all its life; the API keeps the gateway's, with the port of streams."""
    await road.register()
    road.endpoints[road.node] = Endpoint("192.0.2.7", 10003)
    addresses = [{"type": "InternalIP", "address": "10.9.8.7"}, {"type": "Hostname", "address": road.node}]
    report = {
        "addresses": addresses,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10350}},
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    await road.ask("patch", f"null/nodepatch/{road.node}", json.dumps({"status": report}))
    old = {"UID": "x", "Status": {**report, "conditions": [{"type": "Ready", "status": "False"}]}}
    for ready, send in (("True", None), ("False", old)):
        if send is not None:
            assert (await road.ask("update", f"default/nodestatus/{road.node}", send)).content_value() == "OK"
        status = (await road.client.get(NODES, None, road.node))["status"]
        found = {item["type"]: item["address"] for item in status["addresses"]}
        assert found == {"InternalIP": "192.0.2.7", "Hostname": road.node}
        assert status["daemonEndpoints"]["kubeletEndpoint"]["Port"] == 10003
        assert status["conditions"][0]["status"] == ready


async def test_a_status_patch_that_is_not_json_is_refused(road: Road) -> None:
    await road.register()
    content = (await road.ask("patch", f"null/nodepatch/{road.node}", "{nonsense")).content_value()
    assert content["Object"] is None
    assert content["Err"]["ErrStatus"]["code"] == 400


async def test_a_lease_is_made_read_and_renewed(road: Road) -> None:
    resource = f"kube-node-lease/lease/{road.node}"
    missing = (await road.ask("query", resource)).content_value()
    assert missing["Err"]["ErrStatus"]["reason"] == "NotFound"
    lease = {
        "metadata": {"name": road.node, "namespace": "kube-node-lease"},
        "spec": {
            "holderIdentity": road.node,
            "leaseDurationSeconds": 40,
            "renewTime": "2026-11-22T09:31:55.619111Z",
        },
    }
    made = (await road.ask("insert", resource, lease)).content_value()
    assert made["Err"] is None
    renewed = made["Object"]
    renewed["spec"]["renewTime"] = "2026-11-22T09:32:05.619111Z"
    updated = (await road.ask("update", resource, renewed)).content_value()
    assert updated["Object"]["spec"]["renewTime"] == "2026-11-22T09:32:05.619111Z"
    stale = (await road.ask("update", resource, renewed)).content_value()
    assert stale["Err"]["ErrStatus"]["reason"] == "Conflict"
    await road.client.delete(LEASES, "kube-node-lease", road.node)


async def test_pods_of_the_node_and_what_they_use(road: Road) -> None:
    ns = road.namespace
    await road.register()
    secret = await road.body(SECRETS, "s", password="x")
    cm = await road.body(CONFIGMAPS, "cm", a="1")
    await road.body(CONFIGMAPS, "foreign", a="1")
    road.hub.up(road.node)
    await road.hub.pushes(road.node, f"update null/node/{road.node}")
    pod = await road.pod(
        "p",
        volumes=[{"name": "v", "configMap": {"name": "cm"}}, {"name": "w", "secret": {"secretName": "s"}}],
    )
    pushed = await road.hub.pushes(road.node, f"insert {ns}/pod/p")
    assert pushed.resource_version == pod["metadata"]["resourceVersion"]
    assert pushed.content_value()["kind"] == "Pod"
    assert pushed.content_value()["metadata"]["uid"] == pod["metadata"]["uid"]
    assert "managedFields" not in pushed.content_value()["metadata"]
    pushed = await road.hub.pushes(road.node, f"insert {ns}/configmap/cm")
    assert pushed.content_value()["data"] == {"a": "1"}
    assert pushed.resource_version == cm["metadata"]["resourceVersion"]
    pushed = await road.hub.pushes(road.node, f"update {ns}/secret/s")
    assert pushed.content_value()["metadata"]["uid"] == secret["metadata"]["uid"]
    assert pushed.content_value()["data"] == {"password": "eA=="}
    changed = await road.client.patch(CONFIGMAPS, ns, "cm", {"data": {"a": "2"}})
    await road.hub.until(lambda _, m: m.resource_version == changed["metadata"]["resourceVersion"])
    await road.client.delete(CONFIGMAPS, ns, "cm")
    gone = await road.hub.pushes(road.node, f"delete {ns}/configmap/cm")
    assert gone.content_value()["metadata"]["uid"] == cm["metadata"]["uid"]
    assert not [route for route in road.hub.routes(road.node) if "foreign" in route]


async def test_a_new_session_is_told_everything_again(road: Road) -> None:
    ns = road.namespace
    await road.register()
    await road.body(CONFIGMAPS, "cm", a="1")
    await road.pod("p", containers=[{"name": "c", "image": "i", "envFrom": [{"configMapRef": {"name": "cm"}}]}])
    road.hub.up(road.node)
    for route in (f"update null/node/{road.node}", f"insert {ns}/pod/p", f"insert {ns}/configmap/cm"):
        await road.hub.pushes(road.node, route)
    road.hub.down(road.node)
    road.hub.pushed.clear()
    road.hub.up(road.node)
    for route in (f"update null/node/{road.node}", f"insert {ns}/pod/p", f"insert {ns}/configmap/cm"):
        await road.hub.pushes(road.node, route)


async def test_the_node_says_which_gateway_holds_it(road: Road) -> None:
    await road.register()
    await road.client.patch(NODES, None, road.node, {"metadata": {"annotations": {"cloudcore": "192.0.2.99"}}})
    road.hub.up(road.node)
    await road.hub.until(
        lambda _, m: (
            m.operation == "update"
            and m.resource == f"null/node/{road.node}"
            and m.content_value()["metadata"]["annotations"]["cloudcore"] == "192.0.2.7"
        )
    )


async def test_a_session_that_returns_writes_nothing(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two thousand that return at once would each cause a request."""
    await road.register(**{EDGE: ""})
    road.hub.up(road.node)
    await road.hub.pushes(road.node, f"update null/node/{road.node}")
    written: list[str] = []

    async def patch(*arguments: Any, **_: Any) -> None:
        written.append(arguments[2])

    monkeypatch.setattr(road.client, "patch", patch)
    road.hub.down(road.node)
    road.hub.up(road.node)
    await road.ask("query", f"null/node/{road.node}")
    assert written == []


async def test_pod_status_up_and_deletion_both_ways(road: Road) -> None:
    ns = road.namespace
    await road.register()
    road.hub.up(road.node)
    pod = await road.pod("p", terminationGracePeriodSeconds=30)
    await road.hub.pushes(road.node, f"insert {ns}/pod/p")
    uid = pod["metadata"]["uid"]
    patch = json.dumps({"metadata": {"uid": uid}, "status": {"phase": "Running"}})
    answer = await road.ask("patch", f"{ns}/podpatch/p", patch)
    assert answer.content_value()["Object"]["status"]["phase"] == "Running"
    assert answer.resource_version
    await road.client.delete(PODS, ns, "p")
    pushed = await road.hub.pushes(road.node, f"update {ns}/pod/p")
    assert pushed.content_value()["metadata"]["deletionTimestamp"]
    updates = [route for route in road.hub.routes(road.node) if route == f"update {ns}/pod/p"]
    assert len(updates) == 1  # the status alone was no reason to push
    options = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
    assert (await road.ask("delete", f"{ns}/pod/p", options)).content_value() == "OK"
    gone = await road.hub.pushes(road.node, f"delete {ns}/pod/p")
    assert gone.content_value()["metadata"]["uid"] == uid
    # A second time, another pod's UID, and the form of old edges are all OK.
    assert (await road.ask("delete", f"{ns}/pod/p", options)).content_value() == "OK"
    await road.pod("p")
    assert (await road.ask("delete", f"{ns}/pod/p", uid)).content_value() == "OK"
    assert (await road.client.get(PODS, ns, "p"))["metadata"]["uid"] != uid


async def test_pod_statuses_of_an_old_edge(road: Road) -> None:
    """Reference 1.4 B, the deprecated form: OK, and a delete for what is no longer there."""
    ns = road.namespace
    uid = (await road.pod("p"))["metadata"]["uid"]
    report = {"UID": uid, "Name": "p", "Status": {"phase": "Running"}}
    assert (await road.ask("update", f"{ns}/podstatus/p", report)).content_value() == "OK"
    assert (await road.client.get(PODS, ns, "p"))["status"]["phase"] == "Running"
    many = [{**report, "Status": {"phase": "Failed"}}, {"UID": "u-1", "Name": "gone", "Status": {}}]
    assert (await road.ask("update", f"{ns}/podstatus", many)).content_value() == "OK"
    assert (await road.client.get(PODS, ns, "p"))["status"]["phase"] == "Failed"
    gone = await road.hub.pushes(road.node, f"delete {ns}/pod/gone")
    assert gone.content_value()["metadata"] == {"name": "gone", "namespace": ns, "uid": "u-1"}
    other = {**report, "UID": "00000000-0000-0000-0000-000000000000"}
    assert (await road.ask("update", f"{ns}/podstatus/p", other)).content_value() == "OK"
    gone = await road.hub.pushes(road.node, f"delete {ns}/pod/p")
    assert gone.content_value()["metadata"]["uid"] == other["UID"]
    bad = await road.ask("update", f"{ns}/podstatus", [{"UID": "u"}])
    assert bad.content_value()["ErrStatus"]["code"] == 400


async def test_a_node_and_its_status_of_an_old_edge(road: Road) -> None:
    node = {"metadata": {"name": road.node, "labels": {EDGE: "", "site": "roof"}}}
    for _ in range(2):  # a node that exists is as good as one that is made
        answer = await road.ask("insert", f"default/nodestatus/{road.node}", node)
        assert answer.content_value() == "OK"
    condition = {"type": "Ready", "status": "True", "reason": "EdgeReady"}
    report = {"UID": "", "Status": {"conditions": [condition], "capacity": {"cpu": "2"}}}
    answer = await road.ask("update", f"default/nodestatus/{road.node}", report)
    assert answer.content_value() == "OK"
    made = await road.client.get(NODES, None, road.node)
    assert made["metadata"]["labels"]["site"] == "roof"
    assert made["status"]["capacity"]["cpu"] == "2"
    assert {"type": "Ready", "status": "True"}.items() <= made["status"]["conditions"][0].items()


async def test_a_null_label_takes_nothing_away(road: Road) -> None:
    await road.register(site="roof")
    answer = await road.ask("update", f"null/node/{road.node}", {"metadata": {"labels": {"site": None, "a": "b"}}})
    assert answer.content_value() == "OK"
    labels = (await road.client.get(NODES, None, road.node))["metadata"]["labels"]
    assert (labels["site"], labels["a"]) == ("roof", "b")


async def test_a_status_patch_of_a_pod_that_is_gone(road: Road) -> None:
    answer = await road.ask("patch", f"{road.namespace}/podpatch/p", '{"status":{"phase":"Running"}}')
    content = answer.content_value()
    assert content["Object"] is None
    status = content["Err"]["ErrStatus"]
    assert (status["code"], status["reason"], status["status"]) == (404, "NotFound", "Failure")
    assert status["metadata"] == {}


async def test_queries_are_answered_with_the_object_or_the_error(road: Road) -> None:
    ns = road.namespace
    cm = await road.body(CONFIGMAPS, "cm1", a="<b>")
    answer = await road.ask("query", f"{ns}/configmap/cm1")
    assert answer.content_value()["data"] == {"a": "<b>"}
    assert answer.content_value()["kind"] == "ConfigMap"
    assert answer.resource_version == cm["metadata"]["resourceVersion"]
    missing = await road.ask("query", f"{ns}/configmap/cm2")
    assert missing.content_value() == {
        "ErrStatus": {
            "metadata": {},
            "status": "Failure",
            "message": 'configmaps "cm2" not found',
            "reason": "NotFound",
            "details": {"name": "cm2", "kind": "configmaps"},
            "code": 404,
        }
    }
    for resource in (
        f"{ns}/secret/x",
        f"{ns}/persistentvolumeclaim/x",
        "null/persistentvolume/x",
        "default/volumeattachment/x",
        "default/certificatesigningrequest/x",
    ):
        assert (await road.ask("query", resource)).content_value()["ErrStatus"]["code"] == 404, resource


async def test_a_request_without_a_name_is_never_one_for_all(road: Road) -> None:
    """`DELETE .../pods/` with an empty name would delete every pod of the namespace, GET would list them."""
    ns = road.namespace
    await road.pod("p")
    for operation, resource in (("delete", f"{ns}/pod"), ("query", f"{ns}/pod"), ("query", f"{ns}/configmap")):
        status = (await road.ask(operation, resource, {})).content_value()["ErrStatus"]
        assert (status["code"], status["reason"]) == (400, "BadRequest")
    for name in (".", ".."):
        assert (await road.ask("query", f"{ns}/configmap/{name}")).content_value()["ErrStatus"]["code"] == 400
    assert (await road.client.get(PODS, ns, "p"))["metadata"]["name"] == "p"


async def test_a_service_account_token_is_asked_of_the_api(road: Road) -> None:
    ns = road.namespace
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa"}}
    await road.client.create(SERVICE_ACCOUNTS, account, namespace=ns)
    request = {"metadata": {"creationTimestamp": None}, "spec": {"audiences": None, "expirationSeconds": 3607}}
    content = (await road.ask("query", f"{ns}/serviceaccounttoken/sa", request)).content_value()
    assert content["status"]["token"].count(".") == 2
    assert content["status"]["expirationTimestamp"]
    missing = (await road.ask("query", f"{ns}/serviceaccounttoken/nobody", request)).content_value()
    assert missing["ErrStatus"]["code"] >= 400


async def test_events_need_no_answer(road: Road) -> None:
    ns = road.namespace
    event = {
        "metadata": {"name": "e1", "namespace": ns},
        "involvedObject": {"kind": "Pod", "namespace": ns, "name": "p"},
        "reason": "Started",
        "message": "one",
        "type": "Normal",
        "count": 1,
    }
    await road.tell("insert", f"{ns}/event/e1", event)
    await road.tell("patch", f"{ns}/event/e1", {"event": event, "patchData": '{"count":2}'})
    await road.tell("patch", f"{ns}/event/e1", {"event": event})
    await road.tell("insert", f"{ns}/event/e1", event)
    # Requests for one object are answered in order, so the answer to the last one ends all of them.
    await road.tell("update", f"{ns}/event/e1", {**event, "count": 3})

    async def count() -> int:
        try:
            return int((await road.client.get(EVENTS, ns, "e1")).get("count", 0))
        except ApiError as error:
            assert error.not_found
            return 0

    async with asyncio.timeout(10):
        while await count() < 2:
            await asyncio.sleep(0.05)
    assert not [m for _, m in road.hub.pushed if m.parent_id]


async def test_a_request_of_no_known_form_is_refused(road: Road) -> None:
    message = await road.tell("query", "a/b/c/d/e")
    answer = await road.hub.reply(message)
    assert answer.operation == "error"


@pytest.mark.parametrize(
    "content", [{"metadata": 1}, {"metadata": {"labels": ["a"]}}, {"metadata": {"labels": {"a": 1}}}, [], "x", None]
)
async def test_content_of_any_shape_gets_an_answer_and_harms_nobody(road: Road, content: Any) -> None:
    ns = road.namespace
    for operation, resource in (
        ("insert", f"null/node/{road.node}"),
        ("update", f"null/node/{road.node}"),
        ("insert", f"default/nodestatus/{road.node}"),
        ("insert", f"{ns}/pod/p"),
        ("delete", f"{ns}/pod/p"),
        ("insert", f"kube-node-lease/lease/{road.node}"),
        ("update", f"kube-node-lease/lease/{road.node}"),
        ("query", f"{ns}/serviceaccounttoken/sa"),
        ("insert", f"default/certificatesigningrequest/{road.node}"),
        ("update", f"{ns}/podstatus"),
    ):
        message = await road.tell(operation, resource, content)
        assert (await road.hub.reply(message)).content_value() is not None, (operation, resource)
    for operation in ("insert", "update", "patch"):
        await road.tell(operation, f"{ns}/event/e", content)
    node = await road.register()
    assert node["metadata"]["name"] == road.node


# synccontroller


async def record(
    road: Road, obj: dict[str, Any], version: str, *, kind: str = "", api_version: str = "v1"
) -> dict[str, Any]:
    gvr = OBJECT_SYNCS if obj["metadata"].get("namespace") else CLUSTER_OBJECT_SYNCS
    namespace = obj["metadata"].get("namespace")
    name = f"{road.node}.{obj['metadata']['uid']}"
    body = {
        "apiVersion": gvr.api_version,
        "kind": gvr.kind,
        "metadata": {"name": name},
        "spec": {
            "objectAPIVersion": obj.get("apiVersion", api_version),
            "objectKind": obj.get("kind", kind),
            "objectName": obj["metadata"]["name"],
        },
    }
    await road.client.create(gvr, body, namespace=namespace)
    status = {"status": {"objectResourceVersion": version}}
    return await road.client.patch(gvr, namespace, name, status, subresource="status")


@pytest.fixture
async def sync(road: Road, informers: Informers, scope: TaskScope) -> AsyncIterator[SyncController]:
    controller = SyncController(road.client, informers, road.hub, scope, interval=0.1)
    await controller.start()
    yield controller
    await controller.stop()


async def test_what_a_node_lacks_is_sent_and_what_is_gone_is_deleted(road: Road, sync: SyncController) -> None:
    ns = road.namespace
    await road.register()
    road.hub.up(road.node)
    lagging = await road.body(CONFIGMAPS, "lagging", a="1")
    current = await road.body(CONFIGMAPS, "current", a="1")
    await record(road, lagging, "1")
    await record(road, current, current["metadata"]["resourceVersion"])
    ghost = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ghost", "namespace": ns, "uid": "u-1"}}
    await record(road, ghost, "5")
    pushed = await road.hub.pushes(road.node, f"update {ns}/configmap/lagging")
    assert pushed.content_value()["data"] == {"a": "1"}
    assert (pushed.source, pushed.group) == ("edgecontroller", "resource")
    assert pushed.resource_version == lagging["metadata"]["resourceVersion"]
    pushed = await road.hub.pushes(road.node, f"delete {ns}/secret/ghost")
    assert pushed.content_value()["metadata"] == {"name": "ghost", "namespace": ns, "uid": "u-1"}
    assert not [route for route in road.hub.routes(road.node) if "current" in route]
    count = len(road.hub.pushed)
    await sync.round()
    await sync.round()
    assert len(road.hub.pushed) == count  # the hub repeats by itself; the controller does not


async def test_a_device_that_moved_while_its_node_was_away(road: Road, sync: SyncController) -> None:
    ns = road.namespace
    await road.register()
    device = {
        "apiVersion": "devices.kubeedge.io/v1beta1",
        "kind": "Device",
        "metadata": {"name": "d"},
        "spec": {"nodeName": "elsewhere"},
    }
    made = await road.client.create(DEVICES, device, namespace=ns)
    await record(road, made, made["metadata"]["resourceVersion"])
    road.hub.up(road.node)
    pushed = await road.hub.pushes(road.node, f"delete {ns}/device/d")
    assert pushed.content_value()["metadata"]["uid"] == made["metadata"]["uid"]
    farewell = await road.hub.pushes(road.node, "update membership")
    assert farewell.content_value()["removed_devices"] == [{"id": f"{ns}/d", "name": "d"}]


async def test_records_of_a_deleted_node_go(road: Road, sync: SyncController) -> None:
    ns = road.namespace
    await road.register()
    cm = await road.body(CONFIGMAPS, "cm", a="1")
    name = (await record(road, cm, "1"))["metadata"]["name"]
    node = await road.client.get(NODES, None, road.node)
    cluster = (await record(road, node, "1"))["metadata"]["name"]
    await asyncio.sleep(0)
    await road.client.delete(NODES, None, road.node)
    async with asyncio.timeout(15):
        for gvr, namespace, record_name in ((OBJECT_SYNCS, ns, name), (CLUSTER_OBJECT_SYNCS, None, cluster)):
            while True:
                try:
                    await road.client.get(gvr, namespace, record_name)
                except ApiError as error:
                    assert error.not_found
                    break
                await asyncio.sleep(0.05)


def test_an_unknown_kind_gets_upstreams_plural() -> None:
    assert find_by_kind("example.com/v1", "Policy", namespaced=True).resource == "policies"
    assert find_by_kind("example.com/v1", "Class", namespaced=True).resource == "classes"
    assert find_by_kind("v1", "Gadget", namespaced=False).path() == "/api/v1/gadgets"
    assert find_by_kind("v1", "Pod", namespaced=True) is PODS
