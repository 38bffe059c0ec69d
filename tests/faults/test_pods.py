"""Pods and kill -9, dead engines, full disks, silent registries, jumping clocks: one container each, none left over."""

import asyncio
import contextlib
import json
import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import ROUNDS
from tests.support.docker_fixtures import BUSYBOX
from tests.support.dockerd import Dockerd, Registry, engine_of_its_own
from tests.support.pods import SLEEPS, condition, pod, restarts, shell, state
from tests.support.stand import Stand, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240 + 15 * ROUNDS)]

KIND, NAME, UID = "io.edgeappliance.kind", "io.kubernetes.container.name", "io.kubernetes.pod.uid"


@pytest.fixture
async def engine() -> AsyncIterator[Dockerd]:
    """An engine that this test may do anything to."""
    async with engine_of_its_own() as own:
        await own.image(BUSYBOX, changes=['CMD ["sh"]', "ENV PATH=/bin"])
        yield own


@pytest.fixture
async def site(engine: Dockerd) -> AsyncIterator[Stand]:
    async with Stand(docker=engine.socket) as stand:
        await stand.start_gateway()
        await stand.join()
        await stand.start_edge()
        yield stand


async def apply(site: Stand, *objects: dict[str, Any]) -> None:
    await site.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


async def ours(engine: Dockerd, *, running: bool = False) -> list[dict[str, Any]]:
    """Containers of pods on the engine."""
    found = await engine.call("containers", all=not running, filters={"label": KIND})
    return [item for item in found if item["Labels"].get(KIND)]


async def pods(site: Stand) -> dict[str, dict[str, Any]]:
    listed = json.loads(await site.kubectl("get", "pods", "-o", "json"))
    return {item["metadata"]["uid"]: item for item in listed["items"]}


async def settled(site: Stand, engine: Dockerd) -> bool:
    """Every pod of the API runs once, nothing else is there, and the API says so."""
    wanted = await pods(site)
    found = await ours(engine)
    running = Counter((c["Labels"][UID], c["Labels"][KIND]) for c in found if c["State"] == "running")
    return (
        all(running[uid, "app"] == 1 and running[uid, "sandbox"] == 1 for uid in wanted)
        and {c["Labels"][UID] for c in found} <= set(wanted)
        and all(condition(obj, "Ready") == "True" for obj in wanted.values())
        and {path.name for path in (site.directory / "state" / "pods").iterdir()} <= set(wanted)
    )


async def watch_duplicates(engine: Dockerd, found: list[Any]) -> None:
    """Two running containers of one name in one pod, at any moment, are a fault."""
    while True:
        try:
            running = await ours(engine, running=True)
        except Exception:  # noqa: BLE001 - the engine is down at times
            running = []
        counted = Counter((c["Labels"][UID], c["Labels"].get(NAME)) for c in running)
        found += [key for key, number in counted.items() if number > 1]
        await asyncio.sleep(0.1)


async def test_edgecore_is_killed_while_pods_start_and_stop(site: Stand, engine: Dockerd, dice: random.Random) -> None:
    duplicates: list[Any] = []
    watcher = asyncio.create_task(watch_duplicates(engine, duplicates))
    names = [f"p{number}" for number in range(5)]
    try:
        for number in range(ROUNDS):
            await change(site, dice, names)
            await asyncio.sleep(dice.uniform(0.0, 2.0))
            await site.edge.kill()
            site.edge.sweep()
            if dice.random() < 0.3:
                await change(site, dice, names)
            await site.start_edge(connected=False)
            if number % 5 == 4:
                await eventually(lambda: settled(site, engine), what=f"order after kill {number + 1}", timeout=60)
        await eventually(lambda: settled(site, engine), what="order in the end", timeout=60)
    finally:
        watcher.cancel()
    assert duplicates == []


async def change(site: Stand, dice: random.Random, names: list[str]) -> None:
    """Create, delete or replace some pods; nobody waits for the effect."""
    for name in dice.sample(names, dice.randint(1, 3)):
        if dice.random() < 0.5:
            await apply(site, pod(name, terminationGracePeriodSeconds=1))
        else:
            await site.kubectl("delete", "pod", name, "--ignore-not-found", "--wait=false")


async def test_the_engine_is_killed_and_comes_back(site: Stand, engine: Dockerd, dice: random.Random) -> None:
    await apply(site, *(pod(f"p{number}") for number in range(4)))
    await eventually(lambda: settled(site, engine), what="all pods running", timeout=60)
    before = {uid: obj["metadata"]["name"] for uid, obj in (await pods(site)).items()}
    for _ in range(max(2, ROUNDS // 5)):
        await asyncio.sleep(dice.uniform(0.0, 1.0))
        await (engine.power_cut() if dice.random() < 0.5 else engine.kill())

        async def not_ready() -> bool:
            return condition(await site.get("node", site.node), "Ready") == "False"

        await eventually(not_ready, what="the node not ready", timeout=30)
        await engine.start()
        await eventually(lambda: settled(site, engine), what="all pods running again", timeout=90)
    assert {uid: obj["metadata"]["name"] for uid, obj in (await pods(site)).items()} == before


async def test_a_dead_sandbox_is_repaired(site: Stand, engine: Dockerd) -> None:
    await apply(site, pod("web", shell("exec httpd -f -p 8080")))
    await eventually(lambda: settled(site, engine), what="the pod", timeout=40)
    sandbox = next(c for c in await ours(engine) if c["Labels"][KIND] == "sandbox")
    await engine.call("kill", sandbox["Id"])

    async def repaired() -> bool:
        found = await ours(engine, running=True)
        fresh = [c for c in found if c["Labels"][KIND] == "sandbox" and c["Id"] != sandbox["Id"]]
        return bool(fresh) and await settled(site, engine)

    await eventually(repaired, what="a new sandbox with the container in it", timeout=40)
    obj = await site.get("pod", "web")
    assert restarts(obj) == 1
    reader, writer = await asyncio.open_connection(obj["status"]["podIP"], 8080)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1")
    writer.close()


async def test_a_cold_boot_without_a_cloud(site: Stand, engine: Dockerd) -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"rate": "5"}}
    env = [{"name": "RATE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "rate"}}}]
    await apply(
        site,
        config,
        pod("app", shell("echo rate $RATE; " + SLEEPS, env=env)),
        # Nobody answers at its registry: the image on the box must do.
        pod("latest", shell(SLEEPS, imagePullPolicy="Always")),
    )
    await eventually(lambda: settled(site, engine), what="both pods", timeout=40)
    uids = set(await pods(site))
    await site.gateway.kill()
    await site.edge.kill()
    site.edge.sweep()
    await engine.power_cut()
    await engine.start()
    await site.start_edge(connected=False)

    async def run_alone() -> bool:
        found = await ours(engine, running=True)
        return {c["Labels"][UID] for c in found if c["Labels"][KIND] == "app"} == uids

    await eventually(run_alone, what="both pods without a cloud", timeout=60)
    code, out, err = await site.edgecore("logs", "app")
    assert (code, out) == (0, "rate 5\n"), err
    ids = {c["Id"] for c in await ours(engine, running=True)}
    await site.start_gateway()
    await site.edge.until(site.edge_connected, what="the link", timeout=60)
    await eventually(lambda: settled(site, engine), what="the API knows", timeout=40)
    assert {c["Id"] for c in await ours(engine, running=True)} == ids  # kept, not replaced
    assert set(await pods(site)) == uids


async def test_the_registry_is_down_and_comes_back(site: Stand, engine: Dockerd) -> None:
    async with Registry(engine) as registry:
        name = await registry.push(BUSYBOX, "app:1")
        await registry.kill()
        await apply(site, pod("pulled", shell(SLEEPS, image=name)), pod("other"))

        async def waits() -> bool:
            word, details = state(await site.get("pod", "pulled"))
            return word == "waiting" and details["reason"] == "ImagePullBackOff"

        await eventually(waits, what="ImagePullBackOff", timeout=40)
        assert condition(await site.get("pod", "other"), "Ready") == "True"
        await registry.start()
        await eventually(lambda: settled(site, engine), what="the image pulled", timeout=60)


async def test_the_clock_jumps_while_a_container_waits_after_a_crash(engine: Dockerd) -> None:
    """Back-off and grace are measured by a clock that does not jump."""
    if shutil.which("faketime") is None:
        pytest.skip("faketime is not installed (apt-get install faketime)")
    async with Stand(docker=engine.socket) as site:
        await site.start_gateway()
        await site.join()
        offset = site.directory / "offset"
        offset.write_text("+0")
        library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
        site.edge.environment |= {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(offset),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        await site.start_edge()
        await apply(site, pod("crash", shell("sleep 1; exit 1")), pod("steady"))

        async def crashed(times: int) -> bool:
            return restarts(await site.get("pod", "crash")) >= times

        await eventually(lambda: crashed(1), what="the first restart", timeout=40)
        steady = await site.get("pod", "steady")
        for jump in ("+400d", "-400d"):
            offset.write_text(jump)
            known = restarts(await site.get("pod", "crash"))
            await eventually(lambda: crashed(known + 1), what=f"a restart after {jump}", timeout=60)
        offset.write_text("+0")
        again = await site.get("pod", "steady")
        assert again["status"]["containerStatuses"] == steady["status"]["containerStatuses"]


async def test_the_disk_of_the_state_is_full(tmp_path: Path) -> None:
    """What runs goes on; a pod whose volume cannot be written says why, and starts when there is room again."""
    state_dir = tmp_path / "small"
    state_dir.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", state_dir], check=False).returncode:
        pytest.skip("no real full disk: mounting a tmpfs is not allowed here")
    try:  # mounted first: the engine sees what there is when it starts
        async with engine_of_its_own() as engine, Stand(docker=engine.socket) as site:
            await engine.image(BUSYBOX, changes=['CMD ["sh"]', "ENV PATH=/bin"])
            site.edge_settings["state_dir"] = str(state_dir)
            site.edge_settings["edged"] |= {"evict_disk_percent": 0}
            site.write_settings()
            await site.start_gateway()
            await site.join()
            await site.start_edge()
            await apply(site, pod("before"))

            async def ready(name: str) -> bool:
                return condition(await site.get("pod", name), "Ready") == "True"

            await eventually(lambda: ready("before"), what="the first pod", timeout=40)
            filler = state_dir / "filler"
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(os.urandom(1024))
            mounts = [{"name": "big", "mountPath": "/big"}]
            data = {"blob": "x" * 100_000}
            config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"}, "data": data}
            volumes = [{"name": "big", "configMap": {"name": "big"}}]
            await apply(site, config, pod("after", shell(SLEEPS, volumeMounts=mounts), volumes=volumes))
            await asyncio.sleep(5)
            assert not await ready("after")
            assert await ready("before")
            filler.unlink()
            await eventually(lambda: ready("after"), what="the second pod, with room again", timeout=90)
    finally:
        subprocess.run(["umount", "-l", state_dir], check=False)


async def test_pods_come_and_go_for_a_while_without_a_leak(site: Stand, engine: Dockerd, dice: random.Random) -> None:
    """FAULT_ROUNDS=200 churns for minutes."""
    await apply(site, pod("stays"))
    await eventually(lambda: settled(site, engine), what="the first pod", timeout=40)
    await churn(site, engine, dice, 1)
    before = figures(site)
    await churn(site, engine, dice, max(2, ROUNDS // 4))
    after = figures(site)
    assert after["fds"] <= before["fds"] + 5
    assert after["threads"] <= before["threads"] + 2
    assert after["rss_mb"] <= before["rss_mb"] + 12
    assert len(await ours(engine)) == 2
    assert not await engine.call("volumes") or not (await engine.call("volumes"))["Volumes"]


async def churn(site: Stand, engine: Dockerd, dice: random.Random, rounds: int) -> None:
    """Ten pods at a time come, run and go."""
    for _ in range(rounds):
        volumes = [{"name": "scratch", "emptyDir": {"medium": "Memory"}}]
        main = shell(SLEEPS, volumeMounts=[{"name": "scratch", "mountPath": "/scratch"}])
        names = [f"churn-{dice.randrange(10**9)}" for _ in range(10)]
        await apply(site, *(pod(name, main, volumes=volumes, terminationGracePeriodSeconds=1) for name in names))
        await eventually(lambda: settled(site, engine), what="the pods running", timeout=60)
        await site.kubectl("delete", "pod", *names, "--wait=false")
        await eventually(lambda: settled(site, engine), what="the pods gone", timeout=60)


def figures(site: Stand) -> dict[str, float]:
    """Open files, threads and resident memory of edgecore."""
    process = Path(f"/proc/{site.edge.pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return {
        "fds": len(list((process / "fd").iterdir())),
        "threads": int(status["Threads"]),
        "rss_mb": int(status["VmRSS"].split()[0]) / 1024,
    }
