"""Opens `edge.db` with this package's schema."""

from pathlib import Path

from edgeappliance.kernel.database import Database

FILE_NAME = "edge.db"


async def open_store(directory: Path) -> Database:
    """Open (and create or migrate) the edge's database in `directory`.

    A file that SQLite cannot read is kept aside by the kernel and named in `Database.recovered`; the
    caller reports it, the cloud and the field fill the new file again.
    """
    return await Database.open(directory / FILE_NAME, schema="edgeappliance.store.schema")


async def store_identity(database: Database) -> str:
    """The random identity that the file got when it was made: another one means that the node has nothing."""
    row = await database.read(lambda transaction: transaction.one("SELECT id FROM identity"))
    return str(row[0]) if row is not None else ""
