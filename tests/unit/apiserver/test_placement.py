"""Where a pod may run: selectors, affinity, taints, ports, resources; and the words when it may nowhere."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudgateway.apiserver.placement import NO_NODES, Decision, demand_of, place, place_of, wish_of
from cloudgateway.apiserver.taints import condition_taints, tainted


def node(name: str = "n", *, ready: str = "True", pods: str = "110", **more: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": more.pop("labels", {})},
        "spec": more.pop("spec", {}),
        "status": {
            "allocatable": {"cpu": "2", "memory": "1Gi", "pods": pods, **more.pop("allocatable", {})},
            "conditions": [{"type": "Ready", "status": ready}, *more.pop("conditions", [])],
        },
    }


def container(name: str = "c", *, requests: Any = None, ports: Any = (), **more: Any) -> dict[str, Any]:
    return {"name": name, "image": "i", "resources": {"requests": requests or {}}, "ports": list(ports), **more}


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {"containers": list(containers) or [container()], **spec}}


def decide(value: dict[str, Any], *nodes: dict[str, Any], **load: list[dict[str, Any]]) -> Decision:
    taken = {name: [demand_of(item) for item in pods] for name, pods in load.items()}
    return place(wish_of(value), [place_of(item) for item in nodes], taken)


def affinity(*expressions: dict[str, Any], field: str = "matchExpressions") -> dict[str, Any]:
    terms = {"nodeSelectorTerms": [{field: list(expressions)}]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}}


def test_the_first_node_that_admits_it() -> None:
    assert decide(pod(), node("b"), node("a")) == Decision("a")
    assert decide(pod(nodeSelector={"site": "x"}), node("a"), node("b", labels={"site": "x"})).node == "b"
    assert decide(pod()) == Decision("", NO_NODES)


REFUSALS: tuple[tuple[dict[str, Any], dict[str, Any], str], ...] = (
    (pod(nodeSelector={"a": "b"}), node(), "node(s) didn't match Pod's node affinity/selector"),
    (pod(), node(spec={"unschedulable": True}), "node(s) were unschedulable"),
    (pod(), node(ready="Unknown"), "node(s) had untolerated taint {node.kubernetes.io/unreachable: }"),
    (pod(), node(ready="False"), "node(s) had untolerated taint {node.kubernetes.io/not-ready: }"),
    (
        pod(),
        node(conditions=[{"type": "DiskPressure", "status": "True"}]),
        "node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }",
    ),
    (
        pod(),
        node(spec={"taints": [{"key": "k", "value": "v", "effect": "NoExecute"}]}),
        "node(s) had untolerated taint {k: v}",
    ),
    (pod(), node(pods="0"), "Too many pods"),
    (pod(container(requests={"cpu": "2001m"})), node(), "Insufficient cpu"),
    (pod(container(requests={"memory": "1025Mi"})), node(), "Insufficient memory"),
    (pod(container(requests={"x.io/gpu": "1"})), node(), "Insufficient x.io/gpu"),
    (pod(container(requests={"cpu": "3", "memory": "3Gi"})), node(), "Insufficient cpu, 1 Insufficient memory"),
)


@pytest.mark.parametrize(("value", "place_", "words"), REFUSALS, ids=[words for _, _, words in REFUSALS])
def test_why_no_node_admits_it(value: dict[str, Any], place_: dict[str, Any], words: str) -> None:
    assert decide(value, place_) == Decision("", f"0/1 nodes are available: 1 {words}.")


def test_reasons_are_counted_and_sorted() -> None:
    nodes = [node("a", pods="0"), node("b", ready="Unknown"), node("c", ready="Unknown"), node("d", ready="False")]
    assert decide(pod(), *nodes).message == (
        "0/4 nodes are available: 1 Too many pods, 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }, "
        "2 node(s) had untolerated taint {node.kubernetes.io/unreachable: }."
    )


TOLERATIONS: tuple[tuple[dict[str, Any], bool], ...] = (
    ({"operator": "Exists"}, True),
    ({"key": "k", "operator": "Exists"}, True),
    ({"key": "k", "value": "v"}, True),
    ({"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}, True),
    ({"key": "k", "value": "v", "effect": "NoExecute"}, False),
    ({"key": "k", "value": "w"}, False),
    ({"key": "k", "operator": "Equal"}, False),
    ({"key": "other", "operator": "Exists"}, False),
)


@pytest.mark.parametrize(("toleration", "admitted"), TOLERATIONS)
def test_tolerations(toleration: dict[str, Any], admitted: bool) -> None:
    tainted_node = node(spec={"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]})
    assert bool(decide(pod(tolerations=[toleration]), tainted_node).node) is admitted


def test_a_cordoned_node_takes_who_tolerates_that() -> None:
    toleration = {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}
    assert decide(pod(tolerations=[toleration]), node(spec={"unschedulable": True})).node == "n"


def test_memory_pressure_keeps_only_the_ones_that_ask_for_nothing_away() -> None:
    pressed = node(conditions=[{"type": "MemoryPressure", "status": "True"}])
    assert not decide(pod(), pressed).node
    assert decide(pod(container(requests={"cpu": "1m"})), pressed).node == "n"


AFFINITIES: tuple[tuple[dict[str, Any], bool], ...] = (
    ({"key": "a", "operator": "In", "values": ["1", "2"]}, True),
    ({"key": "a", "operator": "In", "values": ["2"]}, False),
    ({"key": "a", "operator": "NotIn", "values": ["2"]}, True),
    ({"key": "z", "operator": "NotIn", "values": ["2"]}, True),
    ({"key": "a", "operator": "Exists"}, True),
    ({"key": "a", "operator": "DoesNotExist"}, False),
    ({"key": "a", "operator": "Gt", "values": ["0"]}, True),
    ({"key": "a", "operator": "Lt", "values": ["1"]}, False),
    ({"key": "text", "operator": "Gt", "values": ["0"]}, False),
    ({"key": "z", "operator": "Gt", "values": ["0"]}, False),
    ({"key": "a", "operator": "Near", "values": ["1"]}, False),
)


@pytest.mark.parametrize(("expression", "matches"), AFFINITIES)
def test_node_affinity(expression: dict[str, Any], matches: bool) -> None:
    labelled = node(labels={"a": "1", "text": "x"})
    assert bool(decide(pod(**affinity(expression)), labelled).node) is matches


def test_node_affinity_by_name_and_without_expressions() -> None:
    by_name = affinity({"key": "metadata.name", "operator": "In", "values": ["b"]}, field="matchFields")
    assert decide(pod(**by_name), node("a"), node("b")).node == "b"
    assert not decide(pod(**affinity()), node("a")).node  # an empty term matches nothing


def test_preferences_decide_between_nodes_that_admit_it() -> None:
    preferred = {"weight": 5, "preference": {"matchExpressions": [{"key": "fast", "operator": "Exists"}]}}
    spec = {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}}}
    assert decide(pod(**spec), node("a"), node("b", labels={"fast": ""})).node == "b"
    disliked = node("a", spec={"taints": [{"key": "k", "effect": "PreferNoSchedule"}]})
    assert decide(pod(), disliked, node("b")).node == "b"
    assert decide(pod(), disliked).node == "a"


@pytest.mark.parametrize(
    ("mine", "theirs", "clash"),
    [
        ({"hostPort": 80}, {"hostPort": 80}, True),
        ({"hostPort": 80}, {"hostPort": 81}, False),
        ({"hostPort": 80, "protocol": "UDP"}, {"hostPort": 80}, False),
        ({"hostPort": 80, "hostIP": "10.0.0.1"}, {"hostPort": 80, "hostIP": "10.0.0.2"}, False),
        ({"hostPort": 80, "hostIP": "10.0.0.1"}, {"hostPort": 80, "hostIP": "0.0.0.0"}, True),
        ({"containerPort": 80}, {"containerPort": 80}, False),
    ],
)
def test_host_ports(mine: dict[str, Any], theirs: dict[str, Any], clash: bool) -> None:
    decision = decide(pod(container(ports=[mine])), node(), n=[pod(container(ports=[theirs]))])
    assert bool(decision.message) is clash
    if clash:
        assert "1 node(s) didn't have free ports for the requested pod ports" in decision.message


def test_what_other_pods_took_is_not_free() -> None:
    half = pod(container(requests={"cpu": "1"}))
    assert decide(half, node(), n=[half]).node == "n"
    assert decide(half, node(), n=[half, half]).message == "0/1 nodes are available: 1 Insufficient cpu."
    assert decide(pod(), node(pods="2"), n=[pod(), pod()]).message == "0/1 nodes are available: 1 Too many pods."


def test_init_containers_and_sidecars_count_as_upstream_counts_them() -> None:
    def asks(cpu: str, **more: Any) -> dict[str, Any]:
        return container(requests={"cpu": cpu}, **more)

    sidecar = asks("300m", restartPolicy="Always")
    value = pod(asks("200m"), asks("200m"), initContainers=[asks("100m"), sidecar, asks("600m")])
    assert demand_of(value).requests["cpu"] == Decimal("0.9")  # the last one beside the sidecar
    value = pod(asks("500m"), asks("500m"), initContainers=[sidecar, asks("600m")], overhead={"cpu": "50m"})
    assert demand_of(value).requests["cpu"] == Decimal("1.35")
    assert demand_of(pod(asks("1"), resources={"requests": {"cpu": "1500m"}})).requests["cpu"] == Decimal("1.5")


@pytest.mark.parametrize("kind", ["podAffinity", "podAntiAffinity"])
def test_what_is_not_evaluated_is_said(kind: str) -> None:
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}
    spec = {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}
    assert f"does not evaluate spec.affinity.{kind}" in decide(pod(**spec), node()).message
    preferred = {"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}}}
    assert decide(pod(**preferred), node()).node == "n"


def test_spreading_is_said_not_to_be_evaluated_unless_it_is_a_wish_only() -> None:
    constraint = {"maxSkew": 1, "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule"}
    assert "spec.topologySpreadConstraints" in decide(pod(topologySpreadConstraints=[constraint]), node()).message
    constraint["whenUnsatisfiable"] = "ScheduleAnyway"
    assert decide(pod(topologySpreadConstraints=[constraint]), node()).node == "n"


def test_a_node_whose_status_nobody_can_read_offers_nothing() -> None:
    broken: dict[str, Any] = {
        "metadata": {"name": "n"},
        "status": {"allocatable": {"pods": "many"}, "conditions": [{}]},
    }
    assert "not-ready" in decide(pod(), broken).message
    broken["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
    assert "Too many pods" in decide(pod(), broken).message


def test_taints_follow_the_conditions_and_leave_the_operators_own_alone() -> None:
    own = {"key": "k", "effect": "NoSchedule"}
    evict = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}
    value = node(ready="Unknown", spec={"taints": [own, evict]})
    taints = tainted(value, time="t")
    assert taints == [own, evict, {"key": evict["key"], "effect": "NoSchedule", "timeAdded": "t"}]
    value["spec"]["taints"] = taints
    assert tainted(value, time="later") is None
    value["status"]["conditions"][0]["status"] = "True"
    assert tainted(value, time="later") == [own, evict]
    assert condition_taints(value) == ()


_TEXTS = st.sampled_from(["", "a", "1", "-1", "True", "Ready", "Exists", "In", "80"])


@given(st.lists(st.tuples(_TEXTS, _TEXTS, _TEXTS), max_size=4), st.lists(_TEXTS, max_size=3))
def test_placing_is_steady(tolerated: list[tuple[str, str, str]], taints: list[str]) -> None:
    """The same question has the same answer, and an admitted pod met every NoSchedule taint."""
    value = pod(tolerations=[{"key": key, "operator": "Exists", "effect": effect} for key, effect, _ in tolerated])
    places = node(spec={"taints": [{"key": key, "effect": "NoSchedule"} for key in taints]})
    first = decide(value, places)
    assert first == decide(value, places)
    keys = {key for key, effect, _ in tolerated if effect in ("", "NoSchedule")}
    assert bool(first.node) is ("" in keys or set(taints) <= keys)
