"""The life of a pod as Kubernetes' documentation tells it: what comes first, what follows when something ends."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.docker_fixtures import BUSYBOX
from tests.support.dockerd import Dockerd
from tests.support.pods import SLEEPS, Object, condition, container, pod, restarts, shell, state
from tests.support.stand import Stand, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

SHARED = {"name": "shared", "mountPath": "/shared"}


@pytest.fixture
async def site(dockerd: Dockerd) -> AsyncIterator[Stand]:
    """Gateway and edge joined, with an engine for pods."""
    async with Stand(docker=dockerd.socket) as stand:
        await stand.start_gateway()
        await stand.join()
        await stand.start_edge()
        yield stand


async def apply(site: Stand, *objects: Object) -> None:
    await site.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


async def until(site: Stand, name: str, holds: Any, what: str) -> Object:
    """The pod, once `holds(pod)` is true."""

    async def look() -> Object:
        obj = await site.get("pod", name)
        return obj if obj and holds(obj) else {}

    found: Object = await eventually(look, what=f"{name}: {what}", timeout=40)
    return found


def is_ready(obj: Object) -> bool:
    return condition(obj, "Ready") == "True"


def in_phase(phase: str) -> Any:
    return lambda obj: obj.get("status", {}).get("phase") == phase


async def events(site: Stand, name: str) -> str:
    return await site.kubectl(
        "get", "events", "--field-selector", f"involvedObject.name={name}", "-o", "custom-columns=R:.reason,M:.message"
    )


async def test_init_containers_sidecars_and_the_end_of_a_job(site: Stand) -> None:
    """Each begins when the one before has ended, or has started; the sidecar ends last and does not count."""
    slow = {"exec": {"command": ["test", "-e", "/shared/up"]}, "periodSeconds": 1, "failureThreshold": 30}
    mesh = shell(
        f"sleep 1; echo mesh >>/shared/order; touch /shared/up; {SLEEPS}",
        "mesh",
        restartPolicy="Always",
        startupProbe=slow,
        volumeMounts=[SHARED],
    )
    inits = [
        shell("sleep 1; echo one >>/shared/order", "one", volumeMounts=[SHARED]),
        mesh,
        shell("echo two >>/shared/order", "two", volumeMounts=[SHARED]),
    ]
    main = shell("echo main >>/shared/order; cat /shared/order; sleep 1", volumeMounts=[SHARED])
    volumes = [{"name": "shared", "emptyDir": {}}]
    await apply(site, pod("job", main, initContainers=inits, volumes=volumes, restartPolicy="Never"))
    obj = await until(site, "job", in_phase("Succeeded"), "Succeeded")
    assert (await site.kubectl("logs", "job", "-c", "main")).split() == ["one", "mesh", "two", "main"]
    assert condition(obj, "Initialized") == "True"
    ends = {name: state(obj, name, init=True)[1]["finishedAt"] for name in ("one", "mesh", "two")}
    assert ends["one"] <= ends["two"] <= state(obj)[1]["finishedAt"] <= ends["mesh"]
    assert state(obj, "mesh", init=True)[1]["reason"] == "Completed"


async def test_what_ends_is_mended(site: Stand, dockerd: Dockerd) -> None:
    """The sandbox, a container that a probe condemns, a container whose image is another now."""
    probe = {"exec": {"command": ["test", "!", "-e", "/sick"]}, "periodSeconds": 1, "failureThreshold": 1}
    await apply(site, pod("web", shell(SLEEPS, livenessProbe=probe)))
    first = await until(site, "web", is_ready, "ready")

    ids = [item["Id"] for item in await dockerd.call("containers") if "POD" in item["Names"][0]]
    await dockerd.call("kill", ids[0])
    again = await until(site, "web", lambda obj: restarts(obj) == 1 and is_ready(obj), "back in a new sandbox")
    assert again["status"]["startTime"] == first["status"]["startTime"]
    assert "SandboxChanged" in await events(site, "web")

    await site.kubectl("exec", "web", "--", "touch", "/sick")
    await until(site, "web", lambda obj: restarts(obj) == 2 and is_ready(obj), "restarted by its probe")
    told = await events(site, "web")
    assert "Container main failed liveness probe, will be restarted" in told
    assert "Unhealthy" in told

    await dockerd.call("tag", BUSYBOX, "bb-second", tag="2")
    await site.kubectl("set", "image", "pod/web", "main=bb-second:2")
    obj = await until(site, "web", lambda obj: restarts(obj) == 3 and is_ready(obj), "restarted with the new image")
    assert obj["status"]["containerStatuses"][0]["image"] == "bb-second:2"
    assert "Container main definition changed, will be restarted" in await events(site, "web")


async def test_pods_that_must_not_run(site: Stand) -> None:
    """Each says why, as a status and as an event, and does not keep the others from running."""
    await site.kubectl("label", "node", "edge-demo", "disk=ssd")
    await asyncio.sleep(1)
    await apply(
        site,
        pod("late", activeDeadlineSeconds=4),
        pod("strange", hostUsers=False),
        pod("misplaced", nodeSelector={"disk": "hdd"}),
        pod("nowhere", container("main", image="127.0.0.1:1/no/where:1")),
        pod("placed", nodeSelector={"disk": "ssd"}),
    )
    await until(site, "placed", is_ready, "ready")
    obj = await until(site, "misplaced", in_phase("Failed"), "Failed")
    assert obj["status"]["reason"] == "NodeAffinity"
    assert "node(s) didn't match Pod's node affinity/selector" in obj["status"]["message"]

    obj = await until(site, "strange", lambda obj: state(obj)[0] == "waiting", "waiting")
    details = state(obj)[1]
    assert details["reason"] == "CreateContainerConfigError"
    assert details["message"].startswith("spec.hostUsers: ")
    assert condition(obj, "edgeappliance.io/SupportedFields") == "False"
    assert "spec.hostUsers" in await events(site, "strange")

    obj = await until(site, "late", in_phase("Failed"), "Failed")
    assert obj["status"]["reason"] == "DeadlineExceeded"
    assert state(obj)[0] == "terminated"

    obj = await until(site, "nowhere", lambda obj: state(obj)[1].get("reason") == "ImagePullBackOff", "backing off")
    assert obj["status"]["phase"] == "Pending"
    await site.kubectl("set", "image", "pod/nowhere", f"main={BUSYBOX}")
    await until(site, "nowhere", lambda obj: state(obj)[1].get("reason") != "ImagePullBackOff", "tried again at once")
    names = ["late", "strange", "misplaced", "nowhere", "placed"]
    await site.kubectl("delete", "pod", *names, "--timeout=30s")
    for name in names:
        assert await site.get("pod", name) == {}


async def test_a_registry_that_says_nothing_holds_up_nobody(site: Stand) -> None:
    """A pod that waits for it can be given another image, and be deleted, at once."""
    await apply(site, pod("mute", shell("while true; do sleep 1000 | nc -l -p 5000; done")))
    mute = await until(site, "mute", is_ready, "ready")
    image = f"{mute['status']['podIP']}:5000/never/comes:1"
    await apply(site, pod("patient", container(image=image)), pod("hopeful", container(image=image)))
    for name in ("patient", "hopeful"):

        async def pulls(name: str = name) -> bool:
            return "Pulling image" in await events(site, name)

        await eventually(pulls, what="the pull under way")
    before = time.monotonic()
    await site.kubectl("delete", "pod", "patient", "--timeout=8s")
    await site.kubectl("set", "image", "pod/hopeful", f"main={BUSYBOX}")
    await until(site, "hopeful", lambda obj: "imageID" in obj["status"]["containerStatuses"][0], "there")
    assert time.monotonic() - before < 9, "as long as an engine waits for an answer"


async def test_an_edgecore_that_comes_back_at_once_changes_nothing(site: Stand) -> None:
    """The engine repeats what happened in the moment before: a part of the story is not acted upon."""
    mesh = shell(SLEEPS, "mesh", restartPolicy="Always")
    await apply(site, pod("steady", initContainers=[container("one", "true"), mesh]))
    before = await until(site, "steady", is_ready, "ready")
    for _ in range(3):
        await site.edge.kill()
        await site.start_edge()
    await asyncio.sleep(2)
    after = await site.get("pod", "steady")
    for key in ("containerStatuses", "initContainerStatuses", "startTime", "podIP"):
        assert after["status"][key] == before["status"][key]
    assert "Killing" not in await events(site, "steady")
