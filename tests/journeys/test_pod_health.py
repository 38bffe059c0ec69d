"""Probes, hooks, events and limits of pods, from kubectl to the container and back."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.docker_fixtures import BUSYBOX
from tests.support.dockerd import Dockerd
from tests.support.pods import SLEEPS, condition, pod, restarts, shell, state
from tests.support.stand import Stand, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

WEB = "mkdir -p /www; echo ok >/www/health; exec httpd -f -p 80 -h /www"


@pytest.fixture
async def site(dockerd: Dockerd) -> AsyncIterator[Stand]:
    async with Stand(docker=dockerd.socket) as stand:
        await stand.start_gateway()
        await stand.join()
        await stand.start_edge()
        yield stand


async def apply(site: Stand, obj: dict[str, Any]) -> None:
    await site.kubectl("apply", "-f", "-", stdin=json.dumps(obj))


async def until(site: Stand, name: str, wanted: Any, *, what: str) -> dict[str, Any]:
    async def look() -> dict[str, Any]:
        obj = await site.get("pod", name)
        return obj if (obj.get("status") or {}).get("containerStatuses") and wanted(obj) else {}

    found: dict[str, Any] = await eventually(look, what=what, timeout=40)
    return found


async def events(site: Stand, about: str) -> list[dict[str, Any]]:
    listed = json.loads(await site.kubectl("get", "events", "-A", "-o", "json"))["items"]
    return [item for item in listed if item["involvedObject"]["name"] == about]


async def test_ready_comes_and_goes_with_the_probe_and_liveness_restarts(site: Stand, dockerd: Dockerd) -> None:
    probes: dict[str, Any] = {
        "startupProbe": {"httpGet": {"path": "/health", "port": 80}, "periodSeconds": 1, "failureThreshold": 20},
        "readinessProbe": {"exec": {"command": ["test", "-f", "/ready"]}, "periodSeconds": 1, "failureThreshold": 1},
        "livenessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1, "failureThreshold": 1},
    }
    await apply(site, pod("web", shell(f"sleep 1; {WEB}", **probes)))
    obj = await until(site, "web", lambda obj: is_started(obj), what="the startup probe")
    assert condition(obj, "Ready") == "False"
    id = obj["status"]["containerStatuses"][0]["containerID"].removeprefix("docker://")
    await dockerd.call("put_archive", id, "/", one_file("ready"))
    await until(site, "web", lambda obj: condition(obj, "Ready") == "True", what="ready")
    made = await dockerd.call("exec_create", id, ["killall", "-STOP", "httpd"])
    await dockerd.call("exec_start", made["Id"])
    await dockerd.call("exec_start", (await dockerd.call("exec_create", id, ["rm", "/ready"]))["Id"])
    await until(site, "web", lambda obj: condition(obj, "Ready") == "False", what="not ready")
    seen = await events(site, "web")
    unhealthy = [item for item in seen if item["reason"] == "Unhealthy"]
    assert any(item["message"].startswith("Startup probe failed: Get ") for item in unhealthy)
    assert any(item["message"].startswith("Readiness probe failed: ") for item in unhealthy)
    assert all(item["involvedObject"]["fieldPath"] == "spec.containers{main}" for item in unhealthy)


def is_started(obj: dict[str, Any]) -> bool:
    return any(item.get("started") for item in obj["status"].get("containerStatuses", ()))


def one_file(name: str) -> bytes:
    import io
    import tarfile

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return data.getvalue()


async def test_a_failed_liveness_probe_restarts_and_says_so(site: Stand) -> None:
    probe = {"exec": {"command": ["test", "-f", "/alive"]}, "periodSeconds": 1, "failureThreshold": 2}
    script = f"touch /alive; (sleep 3; rm /alive) & {SLEEPS}"
    await apply(site, pod("web", shell(script, livenessProbe=probe)))
    obj = await until(site, "web", lambda obj: restarts(obj) == 1 and state(obj)[0] == "running", what="a restart")
    assert obj["status"]["containerStatuses"][0]["lastState"]["terminated"]
    seen = {item["reason"]: item["message"] for item in await events(site, "web")}
    assert seen["Killing"] == "Container main failed liveness probe, will be restarted"
    assert seen["Unhealthy"].startswith("Liveness probe failed: ")


async def test_hooks_run_and_a_failed_one_ends_the_container(site: Stand) -> None:
    hooks = {
        "postStart": {"exec": {"command": ["touch", "/started"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "echo bye >/proc/1/fd/1"]}},
    }
    await apply(site, pod("good", shell(SLEEPS, lifecycle=hooks)))
    await until(site, "good", lambda obj: condition(obj, "Ready") == "True", what="good ready")
    failing = {"postStart": {"exec": {"command": ["sh", "-c", "echo no; exit 4"]}}}
    await apply(site, pod("bad", shell(SLEEPS, lifecycle=failing)))
    await until(site, "bad", lambda obj: restarts(obj) >= 1, what="bad restarted")
    seen = {item["reason"]: item["message"] for item in await events(site, "bad")}
    assert "exited with 4" in seen["FailedPostStartHook"]


async def test_a_pod_that_fills_its_emptydir_is_evicted_and_the_node_tells_its_images(site: Stand) -> None:
    fill = shell(
        "head -c 4000000 /dev/zero >/cache/file; " + SLEEPS, volumeMounts=[{"name": "cache", "mountPath": "/cache"}]
    )
    await apply(site, pod("fills", fill, volumes=[{"name": "cache", "emptyDir": {"sizeLimit": "2Mi"}}]))

    async def named() -> bool:
        node = await site.get("node", "edge-demo")
        return any(BUSYBOX in image["names"] for image in node["status"].get("images", ()))

    await eventually(named, what="the node's images", timeout=30)

    async def evicted() -> dict[str, Any]:
        obj = await site.get("pod", "fills")
        return obj if obj["status"].get("reason") == "Evicted" else {}

    obj = await eventually(evicted, what="the eviction", timeout=90)
    assert obj["status"]["phase"] == "Failed"
    assert obj["status"]["message"] == 'Usage of EmptyDir volume "cache" exceeds the limit "2Mi". '
    reasons = {item["reason"] for item in await events(site, "edge-demo")}
    assert {"Starting", "NodeReady"} <= reasons
