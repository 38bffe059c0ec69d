"""The small controllers: silence of nodes, pods without a node, old events, owners and dependents."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cloudgateway.apiserver.controllers.nodes import GRACE, ORPHAN_GRACE, NodeWatch
from edgeappliance.kernel.clock import ManualClock
from edgeappliance.kubeapi.times import rfc3339
from tests.support.embedded_api import MERGE, STRATEGIC, Api, whole_body

MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
NODES = "/api/v1/nodes"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


@pytest.fixture
def watch(embedded_api: Api, api_clock: ManualClock) -> NodeWatch:
    embedded = embedded_api.embedded
    return NodeWatch(store=embedded.store, writer=embedded.core.writer, registry=embedded.registry, clock=api_clock)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(5):
        while not await condition():
            await asyncio.sleep(0)


async def gone(api: Api, target: str) -> None:
    async def absent() -> bool:
        return (await api.send("GET", target)).status == 404

    await until(absent)


async def ready(api: Api, name: str) -> str:
    for condition in (await api.ok("GET", f"{NODES}/{name}"))["status"]["conditions"]:
        if condition["type"] == "Ready":
            return str(condition["status"])
    return ""


async def test_a_node_without_a_sign_of_life_becomes_unknown(
    embedded_api: Api, api_clock: ManualClock, watch: NodeWatch
) -> None:
    conditions = [{"type": "Ready", "status": "True"}, {"type": "DiskPressure", "status": "False"}]
    for name in ("alive", "silent"):
        await embedded_api.ok("POST", NODES, {"metadata": {"name": name}, "status": {"conditions": conditions}})
        await embedded_api.ok("PUT", f"{LEASES}/{name}", {"metadata": {"name": name}, "spec": {}})
    await watch.examine()
    for renewal in range(2):
        api_clock.advance(GRACE / 2 + 1)
        await embedded_api.ok("PATCH", f"{LEASES}/alive", {"spec": {"leaseTransitions": renewal}}, type=MERGE)
        await watch.examine()
    assert (await ready(embedded_api, "alive"), await ready(embedded_api, "silent")) == ("True", "Unknown")
    silent = await embedded_api.ok("GET", f"{NODES}/silent")
    assert {item["status"] for item in silent["status"]["conditions"]} == {"Unknown"}
    assert silent["status"]["conditions"][0]["reason"] == "NodeStatusUnknown"
    await watch.examine()  # our own write was no sign of life, and is not repeated
    again = await embedded_api.ok("GET", f"{NODES}/silent")
    assert again["metadata"]["resourceVersion"] == silent["metadata"]["resourceVersion"]
    back = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    await embedded_api.ok("PATCH", f"{NODES}/silent/status", back, type=STRATEGIC)
    await watch.examine()
    assert await ready(embedded_api, "silent") == "True"


async def test_a_restart_of_ours_silences_nobody(embedded_api: Api, api_clock: ManualClock, watch: NodeWatch) -> None:
    status = {"conditions": [{"type": "Ready", "status": "True"}]}
    await embedded_api.ok("POST", NODES, {"metadata": {"name": "n"}, "status": status})
    api_clock.advance(10 * GRACE)
    await watch.examine()
    api_clock.jump(api_clock.wall_ms() + 10**10)
    await watch.examine()
    assert await ready(embedded_api, "n") == "True"


async def test_a_node_that_never_reported_is_unknown(
    embedded_api: Api, api_clock: ManualClock, watch: NodeWatch
) -> None:
    await embedded_api.ok("POST", NODES, {"metadata": {"name": "n"}})
    await watch.examine()
    api_clock.advance(GRACE / 2)
    await embedded_api.ok("PATCH", f"{NODES}/n", {"metadata": {"labels": {"a": "b"}}}, type=MERGE)
    await watch.examine()  # a label is no sign of life
    api_clock.advance(GRACE / 2)
    await watch.examine()
    condition = (await embedded_api.ok("GET", f"{NODES}/n"))["status"]["conditions"][0]
    assert (condition["status"], condition["reason"]) == ("Unknown", "NodeStatusNeverUpdated")


def pod(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}], **spec}}


async def test_pods_of_a_deleted_node_are_collected(
    embedded_api: Api, api_clock: ManualClock, watch: NodeWatch
) -> None:
    await embedded_api.ok("POST", NODES, {"metadata": {"name": "n"}})
    for name, node in (("a", "n"), ("b", "elsewhere")):
        await embedded_api.ok("POST", PODS, pod(name, nodeName=node))
    await embedded_api.ok("POST", PODS, pod("unplaced"))
    await watch.examine()
    api_clock.advance(ORPHAN_GRACE)
    await watch.examine()
    await embedded_api.fails(404, "GET", f"{PODS}/b")
    await embedded_api.ok("GET", f"{PODS}/a")
    await embedded_api.ok("DELETE", f"{NODES}/n")
    await watch.examine()
    await embedded_api.ok("GET", f"{PODS}/a")
    api_clock.advance(ORPHAN_GRACE)
    await watch.examine()
    await embedded_api.fails(404, "GET", f"{PODS}/a")
    await embedded_api.ok("GET", f"{PODS}/unplaced")


async def test_old_events_go(embedded_api: Api, api_clock: ManualClock, watch: NodeWatch) -> None:
    events = "/api/v1/namespaces/default/events"
    seen = {"lastTimestamp": rfc3339(api_clock.wall_ms()), "involvedObject": {"kind": "Pod", "name": "p"}}
    await embedded_api.ok("POST", events, {"metadata": {"name": "e"}, **seen})
    await watch.examine()
    await embedded_api.ok("GET", f"{events}/e")
    api_clock.advance(3601)
    await watch.examine()
    await embedded_api.fails(404, "GET", f"{events}/e")


async def owned(api: Api, name: str, *owners: dict[str, Any], block: bool = False) -> dict[str, Any]:
    references = [
        {
            "apiVersion": "v1",
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "blockOwnerDeletion": block,
        }
        for owner in owners
    ]
    value: dict[str, Any] = await api.ok("POST", MAPS, {"metadata": {"name": name, "ownerReferences": references}})
    return value


async def test_a_chain_of_dependents_goes_with_its_owner(embedded_api: Api) -> None:
    first = await owned(embedded_api, "first")
    second = await owned(embedded_api, "second", first)
    await owned(embedded_api, "third", second)
    await embedded_api.ok("DELETE", f"{MAPS}/first")
    await gone(embedded_api, f"{MAPS}/third")
    await gone(embedded_api, f"{MAPS}/second")


async def test_an_object_stays_while_one_owner_stays(embedded_api: Api) -> None:
    one, two = await owned(embedded_api, "one"), await owned(embedded_api, "two")
    await owned(embedded_api, "child", one, two)
    await embedded_api.ok("DELETE", f"{MAPS}/one")

    async def one_owner_left() -> bool:
        child = await embedded_api.ok("GET", f"{MAPS}/child")
        return [owner["name"] for owner in child["metadata"]["ownerReferences"]] == ["two"]

    await until(one_owner_left)
    await embedded_api.ok("DELETE", f"{MAPS}/two")
    await gone(embedded_api, f"{MAPS}/child")


async def test_foreground_deletion_waits_for_the_dependents(embedded_api: Api) -> None:
    owner = await owned(embedded_api, "owner")
    await owned(embedded_api, "child", owner, block=True)
    hold = {"metadata": {"finalizers": ["x.io/hold"]}}
    await embedded_api.ok("PATCH", f"{MAPS}/child", hold, type=MERGE)
    value = await embedded_api.ok("DELETE", f"{MAPS}/owner", {"propagationPolicy": "Foreground"})
    assert value["metadata"]["finalizers"] == ["foregroundDeletion"]

    async def child_is_going() -> bool:
        child = await embedded_api.ok("GET", f"{MAPS}/child")
        return "deletionTimestamp" in child["metadata"]

    await until(child_is_going)
    await embedded_api.ok("GET", f"{MAPS}/owner")
    await embedded_api.ok("PATCH", f"{MAPS}/child", {"metadata": {"finalizers": None}}, type=MERGE)
    await gone(embedded_api, f"{MAPS}/owner")


async def test_an_owner_of_another_namespace_is_no_owner(embedded_api: Api) -> None:
    owner = await embedded_api.ok("POST", MAPS.replace("default", "kube-system"), {"metadata": {"name": "o"}})
    await owned(embedded_api, "child", owner)
    await gone(embedded_api, f"{MAPS}/child")


async def test_a_cluster_scoped_owner_counts_everywhere(embedded_api: Api) -> None:
    node = await embedded_api.ok("POST", NODES, {"metadata": {"name": "n"}})
    await owned(embedded_api, "child", node)
    await owned(embedded_api, "other", {"kind": "Node", "metadata": {"name": "n", "uid": "gone"}})
    await gone(embedded_api, f"{MAPS}/other")
    await embedded_api.ok("GET", f"{MAPS}/child")
    await embedded_api.ok("DELETE", f"{NODES}/n")
    await gone(embedded_api, f"{MAPS}/child")


async def test_the_contents_of_a_namespace_go_together(embedded_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit each would hold the disk for minutes when a large namespace goes."""
    await embedded_api.ok("POST", "/api/v1/namespaces", {"metadata": {"name": "full"}})
    maps = MAPS.replace("default", "full")
    bodies = [{"metadata": {"name": f"c{index}"}} for index in range(300)]
    await asyncio.gather(*(embedded_api.ok("POST", maps, body) for body in bodies))
    commits = 0
    database = embedded_api.embedded._database
    write = database.write

    async def counted(work: Any, *, durable: bool) -> Any:
        nonlocal commits
        commits += 1
        return await write(work, durable=durable)

    monkeypatch.setattr(database, "write", counted)
    await embedded_api.ok("DELETE", "/api/v1/namespaces/full")
    await gone(embedded_api, "/api/v1/namespaces/full")
    assert commits < 20
    monkeypatch.undo()


async def test_every_namespace_has_a_default_service_account(embedded_api: Api) -> None:
    await embedded_api.ok("POST", "/api/v1/namespaces", {"metadata": {"name": "new"}})

    async def account(namespace: str) -> str:
        """The uid of the namespace's account, "" while there is none."""
        answer = await embedded_api.send("GET", f"/api/v1/namespaces/{namespace}/serviceaccounts/default")
        return str(json.loads(await whole_body(answer))["metadata"]["uid"]) if answer.status == 200 else ""

    async def appears(namespace: str, *, other_than: str = "") -> str:
        async with asyncio.timeout(5):
            while (uid := await account(namespace)) in ("", other_than):
                await asyncio.sleep(0)
        return uid

    for namespace in ("default", "kube-system", "new"):
        await appears(namespace)
    uid = await account("new")
    await embedded_api.ok("DELETE", "/api/v1/namespaces/new/serviceaccounts/default")
    await appears("new", other_than=uid)
    await embedded_api.ok("DELETE", "/api/v1/namespaces/new")
    await gone(embedded_api, "/api/v1/namespaces/new")


async def test_a_pod_has_the_default_account_and_a_mirror_pod_none(embedded_api: Api) -> None:
    value = await embedded_api.ok("POST", PODS, pod("p"))
    assert (value["spec"]["serviceAccountName"], value["spec"]["serviceAccount"]) == ("default", "default")
    mirror = pod("m", nodeName="n")
    mirror["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "hash"}
    assert "serviceAccountName" not in (await embedded_api.ok("POST", PODS, mirror))["spec"]
    refused = await embedded_api.fails(403, "POST", PODS, pod("q", serviceAccountName="missing"))
    assert 'serviceaccount "missing" not found' in refused["message"]
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    await embedded_api.ok("POST", accounts, {"metadata": {"name": "missing"}})
    await embedded_api.ok("POST", PODS, pod("q", serviceAccountName="missing"))


async def test_the_priority_classes_of_every_cluster_are_known_and_no_others(embedded_api: Api) -> None:
    value = await embedded_api.ok("POST", PODS, pod("p", priorityClassName="system-node-critical"))
    assert value["spec"]["priority"] == 2_000_001_000
    refused = await embedded_api.fails(403, "POST", PODS, pod("q", priorityClassName="mine"))
    assert "no PriorityClass with name mine was found" in refused["message"]
