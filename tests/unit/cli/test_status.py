"""What `status` and `devices` show of a report, and what the daemon's outermost ring does."""

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from edgeappliance.cli import run
from edgeappliance.cli.status import figures, render_device, render_status, size, span, table
from edgeappliance.config.settings import EdgeSettings
from edgeappliance.kernel.systemd import notify

NOW_MS = 1_800_000_000_000


def component(state: str = "running", **values: Any) -> dict[str, Any]:
    return {"state": state, "reason": "", "next_step": "", "since_ms": NOW_MS - 200_000, "details": {}, **values}


def test_a_report_says_state_since_when_why_and_what_to_do() -> None:
    report = {
        "node": "edge-1",
        "version": "1.0",
        "uptime_s": 3725.0,
        "now_ms": NOW_MS,
        "components": {
            "store": component(details={"size_bytes": 37_088, "restarts_total": 0}),
            "edgehub": component("degraded", reason="no route", next_step="look at the cable", since_ms=NOW_MS - 4000),
            "broker": component("failed", reason="gone"),
        },
    }
    assert render_status(report) == [
        "node edge-1   edgecore 1.0   up 1h02m",
        "",
        "    COMPONENT  STATE     SINCE",
        "ok  store      running   3m20s  size 37 kB",
        "!!  edgehub    degraded  4s",
        "XX  broker     failed    3m20s",
        "",
        "edgehub: no route",
        "  what to do: look at the cable",
        "",
        "broker: gone",
    ]


def test_figures_are_for_people() -> None:
    details = {
        "cloud": "gw:10000",
        "ours": True,
        "sent_bytes_total": 1_234_567,
        "messages_dropped_total": 0,
        "waiting": 0,
        "load_percent": 2.3,
        "certificate_expiry_timestamp_seconds": 1_826_916_308,
        "lines": {"a": 1},
        "pid": "",
    }
    assert figures(details) == (
        "cloud gw:10000, ours: yes, sent 1.2 MB, waiting 0, load percent 2.3, certificate expiry 2027-11-22 20:45 UTC"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (37_088, "37 kB"), (9.99e6, "10.0 MB"), (5e12, "5000 GB")],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (59.4, "59s"), (59.6, "1m00s"), (3599, "59m59s"), (86399, "23h59m"), (100_000, "1d3h")],
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_empty_columns_are_left_out() -> None:
    assert table(("A", "B", "C"), [("1", "", "x"), ("22", "", "")]) == ["A   C", "1   x", "22"]
    assert table(("A", "B"), []) == [""]


def test_a_device_that_is_not_well_says_why() -> None:
    device = {
        "id": "default/meter",
        "protocol": "modbus",
        "state": "offline",
        "local": False,
        "line": "modbus /dev/ttyUSB0",
        "unit": 1,
        "reason": "no answer",
        "errors": ["spec.x: is wrong"],
        "properties": [
            {
                "name": "v",
                "type": "FLOAT",
                "unit": "V",
                "reported": "230.5",
                "reported_ms": NOW_MS - 61_000,
                "desired": None,
                "quality": "bad",
                "reason": "silent",
            }
        ],
    }
    assert render_device(device, NOW_MS) == [
        "default/meter   modbus   offline   modbus /dev/ttyUSB0 unit 1",
        "  no answer",
        "  error: spec.x: is wrong",
        "  PROPERTY  TYPE   REPORTED  UNIT  AGE    QUALITY",
        "  v         FLOAT  230.5     V     1m01s  bad: silent",
        "",
    ]


def test_a_value_of_many_lines_or_characters_does_not_break_the_table() -> None:
    device = {
        "id": "a/b", "protocol": "", "state": "", "local": True, "line": "", "unit": "", "reason": "", "errors": [],
        "properties": [
            {"name": "text", "type": "STRING", "unit": "", "reported": "two\nlines\x1b[2J" + "x" * 500,
             "reported_ms": 0, "desired": None, "quality": "good", "reason": ""}
        ],
    }  # fmt: skip
    lines = render_device(device, NOW_MS)
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines)) < 120


def test_systemd_is_told_when_it_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify("READY=1")
        assert systemd.recv(100) == b"READY=1"


def test_a_systemd_that_is_gone_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("STOPPING=1")


async def test_a_database_that_stays_damaged_makes_no_storm_of_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon's outermost ring: the next appliance looks closely, and each waits longer than the one before."""
    made: list[tuple[float, bool]] = []
    third = asyncio.Event()

    class Damaged:
        def __init__(self, config: EdgeSettings, *, suspect: bool) -> None:
            made.append((asyncio.get_running_loop().time(), suspect))
            if len(made) == 3:
                third.set()

        async def start(self) -> None: ...

        async def damaged(self) -> None: ...

        async def stop(self) -> None: ...

    monkeypatch.setattr(run, "Appliance", Damaged)
    ring = asyncio.create_task(run._run(EdgeSettings()))
    async with asyncio.timeout(20):
        await third.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(1):
        await ring
    assert [suspect for _, suspect in made] == [False, True, True]
    first, second, last = (when for when, _ in made)
    assert second - first >= 0.8
    assert last - second >= 1.6


def test_a_count_of_now_and_one_of_all_time_have_two_names() -> None:
    assert figures({"streams": 0, "streams_total": 21, "sent_total": 3}) == "streams 0, streams in all 21, sent 3"
