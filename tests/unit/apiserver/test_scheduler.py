"""The scheduler on the embedded API: pods get nodes, or a reason; what changes is looked at again."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from edgeappliance.kernel.clock import ManualClock
from edgeappliance.kernel.database import StorageError
from tests.support.embedded_api import MERGE, STRATEGIC, Api

NODES = "/api/v1/nodes"
PODS = "/api/v1/namespaces/default/pods"
EVENTS = "/api/v1/namespaces/default/events"


async def register(api: Api, name: str, *, ready: str = "True", pods: str = "110", **more: Any) -> None:
    status = {
        "allocatable": {"cpu": "2", "memory": "1Gi", "pods": pods},
        "conditions": [{"type": "Ready", "status": ready}],
    }
    await api.ok("POST", NODES, {"metadata": {"name": name, **more.pop("metadata", {})}, "status": status, **more})


def pod(name: str, *, cpu: str = "", **spec: Any) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "c", "image": "i"}
    if cpu:
        container["resources"] = {"requests": {"cpu": cpu}}
    return {"metadata": {"name": name}, "spec": {"containers": [container], **spec}}


async def until(api: Api, name: str, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The pod once it meets a condition."""
    async with asyncio.timeout(5):
        while True:
            value: dict[str, Any] = await api.ok("GET", f"{PODS}/{name}")
            if condition(value):
                return value
            await asyncio.sleep(0.005)


async def placed(api: Api, name: str) -> dict[str, Any]:
    return await until(api, name, lambda value: "nodeName" in value["spec"])


def scheduled(value: dict[str, Any]) -> dict[str, Any]:
    found = [item for item in value["status"].get("conditions", ()) if item["type"] == "PodScheduled"]
    return found[0] if found else {}


async def refused(api: Api, name: str, words: str) -> dict[str, Any]:
    return await until(api, name, lambda value: words in scheduled(value).get("message", ""))


async def events(api: Api, name: str) -> list[tuple[str, str, int]]:
    found = (await api.ok("GET", f"{EVENTS}?fieldSelector=involvedObject.name%3D{name}"))["items"]
    return [(item["reason"], item["message"], item["count"]) for item in found]


async def test_a_pod_gets_the_first_node_that_is_ready(embedded_api: Api) -> None:
    await register(embedded_api, "a", ready="Unknown")
    await register(embedded_api, "b")
    await embedded_api.ok("POST", PODS, pod("p"))
    value = await placed(embedded_api, "p")
    assert value["spec"]["nodeName"] == "b"
    assert (scheduled(value)["status"], "reason" in scheduled(value)) == ("True", False)
    assert await events(embedded_api, "p") == [("Scheduled", "Successfully assigned default/p to b", 1)]


async def test_a_pod_waits_with_a_reason_until_a_node_is_there(embedded_api: Api) -> None:
    await embedded_api.ok("POST", PODS, pod("p"))
    value = await refused(embedded_api, "p", "no nodes available to schedule pods")
    assert (scheduled(value)["status"], scheduled(value)["reason"]) == ("False", "Unschedulable")
    await register(embedded_api, "a", ready="False")
    await refused(embedded_api, "p", "0/1 nodes are available: 1 node(s) had untolerated taint")
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    await embedded_api.ok("PATCH", f"{NODES}/a/status", ready, type=STRATEGIC)
    assert (await placed(embedded_api, "p"))["spec"]["nodeName"] == "a"
    reasons = [reason for reason, _, _ in await events(embedded_api, "p")]
    assert (reasons.count("FailedScheduling"), reasons.count("Scheduled")) == (2, 1)


async def test_a_reason_that_stays_is_written_once(embedded_api: Api) -> None:
    await register(embedded_api, "a", pods="0")
    await embedded_api.ok("POST", PODS, pod("p"))
    value = await refused(embedded_api, "p", "Too many pods")
    for number in range(3):
        await embedded_api.ok("PATCH", f"{NODES}/a", {"metadata": {"labels": {"n": str(number)}}}, type=MERGE)
        await asyncio.sleep(0.02)
    again = await embedded_api.ok("GET", f"{PODS}/p")
    assert again["metadata"]["resourceVersion"] == value["metadata"]["resourceVersion"]
    assert len(await events(embedded_api, "p")) == 1


async def test_pods_share_a_node_until_it_is_full_and_take_over_what_is_freed(embedded_api: Api) -> None:
    await register(embedded_api, "a")
    for name in ("p1", "p2", "p3"):
        await embedded_api.ok("POST", PODS, pod(name, cpu="1"))
    await placed(embedded_api, "p1")
    await placed(embedded_api, "p2")
    await refused(embedded_api, "p3", "0/1 nodes are available: 1 Insufficient cpu.")
    done = {"status": {"phase": "Succeeded"}}
    await embedded_api.ok("PATCH", f"{PODS}/p1/status", done, type=STRATEGIC)
    await placed(embedded_api, "p3")


async def test_many_pods_at_once_never_overfill_a_node(embedded_api: Api) -> None:
    for name in ("a", "b"):
        await register(embedded_api, name, pods="20")
    bodies = [pod(f"p{number}", cpu="100m") for number in range(50)]
    await asyncio.gather(*(embedded_api.ok("POST", PODS, body) for body in bodies))
    async with asyncio.timeout(5):
        while True:
            items = (await embedded_api.ok("GET", PODS))["items"]
            if all(scheduled(item) for item in items):
                break
            await asyncio.sleep(0.005)
    placed_on = [item["spec"].get("nodeName") for item in items]
    assert (placed_on.count("a"), placed_on.count("b"), placed_on.count(None)) == (20, 20, 10)


async def test_two_that_want_one_host_port(embedded_api: Api) -> None:
    await register(embedded_api, "a")
    for name in ("p1", "p2"):
        value = pod(name)
        value["spec"]["containers"][0]["ports"] = [{"containerPort": 80, "hostPort": 80}]
        await embedded_api.ok("POST", PODS, value)
    await refused(embedded_api, "p2", "didn't have free ports for the requested pod ports")
    await embedded_api.ok("DELETE", f"{PODS}/p1?gracePeriodSeconds=0")
    await placed(embedded_api, "p2")


async def test_what_is_not_ours_is_left_alone(embedded_api: Api) -> None:
    await register(embedded_api, "a")
    await embedded_api.ok("POST", PODS, pod("theirs", schedulerName="another"))
    gated = pod("gated", schedulingGates=[{"name": "x.io/wait"}])
    await embedded_api.ok("POST", PODS, gated)
    await embedded_api.ok("POST", PODS, pod("ours"))
    await placed(embedded_api, "ours")
    value = await refused(embedded_api, "gated", "Scheduling is blocked due to non-empty scheduling gates")
    assert scheduled(value)["reason"] == "SchedulingGated"
    assert "nodeName" not in value["spec"]
    theirs = await embedded_api.ok("GET", f"{PODS}/theirs")
    assert ("nodeName" in theirs["spec"], scheduled(theirs)) == (False, {})
    await embedded_api.ok("PATCH", f"{PODS}/gated", {"spec": {"schedulingGates": None}}, type=MERGE)
    await placed(embedded_api, "gated")


async def test_the_more_important_pod_is_first(embedded_api: Api) -> None:
    for name, priority in (("low", 0), ("high", 10)):
        await embedded_api.ok("POST", PODS, pod(name, cpu="2", priority=priority))
        await refused(embedded_api, name, "no nodes available")
    await register(embedded_api, "a")
    await placed(embedded_api, "high")
    await refused(embedded_api, "low", "Insufficient cpu")


async def test_a_disk_that_refuses_loses_no_pod(embedded_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudgateway.apiserver.controllers.scheduler.RETRY_SECONDS", 0.01)
    database = embedded_api.embedded._database
    write = database.write
    refusals = 3

    async def stubborn(work: Any, *, durable: bool) -> Any:
        nonlocal refusals
        waiting = [item for item in embedded_api.embedded.store.entries("pods") if not item.fields["spec.nodeName"]]
        if waiting and durable and refusals:
            refusals -= 1
            raise StorageError("disk full")
        return await write(work, durable=durable)

    await embedded_api.ok("POST", PODS, pod("p"))
    await refused(embedded_api, "p", "no nodes available")
    monkeypatch.setattr(database, "write", stubborn)
    for _ in range(10):
        if (await embedded_api.send("POST", NODES, {"metadata": {"name": "a"}})).status in (201, 409):
            break
    status = {"allocatable": {"cpu": "1", "pods": "1"}, "conditions": [{"type": "Ready", "status": "True"}]}
    refusals = 2
    while (await embedded_api.send("PATCH", f"{NODES}/a/status", {"status": status}, type=STRATEGIC)).status != 200:
        await asyncio.sleep(0)
    refusals = 2
    await placed(embedded_api, "p")
    assert refusals == 0


async def test_a_restart_knows_what_is_placed_and_what_waits(embedded_api: Api, api_clock: ManualClock) -> None:
    await register(embedded_api, "a")
    for name in ("p1", "p2", "p3"):
        await embedded_api.ok("POST", PODS, pod(name, cpu="1"))
    await refused(embedded_api, "p3", "Insufficient cpu")
    directory = embedded_api.embedded.directory
    await embedded_api.embedded.close()
    again = Api(await type(embedded_api.embedded).open(directory, clock=api_clock))
    try:
        await again.ok("DELETE", f"{PODS}/p1?gracePeriodSeconds=0")
        await placed(again, "p3")
        await again.ok("POST", PODS, pod("p4", cpu="1"))
        await refused(again, "p4", "Insufficient cpu")
    finally:
        await again.embedded.close()
