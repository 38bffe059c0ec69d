"""One writer, two durability classes, nothing lost on an error."""

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from edgeappliance.kernel.database import Database, StorageClosed, StorageError, Transaction
from edgeappliance.kernel.errors import OperatorError

ONE = "tests.unit.kernel.schema_one"
TWO = "tests.unit.kernel.schema_two"


def put(key: str, value: str = "v"):
    return lambda tx: tx.execute("INSERT INTO item (key, value) VALUES (?, ?)", (key, value))


def keys(tx: Transaction) -> list[str]:
    return [row[0] for row in tx.execute("SELECT key FROM item ORDER BY key")]


async def test_a_failing_write_takes_only_itself_back(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "x.db", schema=ONE)

    def failing(tx: Transaction) -> None:
        put("lost")(tx)
        raise LookupError("mine")

    results = await asyncio.gather(
        *(db.write(put(f"k{i}"), durable=True) for i in range(50)),
        db.write(failing, durable=True),
        db.write(put("k7"), durable=True),  # the key exists
        *(db.write(put(f"m{i}"), durable=True) for i in range(50)),
        return_exceptions=True,
    )
    assert isinstance(results[50], LookupError)
    assert isinstance(results[51], StorageError)
    assert "lost" not in await db.read(keys)
    assert len(await db.read(keys)) == 100
    await db.close()


async def test_writes_keep_their_order_across_durability_classes(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "x.db", schema=ONE)

    def append(text: str):
        return lambda tx: tx.execute(
            "INSERT INTO item VALUES ('log', ?) ON CONFLICT (key) DO UPDATE SET value = value || excluded.value",
            (text,),
        )

    await asyncio.gather(*(db.write(append(f"{i},"), durable=i % 3 == 0) for i in range(60)))
    row = await db.read(lambda tx: tx.one("SELECT value FROM item"))
    assert row == ("".join(f"{i}," for i in range(60)),)
    await db.close()


async def test_a_cancelled_waiter_does_not_disturb_the_others(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "x.db", schema=ONE)
    waiting = asyncio.create_task(db.write(put("a"), durable=True))
    await asyncio.sleep(0)
    waiting.cancel()
    await db.write(put("b"), durable=True)
    assert "b" in await db.read(keys)
    await db.close()
    with pytest.raises(StorageClosed):
        await db.write(put("c"), durable=True)


async def test_a_damaged_file_is_kept_aside_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    db = await Database.open(path, schema=ONE)
    await db.write(put("a"), durable=True)
    await db.close()
    damage = b"no database" * 1000
    path.write_bytes(damage)
    db = await Database.open(path, schema=ONE)
    assert db.recovered is not None
    assert db.recovered.read_bytes() == damage
    assert await db.read(keys) == []
    await db.close()


async def test_damage_inside_is_found_at_opening(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    db = await Database.open(path, schema=ONE)
    for i in range(200):
        await db.write(put(f"key-{i:04}", "v" * 500), durable=False)
    await db.close()
    content = bytearray(path.read_bytes())
    content[8192:16384] = os.urandom(8192)
    path.write_bytes(content)
    db = await Database.open(path, schema=ONE)
    assert db.recovered is not None
    await db.close()


async def test_an_old_database_is_carried_forward_with_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    old = await Database.open(path, schema=ONE)
    await old.write(put("a"), durable=True)
    await old.close()
    new = await Database.open(path, schema=TWO)
    assert await new.read(lambda tx: tx.execute("SELECT key, note FROM item")) == [("a", "old")]
    await new.close()
    with pytest.raises(OperatorError, match="schema 2"):
        await Database.open(path, schema=ONE)


async def test_a_full_disk_is_an_error_and_not_a_loss(tmp_path: Path) -> None:
    db = await Database.open(tmp_path / "x.db", schema=ONE)
    await db.write(put("kept"), durable=True)
    await db.write(lambda tx: tx.execute("PRAGMA max_page_count=8"), durable=False)
    with pytest.raises(StorageError, match="disk is full"):
        await db.write(put("big", "x" * 200_000), durable=True)
    await db.write(put("small"), durable=True)
    assert await db.read(keys) == ["kept", "small"]
    await db.close()


async def test_a_durable_write_survives_kill_9(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import asyncio, pathlib, sys
        from edgeappliance.kernel.database import Database
        async def main():
            db = await Database.open(pathlib.Path({str(tmp_path / "x.db")!r}), schema={ONE!r})
            for i in range(100000):
                await db.write(lambda tx: tx.execute("INSERT INTO item VALUES (?, 'v')", (f"k{{i:06}}",)), durable=True)
                print(i, flush=True)
        asyncio.run(main())
    """)
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE, cwd=Path.cwd())
    assert child.stdout is not None
    acknowledged = -1
    while acknowledged < 200:
        acknowledged = int(await child.stdout.readline())
    child.kill()
    rest = (await child.stdout.read()).split()
    await child.wait()
    if rest:
        acknowledged = max(acknowledged, *(int(word) for word in rest[:-1]), acknowledged)
    db = await Database.open(tmp_path / "x.db", schema=ONE)
    assert db.recovered is None
    stored = await db.read(keys)
    assert stored[: acknowledged + 1] == [f"k{i:06}" for i in range(acknowledged + 1)]
    await db.close()


async def test_an_index_that_lost_rows_is_found_when_the_file_is_suspect(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    db = await Database.open(path, schema=ONE)
    await db.write(lambda tx: tx.execute("CREATE INDEX item_by_value ON item (value)"), durable=True)
    await db.write(put("a"), durable=True)
    await db.close()
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:  # the index says that it is of another column
        raw.execute("PRAGMA writable_schema=ON")
        raw.execute(
            "UPDATE sqlite_schema SET sql='CREATE INDEX item_by_value ON item (key)' WHERE name='item_by_value'"
        )
    usual = await Database.open(path, schema=ONE)
    await usual.close()
    assert usual.recovered is None  # the quick check does not compare
    close = await Database.open(path, schema=ONE, suspect=True)
    await close.close()
    assert close.recovered is not None
