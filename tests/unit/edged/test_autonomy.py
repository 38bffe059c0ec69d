"""edgecore autonomy: what is here and what is not, said before the cut, with what to do."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgeappliance.cli.autonomy import autonomy, render_autonomy
from edgeappliance.edged.autonomy import (
    DAY,
    ClockSource,
    Outbox,
    PodInputs,
    Wanted,
    judge,
    judge_certificate,
    judge_clock,
    judge_outbox,
    read_clock_source,
    report,
)
from edgeappliance.edged.engine.api import EngineAway, EngineRefused, Image
from edgeappliance.edged.pods.reading import read_pod
from edgeappliance.kernel.clock import ManualClock
from edgeappliance.kernel.control import ControlServer
from edgeappliance.store.database import open_store
from edgeappliance.store.meta import MetaRow, MetaStore


class Shelf:
    """An engine of which only the images are asked."""

    def __init__(self, *images: str, trouble: str = "") -> None:
        self._images = images
        self.trouble = trouble
        self.asked: list[str] = []

    @property
    def connected(self) -> bool:
        return not self.trouble

    async def image(self, name: str) -> Image | None:
        self.asked.append(name)
        return Image(id="sha256:1", names=(name,), size=1) if name in self._images else None


class Breaking(Shelf):
    """An engine that goes away while it is asked."""

    async def image(self, name: str) -> Image | None:
        raise EngineAway("connection refused")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[MetaStore]:
    database = await open_store(tmp_path)
    yield MetaStore(database)
    await database.close()


@pytest.fixture
def rtc(tmp_path: Path) -> Path:
    """A root whose hardware clock keeps the time of ManualClock."""
    root = tmp_path / "root"
    (root / "sys/class/rtc/rtc0").mkdir(parents=True)
    (root / "sys/class/rtc/rtc0/since_epoch").write_text(f"{ManualClock().wall_ms() // 1000}\n")
    return root


def pod(name: str = "p", **spec: Any) -> Wanted:
    spec.setdefault("containers", [{"name": "c", "image": "i:1"}])
    metadata = {"name": name, "namespace": "ns", "uid": f"uid-{name}"}
    return Wanted(read_pod({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))


def full_pod() -> Wanted:
    container = {
        "name": "c",
        "image": "i:1",
        "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "envFrom": [{"configMapRef": {"name": "perhaps", "optional": True}}],
    }
    volumes = [
        {"name": "v", "configMap": {"name": "cm"}},
        {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
    ]
    return pod(containers=[container], initContainers=[{"name": "i", "image": "j:1"}], volumes=volumes)


async def ask(store: MetaStore, engine: Shelf, root: Path, *pods: Wanted, ends: float | None = None) -> dict[str, Any]:
    clock = ManualClock()
    if ends is not None:
        ends += clock.wall_ms() / 1000
    return await report(node="n", pods=pods, store=store, engine=engine, certificate_ends=ends, clock=clock, root=root)


async def test_everything_is_here(store: MetaStore, rtc: Path) -> None:
    for key, kind in (("ns/configmap/cm", "configmap"), ("ns/secret/s", "secret")):
        await store.put(MetaRow(key, kind, b"{}"))
    await store.put(MetaRow("token", "serviceaccounttoken", b"{}", uid="uid-p"))
    found = await ask(store, Shelf("i:1", "j:1"), rtc, full_pod(), ends=100 * DAY)
    assert found["survives"]
    row = found["pods"][0]
    assert [(row[key]["have"], row[key]["need"]) for key in ("images", "configs", "secrets", "tokens")] == [
        (2, 2),
        (1, 1),
        (1, 1),
        (1, 1),
    ]
    lines = render_autonomy(json.loads(json.dumps(found)))  # as it comes over the control socket
    assert "ok  ns/p  2/2     1/1     1/1      1/1" in lines
    assert "certificate  100 days left" in lines
    assert "clock        RTC rtc0" in lines
    assert lines[-1] == "everything would survive a cut"


async def test_what_is_not_here_is_named_with_what_to_do(store: MetaStore, rtc: Path) -> None:
    found = await ask(store, Shelf("i:1"), rtc, full_pod(), pod("other"))
    assert not found["survives"]
    first, second = found["pods"]
    assert (first["survives"], second["survives"]) == (False, True)
    assert first["images"]["missing"] == ("j:1",)
    assert first["configs"]["missing"] == ("cm",)  # and not the optional one
    assert [words.split()[0] for words in first["todo"]] == ["pull", "create", "create", "let"]
    lines = render_autonomy(found)
    assert "  ns/p: pull the image j:1 while there is a link (docker pull j:1)" in lines
    assert lines[-1] == "not everything would survive a cut"


async def test_a_token_of_another_pod_is_none_of_ours(store: MetaStore, rtc: Path) -> None:
    await store.put(MetaRow("token", "serviceaccounttoken", b"{}", uid="uid-other"))
    found = await ask(store, Shelf("i:1", "j:1"), rtc, full_pod())
    assert found["pods"][0]["tokens"] == {"have": 0, "need": 1, "missing": ("default",)}


async def test_a_pod_that_has_ended_needs_nothing(store: MetaStore, rtc: Path) -> None:
    engine = Shelf()
    found = await ask(store, engine, rtc, Wanted(full_pod().pod, ended=True))
    assert (found["survives"], engine.asked) == (True, [])
    assert "--  ns/p  ended" in render_autonomy(found)


async def test_an_image_of_many_pods_is_asked_for_once(store: MetaStore, rtc: Path) -> None:
    engine = Shelf("i:1")
    await ask(store, engine, rtc, *(pod(f"p{number}") for number in range(5)))
    assert engine.asked == ["i:1"]


@pytest.mark.parametrize("engine", [Shelf(trouble="connection refused"), Breaking()], ids=["away", "breaks"])
async def test_without_an_engine_no_image_is_known(store: MetaStore, rtc: Path, engine: Shelf) -> None:
    found = await ask(store, engine, rtc, pod())
    assert not found["survives"]
    assert found["pods"][0]["images_known"] is False
    assert found["pods"][0]["todo"] == ()  # a pull is not what helps
    lines = render_autonomy(found)
    assert "docker       connection refused" in lines
    assert "  engine: see to Docker: connection refused" in lines


async def test_a_node_without_pods_or_cloud(store: MetaStore, rtc: Path) -> None:
    found = await ask(store, Shelf(), rtc)
    lines = render_autonomy(found)
    assert found["survives"]
    assert "no pods" in lines
    assert "certificate  none: this node has no cloud" in lines


@pytest.mark.parametrize(
    ("days", "survives", "word"), [(None, True, ""), (15, True, ""), (5, True, "5 days"), (0, False, "ended")]
)
def test_certificates(days: float | None, survives: bool, word: str) -> None:
    verdict = judge_certificate(days)
    assert (verdict.survives, bool(verdict.todo)) == (survives, bool(word))
    assert all(word in text for text in verdict.todo)


@pytest.mark.parametrize(
    ("hours", "survives", "told"), [(None, True, False), (48, True, False), (3, True, True), (0, False, True)]
)
def test_outboxes(hours: float | None, survives: bool, told: bool) -> None:
    verdict = judge_outbox(Outbox(hours, "rows"))
    assert (verdict.survives, bool(verdict.todo)) == (survives, told)


@pytest.mark.parametrize(
    ("source", "survives", "word"),
    [
        (ClockSource("chrony", "rtc0"), True, ""),
        (ClockSource("", "rtc0", 60.0), True, ""),
        (ClockSource("chrony"), True, "network alone"),
        (ClockSource(), False, "fit a real-time clock"),
        (ClockSource("", "rtc0", -50 * DAY), False, "rtc0 is 1200 hours off"),
    ],
)
def test_clocks(source: ClockSource, survives: bool, word: str) -> None:
    verdict = judge_clock(source)
    assert (verdict.survives, bool(verdict.todo)) == (survives, bool(word))
    assert all(word in text for text in verdict.todo)


def test_clock_sources_are_read(tmp_path: Path) -> None:
    assert read_clock_source(tmp_path, now=1e9) == ClockSource()
    for name, told in (("rtc0", "5"), ("rtc1", "999999990"), ("rtc2", "not set")):
        device = tmp_path / "sys/class/rtc" / name
        device.mkdir(parents=True)
        (device / "since_epoch").write_text(told)
    (tmp_path / "run/systemd/timesync").mkdir(parents=True)
    source = read_clock_source(tmp_path, now=1e9)
    assert source == ClockSource("timesyncd", "rtc1", -10.0, False)
    assert source.keeps_time
    (tmp_path / "run/systemd/timesync/synchronized").touch()
    (tmp_path / "run/chrony").mkdir()
    (tmp_path / "run/chrony/chronyd.pid").touch()
    assert read_clock_source(tmp_path, now=1e9).daemon == "chrony"


def test_names_from_outside_do_not_steer_the_terminal() -> None:
    inputs = PodInputs(namespace="ns", name="p", images={"\x1b[2J": False})
    assert "\x1b" in judge(inputs).todo[0]
    part = {
        "survives": True,
        "todo": [],
        "days": None,
        "hours": None,
        "text": "",
        "daemon": "",
        "rtc": "",
        "trouble": "",
    }
    row = {"namespace": "ns", "name": "p", "ended": False, "survives": False, "images_known": True}
    counts = {key: {"have": 0, "need": 1} for key in ("images", "configs", "secrets", "tokens")}
    clock = {**part, "keeps_time": False, "synchronised": None}
    pods = [{**row, **counts, "todo": judge(inputs).todo}]
    found = {
        "node": "n",
        "pods": pods,
        "survives": False,
        "certificate": part,
        "outbox": part,
        "clock": clock,
        "engine": part,
    }
    assert not any("\x1b" in line for line in render_autonomy(found))


@pytest.mark.parametrize(("survives", "code"), [(True, 0), (False, 1)])
async def test_the_verb_says_by_its_exit_code_whether_all_would_survive(
    tmp_path: Path, store: MetaStore, rtc: Path, capsys: pytest.CaptureFixture[str], survives: bool, code: int
) -> None:
    async def answer(arguments: Mapping[str, Any]) -> Any:
        return await ask(store, Shelf("i:1" if survives else "other:1"), rtc, pod())

    server = ControlServer(path=tmp_path / "control.sock", verbs={"autonomy": answer})
    await server.start()
    try:
        for as_json in (False, True):
            assert await asyncio.to_thread(autonomy, tmp_path / "control.sock", as_json=as_json) == code
        out = capsys.readouterr().out
        assert "node n" in out
        assert json.loads(out[out.index("{") :])["survives"] is survives
    finally:
        await server.stop()


class Strict(Shelf):
    """An engine that refuses names which are none."""

    async def image(self, name: str) -> Image | None:
        if " " in name:
            raise EngineRefused("invalid reference format", code=400)
        return await super().image(name)


async def test_a_name_that_is_none_costs_the_other_pods_nothing(store: MetaStore, rtc: Path) -> None:
    pods = [pod("bad", containers=[{"name": "c", "image": "Not Valid"}]), pod("good")]
    found = await report(
        node="n", pods=pods, store=store, engine=Strict("i:1"), certificate_ends=None, clock=ManualClock(), root=rtc
    )
    assert found["engine"]["trouble"] == ""
    assert {row["name"]: row["survives"] for row in found["pods"]} == {"bad": False, "good": True}
