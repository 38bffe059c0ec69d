"""One SQLite file with one writer thread and one reader thread.

Writes are grouped: what waits while a commit runs goes into the next one together. A *durable* write returns after
an fsync (synchronous=FULL); the others return after a commit that a power cut may take back (NORMAL, WAL). The two
classes never share a transaction.
"""

import asyncio
import importlib.resources
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw

from edgeappliance.kernel.errors import OperatorError, TransientError
from edgeappliance.kernel.log import get_logger

T = TypeVar("T")

MAX_GROUP = 256
"""Writes that share one commit at most."""

BUSY_MS = 5000

_MIGRATION = re.compile(r"(\d{3})_\w+\.sql")


class StorageError(TransientError):
    """SQLite could not do it now: disk full, I/O error, locked."""


class StorageCorrupt(StorageError):
    """The file is not a sound database; opening it again moves it aside."""


class StorageClosed(StorageError):
    """The database has been closed."""


class Transaction:
    """What a unit of work sees: statements inside one transaction, on the database's own thread."""

    __slots__ = ("_connection",)

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement; its rows."""
        return list(self._connection.execute(sql, tuple(params)))

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for each row of parameters."""
        self._connection.executemany(sql, rows)

    def one(self, sql: str, params: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """The first row, or None."""
        for row in self._connection.execute(sql, tuple(params)):
            return tuple(row)
        return None

    @property
    def changes(self) -> int:
        """Rows changed by the last statement."""
        return self._connection.changes()


class _Job:
    __slots__ = ("durable", "error", "future", "result", "work")

    def __init__(self, work: Callable[[Transaction], Any], durable: bool, future: asyncio.Future[Any]) -> None:
        self.work = work
        self.durable = durable
        self.future = future
        self.result: Any = None
        self.error: BaseException | None = None


def _translate(error: apsw.Error) -> StorageError:
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return StorageCorrupt(f"database is damaged: {error}", next_step="it is moved aside at the next start")
    if isinstance(error, apsw.FullError):
        return StorageError("disk is full", next_step="free space on the file system of the state directory")
    return StorageError(f"database: {error}", next_step="check the file system of the state directory")


class Database:
    """A SQLite file. Build it with `await Database.open(...)`."""

    def __init__(self, path: Path, writer: apsw.Connection, reader: apsw.Connection, recovered: Path | None) -> None:
        self.path = path
        self.damaged = asyncio.Event()
        """Set when SQLite found the file damaged: close it and open it again, which moves it aside."""
        self.recovered = recovered
        """Where a damaged predecessor was moved to when this one was opened; None if there was none."""
        self._write_queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._read_queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._durable: bool | None = None
        self._log = get_logger("database")
        self._threads = [
            threading.Thread(target=self._write_loop, args=(writer,), name=f"db-write-{path.name}", daemon=True),
            threading.Thread(target=self._read_loop, args=(reader,), name=f"db-read-{path.name}", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @classmethod
    async def open(cls, path: Path, *, schema: str, suspect: bool = False, renew: bool = True) -> "Database":
        """Open or create the file and bring it to the newest schema.

        `schema` is a package whose `NNN_name.sql` files are the versions, in order. A damaged file is moved aside
        and a new one made (`recovered` says where). `suspect`: it was found damaged while in use, so indexes are
        compared with their tables as well; the check at every start leaves that out because it takes long. Without
        `renew` a damaged file is left as it is: StorageCorrupt, for what nothing can fill again. Raises
        OperatorError for a file of a newer version, StorageError when the file system refuses.
        """
        path = Path(path)
        check = "integrity_check" if suspect else "quick_check"
        writer, reader, recovered = await asyncio.to_thread(_open, path, _migrations(schema), check, renew)
        return cls(path, writer, reader, recovered)

    async def write(self, work: Callable[[Transaction], T], *, durable: bool) -> T:
        """Run `work` in a transaction on the writer thread; returns after the commit.

        What `work` raises rolls back its own statements only and is raised here. Raises StorageError.
        """
        return await self._submit(self._write_queue, work, durable)

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` on the reader thread, on a snapshot. Raises StorageError."""
        return await self._submit(self._read_queue, work, False)

    async def _submit(
        self, target: queue.SimpleQueue[_Job | None], work: Callable[[Transaction], T], durable: bool
    ) -> T:
        if self._closed:
            raise StorageClosed(f"{self.path.name} is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        target.put(_Job(work, durable, future))
        return await future

    async def close(self) -> None:
        """Finish what waits, checkpoint, close. Idempotent."""
        if self._closed:
            return
        self._closed = True
        writer, reader = self._threads
        self._read_queue.put(None)
        await asyncio.to_thread(reader.join)
        self._write_queue.put(None)  # last, because SQLite folds the WAL into the file when its last user leaves
        await asyncio.to_thread(writer.join)

    # The writer thread.

    def _write_loop(self, connection: apsw.Connection) -> None:
        transaction = Transaction(connection)
        pending: _Job | None = None
        last = False
        while not last or pending is not None:
            first = pending if pending is not None else self._write_queue.get()
            pending = None
            if first is None:
                break
            group = [first]
            while len(group) < MAX_GROUP and not last:
                try:
                    job = self._write_queue.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    last = True
                elif job.durable is not first.durable:
                    pending = job
                    break
                else:
                    group.append(job)
            self._commit_group(connection, transaction, group)
            self._finish(group)
        connection.close()

    def _commit_group(self, connection: apsw.Connection, transaction: Transaction, group: list[_Job]) -> None:
        durable = group[0].durable
        try:
            if durable is not self._durable:
                connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            connection.execute("BEGIN IMMEDIATE")
            for job in group:
                self._run_one(connection, transaction, job, alone=len(group) == 1)
            connection.execute("COMMIT")
        except apsw.Error as error:
            failure = _translate(error)
            _roll_back(connection)
            for job in group:
                job.error = job.error or failure

    def _run_one(self, connection: apsw.Connection, transaction: Transaction, job: _Job, *, alone: bool) -> None:
        connection.execute("SAVEPOINT job")
        cause: apsw.Error | None = None
        try:
            job.result = job.work(transaction)
        except apsw.Error as error:
            cause = error
            job.error = _translate(error)
        except Exception as error:  # noqa: BLE001 - handed to the caller that waits for this job
            job.error = error
        if not connection.in_transaction:  # SQLite itself rolled everything back (disk full, I/O error)
            raise cause or apsw.IOError("the transaction was rolled back by SQLite")
        if job.error is not None:
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")

    # The reader thread.

    def _read_loop(self, connection: apsw.Connection) -> None:
        transaction = Transaction(connection)
        while (job := self._read_queue.get()) is not None:
            try:
                connection.execute("BEGIN")
                job.result = job.work(transaction)
            except apsw.Error as error:
                job.error = _translate(error)
            except Exception as error:  # noqa: BLE001 - handed to the caller that waits for this job
                job.error = error
            _roll_back(connection)
            self._finish([job])
        connection.close()

    def _finish(self, group: list[_Job]) -> None:
        try:
            self._loop.call_soon_threadsafe(_resolve, group, self.damaged)
        except RuntimeError:  # the loop has been closed: nobody waits any more
            self._log.warning("results of a closed event loop dropped", count=len(group))


def _roll_back(connection: apsw.Connection) -> None:
    """End the transaction that is open; a medium that refuses even that must not end the thread."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except apsw.Error as error:
        get_logger("database").error("rollback failed", error=error)


def _resolve(group: list[_Job], damaged: asyncio.Event) -> None:
    for job in group:
        if isinstance(job.error, StorageCorrupt):
            damaged.set()
        if job.future.done():  # the waiting task was cancelled; the work itself stands
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)


# Opening, on a thread of its own.


def _migrations(schema: str) -> list[tuple[int, str]]:
    found = []
    for item in importlib.resources.files(schema).iterdir():
        match = _MIGRATION.fullmatch(item.name)
        if match:
            found.append((int(match.group(1)), item.read_text("utf-8")))
    found.sort()
    if [number for number, _ in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"{schema}: schema files must be numbered 001, 002, ... without a gap")
    return found


def _open(
    path: Path, migrations: list[tuple[int, str]], check: str, renew: bool
) -> tuple[apsw.Connection, apsw.Connection, Path | None]:
    recovered = None
    try:
        writer = _connect(path, migrations, check)
    except (apsw.CorruptError, apsw.NotADBError) as error:
        if not renew:
            raise _translate(error) from None
        recovered = _move_aside(path)
        get_logger("database").error("damaged database moved aside", file=path, kept=recovered, error=error)
        try:
            writer = _connect(path, migrations, check)
        except apsw.Error as again:
            raise _translate(again) from None
    except apsw.Error as error:
        raise _translate(error) from None
    try:
        reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        reader.set_busy_timeout(BUSY_MS)
    except apsw.Error as error:
        writer.close()
        raise _translate(error) from None
    return writer, reader, recovered


def _connect(path: Path, migrations: list[tuple[int, str]], check: str) -> apsw.Connection:
    connection = apsw.Connection(str(path))
    try:
        connection.set_busy_timeout(BUSY_MS)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA journal_size_limit=4194304")
        found = list(connection.execute(f"PRAGMA {check}(1)"))
        if found != [("ok",)]:
            raise apsw.CorruptError(f"{check}: {found[0][0] if found else 'no answer'}")
        _migrate(connection, migrations, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: apsw.Connection, migrations: list[tuple[int, str]], path: Path) -> None:
    row = next(iter(connection.execute("PRAGMA user_version")))
    version = int(row[0])
    if version > len(migrations):
        raise OperatorError(
            f"{path} has schema {version}, this program knows up to {len(migrations)}",
            next_step="start the newer version, or move the file away to begin anew",
        )
    for number, sql in migrations[version:]:
        connection.execute("PRAGMA synchronous=FULL")
        with connection:
            connection.execute(sql)
            connection.execute(f"PRAGMA user_version={number}")


def _move_aside(path: Path) -> Path:
    kept = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    for suffix in ("", "-wal", "-shm"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(kept.with_name(kept.name + suffix))
    return kept
