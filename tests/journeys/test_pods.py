"""`kubectl apply` of a pod for the appliance: it runs there, says how it is, survives, and goes when it is deleted."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.dockerd import Dockerd
from tests.support.pods import SLEEPS, condition, container, pod, restarts, shell, state
from tests.support.stand import Stand, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


@pytest.fixture
async def site(dockerd: Dockerd) -> AsyncIterator[Stand]:
    """Gateway and edge joined, with an engine for pods."""
    async with Stand(docker=dockerd.socket) as stand:
        await stand.start_gateway()
        await stand.join()
        await stand.start_edge()
        yield stand


async def apply(site: Stand, *objects: dict[str, Any]) -> None:
    await site.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


async def running(site: Stand, name: str) -> dict[str, Any]:
    async def look() -> dict[str, Any]:
        obj = await site.get("pod", name)
        return obj if condition(obj, "Ready") == "True" else {}

    found: dict[str, Any] = await eventually(look, what=f"pod {name} ready", timeout=40)
    return found


async def phase(site: Stand, name: str, wanted: str) -> dict[str, Any]:
    async def look() -> dict[str, Any]:
        obj = await site.get("pod", name)
        return obj if obj.get("status", {}).get("phase") == wanted else {}

    found: dict[str, Any] = await eventually(look, what=f"pod {name} {wanted}", timeout=40)
    return found


async def test_a_pod_runs_and_goes(site: Stand, dockerd: Dockerd) -> None:
    await apply(site, pod("web", shell("mkdir -p /www; echo hello >/www/index.html; exec httpd -f -p 8080 -h /www")))
    obj = await running(site, "web")
    assert obj["status"]["phase"] == "Running"
    assert obj["status"]["qosClass"] == "BestEffort"
    assert obj["status"]["containerStatuses"][0]["containerID"].startswith("docker://")
    reader, writer = await asyncio.open_connection(obj["status"]["podIP"], 8080)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    assert b"hello" in await reader.read()
    writer.close()
    node = await site.get("node", "edge-demo")
    assert condition(node, "Ready") == "True"
    assert int(node["status"]["capacity"]["pods"]) == 110
    await site.kubectl("delete", "pod", "web", "--timeout=30s")
    assert await site.get("pod", "web") == {}

    async def clean() -> bool:
        return not await dockerd.call("containers", all=True)

    await eventually(clean, what="no container left")


async def test_a_job_like_pod_ends_and_never_runs_again(site: Stand) -> None:
    await apply(site, pod("once", shell("echo done >/dev/termination-log; exit 3"), restartPolicy="Never"))
    obj = await phase(site, "once", "Failed")
    word, details = state(obj)
    assert (word, details["exitCode"], details["message"]) == ("terminated", 3, "done\n")
    assert details["reason"] == "Error"
    await site.edge.stop()
    await site.start_edge()
    await asyncio.sleep(2)
    again = await site.get("pod", "once")
    assert again["status"]["phase"] == "Failed"
    assert restarts(again) == 0


async def test_what_crashes_is_started_again_with_patience(site: Stand) -> None:
    await apply(site, pod("crash", shell("exit 1")))

    async def loops() -> bool:
        obj = await site.get("pod", "crash")
        word, details = state(obj)
        return word == "waiting" and details.get("reason") == "CrashLoopBackOff" and restarts(obj) >= 1

    await eventually(loops, what="CrashLoopBackOff", timeout=40)
    events = await site.kubectl("get", "events", "--field-selector", "involvedObject.name=crash", "-o", "name")
    assert events.strip()


async def test_config_maps_secrets_and_the_downward_api(site: Stand) -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"rate": "5"}}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}, "stringData": {"password": "hush"}}
    script = "echo $RATE $PASSWORD $NAME; cat /config/rate; echo; cat /secret/password; echo; " + SLEEPS
    env = [
        {"name": "RATE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "rate"}}},
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "key", "key": "password"}}},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    mounts = [{"name": "config", "mountPath": "/config"}, {"name": "secret", "mountPath": "/secret"}]
    volumes = [
        {"name": "config", "configMap": {"name": "settings"}},
        {"name": "secret", "secret": {"secretName": "key"}},
    ]
    await apply(site, pod("configured", shell(script, env=env, volumeMounts=mounts), volumes=volumes))

    async def waits() -> bool:
        obj = await site.get("pod", "configured")
        return state(obj)[0] == "waiting"

    await eventually(waits, what="a reason to wait")
    await apply(site, config, secret)
    await running(site, "configured")
    out = await site.kubectl("logs", "configured")
    assert out.split() == ["5", "hush", "configured", "5", "hush"]
    await site.kubectl("patch", "configmap", "settings", "-p", '{"data":{"rate":"7"}}')

    async def followed() -> bool:
        return (await site.kubectl("exec", "configured", "--", "cat", "/config/rate")).strip() == "7"

    await eventually(followed, what="the change in the volume")


async def test_edgecore_dies_and_adopts_what_runs(site: Stand) -> None:
    await apply(site, pod("steady"))
    before = await running(site, "steady")
    await site.edge.kill()
    await asyncio.sleep(0.5)
    await site.start_edge()
    await asyncio.sleep(2)
    after = await site.get("pod", "steady")
    assert after["status"]["containerStatuses"] == before["status"]["containerStatuses"]


async def test_kubectl_looks_into_a_pod(site: Stand) -> None:
    await apply(
        site, pod("look", shell("for i in 1 2 3; do echo line $i; done; " + SLEEPS), container("side", "sleep", "1000"))
    )
    await running(site, "look")
    assert (await site.kubectl("logs", "look", "-c", "main")).splitlines() == ["line 1", "line 2", "line 3"]
    assert (await site.kubectl("exec", "look", "-c", "main", "--", "echo", "hi")).strip() == "hi"
    code, out, err = await site.edgecore("pods", "-A")
    assert code == 0, err
    assert "look" in out
    code, out, err = await site.edgecore("logs", "look", "-c", "main", "--tail", "1")
    assert (code, out) == (0, "line 3\n"), err
