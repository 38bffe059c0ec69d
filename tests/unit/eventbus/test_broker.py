"""mosquitto as a child of edgecore."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgeappliance.config.settings import Mqtt, MqttListener
from edgeappliance.eventbus import Broker
from edgeappliance.kernel.clock import SystemClock
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.supervisor import TaskScope
from tests.support.broker import MqttApp
from tests.support.net import free_port
from tests.unit.eventbus.parts import event_bus


@contextlib.asynccontextmanager
async def running(settings: Mqtt, runtime: Path) -> AsyncIterator[Broker]:
    failures: list[BaseException] = []
    broker = Broker(settings=settings, runtime=runtime, scope=TaskScope("broker", failures.append), clock=SystemClock())
    try:
        await broker.start()
        yield broker
    finally:
        await broker.stop()
    assert failures == []


async def test_it_accepts_when_started_and_is_gone_when_stopped(tmp_path: Path):
    settings = Mqtt(port=free_port())
    async with running(settings, tmp_path) as broker:
        pid = broker.pid
        assert pid is not None
        async with event_bus(settings, tmp_path / "db") as (bus, _, watcher), MqttApp(settings.port) as app:
            await watcher.wait(True)
            await app.subscribe("t")
            bus.publish("t", b"x")
            assert await app.wait(1) == [("t", b"x")]
        assert broker.health().state == "running"
    assert broker.health().state == "stopped"
    assert not Path(f"/proc/{pid}").exists()


async def test_killed_it_comes_back_and_clients_too(tmp_path: Path):
    settings = Mqtt(port=free_port())
    async with running(settings, tmp_path) as broker, event_bus(settings, tmp_path / "db") as (bus, _, watcher):
        await watcher.wait(True)
        for _ in range(3):
            before = len(watcher.seen)
            assert broker.pid is not None
            os.kill(broker.pid, signal.SIGKILL)
            await watcher.wait(False, after=before)
            await watcher.wait(True, after=before)
            assert bus.publish("t", b"x")
        assert broker.health().details["mosquitto_restarts_total"] == 3


async def test_a_taken_port_is_explained(tmp_path: Path):
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(OperatorError) as caught:
        async with running(Mqtt(port=port), tmp_path):
            pass
    assert f"port {port} of 127.0.0.1 is taken" in caught.value.message
    assert "mqtt.port" in caught.value.next_step
    server.close()
    await server.wait_closed()


async def test_a_missing_program_is_explained(tmp_path: Path):
    with pytest.raises(OperatorError) as caught:
        async with running(Mqtt(port=free_port(), mosquitto=str(tmp_path / "none")), tmp_path):
            pass
    assert "apt-get install -y mosquitto" in caught.value.next_step


async def test_a_configuration_that_mosquitto_refuses_is_explained(tmp_path: Path):
    (tmp_path / "secret").write_text("s")
    pods = MqttListener(
        address="127.0.0.1",
        port=free_port(),
        user="app",
        password_file=str(tmp_path / "secret"),
        acl_file=str(tmp_path / "no-such-file"),
    )
    with pytest.raises(OperatorError, match="mosquitto did not start"):
        async with running(Mqtt(port=free_port(), pods=pods), tmp_path):
            pass


async def test_the_second_listener_asks_for_a_password_and_keeps_to_its_acl(tmp_path: Path):
    (tmp_path / "secret").write_text("s e:cret\n")
    (tmp_path / "acl").write_text("user app\ntopic readwrite default/user/#\n")
    pods = MqttListener(
        address="127.0.0.1",
        port=free_port(),
        user="app",
        password_file=str(tmp_path / "secret"),
        acl_file=str(tmp_path / "acl"),
    )
    settings = Mqtt(port=free_port(), pods=pods)
    async with running(settings, tmp_path / "run"):
        for user, password in ((None, None), ("app", "guess"), ("other", "s e:cret")):
            async with MqttApp(pods.port, username=user, password=password) as stranger:
                assert stranger.refused
        async with (
            MqttApp(settings.port) as inside,
            MqttApp(pods.port, username="app", password="s e:cret") as pod,
        ):
            assert pod.refused == ""
            await inside.subscribe("#")
            pod.publish("$hw/events/device/default/d1/twin/update", "{}")
            pod.publish("elsewhere", "no")
            pod.publish("default/user/x", "yes")
            assert await inside.wait(1) == [("default/user/x", b"yes")]


async def test_an_orphan_of_a_killed_edgecore_is_ended(tmp_path: Path):
    settings = Mqtt(port=free_port())
    first = TaskScope("broker", lambda _: None)
    orphan = Broker(settings=settings, runtime=tmp_path, scope=first, clock=SystemClock())
    await orphan.start()
    await first.cancel()  # nobody looks after it any more, as after kill -9 of its parent
    pid = orphan.pid
    async with running(settings, tmp_path) as broker:
        assert broker.pid not in (None, pid)
        assert broker.health().state == "running"
    await orphan.stop()


async def test_an_odd_pid_file_is_no_orphan(tmp_path: Path):
    settings = Mqtt(port=free_port())
    (tmp_path / "mqtt").mkdir()
    (tmp_path / "mqtt" / "mosquitto.pid").write_text(f"{os.getpid()}\n")
    async with running(settings, tmp_path) as broker:
        assert broker.pid is not None
