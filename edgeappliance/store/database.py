"""Opens `edge.db` with this package's schema."""

import asyncio
import os
from pathlib import Path

from edgeappliance.kernel.database import Database
from edgeappliance.kernel.errors import OperatorError

FILE_NAME = "edge.db"


async def open_store(directory: Path, *, suspect: bool = False) -> Database:
    """Open (and create or migrate) the edge's database in `directory`.

    A file that SQLite cannot read is kept aside by the kernel and named in `Database.recovered`; the
    caller reports it, the cloud and the field fill the new file again. `suspect`: it was found damaged while in
    use; look closely. Raises StorageError, OperatorError.
    """
    path = directory / FILE_NAME
    await asyncio.to_thread(_make_private, path, create=True)
    database = await Database.open(path, schema="edgeappliance.store.schema", suspect=suspect)
    if database.recovered is not None:
        await asyncio.to_thread(_make_private, path, create=False)
    return database


def _make_private(path: Path, *, create: bool) -> None:
    """Mode 0600: Secrets lie in the file as they came. SQLite gives its companions the mode of the file."""
    try:
        if create:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        for companion in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
            if companion.exists():
                companion.chmod(0o600)
    except OSError as error:
        raise OperatorError(
            f"{path}: {error.strerror}", next_step="check the state directory, its file system and its owner"
        ) from error


async def store_identity(database: Database) -> str:
    """The random identity that the file got when it was made: another one means that the node has nothing."""
    row = await database.read(lambda transaction: transaction.one("SELECT id FROM identity"))
    return str(row[0]) if row is not None else ""
