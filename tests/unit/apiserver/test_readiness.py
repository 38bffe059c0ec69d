"""What the API says of a node that is not ready, and of its pods, which go on where they are."""

from typing import Any

import pytest

from cloudgateway.apiserver.controllers.nodes import GRACE, NodeWatch
from cloudgateway.apiserver.controllers.readiness import restore, silence
from edgeappliance.kernel.clock import ManualClock
from tests.support.embedded_api import MERGE, STRATEGIC, Api

PODS = "/api/v1/namespaces/default/pods"
NODES = "/api/v1/nodes"
UNREACHABLE = "node.kubernetes.io/unreachable"


@pytest.fixture
def watch(embedded_api: Api, api_clock: ManualClock) -> NodeWatch:
    embedded = embedded_api.embedded
    return NodeWatch(store=embedded.store, writer=embedded.core.writer, registry=embedded.registry, clock=api_clock)


async def node(api: Api, name: str, *, ready: str = "True", taints: Any = ()) -> None:
    status = {"conditions": [{"type": "Ready", "status": ready}]}
    await api.ok("POST", NODES, {"metadata": {"name": name}, "spec": {"taints": list(taints)}, "status": status})


async def report(api: Api, name: str, ready: str) -> None:
    await api.ok(
        "PATCH",
        f"{NODES}/{name}/status",
        {"status": {"conditions": [{"type": "Ready", "status": ready}]}},
        type=STRATEGIC,
    )


async def pod(api: Api, name: str, on: str, *, phase: str = "Running", ready: str = "True") -> None:
    spec = {"nodeName": on, "containers": [{"name": "c", "image": "i"}]}
    await api.ok("POST", PODS, {"metadata": {"name": name}, "spec": spec})
    conditions = [{"type": kind, "status": ready} for kind in ("Ready", "ContainersReady")]
    status = {"status": {"phase": phase, "conditions": conditions}}
    await api.ok("PATCH", f"{PODS}/{name}/status", status, type=STRATEGIC)


async def ready(api: Api, name: str) -> str:
    found = {item["type"]: item for item in (await api.ok("GET", f"{PODS}/{name}"))["status"]["conditions"]}
    return str(found["Ready"]["status"])


async def taints(api: Api, name: str) -> list[tuple[str, str]]:
    spec = (await api.ok("GET", f"{NODES}/{name}"))["spec"]
    return [(item["key"], item["effect"]) for item in spec.get("taints", ())]


async def events(api: Api, name: str) -> list[tuple[str, str, int]]:
    found = (await api.ok("GET", f"/api/v1/events?fieldSelector=involvedObject.name%3D{name}"))["items"]
    return [(item["reason"], item["message"], item["count"]) for item in found]


async def test_pods_of_a_silent_node_are_not_ready_and_stay(
    embedded_api: Api, api_clock: ManualClock, watch: NodeWatch
) -> None:
    for name in ("silent", "alive"):
        await node(embedded_api, name)
    await pod(embedded_api, "p", "silent")
    await pod(embedded_api, "done", "silent", phase="Succeeded")
    await pod(embedded_api, "other", "alive")
    await watch.examine()
    api_clock.advance(GRACE + 1)
    await report(embedded_api, "alive", "True")
    await embedded_api.ok(
        "PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/alive", {"metadata": {"name": "alive"}}
    )
    await watch.examine()
    assert [await ready(embedded_api, name) for name in ("p", "done", "other")] == ["False", "True", "True"]
    value = await embedded_api.ok("GET", f"{PODS}/p")
    assert "deletionTimestamp" not in value["metadata"]
    assert value["status"]["phase"] == "Running"
    assert await taints(embedded_api, "silent") == [(UNREACHABLE, "NoSchedule")]
    assert await events(embedded_api, "p") == [("NodeNotReady", "Node is not ready", 1)]
    assert await events(embedded_api, "silent") == [("NodeNotReady", "Node silent status is now: NodeNotReady", 1)]
    version = value["metadata"]["resourceVersion"]
    await watch.examine()
    assert (await embedded_api.ok("GET", f"{PODS}/p"))["metadata"]["resourceVersion"] == version
    await report(embedded_api, "silent", "True")
    await watch.examine()
    assert await ready(embedded_api, "p") == "True"
    assert await taints(embedded_api, "silent") == []
    assert [reason for reason, _, _ in await events(embedded_api, "silent")] == ["NodeNotReady", "NodeReady"]


async def test_a_pod_that_was_not_ready_itself_is_not_restored(embedded_api: Api, watch: NodeWatch) -> None:
    await node(embedded_api, "n")
    await pod(embedded_api, "p", "n", ready="False")
    await watch.examine()
    await report(embedded_api, "n", "False")
    await watch.examine()
    await report(embedded_api, "n", "True")
    await watch.examine()
    assert await ready(embedded_api, "p") == "False"
    assert await events(embedded_api, "p") == []


async def test_taints_follow_conditions_and_keep_the_operators_own(embedded_api: Api, watch: NodeWatch) -> None:
    await node(embedded_api, "n", ready="False", taints=[{"key": "mine", "effect": "NoSchedule"}])
    await watch.examine()
    assert await taints(embedded_api, "n") == [("mine", "NoSchedule"), ("node.kubernetes.io/not-ready", "NoSchedule")]
    await embedded_api.ok("PATCH", f"{NODES}/n", {"spec": {"unschedulable": True}}, type=STRATEGIC)
    await report(embedded_api, "n", "True")
    await watch.examine()
    assert await taints(embedded_api, "n") == [
        ("mine", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ]
    await embedded_api.ok("PATCH", f"{NODES}/n", {"spec": {"unschedulable": None}}, type=STRATEGIC)
    await watch.examine()
    assert await taints(embedded_api, "n") == [("mine", "NoSchedule")]


async def test_a_node_that_has_not_reported_yet_gets_no_taint(embedded_api: Api, watch: NodeWatch) -> None:
    """It reports a moment later, and each write is a push to it."""
    made = await embedded_api.ok("POST", NODES, {"metadata": {"name": "n"}})
    await watch.examine()
    assert await embedded_api.ok("GET", f"{NODES}/n") == made


async def test_a_site_that_falls_silent_as_a_whole_shares_commits(
    embedded_api: Api, watch: NodeWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        await node(embedded_api, f"n{number}", ready="Unknown")
    commits = 0
    database = embedded_api.embedded._database
    write = database.write

    async def counted(work: Any, *, durable: bool) -> Any:
        nonlocal commits
        commits += 1
        return await write(work, durable=durable)

    monkeypatch.setattr(database, "write", counted)
    await watch.examine()
    assert await taints(embedded_api, "n59") == [(UNREACHABLE, "NoSchedule")]
    assert commits < 20


async def test_a_restart_of_ours_brings_pods_in_line_without_telling_again(
    embedded_api: Api, api_clock: ManualClock, watch: NodeWatch
) -> None:
    await node(embedded_api, "n", ready="Unknown")
    await pod(embedded_api, "p", "n")
    await watch.examine()  # the first look of a process that has just begun
    assert await ready(embedded_api, "p") == "False"
    assert await events(embedded_api, "n") == []


def test_readiness_gates_count_as_a_kubelet_counts_them() -> None:
    conditions = [{"type": "Ready", "status": "False"}, {"type": "ContainersReady", "status": "True"}]
    value: dict[str, Any] = {
        "spec": {"readinessGates": [{"conditionType": "x.io/ok"}]},
        "status": {"conditions": conditions},
    }
    assert not restore(value, time="t")
    conditions.append({"type": "x.io/ok", "status": "True"})
    assert restore(value, time="t")
    assert value["status"]["conditions"][0] == {"type": "Ready", "status": "True", "lastTransitionTime": "t"}
    assert not restore(value, time="later")
    assert silence(value, time="t2")
    assert not silence(value, time="t3")
    assert value["status"]["conditions"][0]["lastTransitionTime"] == "t2"


@pytest.mark.parametrize("status", [{}, {"conditions": []}, {"conditions": None}])
def test_a_pod_without_conditions_is_left_alone(status: dict[str, Any]) -> None:
    assert not silence({"status": status}, time="t")
    assert not restore({"status": status}, time="t")


def taint(key: str, effect: str = "NoExecute") -> dict[str, str]:
    return {"key": key, "value": "v", "effect": effect}


async def placed(api: Api, name: str, *tolerations: dict[str, Any], annotations: Any = None) -> None:
    spec = {"nodeName": "n", "containers": [{"name": "c", "image": "i"}], "tolerations": list(tolerations)}
    await api.ok("POST", PODS, {"metadata": {"name": name, "annotations": annotations or {}}, "spec": spec})


async def going(api: Api) -> list[str]:
    items = (await api.ok("GET", PODS))["items"]
    return [item["metadata"]["name"] for item in items if "deletionTimestamp" in item["metadata"]]


async def test_a_taint_that_somebody_sets_drives_away_who_does_not_tolerate_it(
    embedded_api: Api, api_clock: ManualClock, watch: NodeWatch
) -> None:
    await node(embedded_api, "n")
    await placed(embedded_api, "plain")
    await placed(embedded_api, "ever", {"key": "k", "operator": "Exists", "effect": "NoExecute"})
    await placed(
        embedded_api, "while", {"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}
    )
    await placed(embedded_api, "other", {"key": "z", "operator": "Exists"})
    await placed(embedded_api, "static", annotations={"kubernetes.io/config.mirror": "x"})
    await watch.examine()
    assert await going(embedded_api) == []
    await embedded_api.ok("PATCH", f"{NODES}/n", {"spec": {"taints": [taint("k")]}}, type=STRATEGIC)
    await watch.examine()
    assert await going(embedded_api) == ["other", "plain"]
    value = await embedded_api.ok("GET", f"{PODS}/plain")
    assert [item["reason"] for item in value["status"]["conditions"]] == ["DeletionByTaintManager"]
    assert ("TaintManagerEviction", "Marking for deletion Pod default/plain", 1) in await events(embedded_api, "plain")
    api_clock.advance(59)
    await report(embedded_api, "n", "True")
    await watch.examine()
    assert "while" not in await going(embedded_api)
    api_clock.advance(1)
    await watch.examine()
    assert await going(embedded_api) == ["other", "plain", "while"]


@pytest.mark.parametrize("given", [taint("k", "NoSchedule"), taint(UNREACHABLE), taint("node.kubernetes.io/not-ready")])
async def test_taints_that_drive_nobody_away(embedded_api: Api, watch: NodeWatch, given: dict[str, str]) -> None:
    """A box that cannot be reached goes on with its work; tearing that down is the last thing its owner wants."""
    await node(embedded_api, "n", taints=[given])
    await placed(embedded_api, "p")
    await watch.examine()
    assert await going(embedded_api) == []


async def test_a_taint_that_is_taken_away_is_forgotten(
    embedded_api: Api, api_clock: ManualClock, watch: NodeWatch
) -> None:
    await node(embedded_api, "n", taints=[taint("k")])
    await placed(embedded_api, "p", {"key": "k", "operator": "Exists", "tolerationSeconds": 10, "effect": "NoExecute"})
    await watch.examine()
    await embedded_api.ok("PATCH", f"{NODES}/n", {"spec": {"taints": []}}, type=MERGE)
    await watch.examine()
    api_clock.advance(30)
    await embedded_api.ok("PATCH", f"{NODES}/n", {"spec": {"taints": [taint("k")]}}, type=MERGE)
    await watch.examine()
    assert await going(embedded_api) == []
