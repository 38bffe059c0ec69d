"""What is on disk when, what survives, and what happens when the disk refuses."""

import asyncio
import shutil
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import apsw
import pytest

from cloudgateway.apiserver.embedded import NAMESPACES, EmbeddedApi
from cloudgateway.apiserver.store import RESERVE, ObjectStore
from edgeappliance.kernel.component import State
from edgeappliance.kernel.database import Database, StorageError, Transaction
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kubeapi.storage import Change, ChangeType
from tests.support.embedded_api import MERGE, Api, widget, widget_definition

T = TypeVar("T")
MAPS = "/api/v1/namespaces/default/configmaps"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WIDGETS = "/apis/test.example.com/v1/namespaces/default/widgets"


class StubbornDatabase:
    """A database of which the writes can be held back or refused."""

    def __init__(self, inner: Database) -> None:
        self._inner = inner
        self.refuse = False
        self.refuse_once = False
        self.refused = asyncio.Event()
        self.waiting = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.writes: list[bool] = []

    async def write(self, work: Callable[[Transaction], T], *, durable: bool) -> T:
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        if self.refuse or self.refuse_once:
            self.refuse_once = False
            self.refused.set()
            raise StorageError("disk is full")
        result = await self._inner.write(work, durable=durable)
        self.writes.append(durable)
        return result

    async def read(self, work: Callable[[Transaction], T]) -> T:
        return await self._inner.read(work)


class Bench:
    """A store on a stubborn database."""

    def __init__(self, database: StubbornDatabase, store: ObjectStore) -> None:
        self.database = database
        self.store = store
        self.seen: list[tuple[ChangeType, str, int]] = []
        store.listen(self._listen)

    def _listen(self, change: Change) -> None:
        self.seen.append((change.type, change.entry.name, change.version))

    def put(self, name: str, *, durable: bool = True, delete: bool = False, **data: Any) -> "asyncio.Future[Any]":
        base = self.store.head("things", "", name)
        value = {"apiVersion": "v1", "metadata": {"name": name, "uid": f"u-{name}"}, "data": data}
        return self.store.write("things", value, base=base, delete=delete, durable=durable)


@pytest.fixture
async def bench(tmp_path: Path) -> Any:
    database = await Database.open(tmp_path / "objects.db", schema="cloudgateway.apiserver.schema")
    stubborn = StubbornDatabase(database)
    store = await ObjectStore.open(stubborn, fields=lambda key: (), first=lambda values: None)  # type: ignore[arg-type]
    pump = asyncio.create_task(store.run())
    bench = Bench(stubborn, store)
    await bench.put("first")
    bench.seen.clear()
    yield bench
    stubborn.gate.set()
    stubborn.refuse = False
    store.stop()
    await pump
    await store.close()
    await database.close()


async def test_a_write_is_visible_when_it_is_on_disk(bench: Bench) -> None:
    bench.database.gate.clear()
    done = bench.put("a", n=1)
    assert bench.store.get("things", "", "a") is None
    assert bench.store.head("things", "", "a") is not None
    await asyncio.sleep(0)
    assert not done.done()
    bench.database.gate.set()
    entry = await done
    assert bench.store.get("things", "", "a") is entry
    assert bench.store.version == entry.version


async def test_writes_that_need_no_disk_are_visible_at_once_but_never_out_of_order(bench: Bench) -> None:
    bench.put("lazy", durable=False)
    assert bench.store.get("things", "", "lazy") is not None
    bench.database.gate.clear()
    waiting = bench.put("durable")
    after = bench.put("lazy", durable=False, n=2)
    assert bench.store.get("things", "", "durable") is None
    assert not after.done()
    bench.database.gate.set()
    await asyncio.gather(waiting, after)
    versions = [version for _, _, version in bench.seen]
    assert versions == sorted(versions)
    assert [name for _, name, _ in bench.seen] == ["lazy", "durable", "lazy"]


async def test_waiting_writes_share_one_commit(bench: Bench) -> None:
    bench.database.gate.clear()
    first = bench.put("a")
    await asyncio.sleep(0)
    others = [bench.put(f"o{index}") for index in range(100)]
    before = len(bench.database.writes)
    bench.database.gate.set()
    await asyncio.gather(first, *others)
    assert len(bench.database.writes) - before <= 2


async def test_a_refusing_disk_undoes_what_was_built_on_it(bench: Bench) -> None:
    await bench.put("a", n=1)
    bench.database.refuse = True
    bench.database.gate.clear()
    one = bench.put("a", n=2)
    await asyncio.sleep(0.01)
    two, other = bench.put("a", n=3), bench.put("b", n=1)
    bench.database.gate.set()
    with pytest.raises(StorageError):
        await one
    with pytest.raises(StorageError):
        await two
    with pytest.raises(StorageError):
        await other
    entry = bench.store.head("things", "", "a")
    assert entry is not None
    assert entry.object()["data"] == {"n": 1}
    bench.database.refuse = False
    assert (await bench.put("a", n=4)).object()["data"] == {"n": 4}
    assert (await bench.put("a", delete=True)).name == "a"
    assert bench.store.head("things", "", "a") is None


async def test_lazy_writes_outlive_a_refusing_disk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloudgateway.apiserver.store.LAZY_INTERVAL", 0.01)
    monkeypatch.setattr("cloudgateway.apiserver.store.RETRY_INTERVAL", 0.01)
    bench.database.refuse = True
    await bench.put("lazy", durable=False, n=1)
    await asyncio.sleep(0.05)
    bench.database.refuse = False
    before = len(bench.database.writes)
    async with asyncio.timeout(5):
        while len(bench.database.writes) == before:
            await asyncio.sleep(0.01)
    rows = await bench.database.read(lambda transaction: transaction.execute("SELECT name FROM objects ORDER BY name"))
    assert ("lazy",) in rows


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    api = Api(await EmbeddedApi.open(tmp_path / "api"))
    await api.ok("POST", CRDS, widget_definition())
    await api.ok("POST", WIDGETS, widget("w", size=7))
    await api.ok("PUT", f"{LEASES}/n", {"metadata": {"name": "n"}, "spec": {"holderIdentity": "x"}})
    await api.ok("POST", MAPS, {"metadata": {"name": "gone"}})
    await api.ok("DELETE", f"{MAPS}/gone")
    last = await api.ok("GET", WIDGETS)
    await api.embedded.close()
    assert api.embedded.health().state is State.STOPPED
    api = Api(await EmbeddedApi.open(tmp_path / "api"))
    assert (await api.ok("GET", WIDGETS))["items"] == last["items"]
    assert (await api.ok("GET", f"{LEASES}/n"))["spec"] == {"holderIdentity": "x"}
    await api.fails(404, "GET", f"{MAPS}/gone")
    assert (await api.ok("GET", "/api/v1/namespaces/default"))["metadata"]["name"] == "default"
    old = last["metadata"]["resourceVersion"]
    async for event in api.events(f"{WIDGETS}?watch=1&resourceVersion={int(old) - 3}"):
        assert event["object"]["code"] == 410
    await api.embedded.close()


async def test_what_was_answered_survives_a_crash_and_versions_only_grow(tmp_path: Path) -> None:
    api = Api(await EmbeddedApi.open(tmp_path / "api"))
    highest = 0
    for index in range(20):
        value = await api.ok("POST", MAPS, {"metadata": {"name": f"c{index}"}})
        value = await api.ok("PUT", f"{LEASES}/n", {"metadata": {"name": "n"}, "spec": {"leaseTransitions": index}})
        highest = int(value["metadata"]["resourceVersion"])
    # A power cut: what the files hold at this moment is all that is left.
    shutil.copytree(tmp_path / "api", tmp_path / "crashed")
    await api.embedded.close()
    api = Api(await EmbeddedApi.open(tmp_path / "crashed"))
    assert len((await api.ok("GET", MAPS))["items"]) == 20
    value = await api.ok("PATCH", f"{MAPS}/c1", {"data": {"a": "1"}}, type=MERGE)
    assert highest < int(value["metadata"]["resourceVersion"]) < highest + 3 * RESERVE
    await api.embedded.close()


async def served(directory: Path) -> Api:
    """An API with one object that has been served."""
    api = Api(await EmbeddedApi.open(directory))
    await api.embedded.serve()
    await api.ok("POST", MAPS, {"metadata": {"name": "precious"}})
    await api.embedded.close()
    return api


async def nonsense(directory: Path) -> None:
    (directory / "objects.db").write_bytes(b"nonsense" * 1000)


async def emptied(directory: Path) -> None:
    (directory / "objects.db").write_bytes(b"")


async def header_alone(directory: Path) -> None:
    """What a copy without the -wal is when nothing has been folded in yet."""
    (directory / "objects.db").unlink()
    await (await Database.open(directory / "objects.db", schema="cloudgateway.apiserver.schema")).close()


async def log_alone(directory: Path) -> None:
    (directory / "objects.db").rename(directory / "objects.db-wal")


async def spoiled_object(directory: Path) -> None:
    database = await Database.open(directory / "objects.db", schema="cloudgateway.apiserver.schema")
    await database.write(
        lambda tx: tx.execute("UPDATE objects SET value = x'7b00' WHERE name = 'precious'"), durable=True
    )
    await database.close()


@pytest.mark.parametrize("harm", [nonsense, emptied, header_alone, log_alone, spoiled_object])
async def test_a_damaged_database_is_never_begun_anew(
    tmp_path: Path, harm: Callable[[Path], Coroutine[Any, Any, None]]
) -> None:
    """An API that begins empty would have every edge delete what it runs."""
    directory = tmp_path / "api"
    await served(directory)
    await harm(directory)
    before = {path.name: path.read_bytes() for path in directory.glob("objects.db*") if path.suffix != ".db-shm"}
    for _ in range(2):  # not even at the second attempt
        with pytest.raises(OperatorError, match="nothing can fill it again") as refused:
            await EmbeddedApi.open(directory)
        assert "put a good copy in its place" in refused.value.next_step
    after = {name: (directory / name).read_bytes() for name in before}
    if harm is not emptied:
        assert after == before
    for name in ("objects.db", "objects.db-wal", "admin.token"):  # what the next step says
        (directory / name).unlink(missing_ok=True)
    await (await EmbeddedApi.open(directory)).close()


async def test_a_database_damaged_in_use_still_answers_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy in memory is the last good one: the operator is told to save it, and no restart throws it away."""
    api = Api(await EmbeddedApi.open(tmp_path / "api"))
    await api.ok("POST", MAPS, {"metadata": {"name": "precious"}})

    def spoil(transaction: Transaction, rows: Any) -> None:
        raise apsw.CorruptError("database disk image is malformed")

    with monkeypatch.context() as patch:
        patch.setattr("cloudgateway.apiserver.store._put", spoil)
        status = await api.fails(503, "POST", MAPS, {"metadata": {"name": "a"}})
        assert "damaged" in status["message"]
    await api.ok("GET", f"{MAPS}/precious")
    health = api.embedded.health()
    assert health.state is State.DEGRADED
    assert "save your objects" in health.next_step
    await api.embedded.close()


async def test_the_database_is_for_its_owner_alone(tmp_path: Path) -> None:
    embedded = await EmbeddedApi.open(tmp_path / "api")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "api").glob("objects.db*")}
    await embedded.close()
    assert "objects.db-wal" in modes
    assert set(modes.values()) == {0o600}


async def test_an_api_that_cannot_begin_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(self: Database, work: Any, *, durable: bool) -> Any:
        raise StorageError("disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "write", refuse)
        with pytest.raises(StorageError):
            await EmbeddedApi.open(tmp_path / "api")
    await (await EmbeddedApi.open(tmp_path / "api")).close()


async def test_a_definition_that_cannot_be_served_keeps_nothing_else_down(tmp_path: Path) -> None:
    api = Api(await EmbeddedApi.open(tmp_path / "api"))
    await api.ok("POST", CRDS, widget_definition())
    await api.embedded.close()
    database = await Database.open(tmp_path / "api" / "objects.db", schema="cloudgateway.apiserver.schema")
    spoiled = b'{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition",' + (
        b'"metadata":{"name":"widgets.test.example.com","resourceVersion":"3"},"spec":{}}'
    )
    await database.write(
        lambda transaction: transaction.execute(
            "UPDATE objects SET value = ? WHERE name = 'widgets.test.example.com'", (spoiled,)
        ),
        durable=True,
    )
    await database.close()
    api = Api(await EmbeddedApi.open(tmp_path / "api"))
    await api.ok("GET", MAPS)
    await api.fails(404, "GET", WIDGETS)
    await api.embedded.close()


@pytest.fixture
async def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An API whose disk can be held back or refused, and the gate of its disk."""
    api = Api(await EmbeddedApi.open(tmp_path / "held"))
    async with asyncio.timeout(5):
        while len(api.embedded.store.entries("serviceaccounts")) < len(NAMESPACES):
            await asyncio.sleep(0)  # what the API makes by itself is made
    stubborn = StubbornDatabase(api.embedded.store._database)
    monkeypatch.setattr(api.embedded.store, "_database", stubborn)
    yield api, stubborn
    stubborn.gate.set()
    stubborn.refuse = False
    await api.embedded.close()


WAITING_ANSWERS = {
    "AlreadyExists": ("POST", MAPS, {"metadata": {"name": "a"}}, 409),
    "Conflict": ("PUT", f"{MAPS}/a", {"metadata": {"name": "a", "resourceVersion": "1"}}, 409),
    "nothing to change": ("PATCH", f"{MAPS}/a", {"data": {"n": "1"}}, 200),
}


@pytest.mark.parametrize("what", WAITING_ANSWERS)
async def test_no_answer_runs_ahead_of_the_disk(held: tuple[Api, StubbornDatabase], what: str) -> None:
    """Neither a refusal nor a "nothing to change" may tell of an object that no read shows and a crash takes away."""
    api, disk = held
    disk.gate.clear()
    creating = asyncio.create_task(api.send("POST", MAPS, {"metadata": {"name": "a"}, "data": {"n": "1"}}))
    while api.embedded.store.head("configmaps", "default", "a") is None:
        await asyncio.sleep(0)
    method, path, body, code = WAITING_ANSWERS[what]
    asking = asyncio.create_task(api.send(method, path, body, type=MERGE if method == "PATCH" else ""))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not asking.done()
    await api.fails(404, "GET", f"{MAPS}/a")
    disk.gate.set()
    assert (await creating).status == 201
    assert (await asking).status == code
    assert (await api.ok("GET", f"{MAPS}/a"))["data"] == {"n": "1"}


async def test_an_answer_that_rests_on_a_lost_write_is_a_failure(held: tuple[Api, StubbornDatabase]) -> None:
    api, disk = held
    disk.gate.clear()
    disk.refuse = True
    creating = asyncio.create_task(api.send("POST", MAPS, {"metadata": {"name": "a"}}))
    while api.embedded.store.head("configmaps", "default", "a") is None:
        await asyncio.sleep(0)
    again = asyncio.create_task(api.send("POST", MAPS, {"metadata": {"name": "a"}}))
    for _ in range(20):
        await asyncio.sleep(0)
    disk.gate.set()
    assert [(await creating).status, (await again).status] == [503, 503]
    disk.refuse = False
    await api.ok("POST", MAPS, {"metadata": {"name": "a"}})


async def test_nothing_is_kept_in_a_namespace_that_was_lost(held: tuple[Api, StubbornDatabase]) -> None:
    """What came after a lost write may rest on it: the disk that refuses once and then works must not bring it back."""
    api, disk = held
    disk.gate.clear()
    disk.refuse_once = True
    creating = asyncio.create_task(api.send("POST", "/api/v1/namespaces", {"metadata": {"name": "n"}}))
    while not disk.waiting:  # the batch with the namespace is at the disk; what comes now waits for the next one
        await asyncio.sleep(0)
    inside = asyncio.create_task(api.send("POST", MAPS.replace("default", "n"), {"metadata": {"name": "a"}}))
    while api.embedded.store.head("configmaps", "n", "a") is None:
        await asyncio.sleep(0)
    disk.gate.set()
    assert [(await creating).status, (await inside).status] == [503, 503]
    assert api.embedded.store.head("configmaps", "n", "a") is None
    await api.fails(404, "GET", "/api/v1/namespaces/n")
    await api.fails(404, "GET", f"{MAPS.replace('default', 'n')}/a")
    await api.fails(404, "POST", MAPS.replace("default", "n"), {"metadata": {"name": "a"}})
    await api.ok("POST", MAPS, {"metadata": {"name": "a"}})  # the disk works again


async def test_a_write_that_comes_while_lazy_ones_wait_for_the_disk_is_not_forgotten(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloudgateway.apiserver.store.LAZY_INTERVAL", 0.0)
    bench.database.refuse = True
    await bench.put("lazy", durable=False, n=1)
    await bench.database.refused.wait()  # the pump has failed once and pauses before it tries again
    await asyncio.sleep(0)
    bench.database.refuse = False
    async with asyncio.timeout(2):
        assert (await bench.put("durable")).name == "durable"


async def test_no_update_is_lost_between_writers_of_one_object(tmp_path: Path) -> None:
    api = Api(await EmbeddedApi.open(tmp_path / "api"))
    await api.ok("POST", MAPS, {"metadata": {"name": "counter"}, "data": {"n": "0"}})
    conflicts = 0

    async def count(times: int) -> None:
        nonlocal conflicts
        while times:
            value = await api.ok("GET", f"{MAPS}/counter")
            await asyncio.sleep(0)
            value["data"]["n"] = str(int(value["data"]["n"]) + 1)
            response = await api.send("PUT", f"{MAPS}/counter", value)
            assert response.status in (200, 409), response.body
            times -= response.status == 200
            conflicts += response.status == 409

    await asyncio.gather(*(count(5) for _ in range(8)))
    assert (await api.ok("GET", f"{MAPS}/counter"))["data"] == {"n": "40"}
    assert conflicts > 0
    await api.embedded.close()
