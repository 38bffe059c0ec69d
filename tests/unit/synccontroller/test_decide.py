"""What a record asks for (KubeEdge reference 2.9)."""

from typing import Any

import pytest

from cloudgateway.synccontroller.decide import Action, decide, parse_record


def record(version: str, *, kind: str = "Pod", name: str = "edge.site-1.u-1") -> Any:
    spec = {"objectAPIVersion": "v1", "objectKind": kind, "objectName": "p"}
    status = {"objectResourceVersion": version}
    return parse_record({"metadata": {"name": name, "namespace": "ns"}, "spec": spec, "status": status})


def obj(version: str, *, uid: str = "u-1", node: str = "edge.site-1") -> dict[str, Any]:
    return {"metadata": {"uid": uid, "resourceVersion": version}, "spec": {"nodeName": node}}


@pytest.mark.parametrize(
    ("version", "now", "action"),
    [
        ("9", obj("10"), Action.UPDATE),
        ("0", obj("1"), Action.UPDATE),
        ("10", obj("10"), Action.NOTHING),
        ("11", obj("10"), Action.NOTHING),
        ("", obj("10"), Action.NOTHING),
        ("", None, Action.NOTHING),
        ("10", None, Action.DELETE),
        ("10", obj("10", uid="u-2"), Action.DELETE),
        ("10", obj("10", node="edge-2"), Action.DELETE),
    ],
)
def test_versions_are_compared_as_numbers(version: str, now: dict[str, Any] | None, action: Action) -> None:
    assert decide(record(version), now) is action


def test_other_kinds_have_no_node() -> None:
    assert decide(record("10", kind="ConfigMap"), obj("10", node="")) is Action.NOTHING


def test_the_name_is_split_at_the_last_dot() -> None:
    found = record("1")
    assert (found.node, found.uid, found.namespace) == ("edge.site-1", "u-1", "ns")


@pytest.mark.parametrize("name", ["nodot", ".u", "edge."])
def test_what_is_no_record(name: str) -> None:
    assert record("1", name=name) is None
    assert parse_record({"metadata": {"name": "edge.u"}}) is None
