"""What is told of pods to a scripted cloud, over a real link."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from edgeappliance.edged.reporter import StatusReporter
from edgeappliance.kernel.supervisor import TaskScope
from tests.support.edge_identity import Edge, edge
from tests.support.kubeedge_cloud import KubeEdgeCloud, status_error


@asynccontextmanager
async def reporter(cloud: KubeEdgeCloud, directory: Path) -> AsyncIterator[tuple[StatusReporter, TaskScope, Edge]]:
    failures: list[BaseException] = []
    scope = TaskScope("edged", failures.append)
    async with edge(cloud, directory) as part:
        await part.connected()
        yield StatusReporter(scope, cloud=part.hub), scope, part
        await scope.cancel()
    assert not failures


def known(cloud: KubeEdgeCloud, name: str = "web") -> str:
    obj = cloud.objects[f"default/pod/{name}"] = cloud.object("Pod", "default", name, status={})
    return str(obj["metadata"]["uid"])


def phase(cloud: KubeEdgeCloud, name: str = "web") -> Any:
    return cloud.objects[f"default/pod/{name}"]["status"].get("phase")


async def test_a_report_that_was_cancelled_before_it_began_holds_up_no_other(
    kubeedge: KubeEdgeCloud, tmp_path: Path
) -> None:
    async with reporter(kubeedge, tmp_path) as (told, scope, _):
        uid = known(kubeedge)
        told.report(uid, "default", "web", {"phase": "Pending"})
        await scope.cancel()
        told.report(uid, "default", "web", {"phase": "Running"})
        await kubeedge.wait(lambda cloud: phase(cloud) == "Running")


async def test_the_same_status_is_told_once_and_again_on_a_new_link(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    async with reporter(kubeedge, tmp_path) as (told, _, part):
        uid = known(kubeedge)
        for _ in range(3):
            told.report(uid, "default", "web", {"phase": "Running"})
            await kubeedge.wait(lambda cloud: phase(cloud) == "Running")
        assert len(kubeedge.messages("default/podpatch/web")) == 1
        kubeedge.cut()
        await kubeedge.wait(lambda cloud: len(cloud.messages("default/podpatch/web")) == 2)
        await part.connected()


async def test_a_new_link_ends_the_wait_after_failures(kubeedge: KubeEdgeCloud, tmp_path: Path) -> None:
    """An API that was down for long is asked every half minute; the cloud that follows must not wait for that."""
    async with reporter(kubeedge, tmp_path) as (told, _, _part):
        uid = known(kubeedge)
        kubeedge.silent = re.compile("podpatch")
        told.report(uid, "default", "web", {"phase": "Running"})
        sent = (await kubeedge.wait_message("default/podpatch/web", "patch")).message
        (entry,) = told._entries.values()
        entry.retry._next = 30.0
        error = {"Object": None, "Err": status_error(500, "InternalError", "etcd is away")}
        await kubeedge.send(
            kubeedge.message("response", "default/podpatch/web", error, parent=str(sent["header"]["msg_id"]))
        )
        await asyncio.sleep(0.2)
        kubeedge.silent = None
        kubeedge.cut()
        async with asyncio.timeout(5):
            await kubeedge.wait(lambda cloud: phase(cloud) == "Running")


async def test_a_deletion_follows_the_last_status_and_is_remembered_through_a_cut(
    kubeedge: KubeEdgeCloud, tmp_path: Path
) -> None:
    async with reporter(kubeedge, tmp_path) as (told, _, part):
        uid = known(kubeedge)
        await kubeedge.stop_ws()
        async with asyncio.timeout(5):
            while part.hub.connected:
                await asyncio.sleep(0.01)
        told.report(uid, "default", "web", {"phase": "Succeeded"})
        told.delete(uid, "default", "web")
        assert told.waiting == 1
        await kubeedge.start_ws()
        await kubeedge.wait(lambda cloud: "default/pod/web" not in cloud.objects)
        roads = [item.resource for item in kubeedge.received if item.operation in ("patch", "delete")]
        assert roads == ["default/podpatch/web", "default/pod/web"]
        options = kubeedge.messages("default/pod/web", "delete")[0].content
        assert options["preconditions"] == {"uid": uid}
        told.forget(uid)
        assert told.waiting == 0
