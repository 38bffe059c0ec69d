"""What this node made of its pods, in memory, and in edge.db so that a restart neither forgets nor repeats it."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import msgspec

from edgeappliance.edged.pods.plan import Stopped, Stopping
from edgeappliance.edged.pods.spec import Pod
from edgeappliance.kernel.errors import ApplianceError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.kubeapi.times import parse_time
from edgeappliance.store.pods import PodRow, PodStore

Status = dict[str, Any]

OVER = ("Succeeded", "Failed")
"""Phases that a pod never leaves."""

_ENDED_BY = {"Evicted": Stopped.EVICTED, "DeadlineExceeded": Stopped.DEADLINE}
"""By status.reason; every other reason is one of not having been admitted."""


class Records:
    """One row and one status a pod. Ends are written at once and durably, the rest when `save` is called."""

    def __init__(self, scope: TaskScope, store: PodStore) -> None:
        self._scope = scope
        self._store = store
        self._rows: dict[str, PodRow] = {}
        self._statuses: dict[str, Status] = {}
        self._dirty: dict[str, bool] = {}
        """Uids to write, and whether that must be durable."""
        self._log = get_logger("edged")

    async def load(self) -> bool:
        """Read them; whether there were any. Raises StorageError."""
        unsaved = {uid: row for uid in self._dirty if (row := self._rows.get(uid)) is not None}
        self._rows = {row.uid: row for row in await self._store.all()} | unsaved
        return bool(self._rows)

    def __contains__(self, uid: str) -> bool:
        return uid in self._rows

    def statuses(self) -> dict[str, Status]:
        return self._statuses

    def status(self, uid: str) -> Status:
        """The newest status; {} before the first."""
        return self._statuses.get(uid, {})

    def row(self, uid: str) -> PodRow:
        return self._rows[uid]

    def take_on(self, pod: Pod, *, wall_ms: int) -> PodRow:
        """The row of a pod, made when there is none.

        A node whose database was lost goes by what it once told the cloud: since when it had the pod, how its
        containers were, and that a pod which has ended has ended.
        """
        row = self._rows.get(pod.uid)
        if row is not None:
            self._statuses[pod.uid] = _object(row.status)
            return row
        told = pod.status
        began = parse_time(told.get("startTime")) or 0
        phase = str(told.get("phase") or "")
        over = phase in OVER
        row = PodRow(uid=pod.uid, name=pod.key, started_ms=began or wall_ms, finished=phase if over else "")
        self._rows[pod.uid] = row
        self._statuses[pod.uid] = dict(told) if began or over else {}
        # An edgecore that is killed in the next seconds must know that the pod is not a new one.
        self._soon(pod.uid, durable=False)
        return row

    def set_status(self, uid: str, status: Status) -> None:
        """Written with the next `save`."""
        if status != self._statuses.get(uid):
            self._statuses[uid] = status
            self._dirty.setdefault(uid, False)

    def end(self, uid: str, phase: str, stopping: Stopping | None) -> None:
        """The pod has ended with this phase, and never starts again."""
        reason, message = (stopping.reason, stopping.message) if stopping is not None else ("", "")
        self._rows[uid] = replace(self._rows[uid], finished=phase, reason=reason, message=message)
        self._soon(uid, durable=True)

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        self._statuses.pop(uid, None)
        self._dirty.pop(uid, None)
        if self._rows.pop(uid, None) is not None:
            self._scope.spawn(self._delete(uid), name="forget")

    def forget_all_but(self, known: Collection[str]) -> None:
        """What was deleted while we were away."""
        for uid in [uid for uid in self._rows if uid not in known]:
            self.forget(uid)

    async def save(self) -> None:
        """Write what has changed; what cannot be written now is kept for the next time."""
        dirty, self._dirty = self._dirty, {}
        rows = []
        for uid in dirty:
            row = self._rows.get(uid)
            if row is not None:
                row = self._rows[uid] = replace(row, status=msgspec.json.encode(self.status(uid)))
                rows.append(row)
        if not rows:
            return
        try:
            await self._store.put(*rows, durable=any(dirty.values()))
        except ApplianceError as error:
            for uid, durable in dirty.items():
                self._dirty[uid] = durable or self._dirty.get(uid, False)
            self._log.warning("what became of pods is not saved yet", pods=len(rows), reason=error.message)

    def _soon(self, uid: str, *, durable: bool) -> None:
        self._dirty[uid] = durable or self._dirty.get(uid, False)
        self._scope.spawn(self.save(), name="save")

    async def _delete(self, uid: str) -> None:
        try:
            await self._store.delete(uid)
        except ApplianceError as error:
            self._log.warning("a pod that is gone is not forgotten on disk", reason=error.message)


def why_ended(row: PodRow) -> Stopping | None:
    """Why the node ended a pod, as its row says; None when it did not."""
    if not row.reason:
        return None
    return Stopping(_ENDED_BY.get(row.reason, Stopped.REJECTED), 0, row.reason, row.message)


def _object(text: bytes) -> Status:
    value = msgspec.json.decode(text)
    return value if isinstance(value, dict) else {}
