"""Static pods and the objects that stand for them in the cloud."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.dockerd import Dockerd
from tests.support.edge_identity import NODE
from tests.support.kubeedge_cloud import KubeEdgeCloud
from tests.support.pods import SLEEPS, pod, shell
from tests.unit.edged.stand import Stand, stand, until

MIRROR = "kubernetes.io/config.mirror"
NAME = f"fixed-{NODE}"


def write(manifests: Path, script: str = SLEEPS, name: str = "fixed") -> None:
    obj = pod(name, shell(script), node=NODE, terminationGracePeriodSeconds=2)
    (manifests / "fixed.new").write_text(json.dumps(obj))
    (manifests / "fixed.new").rename(manifests / f"{name}.json")


async def up(part: Stand) -> dict[str, Any]:
    """The mirror of the running pod, as the cloud has it."""
    await part.phase_is(NAME, "Running")
    return part.object(NAME)


async def test_a_mirror_that_is_deleted_is_made_anew_and_its_pod_runs_on(
    kubeedge: KubeEdgeCloud, dockerd: Dockerd, tmp_path: Path
) -> None:
    async with stand(kubeedge, dockerd, tmp_path) as part:
        write(part.manifests)
        old = await up(part)
        (static,) = part.edged.workers
        ids = {item.id for item in await part.containers(static)}
        part.delete(NAME)
        await kubeedge.wait(lambda _: part.object(NAME).get("metadata", {}).get("uid") not in (None, _uid(old)))
        await part.phase_is(NAME, "Running")
        assert {item.id for item in await part.containers(static)} == ids
        await until(lambda: list(part.edged._reporter._entries) == [static])


async def test_the_mirror_of_a_pod_that_is_gone_does_not_come_back(
    kubeedge: KubeEdgeCloud, dockerd: Dockerd, tmp_path: Path
) -> None:
    async with stand(kubeedge, dockerd, tmp_path) as part:
        write(part.manifests)
        await up(part)
        (part.manifests / "fixed.json").unlink()
        await kubeedge.wait(lambda _: not part.object(NAME))
        await until(lambda: not part.edged._reporter._entries)
        kubeedge.cut()
        await part.edge.connected()
        part.bind("other")  # reported after everything that the new link brings about
        await part.phase_is("other", "Running")
        assert len(kubeedge.messages(f"default/pod/{NAME}", "insert")) == 1
        assert not part.object(NAME)


async def test_a_file_that_goes_and_comes_back_starts_its_pod_anew(
    kubeedge: KubeEdgeCloud, dockerd: Dockerd, tmp_path: Path
) -> None:
    async with stand(kubeedge, dockerd, tmp_path) as part:
        write(part.manifests, "sleep 1000")  # takes its whole grace to end
        await up(part)
        (static,) = part.edged.workers
        ids = {item.id for item in await part.containers(static)}
        (part.manifests / "fixed.json").unlink()
        await until(lambda: part.edged.workers[static].stopping is not None)
        write(part.manifests, "sleep 1000")
        await until(lambda: static in part.edged.workers and part.edged.workers[static].stopping is None)
        await until(lambda: sum(item.running for item in part.edged.observed(static)) == 2)
        assert ids.isdisjoint({item.id for item in await part.containers(static)})
        await part.phase_is(NAME, "Running")


async def test_a_new_version_waits_for_the_end_of_the_old_one(
    kubeedge: KubeEdgeCloud, dockerd: Dockerd, tmp_path: Path
) -> None:
    async with stand(kubeedge, dockerd, tmp_path) as part:
        write(part.manifests, "sleep 1000")
        await up(part)
        (old,) = part.edged.workers
        write(part.manifests, "sleep 1001")
        await until(lambda: part.edged.workers[old].stopping is not None)
        while old in part.edged.workers:
            assert list(part.edged.workers) == [old]  # both would open the same serial line
            await asyncio.sleep(0.02)
        (new,) = part.edged.workers
        await kubeedge.wait(lambda _: _hash(part.object(NAME)) == new and part.phase(NAME) == "Running", timeout=20)


async def test_a_file_that_changed_while_edgecore_was_down_gets_a_new_mirror(
    kubeedge: KubeEdgeCloud, dockerd: Dockerd, tmp_path: Path
) -> None:
    async with stand(kubeedge, dockerd, tmp_path) as part:
        write(part.manifests)
        await up(part)
    write(part.manifests, SLEEPS + " # changed")
    async with stand(kubeedge, dockerd, tmp_path) as part:
        await until(lambda: len(part.edged.workers) == 1)
        (new,) = part.edged.workers
        await kubeedge.wait(lambda _: _hash(part.object(NAME)) == new and part.phase(NAME) == "Running", timeout=20)


async def test_a_mirror_that_nobody_pushes_is_found(kubeedge: KubeEdgeCloud, dockerd: Dockerd, tmp_path: Path) -> None:
    """A cloud that believes that this node has it already, because its database was lost, pushes nothing."""
    async with stand(kubeedge, dockerd, tmp_path) as part:
        write(part.manifests)
        mirror = await up(part)
    for file in (tmp_path / "state").glob("edge.db*"):
        file.unlink()
    mirror["status"] = {"phase": "Unknown"}
    async with stand(kubeedge, dockerd, tmp_path) as part:
        await part.phase_is(NAME, "Running")
        assert _uid(part.object(NAME)) == _uid(mirror)


@pytest.mark.parametrize("also", ["edged", "docker"])
async def test_a_component_that_is_started_again_keeps_every_pod(
    kubeedge: KubeEdgeCloud, dockerd: Dockerd, tmp_path: Path, also: str
) -> None:
    async with stand(kubeedge, dockerd, tmp_path) as part:
        write(part.manifests)
        uid = part.bind("web")
        await up(part)
        await part.phase_is("web", "Running")
        (static,) = set(part.edged.workers) - {uid}
        ids = {item.id for item in [*await part.containers(uid), *await part.containers(static)]}
        await part.restart(also)
        await until(lambda: part.edged.health().details["containers_running"] == 2)
        assert {item.id for item in [*await part.containers(uid), *await part.containers(static)]} == ids
        await until(lambda: part.edged._listed)
        assert not part.edged.strays
        part.delete("web")
        await until(lambda: uid not in part.edged.workers)
        (part.manifests / "fixed.json").unlink()
        await kubeedge.wait(lambda _: not part.object(NAME))


def _uid(obj: dict[str, Any]) -> str:
    return str(obj["metadata"]["uid"])


def _hash(obj: dict[str, Any]) -> str:
    return str(obj.get("metadata", {}).get("annotations", {}).get(MIRROR, ""))
