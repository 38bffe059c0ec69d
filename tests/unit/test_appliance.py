"""edgecore as a whole: what it starts, what it refuses, what it leaves behind, what it says."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgeappliance.appliance import Appliance
from edgeappliance.config.joined import Joined, write_joined
from edgeappliance.config.settings import EdgeSettings
from edgeappliance.kernel import control, settings
from edgeappliance.kernel.errors import ApplianceError, OperatorError
from tests.support.net import free_port
from tests.support.programs import ROOT


def config(directory: Path, **changes: Any) -> EdgeSettings:
    values: dict[str, Any] = {
        "state_dir": str(directory / "state"),
        "runtime_dir": str(directory / "run"),
        "node": {"name": "edge-1"},
        "mqtt": {"port": free_port()},
        "metrics": {"port": 0},
        "mappers": {"directory": str(directory / "mappers.d")},
        "edged": {"docker": str(directory / "no-docker.sock"), "manifests": str(directory / "m.d"), "kubelet_port": 0},
    }
    return settings.convert(EdgeSettings, {**values, **changes}, source="test")


@contextlib.asynccontextmanager
async def running(chosen: EdgeSettings) -> AsyncIterator[Appliance]:
    appliance = Appliance(chosen)
    await appliance.start()
    try:
        yield appliance
    finally:
        await appliance.stop()


async def status(chosen: EdgeSettings) -> dict[str, Any]:
    report: dict[str, Any] = await control.call(chosen.control_socket, "status")
    return report


async def page(chosen: EdgeSettings, path: str) -> tuple[str, str]:
    address = (await status(chosen))["components"]["metrics"]["details"]["address"]
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return head.split("\r\n")[0], body


async def test_a_box_without_a_cloud_runs_and_says_how_it_is(tmp_path: Path) -> None:
    chosen = config(tmp_path)
    async with running(chosen):
        report = await status(chosen)
        assert report["node"] == "edge-1"
        components = report["components"]
        assert list(components) == [
            "store", "metamanager", "broker", "eventbus", "devicetwin", "mappers", "devices", "docker", "edged",
            "static", "housekeeping", "kubelet", "edgehub", "metrics", "control",
        ]  # fmt: skip
        assert all(part["since_ms"] > 0 for part in components.values())
        assert {name for name, part in components.items() if part["state"] == "failed"} == set()
        assert "edgecore join" in components["edgehub"]["next_step"]
        assert components["docker"]["state"] == components["edged"]["state"] == "degraded"
        assert "edged.enable = false" in components["docker"]["next_step"]
        assert (await control.call(chosen.control_socket, "devices"))["devices"] == []
    assert not chosen.control_socket.exists()


async def test_metrics_follow_the_conventions(tmp_path: Path) -> None:
    chosen = config(tmp_path)
    async with running(chosen):
        line, text = await page(chosen, "/metrics")
        assert line == "HTTP/1.1 200 OK"
        assert (await page(chosen, "/healthz"))[0] == "HTTP/1.1 200 OK"
    types = {family.name: family.type for family in text_string_to_metric_families(text)}
    assert types["edgecore_component_up"] == "gauge"
    assert types["edgecore_eventbus_messages_received"] == "counter"
    assert types["edgecore_store_size_bytes"] == "gauge"
    assert types["process_start_time_seconds"] == "gauge"
    assert "edgecore_build_info" in text
    assert "unknown" not in types.values()
    assert not any(name.endswith(("_pid", "_port")) for name in types)


async def test_a_part_that_fails_leaves_the_others_and_is_said(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    chosen = config(tmp_path, metrics={"port": port})
    async with running(chosen):
        components = (await status(chosen))["components"]
        assert components["metrics"]["state"] == "failed"
        assert str(port) in components["metrics"]["reason"]
        assert components["metrics"]["next_step"]
        assert components["devicetwin"]["state"] == "running"
    taken.close()


async def test_what_is_not_configured_is_not_there(tmp_path: Path) -> None:
    chosen = config(
        tmp_path,
        metrics={"enable": False},
        mappers={"modbus": False, "directory": str(tmp_path / "m")},
        mqtt={"mode": "external", "port": free_port()},
        edged={"enable": False},
    )
    async with running(chosen):
        assert list((await status(chosen))["components"]) == [
            "store", "metamanager", "eventbus", "devicetwin", "devices", "edgehub", "control",
        ]  # fmt: skip


async def test_a_cloud_that_is_away_keeps_nothing_from_starting(tmp_path: Path) -> None:
    chosen = config(tmp_path)
    chosen.state_path.mkdir()
    write_joined(chosen.state_path, Joined(f"127.0.0.1:{free_port()}", "", "edge-1"))
    async with asyncio.timeout(10), running(chosen):
        components = (await status(chosen))["components"]
        assert components["edgehub"]["state"] in ("starting", "degraded")
        assert components["node"]["state"] == "degraded"
        assert components["devicetwin"]["state"] == "running"


async def test_a_second_edgecore_on_the_same_state_is_refused(tmp_path: Path) -> None:
    first = config(tmp_path)
    async with running(first):
        second = Appliance(msgspec.structs.replace(first, runtime_dir=str(tmp_path / "other")))
        with pytest.raises(OperatorError, match="another edgecore uses .*/state"):
            await second.start()
        await second.stop()
    async with running(first):  # the lock went with it
        pass


async def test_a_second_edgecore_in_the_same_runtime_directory_leaves_the_broker_alone(tmp_path: Path) -> None:
    first = config(tmp_path)
    async with running(first):
        pid = (await status(first))["components"]["broker"]["details"]["pid"]
        second = Appliance(msgspec.structs.replace(first, state_dir=str(tmp_path / "other")))
        with pytest.raises(OperatorError, match="another edgecore uses .*/run"):
            await second.start()
        assert (await status(first))["components"]["broker"]["details"]["pid"] == pid
        os.kill(int(pid), 0)
    async with running(msgspec.structs.replace(first, state_dir=str(tmp_path / "other"))):  # nothing was left locked
        pass


@pytest.mark.parametrize("broken", ["state", "run", "state/lock", "state/edge.db", "state/joined.toml"])
async def test_a_directory_that_cannot_be_used_is_said_and_nothing_is_left(tmp_path: Path, broken: str) -> None:
    chosen = config(tmp_path)
    path = tmp_path / broken
    if "/" in broken:
        path.mkdir(parents=True)  # a directory where a file belongs: root is refused it, too
    else:
        path.touch()
    with pytest.raises(ApplianceError, match=str(path)) as refused:
        await Appliance(chosen).start()
    assert refused.value.next_step
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()
    async with running(chosen):
        pass


async def test_sigterm_ends_the_program_quickly_and_leaves_nothing(tmp_path: Path) -> None:
    chosen = config(tmp_path)
    file = tmp_path / "edgecore.toml"
    settings.write(file, msgspec.to_builtins(chosen))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edgeappliance", "run", "--config", str(file), cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    while b"edgecore runs" not in (line := await process.stderr.readline()):
        assert line, "it ended"
    broker = int((await status(chosen))["components"]["broker"]["details"]["pid"])
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(5):
        rest = await process.stderr.read()
        assert await process.wait() == 0
    assert b"Traceback" not in rest
    with pytest.raises(ProcessLookupError):
        os.kill(broker, 0)
