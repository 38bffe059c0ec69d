"""The edge's database: what is written comes back, also after the process died."""

import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgeappliance.kernel.database import Database
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.store import (
    DeviceRow,
    MetaRow,
    MetaStore,
    StoredDevice,
    SubscriptionStore,
    TwinHalf,
    TwinRow,
    TwinStore,
    open_store,
    store_identity,
)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await open_store(tmp_path)
    yield opened
    await opened.close()


async def test_meta_put_replaces_and_lists_by_type(database: Database) -> None:
    store = MetaStore(database)
    await store.put(MetaRow("default/pod/b", "pod", b'{"a":1}', uid="u1", resource_version="7"))
    await store.put(MetaRow("default/pod/a", "pod", b'{"a":2}'))
    await store.put(MetaRow("default/secret/a", "secret", b"{}"))
    await store.put(MetaRow("default/pod/b", "pod", b'{"a":3}', uid="u2", resource_version="8"))
    assert await store.get("default/pod/b") == MetaRow("default/pod/b", "pod", b'{"a":3}', "u2", "8")
    assert [row.key for row in await store.list("pod")] == ["default/pod/a", "default/pod/b"]
    assert await store.get("default/pod/c") is None


@pytest.mark.parametrize(
    ("stored", "asked", "gone"),
    [("u1", "u1", True), ("u1", "", True), ("", "u1", True), ("u1", "u2", False)],
)
async def test_meta_delete_means_one_object(database: Database, stored: str, asked: str, gone: bool) -> None:
    store = MetaStore(database)
    await store.put(MetaRow("default/pod/a", "pod", b"{}", uid=stored))
    assert await store.delete("default/pod/a", uid=asked) is gone
    assert (await store.get("default/pod/a") is None) is gone


async def test_meta_delete_of_the_unknown_is_done(database: Database) -> None:
    assert await MetaStore(database).delete("default/pod/never", uid="u")


async def test_an_object_that_comes_again_costs_no_flash(database: Database, tmp_path: Path) -> None:
    store = MetaStore(database)
    row = MetaRow("default/pod/a", "pod", b"x" * 20_000, uid="u", resource_version="7")
    await store.put(row)
    wal = tmp_path / "edge.db-wal"
    before = wal.stat().st_size
    await store.put(row)
    assert wal.stat().st_size == before
    await store.put(MetaRow("default/pod/a", "pod", b"x" * 20_000, uid="u", resource_version="8"))
    assert wal.stat().st_size > before
    found = await store.get("default/pod/a")
    assert found is not None
    assert found.resource_version == "8"


async def test_subscriptions(database: Database) -> None:
    store = SubscriptionStore(database)
    for topic in ("b/#", "a/+", "b/#"):
        await store.add(topic)
    assert await store.topics() == ["a/+", "b/#"]
    await store.remove("a/+")
    await store.remove("never")
    assert await store.topics() == ["b/#"]


FULL = TwinRow(
    device="default/d1",
    name="temp",
    type="float",
    optional=False,
    metadata='{"unit":"C"}',
    expected=TwinHalf("21.5", '{"timestamp":1}', cloud=2, edge=3, acked=1),
    actual=TwinHalf(None, "", cloud=0, edge=4, acked=4),
    desired_applied="21.5",
)
BARE = TwinRow(device="default/d1", name="bare")
DEVICE = DeviceRow(
    "default/d1",
    "d1",
    "a meter",
    "Online",
    "2026-08-06T00:00:00Z",
    state_version=5,
    state_acked=4,
    attributes='{"k":1}',
)


async def test_twins_come_back_as_they_were_saved(database: Database) -> None:
    store = TwinStore(database)
    await store.save(devices=[DEVICE], twins=[FULL, BARE], durable=True)
    await store.save(devices=[DeviceRow("a/x", "x")], durable=False)
    assert await store.load() == [StoredDevice(DeviceRow("a/x", "x"), ()), StoredDevice(DEVICE, (BARE, FULL))]


async def test_newest_row_wins_and_removed_rows_go(database: Database) -> None:
    store = TwinStore(database)
    await store.save(devices=[DEVICE], twins=[FULL, BARE], durable=True)
    newer = TwinRow(device="default/d1", name="temp", actual=TwinHalf("ä ☃", "", edge=9))
    await store.save(twins=[newer], removed=[("default/d1", "bare"), ("default/d1", "never")], durable=False)
    assert await store.load() == [StoredDevice(DEVICE, (newer,))]


async def test_deleting_a_device_takes_its_properties(database: Database) -> None:
    store = TwinStore(database)
    await store.save(devices=[DEVICE], twins=[FULL], durable=True)
    await store.delete("default/d1")
    await store.delete("default/d1")
    assert await store.load() == []


async def test_everything_survives_closing(tmp_path: Path) -> None:
    first = await open_store(tmp_path)
    await TwinStore(first).save(devices=[DEVICE], twins=[FULL], durable=False)
    await MetaStore(first).put(MetaRow("default/pod/a", "pod", b"{}"))
    await first.close()
    again = await open_store(tmp_path)
    assert await TwinStore(again).load() == [StoredDevice(DEVICE, (FULL,))]
    assert await MetaStore(again).get("default/pod/a") is not None
    assert again.recovered is None
    await again.close()


async def test_damaged_file_is_kept_aside_and_replaced(tmp_path: Path) -> None:
    (tmp_path / "edge.db").write_bytes(b"not a database at all, but long enough to be looked at " * 40)
    opened = await open_store(tmp_path)
    assert opened.recovered is not None
    assert opened.recovered.exists()
    assert await MetaStore(opened).list("pod") == []
    await MetaStore(opened).put(MetaRow("default/secret/a", "secret", b"{}"))
    assert modes(tmp_path) == {0o600}
    await opened.close()


def modes(directory: Path) -> set[int]:
    """File modes of the database in use and its companions."""
    return {stat.S_IMODE(path.stat().st_mode) for path in directory.glob("edge.db*") if "damaged" not in path.name}


async def test_secrets_are_for_nobody_else_to_read(tmp_path: Path) -> None:
    (tmp_path / "edge.db").touch(mode=0o644)
    opened = await open_store(tmp_path)
    await MetaStore(opened).put(MetaRow("default/secret/a", "secret", b"{}"))
    assert len(list(tmp_path.glob("edge.db*"))) == 3
    assert modes(tmp_path) == {0o600}
    await opened.close()


async def test_durable_write_is_in_the_file_when_the_call_returns(tmp_path: Path) -> None:
    opened = await open_store(tmp_path)
    await MetaStore(opened).put(MetaRow("default/pod/a", "pod", b"{}"))
    with sqlite3.connect(tmp_path / "edge.db") as other:
        assert other.execute("SELECT key FROM meta").fetchall() == [("default/pod/a",)]
    other.close()
    await opened.close()


async def test_a_new_file_has_a_new_name_and_keeps_it(tmp_path: Path) -> None:
    names = []
    for directory in (tmp_path / "a", tmp_path / "a", tmp_path / "b"):
        directory.mkdir(exist_ok=True)
        opened = await open_store(directory)
        names.append(await store_identity(opened))
        await opened.close()
    assert names[0] == names[1] != names[2]
    assert len(names[0]) == 32


async def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"edge\.db: No such file") as caught:
        await open_store(tmp_path / "nowhere")
    assert "state directory" in caught.value.next_step
