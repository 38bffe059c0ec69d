"""A database of an earlier version is carried forward with everything in it; pods come back as they were put."""

import importlib.resources
import sqlite3
from pathlib import Path

from edgeappliance.store import MetaStore, PodRow, PodStore, open_store, store_identity

SCHEMA = importlib.resources.files("edgeappliance.store.schema")


def versions() -> list[str]:
    """The schema's files, oldest first."""
    return sorted(item.name for item in SCHEMA.iterdir() if item.name.endswith(".sql"))


def old_database(directory: Path, *, version: int) -> str:
    """edge.db as that version left it, with an object in it; the identity of the file."""
    database = sqlite3.connect(directory / "edge.db")
    for name in versions()[:version]:
        database.executescript((SCHEMA / name).read_text("utf-8"))
    database.execute("INSERT INTO meta (key, type, uid, value) VALUES ('default/pod/a', 'pod', 'u', '{}')")
    database.execute(f"PRAGMA user_version={version}")
    database.commit()
    (identity,) = database.execute("SELECT id FROM identity").fetchone()
    database.close()
    return str(identity)


async def test_every_earlier_version_is_carried_forward(tmp_path: Path) -> None:
    assert len(versions()) > 1
    for version in range(1, len(versions())):
        directory = tmp_path / str(version)
        directory.mkdir()
        identity = old_database(directory, version=version)
        database = await open_store(directory)
        assert database.recovered is None
        assert await store_identity(database) == identity
        assert [row.key for row in await MetaStore(database).list("pod")] == ["default/pod/a"]
        assert await PodStore(database).all() == []
        await database.close()


async def test_pods_are_put_replaced_and_forgotten(tmp_path: Path) -> None:
    database = await open_store(tmp_path)
    store = PodStore(database)
    first = PodRow(uid="1", name="ns/b", started_ms=5)
    ended = PodRow(
        uid="2",
        name="ns/a",
        started_ms=6,
        finished="Failed",
        reason="Evicted",
        message="m",
        status=b'{"phase":"Failed"}',
    )
    await store.put(first, ended, durable=False)
    assert await store.all() == [ended, first]
    replaced = PodRow(uid="1", name="ns/b", started_ms=5, finished="Succeeded")
    await store.put(replaced, durable=True)
    await store.delete("2")
    await store.delete("unknown")
    await database.close()
    again = await open_store(tmp_path)
    assert await PodStore(again).all() == [replaced]
    await again.close()
