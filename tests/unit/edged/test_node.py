"""The node against a scripted cloud: deletion, conflicts, new links."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeappliance.edged.engine.api import Image
from edgeappliance.edged.facts import Limits, Pressure
from edgeappliance.edged.node import IMAGES, Node, image_list
from edgeappliance.edgehub.hub import EdgeHub
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.component import State
from edgeappliance.kernel.supervisor import Supervisor
from tests.support.edge_identity import NODE, edge
from tests.support.kubeedge_cloud import KubeEdgeCloud

LEASE = f"kube-node-lease/lease/{NODE}"


@asynccontextmanager
async def node(
    cloud: KubeEdgeCloud,
    directory: Path,
    *,
    heartbeat: float = 0.1,
    runtime: "Pods | None" = None,
    note: Callable[[str, str], None] | None = None,
) -> AsyncIterator[Node]:
    parts: list[Node] = []

    def prepare(hub: EdgeHub, supervisor: Supervisor) -> None:
        def build(scope: object) -> Node:
            return Node(
                scope,  # type: ignore[arg-type]
                cloud=hub,
                name=NODE,
                version="0.1.0",
                data_directory=directory,
                clock=SystemClock(),
                heartbeat=heartbeat,
                runtime=runtime,
                note=note,
                limits=Limits(memory_kib=200 * 1024, disk=0.2) if runtime is not None else None,
            )

        parts.append(supervisor.add("edged", build))

    async with edge(cloud, directory / "id", prepare=prepare):
        yield parts[0]


async def test_lease_is_renewed_with_the_version_that_the_cloud_gave(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with node(kubeedge, tmp_path):
        await kubeedge.wait(lambda cloud: len(cloud.messages(LEASE, "update")) >= 3)
        renewals = [item.content["spec"]["renewTime"] for item in kubeedge.messages(LEASE, "update")]
        assert renewals == sorted(renewals)
        assert len(renewals[0]) == len("2026-11-22T09:31:55.619111Z")
        # Nothing changed: one report of the status, not one with each heartbeat.
        assert len(kubeedge.messages(f"null/nodepatch/{NODE}", "patch")) == 1


async def test_node_deleted_in_the_cloud_is_registered_anew(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with node(kubeedge, tmp_path):
        await kubeedge.wait(lambda cloud: LEASE in cloud.objects)
        old = kubeedge.objects.pop(f"null/node/{NODE}")
        kubeedge.cut()  # cloudcore ends the session of a node that is deleted
        await kubeedge.wait(lambda cloud: f"null/node/{NODE}" in cloud.objects)
        fresh = kubeedge.objects[f"null/node/{NODE}"]
        assert fresh["metadata"]["uid"] != old["metadata"]["uid"]
        await kubeedge.wait(
            lambda cloud: cloud.objects[LEASE]["metadata"]["ownerReferences"][0]["uid"] == fresh["metadata"]["uid"]
        )


async def test_lease_changed_by_somebody_else_is_asked_for_again(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with node(kubeedge, tmp_path):
        await kubeedge.wait(lambda cloud: LEASE in cloud.objects)
        kubeedge.objects[LEASE]["metadata"]["resourceVersion"] = kubeedge.next_version()
        asked = len(kubeedge.messages(LEASE, "query"))
        await kubeedge.wait(lambda cloud: len(cloud.messages(LEASE, "query")) > asked)
        before = len(kubeedge.messages(LEASE, "update"))
        await kubeedge.wait(lambda cloud: len(cloud.messages(LEASE, "update")) > before + 1)


async def test_new_link_gets_the_full_status_at_once(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    patch = f"null/nodepatch/{NODE}"
    async with node(kubeedge, tmp_path, heartbeat=30.0):
        await kubeedge.wait(lambda cloud: LEASE in cloud.objects)
        kubeedge.cut()
        async with asyncio.timeout(5):
            await kubeedge.wait(lambda cloud: len(cloud.messages(patch, "patch")) == 2)
        assert "nodeInfo" in kubeedge.messages(patch, "patch")[1].content
        assert len(kubeedge.messages(f"null/node/{NODE}", "insert")) == 1


async def test_without_a_link_the_node_says_that_nobody_hears_it(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with node(kubeedge, tmp_path) as part:
        await kubeedge.wait(lambda cloud: cloud.messages(LEASE, "update"))
        await state_of(part, State.RUNNING)
        await kubeedge.stop_ws()
        kubeedge.cut()
        await state_of(part, State.DEGRADED)
        await asyncio.sleep(0.3)  # as many heartbeats as would overwrite it
        assert "not reached" in part.health().reason
        assert part.health().next_step == "see component edgehub"
        await kubeedge.start_ws()
        await state_of(part, State.RUNNING)


async def state_of(part: Node, state: State) -> None:
    async with asyncio.timeout(10):
        while part.health().state is not state:
            await asyncio.sleep(0.01)


async def test_known_node_is_no_error(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    kubeedge.objects[f"null/node/{NODE}"] = kubeedge.object("Node", "null", NODE, status={})
    async with node(kubeedge, tmp_path):
        await kubeedge.wait(lambda cloud: LEASE in cloud.objects)
        assert kubeedge.objects[f"null/node/{NODE}"]["status"]["conditions"]


@dataclass
class Pods:
    """What runs the pods, as the node sees it."""

    trouble: str = ""
    version: str = "docker://20.10.24"
    max_pods: int = 30
    kubelet_port: int = 10350
    listed: list[Image] = field(default_factory=list)
    pressed: Pressure | None = None

    def images(self) -> Sequence[Image]:
        return self.listed

    def pressure(self) -> Pressure | None:
        return self.pressed


def status_of(cloud: KubeEdgeCloud) -> dict[str, Any]:
    status = cloud.objects[f"null/node/{NODE}"]["status"]
    assert isinstance(status, dict)
    return status


def condition(cloud: KubeEdgeCloud, kind: str) -> dict[str, Any]:
    return next(item for item in status_of(cloud)["conditions"] if item["type"] == kind)


async def test_a_runtime_is_shown_with_its_capacity_endpoint_and_images(
    kubeedge: KubeEdgeCloud, tmp_path: Path
) -> None:
    pods = Pods(listed=[Image("sha256:1", ("bb:1", "bb@sha256:1"), 10), Image("sha256:2", ("big:1",), 20)])
    async with node(kubeedge, tmp_path, runtime=pods):
        await kubeedge.wait(lambda cloud: LEASE in cloud.objects)
        status = status_of(kubeedge)
    assert status["capacity"]["pods"] == status["allocatable"]["pods"] == "30"
    capacity, allocatable = (int(status[key]["memory"].removesuffix("Ki")) for key in ("capacity", "allocatable"))
    assert capacity - allocatable == 200 * 1024
    assert status["nodeInfo"]["containerRuntimeVersion"] == "docker://20.10.24"
    assert status["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 10350}}
    assert status["images"] == [
        {"names": ["big:1"], "sizeBytes": 20},
        {"names": ["bb:1", "bb@sha256:1"], "sizeBytes": 10},
    ]


async def test_a_runtime_that_is_down_is_told_at_once_and_so_is_its_return(
    kubeedge: KubeEdgeCloud, tmp_path: Path
) -> None:
    pods = Pods()
    async with node(kubeedge, tmp_path, heartbeat=30.0, runtime=pods) as part:
        await kubeedge.wait(lambda cloud: LEASE in cloud.objects)
        assert condition(kubeedge, "Ready")["status"] == "True"
        pods.trouble = "container runtime is down"
        part.changed()
        await kubeedge.wait(lambda cloud: condition(cloud, "Ready")["status"] == "False")
        ready = condition(kubeedge, "Ready")
        assert (ready["reason"], ready["message"]) == ("KubeletNotReady", "container runtime is down")
        pods.trouble = ""
        part.changed()
        await kubeedge.wait(lambda cloud: condition(cloud, "Ready")["status"] == "True")


async def test_each_condition_that_turns_is_an_event(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    pods = Pods(pressed=Pressure())
    noted: list[tuple[str, str]] = []
    async with node(
        kubeedge, tmp_path, runtime=pods, note=lambda reason, message: noted.append((reason, message))
    ) as part:
        await kubeedge.wait(lambda cloud: len(cloud.messages(LEASE, "update")) >= 2)
        assert noted.pop(0) == ("Starting", "Starting kubelet.")
        assert [reason for reason, _ in noted] == [
            "NodeHasSufficientMemory",
            "NodeHasNoDiskPressure",
            "NodeHasSufficientPID",
            "NodeReady",
        ]
        assert noted[-1][1] == f"Node {NODE} status is now: NodeReady"
        noted.clear()
        pods.pressed, pods.trouble = Pressure(disk=True), "container runtime is down"
        part.changed()
        await kubeedge.wait(lambda cloud: condition(cloud, "Ready")["status"] == "False")
        assert [reason for reason, _ in noted] == ["NodeHasDiskPressure", "NodeNotReady"]


async def test_the_pressure_that_evicts_is_the_pressure_that_is_shown(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    pods = Pods(pressed=Pressure(memory=True, pids=True))
    async with node(kubeedge, tmp_path, runtime=pods):
        await kubeedge.wait(lambda cloud: LEASE in cloud.objects)
        shown = {kind: condition(kubeedge, f"{kind}Pressure")["status"] for kind in ("Memory", "Disk", "PID")}
        assert shown == {"Memory": "True", "Disk": "False", "PID": "True"}
        assert condition(kubeedge, "PIDPressure")["reason"] == "KubeletHasInsufficientPID"


def test_the_biggest_images_are_named_and_those_without_a_name_are_not() -> None:
    images = [Image(f"sha256:{size}", (f"i:{size}",), size) for size in range(IMAGES + 10)]
    images.append(Image("sha256:none", (), 10**9))
    images.append(Image("sha256:many", tuple(f"n:{number}" for number in range(9)), 10**6))
    named = image_list(images)
    assert len(named) == IMAGES
    assert named[0] == {"names": [f"n:{number}" for number in range(5)], "sizeBytes": 10**6}
    assert named[1]["sizeBytes"] == IMAGES + 9
