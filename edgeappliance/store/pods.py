"""What this node made of its pods: since when it has them, how they ended, their newest status."""

from dataclasses import dataclass

from edgeappliance.kernel.database import Database, Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRow:
    """One pod. `name` is `<namespace>/<name>`, `started_ms` Unix ms, `finished` a phase ("" while it is not over),
    `status` the JSON text of its newest status."""

    uid: str
    name: str
    started_ms: int
    finished: str = ""
    reason: str = ""
    message: str = ""
    status: bytes = b"{}"


_COLUMNS = "uid, name, started_ms, finished, reason, message, status"
_UPSERT = (
    f"INSERT INTO pod ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (uid) DO UPDATE SET"  # noqa: S608 - a constant
    " name = excluded.name, started_ms = excluded.started_ms, finished = excluded.finished,"
    " reason = excluded.reason, message = excluded.message, status = excluded.status"
)


class PodStore:
    """That a pod has ended is written with a full fsync (it must never start again); its status is not."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[PodRow]:
        """Every pod, by name."""

        def read(transaction: Transaction) -> list[PodRow]:
            rows = transaction.execute(f"SELECT {_COLUMNS} FROM pod ORDER BY name, uid")  # noqa: S608 - a constant
            return [
                PodRow(uid=uid, name=name, started_ms=ms, finished=end, reason=why, message=text, status=bytes(status))
                for uid, name, ms, end, why, text, status in rows
            ]

        return await self._database.read(read)

    async def put(self, *rows: PodRow, durable: bool) -> None:
        """Insert or replace them in one transaction."""

        def write(transaction: Transaction) -> None:
            transaction.executemany(
                _UPSERT,
                [(r.uid, r.name, r.started_ms, r.finished, r.reason, r.message, r.status) for r in rows],
            )

        await self._database.write(write, durable=durable)

    async def delete(self, uid: str) -> None:
        """Forget a pod; an unknown one is no error."""

        def write(transaction: Transaction) -> None:
            transaction.execute("DELETE FROM pod WHERE uid = ?", (uid,))

        await self._database.write(write, durable=False)
