"""What the cloud wants of this node: one row per pushed or queried object (KubeEdge reference 5, table `meta`)."""

from dataclasses import dataclass

from edgeappliance.kernel.database import Database, Transaction


@dataclass(frozen=True, slots=True)
class MetaRow:
    """One stored object. `key` is the resource on the wire, `<ns>/<type>/<name>`; `value` its JSON text."""

    key: str
    type: str
    value: bytes
    uid: str = ""
    resource_version: str = ""


class MetaStore:
    """Desired state: every write is on the disk (full fsync) when the call returns."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, row: MetaRow) -> None:
        """Insert the row or replace the one with the same key. An unchanged one costs no write to the disk."""

        def write(transaction: Transaction) -> None:
            transaction.execute(
                "INSERT INTO meta (key, type, uid, resource_version, value) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (key) DO UPDATE SET type = excluded.type, uid = excluded.uid,"
                " resource_version = excluded.resource_version, value = excluded.value"
                " WHERE (type, uid, resource_version, value)"
                " IS NOT (excluded.type, excluded.uid, excluded.resource_version, excluded.value)",
                (row.key, row.type, row.uid, row.resource_version, row.value),
            )

        await self._database.write(write, durable=True)

    async def delete(self, key: str, *, uid: str = "") -> bool:
        """Remove the row `key`; with a `uid` only if the row holds that very object.

        KubeEdge looks for the uid anywhere in the text of a pod (reference 1.4 C), which also hits an object
        that merely names it; here the uid is a column. A row without uid is removed whatever `uid` says.
        Returns whether there is no such row now: False means that another object of that name stays.
        """

        def write(transaction: Transaction) -> bool:
            transaction.execute("DELETE FROM meta WHERE key = ? AND (? = '' OR uid = '' OR uid = ?)", (key, uid, uid))
            return transaction.one("SELECT 1 FROM meta WHERE key = ?", (key,)) is None

        return await self._database.write(write, durable=True)

    async def get(self, key: str) -> MetaRow | None:
        """The row `key`, or None."""

        def read(transaction: Transaction) -> MetaRow | None:
            row = transaction.one("SELECT key, type, value, uid, resource_version FROM meta WHERE key = ?", (key,))
            return MetaRow(*row) if row else None

        return await self._database.read(read)

    async def list(self, type: str) -> list[MetaRow]:
        """All rows of one resource type, ordered by key."""

        def read(transaction: Transaction) -> list[MetaRow]:
            rows = transaction.execute(
                "SELECT key, type, value, uid, resource_version FROM meta WHERE type = ? ORDER BY key", (type,)
            )
            return [MetaRow(*row) for row in rows]

        return await self._database.read(read)
