"""All pods of a node: taken on, ended, remembered; on a real Docker Engine, with a scripted cloud."""

import asyncio
import time
from pathlib import Path
from typing import Any

from edgeappliance.kernel.component import State
from edgeappliance.wire.resource import ResourceName
from tests.support.dockerd import Dockerd
from tests.support.kubeedge_cloud import KubeEdgeCloud
from tests.support.pods import container, shell
from tests.unit.edged.stand import Stand, stand, until


def tasks(part: Stand, word: str) -> list[str]:
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith(f"edged/{word}")]


def said(value: Any) -> Any:
    """A patch without what it removes."""
    if isinstance(value, dict):
        return {key: said(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [said(item) for item in value if not (isinstance(item, dict) and "$patch" in item)]
    return value


async def test_nothing_of_a_deleted_pod_is_left(kubeedge: KubeEdgeCloud, dockerd: Dockerd, tmp_path: Path) -> None:
    async with stand(kubeedge, dockerd, tmp_path) as part:
        uid = part.bind("web")
        await part.phase_is("web", "Running")
        assert tasks(part, "pod ") == ["edged/pod default/web"]
        part.delete("web")
        await until(lambda: uid not in part.edged.workers)
        await until(lambda: not tasks(part, "pod "))
        assert part.edged.objects() == []
        assert part.edged._reporter._entries == {}
        rows = await part.database.read(lambda transaction: transaction.one("SELECT count(*) FROM pod"))
        assert rows == (0,)


async def test_a_pod_that_ended_well_when_it_was_deleted_is_not_called_failed(
    kubeedge: KubeEdgeCloud, dockerd: Dockerd, tmp_path: Path
) -> None:
    async with stand(kubeedge, dockerd, tmp_path) as part:
        uid = part.bind("web")
        await part.phase_is("web", "Running")
        part.delete("web", grace=5)
        await until(lambda: uid not in part.edged.workers)
        phases = [patch["status"]["phase"] for patch in part.patches("web")]
        assert phases[-1] == "Succeeded"
        assert "Failed" not in phases


async def test_a_pod_that_was_rejected_or_overdue_stays_so_after_a_restart(
    kubeedge: KubeEdgeCloud, dockerd: Dockerd, tmp_path: Path
) -> None:
    async with stand(kubeedge, dockerd, tmp_path) as part:
        part.bind("big", container("main", "true", resources={"requests": {"cpu": "4000"}}))
        uid = part.bind("late", activeDeadlineSeconds=1)
        await part.phase_is("big", "Failed")
        await part.phase_is("late", "Failed")
        await until(lambda: part.edged.workers[uid].finished)
        await until(lambda: part.edged._reporter.waiting == 0)
        before = {name: said(part.patches(name)[-1]["status"]) for name in ("big", "late")}
        kept = [item.id for item in await part.containers(uid)]
        assert before["late"]["reason"] == "DeadlineExceeded"
        assert before["big"]["message"].startswith("Pod was rejected: ")
        count = {name: len(part.patches(name)) for name in before}
    async with stand(kubeedge, dockerd, tmp_path) as part:
        await kubeedge.wait(lambda _: all(len(part.patches(name)) > count[name] for name in before))
        await asyncio.sleep(0.5)
        for name, status in before.items():
            assert said(part.patches(name)[-1]["status"]) == status
        assert [item.id for item in await part.containers(uid)] == kept  # its log may still be read


async def test_a_node_that_lost_its_database_does_not_run_again_what_has_ended(
    kubeedge: KubeEdgeCloud, dockerd: Dockerd, tmp_path: Path
) -> None:
    status = {
        "phase": "Succeeded",
        "startTime": "2026-11-22T09:00:00Z",
        "containerStatuses": [
            {
                "name": "main",
                "state": {"terminated": {"exitCode": 0, "reason": "Completed"}},
                "restartCount": 0,
                "ready": False,
                "image": "bb:1",
                "imageID": "",
            }
        ],
    }
    async with stand(kubeedge, dockerd, tmp_path) as part:
        uid = part.bind("job", container("main", "true"), restartPolicy="Never", status=status)
        await kubeedge.wait(lambda _: part.patches("job"))
        await asyncio.sleep(0.5)
        assert await part.containers(uid) == []
        told = part.patches("job")[-1]["status"]
        assert told["phase"] == "Succeeded"
        assert told["startTime"] == "2026-11-22T09:00:00Z"
        assert told["containerStatuses"][0]["state"] == {"terminated": {"exitCode": 0, "reason": "Completed"}}
        part.delete("job")
        await until(lambda: uid not in part.edged.workers)
        assert part.object("job") == {}


async def test_an_edged_that_is_started_again_takes_up_everything(
    kubeedge: KubeEdgeCloud, dockerd: Dockerd, tmp_path: Path
) -> None:
    async with stand(kubeedge, dockerd, tmp_path) as part:
        uid = part.bind("web", shell("trap 'exit 0' TERM; while true; do sleep 1 & wait $!; done"))
        await part.phase_is("web", "Running")
        ids = {item.id for item in await part.containers(uid)}
        await part.restart("edged")
        await part.restart("static")
        await until(lambda: part.edged.health().details["containers_running"] == 1)
        assert {item.id for item in await part.containers(uid)} == ids
        part.delete("web")
        await until(lambda: uid not in part.edged.workers)
        assert part.object("web") == {}


async def test_status_says_since_when_pods_are_not_looked_after(
    kubeedge: KubeEdgeCloud, dockerd: Dockerd, tmp_path: Path
) -> None:
    async with stand(kubeedge, dockerd, tmp_path) as part:
        await until(lambda: part.parts.docker.engine.connected)
        before = time.time_ns() // 1_000_000
        await dockerd.kill()
        await until(lambda: part.edged.health().state is State.DEGRADED)
        assert before <= part.edged.health().since_ms <= before + 20_000


async def test_status_counts_the_pods_that_do_not_run_as_they_should(
    kubeedge: KubeEdgeCloud, dockerd: Dockerd, tmp_path: Path
) -> None:
    async with stand(kubeedge, dockerd, tmp_path) as part:
        part.bind("web")
        await part.phase_is("web", "Running")
        assert part.edged.health().reason == ""
        part.bind("bad", container("c", command=["/nope"]))
        part.bind("rude", container("c", command=["sh", "-c", "exit 3"]))
        await until(lambda: part.edged.health().details["pods_troubled"] == 2)
        health = part.edged.health()
        assert health.state is State.RUNNING
        assert (health.reason, health.next_step) == (
            "2 of 3 pods do not run as they should",
            "edgecore pods -A says why",
        )


async def test_a_pod_that_comes_back_while_it_is_ended_runs_again(
    kubeedge: KubeEdgeCloud, dockerd: Dockerd, tmp_path: Path
) -> None:
    """The API was restored from a backup, say: the object is the same, and must not be deleted for us."""
    async with stand(kubeedge, dockerd, tmp_path) as part:
        uid = part.bind("web", shell("sleep 1000"), terminationGracePeriodSeconds=2)
        await part.phase_is("web", "Running")
        ids = {item.id for item in await part.containers(uid)}
        part.push("delete", "web")
        await until(lambda: part.edged.workers[uid].stopping is not None)
        part.push("insert", "web")
        await until(lambda: sum(item.running and item.id not in ids for item in part.edged.observed(uid)) == 2)
        assert kubeedge.messages("default/pod/web", "delete") == []
        assert ids.isdisjoint({item.id for item in await part.containers(uid)})
        rows = await part.database.read(lambda transaction: transaction.one("SELECT count(*) FROM pod"))
        assert rows == (1,)


async def test_a_storm_of_changes_is_few_refreshes(kubeedge: KubeEdgeCloud, dockerd: Dockerd, tmp_path: Path) -> None:
    async with stand(kubeedge, dockerd, tmp_path) as part:
        settings = kubeedge.object("ConfigMap", "default", "settings", data={"a": "0"})
        kubeedge.objects["default/configmap/settings"] = settings
        uid = part.bind("web", volumes=[{"name": "v", "configMap": {"name": "settings"}}])
        await part.phase_is("web", "Running")
        file = tmp_path / "state" / "pods" / uid / "volumes" / "v" / "a"
        began: list[int] = []
        refresh = part.edged._runtime.refresh

        async def counted(pod: Any) -> None:
            began.append(1)
            await refresh(pod)

        part.edged._runtime.refresh = counted  # type: ignore[method-assign]
        for number in range(200):
            settings["data"] = {"a": str(number)}
            await part.parts.objects._changed(_Changed("default/configmap/settings"))
        assert len(tasks(part, "refresh ")) == 1
        kubeedge.push("update", "default/configmap/settings", settings)
        await until(lambda: file.read_text() == "199")
        assert len(began) < 10


class _Changed:
    """Of an object, as metamanager tells it."""

    operation = "update"
    value = None

    def __init__(self, resource: str) -> None:
        self.resource = ResourceName.parse(resource)


async def test_a_node_that_lost_its_database_ends_nothing_that_its_cloud_does_not_send_again(
    kubeedge: KubeEdgeCloud, dockerd: Dockerd, tmp_path: Path
) -> None:
    async with stand(kubeedge, dockerd, tmp_path) as part:
        uid = part.bind("web")
        await part.phase_is("web", "Running")
        ids = {item.id for item in await part.containers(uid)}
        ready = part.object("web")["status"]["containerStatuses"][0]["state"]
    for file in (tmp_path / "state").glob("edge.db*"):
        file.unlink()
    async with stand(kubeedge, dockerd, tmp_path) as part:
        await until(lambda: uid in part.edged.strays)
        part.edged._linked_since = -1e9  # for very long
        assert not part.edged.known_is_complete()  # KubeEdge believes that the node has all
        part.push("update", "web")
        await until(lambda: len(part.edged.observed(uid)) == 2)
        assert {item.id for item in await part.containers(uid)} == ids
        assert part.object("web")["status"]["containerStatuses"][0]["state"] == ready
