"""A full disk, a damaged database, a clock that jumps."""

import asyncio
import glob
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.ledger import AppLedger, ledger_device, pushes_lost
from tests.support.programs import output
from tests.support.stand import Stand, eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


async def with_ledger(stand: Stand) -> AppLedger:
    """Gateway and edge up, the ledger's device known."""
    await stand.start_gateway()
    await stand.join()
    await stand.start_edge()
    await stand.kubectl("apply", "-f", "-", stdin=ledger_device(stand.node))
    await eventually(lambda: devices(stand, 1), what="the device on the edge")
    ledger = AppLedger(stand.mqtt_port)
    ledger.start()
    return ledger


async def devices(stand: Stand, count: int) -> bool:
    status = await stand.status()
    return bool(status) and status["components"]["devicetwin"]["details"]["devices"] == count


@pytest.fixture
async def small_disk(tmp_path: Path) -> AsyncIterator[Path]:
    """A file system of 12 MB."""
    if os.geteuid() != 0:
        pytest.skip("a small file system can only be mounted as root")
    where = tmp_path / "small"
    where.mkdir()
    code, _, err = await output("mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", where)
    assert code == 0, err
    yield where
    code, _, err = await output("umount", "-l", where)
    assert code == 0, err


async def test_a_full_disk_refuses_and_recovers(stand: Stand, small_disk: Path) -> None:
    stand.edge_settings["state_dir"] = str(small_disk / "state")
    stand.write_settings()
    ledger = await with_ledger(stand)
    stop = asyncio.Event()
    writing = asyncio.create_task(ledger.write(stop, every=0.02))
    await eventually(lambda: true_when(ledger.results > 20), what="acknowledgements")
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass  # that is what full means
    # Changes that need room: big config maps for a pod of this node, and expected values.
    big = "".join(chr(97 + index % 26) for index in range(200_000))
    for number in range(3):
        await stand.kubectl("apply", "-f", "-", stdin=pod_with_config(stand.node, f"big{number}", big))
    await eventually(lambda: true_when(bool(ledger.errors)), what="a refusal that the app can see", timeout=30)
    assert ledger.errors[0]["code"] == 500, ledger.errors[0]
    assert not await ledger.lost()
    ballast.unlink()
    results = ledger.results
    await eventually(lambda: true_when(ledger.results > results + 20), what="acknowledgements again", timeout=30)

    async def stored() -> bool:
        return not await pushes_lost(stand, at_least=1) and await acknowledged_configs(stand) == 3

    await eventually(stored, what="the big config maps stored and acknowledged", timeout=60)
    stop.set()
    await writing
    assert not await ledger.lost()
    ledger.stop()


async def true_when(condition: bool) -> bool:
    return condition


async def acknowledged_configs(stand: Stand) -> int:
    listed = json.loads(await stand.kubectl("get", "objectsyncs", "-A", "-o", "json"))["items"]
    return sum(1 for item in listed if item["spec"]["objectKind"] == "ConfigMap" and item.get("status"))


def pod_with_config(node: str, name: str, text: str) -> str:
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
        "data": {"t": text},
    }
    container = {"name": "c", "image": "none", "envFrom": [{"configMapRef": {"name": name}}]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": node, "containers": [container]},
    }
    config["metadata"]["annotations"] = {}
    return json.dumps(config) + "\n---\n" + json.dumps(pod)


async def test_a_damaged_database_is_kept_and_filled_again(stand: Stand) -> None:
    ledger = await with_ledger(stand)
    await stand.edge.stop()
    state = Path(stand.edge_settings["state_dir"])
    (state / "edge.db").write_bytes(os.urandom(65536))
    await stand.start_edge()
    await eventually(lambda: devices(stand, 1), what="the device again, from the cloud", timeout=30)
    kept = list(state.glob("edge.db.damaged-*"))
    assert len(kept) == 1
    assert kept[0].stat().st_size == 65536
    code, out, _ = await stand.edgecore("status")
    assert code == 0
    assert f"the database was damaged and is kept as {kept[0]}" in out
    ledger.stop()


def faketime() -> str:
    found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
    if not found:
        pytest.skip("libfaketime is not installed (apt: faketime)")
    return found[0]


@pytest.mark.parametrize("jump", ["+500d", "-12y"])
async def test_the_link_survives_a_clock_that_jumps(stand: Stand, tmp_path: Path, jump: str) -> None:
    when = tmp_path / "faketime"
    when.write_text("+0")
    stand.edge.environment |= {
        "LD_PRELOAD": faketime(),
        "FAKETIME_TIMESTAMP_FILE": str(when),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    ledger = await with_ledger(stand)
    stop = asyncio.Event()
    writing = asyncio.create_task(ledger.write(stop, every=0.05))
    await eventually(lambda: true_when(ledger.results > 10), what="acknowledgements")
    when.write_text(jump)
    results = ledger.results
    await eventually(lambda: true_when(ledger.results > results + 20), what="acknowledgements after the jump")
    # A new connection under the wrong time: the certificate is expired, or not valid yet, by this clock.
    await stand.gateway.stop()
    await stand.start_gateway()
    await stand.edge.until(stand.edge_connected, what="the link under the wrong time", timeout=40)
    # And a cold start under the wrong time.
    await stand.edge.kill()
    await stand.start_edge()
    stop.set()
    await writing
    await asyncio.sleep(0.5)
    assert not await ledger.lost()
    assert not ledger.errors
    ledger.stop()
