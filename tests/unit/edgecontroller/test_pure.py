"""Which nodes need which config maps, which labels wait, which changes of a pod go down."""

from typing import Any

from cloudgateway.edgecontroller.downstream import relevant_change
from cloudgateway.edgecontroller.locations import Locations, Reference, references
from cloudgateway.edgecontroller.replies import error_body
from cloudgateway.edgecontroller.upstream import split_labels
from cloudgateway.kube.errors import ApiUnavailable, api_error


def pod(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}


def test_every_place_that_names_a_config_map_or_a_secret() -> None:
    found = references(
        pod(
            volumes=[
                {"name": "1", "configMap": {"name": "volume"}},
                {"name": "2", "secret": {"secretName": "volume"}},
                {
                    "name": "3",
                    "projected": {
                        "sources": [
                            {"configMap": {"name": "projected"}},
                            {"secret": {"name": "projected"}},
                            {"serviceAccountToken": {"path": "token"}},
                        ]
                    },
                },
                {"name": "4", "cephfs": {"secretRef": {"name": "ceph"}}},
                {"name": "5", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}},
                {"name": "6", "emptyDir": {}},
            ],
            initContainers=[{"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "init", "key": "k"}}}]}],
            containers=[
                {
                    "env": [{"name": "A", "value": "x"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "env"}}}],
                    "envFrom": [{"configMapRef": {"name": "from"}}, {"secretRef": {"name": "from"}}],
                }
            ],
            imagePullSecrets=[{"name": "pull"}],
        )
    )
    assert {(ref.kind, ref.name) for ref in found} == {
        ("configmap", "volume"),
        ("configmap", "projected"),
        ("configmap", "init"),
        ("configmap", "from"),
        ("secret", "volume"),
        ("secret", "projected"),
        ("secret", "ceph"),
        ("secret", "csi"),
        ("secret", "env"),
        ("secret", "from"),
        ("secret", "pull"),
    }
    assert {ref.namespace for ref in found} == {"ns"}
    assert references(pod()) == frozenset()


def test_a_reference_lives_as_long_as_a_pod_that_uses_it() -> None:
    cm, secret = Reference("configmap", "ns", "a"), Reference("secret", "ns", "b")
    locations = Locations()
    assert locations.put("p1", "n1", frozenset({cm})) == {cm}
    assert locations.put("p2", "n1", frozenset({cm, secret})) == {secret}
    assert locations.put("p3", "n2", frozenset({cm})) == {cm}
    assert sorted(locations.nodes(cm)) == ["n1", "n2"]
    assert set(locations.on_node("n1")) == {cm, secret}
    locations.remove("p1")
    assert sorted(locations.nodes(cm)) == ["n1", "n2"]
    locations.put("p2", "n1", frozenset({secret}))
    assert locations.nodes(cm) == ["n2"]
    locations.remove("p3")
    locations.remove("p3")
    assert locations.nodes(cm) == []


def test_labels_of_kubernetes_own_domains_wait() -> None:
    plain, restricted = split_labels(
        {
            "node-role.kubernetes.io/edge": "",
            "kubernetes.io/os": "linux",
            "beta.kubernetes.io/arch": "arm",
            "example.com/x": "1",
            "mykubernetes.io/x": "1",
            "kubernetes.io": "no domain",
        }
    )
    assert set(restricted) == {"node-role.kubernetes.io/edge", "kubernetes.io/os", "beta.kubernetes.io/arch"}
    assert set(plain) == {"example.com/x", "mykubernetes.io/x", "kubernetes.io"}


def test_a_change_of_the_status_alone_is_not_pushed() -> None:
    old = {"metadata": {"name": "p", "resourceVersion": "1"}, "spec": {"a": 1}, "status": {"phase": "Pending"}}
    assert not relevant_change(old, {**old, "metadata": {"name": "p", "resourceVersion": "2"}, "status": {}})
    assert relevant_change(old, {**old, "spec": {"a": 2}})
    assert relevant_change(old, {**old, "metadata": {**old["metadata"], "deletionTimestamp": "now"}})


def test_errors_in_the_form_of_go() -> None:
    answer = (
        b'{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"m","reason":"R","code":418}'
    )
    assert error_body(api_error(418, answer)) == {
        "ErrStatus": {"metadata": {}, "status": "Failure", "message": "m", "reason": "R", "code": 418}
    }
    assert error_body(ApiUnavailable("away"))["ErrStatus"]["code"] == 503
    assert error_body(api_error(500, b"<html>"))["ErrStatus"]["message"] == "<html>"
