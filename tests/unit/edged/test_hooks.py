"""Lifecycle hooks and what is said when they fail."""

import socket

import pytest

from edgeappliance.edged.hooks import Hook, HookFailed, Hooks
from edgeappliance.edged.pods.spec import Container, Exec, HttpGet, LifecycleHandler, Sleep, TcpSocket
from tests.unit.edged.probes.stand import Commands, answer, container, web

SPEC = Container(name="web")
WHERE = 'for Container "web" in Pod "p_default(u1)" failed - error: '


async def run(handler: LifecycleHandler, *, timeout: float = 5.0, engine: Commands | None = None) -> None:
    hooks = Hooks(engine or Commands())
    await hooks.run(handler, container(), SPEC, pod_ip="127.0.0.1", timeout=timeout)


async def test_a_command() -> None:
    await run(LifecycleHandler(exec=Exec(command=["true"])))
    with pytest.raises(HookFailed) as failed:
        await run(LifecycleHandler(exec=Exec(command=["sh", "-c", 'echo "no" way; exit 2'])))
    command = 'sh -c echo "no" way; exit 2'
    assert failed.value.message == (
        f"Exec lifecycle hook ([{command}]) {WHERE}command '{command}' exited with 2: , message: \"no way\\n\""
    )


async def test_a_request_is_delivered_whatever_the_answer() -> None:
    async with web(lambda head: answer(500)) as peer:
        await run(LifecycleHandler(http_get=HttpGet(port=peer.port, path="/drain")))
    assert peer.heads[0].startswith("GET /drain ")
    assert "User-Agent: kube-lifecycle/1.32" in peer.heads[0]


async def test_a_request_that_reaches_nobody() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        with pytest.raises(HookFailed) as failed:
            await run(LifecycleHandler(http_get=HttpGet(port=port)))
    assert failed.value.message == (
        f'HTTP lifecycle hook (/) {WHERE}Get "http://127.0.0.1:{port}/": '
        f'dial tcp 127.0.0.1:{port}: connect: connection refused, message: ""'
    )
    with pytest.raises(HookFailed, match="couldn't find port: nope"):
        await run(LifecycleHandler(http_get=HttpGet(port="nope")))


async def test_sleep_and_the_bound_on_every_hook() -> None:
    await run(LifecycleHandler(sleep=Sleep(seconds=0)))
    with pytest.raises(HookFailed, match=r"not completed within 0\.05s"):
        await run(LifecycleHandler(sleep=Sleep(seconds=60)), timeout=0.05)
    with pytest.raises(HookFailed, match=r"not completed within 0\.2s"):
        await run(LifecycleHandler(exec=Exec(command=["sleep", "60"])), timeout=0.2)


async def test_what_cannot_be_a_hook() -> None:
    with pytest.raises(HookFailed, match="invalid handler"):
        await run(LifecycleHandler(tcp_socket=TcpSocket(port=1)))
    engine = Commands()
    engine.away = True
    with pytest.raises(HookFailed, match="no Docker Engine answers"):
        await run(LifecycleHandler(exec=Exec(command=["true"])), engine=engine)


def test_reasons_are_a_kubelets() -> None:
    assert [hook.reason for hook in Hook] == ["FailedPostStartHook", "FailedPreStopHook"]
