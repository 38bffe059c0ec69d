"""The node against a scripted cloud: deletion, conflicts, new links."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from edgeappliance.edged.node import Node
from edgeappliance.edgehub.hub import EdgeHub
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.component import State
from edgeappliance.kernel.supervisor import Supervisor
from tests.support.edge_identity import NODE, edge
from tests.support.kubeedge_cloud import KubeEdgeCloud

LEASE = f"kube-node-lease/lease/{NODE}"


@asynccontextmanager
async def node(cloud: KubeEdgeCloud, directory: Path, *, heartbeat: float = 0.1) -> AsyncIterator[Node]:
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
