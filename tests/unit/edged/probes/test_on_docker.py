"""Probes and hooks of a container on a real engine."""

from collections.abc import AsyncIterator

import pytest

from edgeappliance.edged.engine.docker_engine import DockerEngine
from edgeappliance.edged.hooks import HookFailed, Hooks
from edgeappliance.edged.pods.observed import ObservedContainer
from edgeappliance.edged.pods.spec import Container, Exec, HttpGet, LifecycleHandler, Port, Probe, TcpSocket
from edgeappliance.edged.probes.attempt import Target, attempt
from edgeappliance.edged.probes.outcome import Answer, Verdict
from tests.support.dockerd import Dockerd
from tests.unit.edged.engine.conftest import Running, body

SPEC = Container(name="app", ports=[Port(container_port=80, name="http")])


@pytest.fixture
async def engine(dockerd: Dockerd) -> AsyncIterator[DockerEngine]:
    async with Running(dockerd.socket) as running:
        yield await running.connected()


@pytest.fixture
async def served(engine: DockerEngine, dockerd: Dockerd) -> tuple[ObservedContainer, str]:
    """A container with a web server, and its address."""
    create = body("httpd", "-f", "-p", "80", host={"NetworkMode": "bridge"})
    id = await engine.create(create, name="app")
    await engine.start(id)
    seen = await engine.inspect(id)
    assert seen is not None
    return seen, (await dockerd.call("inspect_container", id))["NetworkSettings"]["IPAddress"]


async def test_commands_run_in_the_container(engine: DockerEngine, served: tuple[ObservedContainer, str]) -> None:
    target = Target(served[0].id, SPEC, served[1])

    async def run(*command: str) -> Answer:
        return await attempt(Probe(exec=Exec(command=list(command))), target, engine)

    assert await run("sh", "-c", "echo fine") == Answer(Verdict.SUCCESS, "fine\n")
    assert await run("sh", "-c", "echo bad >&2; exit 3") == Answer(Verdict.FAILURE, "bad\n")
    assert (await run("/no/such/program")).verdict is Verdict.FAILURE
    slow = await run("sleep", "30")
    assert slow == Answer(Verdict.FAILURE, 'command timed out: "sleep 30" timed out after 1s')
    await engine.remove(served[0].id)
    assert (await run("true")).verdict is Verdict.UNKNOWN


async def test_requests_reach_the_container(engine: DockerEngine, served: tuple[ObservedContainer, str]) -> None:
    target = Target(served[0].id, SPEC, served[1])
    missing = await attempt(Probe(http_get=HttpGet(port="http", path="/none")), target, engine)
    assert missing == Answer(Verdict.FAILURE, "HTTP probe failed with statuscode: 404")
    assert (await attempt(Probe(tcp_socket=TcpSocket(port=80)), target, engine)).verdict is Verdict.SUCCESS
    refused = await attempt(Probe(tcp_socket=TcpSocket(port=81)), target, engine)
    assert refused.output == f"dial tcp {served[1]}:81: connect: connection refused"


async def test_a_hook_runs_in_the_container(engine: DockerEngine, served: tuple[ObservedContainer, str]) -> None:
    hooks = Hooks(engine)
    touch = LifecycleHandler(exec=Exec(command=["touch", "/done"]))
    await hooks.run(touch, served[0], SPEC, pod_ip=served[1], timeout=5)
    assert (await engine.run(served[0].id, ["ls", "/done"], timeout=5))[0] == 0
    fails = LifecycleHandler(exec=Exec(command=["false"]))
    with pytest.raises(HookFailed, match=r"exited with 1: , message: "):
        await hooks.run(fails, served[0], SPEC, pod_ip=served[1], timeout=5)
