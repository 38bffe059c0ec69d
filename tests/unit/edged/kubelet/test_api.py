"""Plain requests to the kubelet API: pods, logs, figures, who may ask, what a bad one gets."""

import asyncio
import json
import socket
import stat
from pathlib import Path

import pytest

from edgeappliance.kernel.component import State
from edgeappliance.kernel.web import client
from tests.support.dockerd import Dockerd
from tests.unit.edged.kubelet.conftest import Stand

LINES = "for i in 1 2 3 4 5; do echo line $i; done; echo oops >&2; sleep 1000"


async def wait_for(stand: Stand, target: str, text: str) -> str:
    """The body, once it holds `text`."""
    async with asyncio.timeout(10):
        while text not in (answer := await stand.get(target))[1]:
            await asyncio.sleep(0.05)
    return answer[1]


async def test_pods_and_logs(stand: Stand) -> None:
    await stand.pod("web", c=["sh", "-c", LINES], done=["true"])
    pods = json.loads((await stand.get("/pods"))[1])
    assert pods["kind"] == "PodList"
    assert [pod["metadata"]["name"] for pod in pods["items"]] == ["web"]
    running = json.loads((await stand.get("/runningpods/"))[1])
    names = [c["name"] for c in running["items"][0]["spec"]["containers"]]
    assert "c" in names
    assert "POD" not in names

    logs = "/containerLogs/default/web/c"
    text = await wait_for(stand, logs, "oops")
    assert sorted(text.splitlines()) == ["line 1", "line 2", "line 3", "line 4", "line 5", "oops"]
    assert len((await stand.get(f"{logs}?tailLines=2"))[1].splitlines()) == 2
    assert (await stand.get(f"{logs}?tailLines=0"))[1] == ""
    assert (await stand.get(f"{logs}?limitBytes=8&stream=Stdout"))[1] == "line 1\nl"
    assert (await stand.get(f"{logs}?stream=Stderr"))[1] == "oops\n"
    assert (await stand.get(f"{logs}?sinceTime=2200-01-01T00:00:00Z"))[1] == ""
    assert len((await stand.get(f"{logs}?sinceSeconds=3600"))[1].splitlines()) == 6
    stamped = (await stand.get(f"{logs}?timestamps=true&stream=Stdout"))[1].splitlines()
    assert stamped[0].endswith("Z line 1")
    assert stamped[0][10] == "T"


async def test_follow_and_leave(stand: Stand) -> None:
    await stand.pod("web", c=["sh", "-c", "while sleep 0.1; do echo tick; done"])
    async with client.request(stand.socket, "GET", "/containerLogs/default/web/c?follow=true") as response:
        assert response.headers["content-type"] == "text/plain"
        seen = b""
        async for data in response:
            seen += data
            if seen.count(b"tick") >= 3:
                break
    async with asyncio.timeout(2):
        while stand.api.health().details["connections"]:
            await asyncio.sleep(0.01)


async def test_follow_ends_with_the_container(stand: Stand) -> None:
    await stand.pod("web", c=["sh", "-c", "echo bye; sleep 0.5"])
    assert (await stand.get("/containerLogs/default/web/c?follow=true"))[1] == "bye\n"


async def test_logs_of_the_run_before(stand: Stand) -> None:
    pod = await stand.pod("web", c=["sh", "-c", "echo first"])
    logs = "/containerLogs/default/web/c"
    async with asyncio.timeout(10):
        while any(c.running for c in stand.observed("uid-web") if c.name == "c"):
            await stand.look()
    assert (await stand.get(logs))[1] == "first\n"
    await stand.start_again("web", "c", {"Cmd": ["sh", "-c", "echo second; sleep 1000"]})
    assert await wait_for(stand, logs, "second") == "second\n"
    assert (await stand.get(f"{logs}?previous=true"))[1] == "first\n"
    assert pod["status"]["containerStatuses"][0]["lastState"]


async def test_what_a_bad_request_gets(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    logs = "/containerLogs/default/web/c"
    for target, status, text in [
        ("/containerLogs/default/nope/c", 404, 'pod "nope" does not exist'),
        ("/containerLogs/default/web/nope", 404, 'container "nope" not found in pod "web"'),
        (f"{logs}?previous=1", 400, 'previous terminated container "c" in pod "web" not found'),
        (f"{logs}?tailLines=x", 400, 'tailLines: "x" is not a number'),
        (f"{logs}?tailLines=-1", 422, "tailLines: must be greater than or equal to 0"),
        (f"{logs}?limitBytes=0", 422, "limitBytes: must be greater than or equal to 1"),
        (f"{logs}?sinceTime=yesterday", 400, 'sinceTime: "yesterday" is not an RFC 3339 time'),
        (f"{logs}?sinceTime=2026-01-01T00:00:00Z&sinceSeconds=1", 422, "at most one of"),
        (f"{logs}?stream=Both", 422, "stream: must be one of All, Stdout, Stderr"),
        ("/containerLogs/default/web", 404, "404 page not found"),
        ("/exec/default/web/c?command=ls", 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("/exec/default/web/c?output=1", 400, "you must specify at least 1 command"),
        ("/exec/default/web/c?output=1&command=a%00b", 400, "command: holds a NUL"),
        ("/exec/default/web/c?output=1&command=ls", 400, "missing upgrade headers"),
        ("/exec/default/nope/c?output=1&command=ls", 404, 'pod "nope" does not exist'),
        ("/exec/default/web/uid-other/c?output=1&command=ls", 404, 'pod "web" does not exist'),
        ("/exec/default/web/nope?output=1&command=ls", 404, 'container not found ("nope")'),
        ("/exec/default/web/POD?output=1&command=ls", 404, 'container not found ("POD")'),
        ("/portForward/default/web", 400, "missing upgrade headers"),
        ("/portForward/default/nope", 404, 'pod "nope" does not exist'),
        ("/run/default/web/c", 400, "cmd: is missing"),
        ("/stats/container", 404, "404 page not found"),
        ("/metrics/other", 404, "404 page not found"),
        ("/", 404, "404 page not found"),
        ("/debug/pprof", 404, "404 page not found"),
    ]:
        answer = await stand.get(target)
        assert (answer[0], text in answer[1]) == (status, True), (target, answer)
    async with client.request(stand.socket, "DELETE", "/pods") as response:
        assert response.status == 405


async def test_run(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    assert await stand.get("/run/default/web/c?cmd=echo%20hello%20%24HOME") == (200, "hello $HOME\n")
    status, text = await stand.get("/run/default/web/uid-web/c?cmd=false")
    assert status == 500
    assert "command terminated with exit code 1" in text


async def test_figures(stand: Stand) -> None:
    assert json.loads((await stand.get("/stats/summary"))[1])["node"]["fs"] == {}
    short = json.loads((await stand.get("/stats/summary?only_cpu_and_memory=true"))[1])
    assert short == {
        "node": {"nodeName": "edge-1", "cpu": {"usageNanoCores": 1}},
        "pods": [{"podRef": {"name": "web"}, "containers": [{"name": "c", "memory": {}}]}],
    }
    for path, kind in [("", ""), ("/cadvisor", "cadvisor"), ("/resource", "resource"), ("/probes", "probes")]:
        assert await stand.get(f"/metrics{path}") == (200, f'answered{{kind="{kind}"}} 1\n')
    assert await stand.get("/healthz") == (200, "ok")
    assert await stand.get("/healthz/syncloop") == (200, "ok")
    stand.syncing = False
    assert (await stand.get("/healthz/syncloop"))[0] == 500


async def test_who_may_ask(stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    assert stat.S_IMODE((stand.directory / "kubelet.token").stat().st_mode) == 0o600
    run = "/run/default/web/c?cmd=id"
    bearer = f"Bearer {stand.token}"
    assert (await stand.get("/pods", tcp=True))[0] == 200
    assert await stand.get(run, tcp=True) == (401, "Unauthorized")
    assert (await stand.get(run, tcp=True, Authorization="Bearer x"))[0] == 401
    assert (await stand.get(run, tcp=True, Authorization=stand.token))[0] == 401
    assert (await stand.get("//run/default/web/c?cmd=id", tcp=True))[0] == 401
    assert (await stand.get("/%72un/default/web/c?cmd=id", tcp=True))[0] == 401
    assert (await stand.get(run, tcp=True, Authorization=bearer))[0] == 200
    for host in ("evil.example.org", "10.0.0.1", "127.0.0.1.evil.example.org", "localhost.evil.example.org:10350", "["):
        assert (await stand.get("/pods", tcp=True, Host=host))[0] in (400, 403), host
    for host in ("localhost", "localhost:1", "127.0.0.1:10350", "[::1]:10350", "127.1.2.3"):
        assert (await stand.get("/pods", tcp=True, Host=host))[0] == 200, host
    assert (await stand.get("/pods", tcp=True, Origin="http://localhost:1"))[0] == 403


async def test_open_to_all(dockerd: Dockerd, tmp_path: Path) -> None:
    async with Stand(dockerd, tmp_path, open_to_all=True) as stand:
        await stand.pod("web", c=["sleep", "1000"])
        assert (await stand.get("/run/default/web/c?cmd=true", tcp=True))[0] == 200
        assert (await stand.get("/run/default/web/c?cmd=true", tcp=True, Origin="http://page"))[0] == 403


async def test_a_taken_port_leaves_the_socket(
    dockerd: Dockerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeappliance.edged.kubelet.api.RETRY", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with Stand(dockerd, tmp_path, port=port) as stand:
            assert stand.api.health().state is State.DEGRADED
            assert str(port) in stand.api.health().reason
            assert (await stand.get("/healthz"))[0] == 200
            taken.close()
            async with asyncio.timeout(5):
                while stand.api.health().state is not State.RUNNING:
                    await asyncio.sleep(0.02)
            assert (await stand.get("/healthz", tcp=True))[0] == 200


async def test_an_engine_that_is_away(dockerd: Dockerd, stand: Stand) -> None:
    await stand.pod("web", c=["sleep", "1000"])
    await dockerd.kill()
    status, text = await stand.get("/containerLogs/default/web/c")
    assert status in (500, 503)
    assert text
    await dockerd.start()


async def test_without_an_engine_every_road_into_a_pod_says_so(dockerd: Dockerd, stand: Stand) -> None:
    """Not that the container is not there: nobody knows."""
    await stand.pod("web", c=["sleep", "1000"])
    await dockerd.kill()
    async with asyncio.timeout(20):
        while stand.engine.connected or "went away" in stand.engine.trouble:
            await asyncio.sleep(0.05)
    stand._observed.clear()  # as after a restart of edgecore
    for method, target in (
        ("POST", "/exec/default/web/c?command=true&output=1"),
        ("POST", "/attach/default/web/c?output=1"),
        ("GET", "/containerLogs/default/web/c"),
    ):
        async with client.request(stand.socket, method, target) as response:
            text = (await response.read(1000)).decode()
        assert (response.status, text) == (503, f"no Docker Engine answers at {dockerd.socket}: Connection refused")
