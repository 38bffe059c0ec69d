"""Delivery, dispatch and authorization on the recorded traffic, and by example (reference 1.3, 2.6, 2.7)."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudgateway.cloudhub.authorization import forbidden, refusal
from cloudgateway.cloudhub.delivery import Kind, parse_version, plan
from cloudgateway.cloudhub.dispatch import Destination, destination
from edgeappliance.wire.message import Message, decode
from tests import vectors
from tests.support.hub import OpenRelations

RECORDED = list(vectors.messages())
UP = [message for one in RECORDED if one.direction == "up" and (message := decode(one.text)).operation]
DOWN = [decode(one.text) for one in RECORDED if one.direction == "down"]
NODE = "edge-1"


def recorded_relations() -> OpenRelations:
    relations = OpenRelations()
    relations.devices["default", "dev-1"] = NODE  # pushed before the recording began
    for message in DOWN:
        parts = message.resource.split("/")
        if len(parts) == 3 and parts[1] == "pod":
            relations.pods[parts[0], parts[2]] = NODE
        if len(parts) == 3:
            relations.used.add((NODE, parts[1], parts[0], parts[2]))
    return relations


def test_recorded_requests_go_where_the_reference_says() -> None:
    seen = Counter(destination(message) for message in UP)
    assert set(seen) == {
        Destination.KEEPALIVE,
        Destination.ACKNOWLEDGEMENT,
        Destination.EDGECONTROLLER,
        Destination.DEVICECONTROLLER,
        Destination.DYNAMICCONTROLLER,
        Destination.ROUTER,
    }
    for message in UP:
        to = destination(message)
        if message.source == "twin":
            assert to is Destination.DEVICECONTROLLER
        if message.operation == "upload":
            assert to is Destination.ROUTER


def test_a_real_edge_is_never_denied() -> None:
    relations = recorded_relations()
    for message in UP:
        assert refusal(NODE, message, destination(message), relations) is None, message.resource


def test_another_node_saying_the_same_is_denied() -> None:
    relations = recorded_relations()
    denied = {
        message.resource for message in UP if refusal("edge-2", message, destination(message), relations) is not None
    }
    assert {"kube-node-lease/lease/edge-1", "null/nodepatch/edge-1", "default/podpatch/p1"} <= denied
    assert any(resource.startswith("device/") for resource in denied)


def test_every_recorded_push_is_acknowledged_exactly_when_it_needs_to_be() -> None:
    """The edge acks more than the cloud tracks; what is planned as OBJECT or REPLY was acked."""
    acked = {message.parent_id for message in UP if message.operation == "response"}
    closing = DOWN[-3:]
    for message in DOWN:
        delivery = plan(message)
        if delivery.kind in (Kind.OBJECT, Kind.REPLY) and message not in closing:
            assert message.id in acked, message.resource
            assert delivery.subject is not None
            assert delivery.subject.kind
            assert delivery.deletes or delivery.version > 0
        assert delivery.kind is not Kind.REFUSED
    kinds = Counter(plan(message).kind for message in DOWN)
    assert kinds[Kind.OBJECT] > 5
    assert kinds[Kind.ONCE] > 20


def down(source: str, group: str, operation: str, resource: str, content: object, version: str = "5") -> Message:
    return Message.new(
        source=source,
        group=group,
        operation=operation,
        resource=resource,
        content=content,
        resource_version=version,
    )


NOT_FOUND = {"ErrStatus": {"code": 404}}
OBJECT = {"apiVersion": "v1", "kind": "X", "metadata": {"name": "n", "namespace": "default", "uid": "U"}}


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (down("edgecontroller", "resource", "insert", "default/pod/p", OBJECT), Kind.OBJECT),
        (down("edgecontroller", "resource", "response", "default/pod/p", OBJECT), Kind.ONCE),
        (down("edgecontroller", "resource", "update", "null/node/n", OBJECT), Kind.OBJECT),
        (down("edgecontroller", "resource", "insert", "null/node/n", OBJECT), Kind.ONCE),
        (down("edgecontroller", "resource", "response", "null/nodepatch/n", OBJECT), Kind.ONCE),
        (down("edgecontroller", "resource", "response", "kube-node-lease/lease/n", OBJECT), Kind.ONCE),
        (down("edgecontroller", "resource", "response", "default/configmap/c", OBJECT), Kind.REPLY),
        (
            down("edgecontroller", "resource", "response", "default/configmap/c", NOT_FOUND),
            Kind.ONCE,
        ),
        (down("edgecontroller", "resource", "response", "default/pod/p", "OK"), Kind.ONCE),
        (down("edgecontroller", "resource", "response", "default/serviceaccounttoken/s", OBJECT), Kind.ONCE),
        (down("devicecontroller", "twin", "update", "membership", {"added_devices": []}), Kind.ONCE),
        (down("devicecontroller", "twin", "response", "twin", "OK"), Kind.ONCE),
        (down("devicecontroller", "resource", "insert", "default/device/d", OBJECT), Kind.OBJECT),
        (down("dynamiccontroller", "resource", "applicationResponse", "null", OBJECT), Kind.ONCE),
        (down("router_eventbus", "user", "publish", "a/b", "x"), Kind.ONCE),
        (down("taskmanager", "taskmanager", "Check", "operations.kubeedge.io/v1alpha2/x/y/node/n", {}), Kind.ONCE),
        (down("cloudhub", "resource", "response", "k8s/ca.crt", "PEM"), Kind.ONCE),
        (down("policycontroller", "resource", "insert", "default/serviceaccountaccess/s", OBJECT), Kind.OBJECT),
        (down("edgecontroller", "resource", "delete", "default/pod/p", OBJECT, ""), Kind.OBJECT),
        (down("edgecontroller", "resource", "update", "default/pod/p", OBJECT, ""), Kind.REFUSED),
        (down("edgecontroller", "resource", "update", "default/pod/p", OBJECT, "abc"), Kind.REFUSED),
        (down("edgecontroller", "resource", "update", "default/pod/p", {"metadata": {}}), Kind.REFUSED),
        (down("edgecontroller", "resource", "update", "default/pod/p", "text"), Kind.REFUSED),
        (down("edgecontroller", "resource", "update", "default/pod/p", None), Kind.REFUSED),
    ],
)
def test_delivery(message: Message, kind: Kind) -> None:
    assert plan(message).kind is kind


def test_an_object_that_is_being_deleted_needs_no_version() -> None:
    doomed = {**OBJECT, "metadata": {**OBJECT["metadata"], "deletionTimestamp": "2026-11-22T00:00:00Z"}}  # type: ignore[dict-item]
    assert plan(down("edgecontroller", "resource", "update", "default/pod/p", doomed, "")).kind is Kind.OBJECT


def test_versions() -> None:
    assert parse_version("18446744073709551615") == 2**64 - 1
    for bad in ("", "-1", "1.0", "18446744073709551616", "٣", "1" * 30):
        assert parse_version(bad) is None


@given(st.recursive(st.none() | st.integers() | st.text(max_size=9), lambda x: st.dictionaries(st.text(max_size=9), x)))
def test_any_content_gets_a_decision(content: object) -> None:
    assert plan(down("edgecontroller", "resource", "update", "default/pod/p", content)).kind in Kind


def up(operation: str, resource: str, content: object = None, *, source: str = "edged", group: str = "meta") -> Message:
    return Message.new(source=source, group=group, operation=operation, resource=resource, content=content)


MIRROR = {
    "metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}},
    "spec": {"nodeName": NODE, "containers": []},
}


def token_for(pod: str, **changes: str) -> Message:
    bound = {"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": "u", **changes}
    return up("query", "default/serviceaccounttoken/robot", {"spec": {"boundObjectRef": bound}})


@pytest.mark.parametrize(
    ("message", "allowed"),
    [
        (up("insert", "null/node/edge-1"), True),
        (up("insert", "null/node/edge-2"), False),
        (up("delete", "null/node/edge-1"), False),
        (up("patch", "null/nodepatch/edge-2", "{}"), False),
        (up("update", "kube-node-lease/lease/edge-1"), True),
        (up("update", "kube-system/lease/edge-1"), False),
        (up("query", "default/configmap/mine"), True),
        (up("query", "default/configmap/other"), False),
        (up("update", "default/configmap/mine"), False),
        (up("query", "kube-system/secret/mine"), False),
        (up("query", "default/serviceaccounttoken/sa", {}), False),
        (token_for("mine"), True),
        (token_for("theirs"), False),
        (token_for("gone"), False),
        (token_for("mine", kind="Secret"), False),
        (token_for("mine", uid=""), False),
        (up("query", "default/serviceaccounttoken/robot", {"spec": {"expirationSeconds": 10**9}}), False),
        (up("query", "default/serviceaccounttoken/robot", "no JSON"), False),
        (up("patch", "default/podpatch/mine", "{}"), True),
        (up("patch", "default/podpatch/theirs", "{}"), False),
        (up("patch", "default/podpatch/gone", "{}"), True),
        (up("delete", "default/pod/theirs", {}), False),
        (up("insert", "default/pod/static", MIRROR), True),
        (up("insert", "default/pod/static", {**MIRROR, "spec": {"nodeName": "edge-2"}}), False),
        (up("insert", "default/pod/static", {**MIRROR, "metadata": {}}), False),
        (
            up(
                "insert",
                "default/pod/static",
                {**MIRROR, "spec": {"nodeName": NODE, "volumes": [{"secret": {"secretName": "s"}}]}},
            ),
            False,
        ),
        (
            up("insert", "default/pod/static", {**MIRROR, "spec": {"nodeName": NODE, "serviceAccountName": "a"}}),
            False,
        ),
        (up("update", "default/podstatus", [{"Name": "mine"}]), True),
        (up("update", "default/podstatus", [{"Name": "mine"}, {"Name": "theirs"}]), False),
        (up("insert", "default/event/e", {}), True),
        (up("query", "k8s/ca.crt", source="metamanager"), True),
        (up("update", "device/default/d1/twin/edge_updated", {}, source="twin", group="resource"), True),
        (up("update", "device/default/d2/twin/edge_updated", {}, source="twin", group="resource"), False),
        (up("update", "device/default/new/state/update", {}, source="twin", group="resource"), True),
        (up("get", "membership/detail", "{}", source="twin", group="resource"), True),
        (up("null", "null", {"Nodename": NODE}, source="metaserver"), True),
        (up("null", "null", {"Nodename": "edge-2"}, source="metaserver"), False),
        (
            up(
                "UpdateNodeActionStatus",
                "operations.kubeedge.io/v1alpha2/nodeupgradejob/j/node/edge-2",
                {},
                source="websocket",
                group="hub",
            ),
            False,
        ),
        (up("query", "default/pod"), False),
        (up("delete", "default/pod", {}), False),
        (up("patch", "default/podpatch", "{}"), False),
        (up("query", "default/certificatesigningrequest"), False),
        (up("update", "default/podstatus", json.dumps([{"Name": "theirs"}])), False),
        (up("update", "default/podstatus", [{"name": "theirs"}]), False),
        (up("query", "default/rulestatus/r"), False),
        (up("query", "x"), False),
        (up("query", "a/b/c/d/e"), False),
    ],
)
def test_authorization(message: Message, allowed: bool) -> None:
    relations = OpenRelations()
    relations.pods |= {("default", "mine"): NODE, ("default", "theirs"): "edge-2"}
    relations.devices |= {("default", "d1"): NODE, ("default", "d2"): "edge-2"}
    relations.used |= {(NODE, "configmap", "default", "mine"), (NODE, "serviceaccounttoken", "default", "robot")}
    reason = refusal(NODE, message, destination(message), relations)
    assert (reason is None) is allowed, reason


def test_refusals_are_answered_in_the_form_that_is_waited_for() -> None:
    plain = forbidden(NODE, up("query", "default/secret/x"), "no")
    wrapped = forbidden(NODE, up("patch", "null/nodepatch/edge-2", "{}"), "no")
    lease = forbidden(NODE, up("query", "a/lease/b"), "no")
    assert plain is not None
    assert wrapped is not None
    assert lease is not None
    assert json.loads(bytes(plain.content))["ErrStatus"]["code"] == 403
    for answer in (wrapped, lease):
        assert json.loads(bytes(answer.content))["Err"]["ErrStatus"]["reason"] == "Forbidden"
    assert forbidden(NODE, up("insert", "default/event/e"), "no") is None
    assert forbidden(NODE, up("update", "device/a/b/twin/edge_updated", source="twin"), "no") is None
