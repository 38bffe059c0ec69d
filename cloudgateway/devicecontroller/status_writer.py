"""Brings what edges report about devices into their DeviceStatus, newest values only, one request at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cloudgateway.devicecontroller.twins import PendingStatus, Twins, load_twins, status_patch
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.errors import ApiError, is_retryable
from cloudgateway.kube.informers import Spawner
from cloudgateway.kube.resources import DEVICE_STATUSES, DEVICES
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.errors import ApplianceError
from edgeappliance.kernel.log import get_logger
from edgeappliance.wire.twin import DeviceState, TwinUpdate

__all__ = ["DeviceKey", "DeviceLookup", "Report", "StatusWriter", "WriterFigures"]

_log = get_logger("devicecontroller.status")

DeviceKey = tuple[str, str]
"""Namespace and name."""

_WAITING_MAX = 1000
_ATTEMPTS = 4


class DeviceLookup(Protocol):
    """What the writer must know about devices."""

    async def device(self, key: DeviceKey) -> Mapping[str, Any] | None:
        """The Device as it is now; None when it does not exist."""
        ...

    def properties(self, device: Mapping[str, Any]) -> Collection[str]:
        """Names of the properties that the device has."""
        ...


@dataclass(frozen=True, slots=True)
class Report:
    """One message of an edge that waits for its ``OK``."""

    node: str
    message_id: str


@dataclass(slots=True)
class WriterFigures:
    """Counts since the start."""

    reports: int = 0
    writes: int = 0
    superseded: int = 0
    dropped: int = 0
    """Values replaced by newer ones before they were written, and reports that were forgotten unanswered."""


@dataclass(slots=True)
class _Entry:
    pending: PendingStatus = field(default_factory=PendingStatus)
    waiting: deque[Report] = field(default_factory=deque)
    uid: str = ""
    twins: Twins | None = None
    flying: bool = False
    refused: str = ""
    backoff: Backoff = field(default_factory=lambda: Backoff(initial=0.1, maximum=10.0))


class StatusWriter:
    """Merges reports for each device and writes them with merge patches on the main resource.

    At most one request is in flight for a device. What arrives meanwhile is merged, the newest value of each
    property wins, and is written by the next request; each report is answered (`answer`) when its values or
    newer ones are in the API. When the API is written faster than `writes_per_second`, devices take turns, so
    that a chatty one costs requests, not messages.
    """

    def __init__(
        self,
        client: KubeClient,
        devices: DeviceLookup,
        *,
        clock: Clock,
        answer: Callable[[Report], None],
        unknown: Callable[[str, DeviceKey], None],
        writes_per_second: float = 200.0,
    ) -> None:
        """`unknown(node, key)` is told that a node reports for a device that does not exist."""
        self._client = client
        self._devices = devices
        self._answer = answer
        self._unknown = unknown
        self._pace = _Pace(clock, writes_per_second)
        self._entries: dict[DeviceKey, _Entry] = {}
        self._scope: Spawner | None = None
        self.figures = WriterFigures()

    def start(self, scope: Spawner) -> None:
        """Requests run in `scope` from now on."""
        self._scope = scope
        for key, entry in self._entries.items():
            entry.flying = False
            self._launch(key, entry)

    def stop(self) -> None:
        """The requests end with their scope; what was not written stays for the next start."""
        self._scope = None

    def twins(self, key: DeviceKey, report: Report, update: TwinUpdate) -> None:
        """A twin report (``edge_updated``)."""
        entry = self._entry(key, report)
        self.figures.superseded += entry.pending.add_twins(update)
        self._launch(key, entry)

    def state(self, key: DeviceKey, report: Report, state: DeviceState) -> None:
        """A state report (``state/update``)."""
        entry = self._entry(key, report)
        self.figures.superseded += entry.pending.add_state(state)
        self._launch(key, entry)

    def prune(self, key: DeviceKey) -> None:
        """Properties have left the Device: its status must follow."""
        entry = self._entries.setdefault(key, _Entry())
        entry.pending.prune = True
        self._launch(key, entry)

    def forget(self, key: DeviceKey) -> None:
        """What is known of the status in the API may be old (another gateway wrote it, or it is gone)."""
        entry = self._entries.get(key)
        if entry is None:
            return
        entry.twins = None
        if not entry.flying and not entry.waiting and not entry.pending:
            del self._entries[key]

    @property
    def waiting(self) -> int:
        """Reports without an answer yet."""
        return sum(len(entry.waiting) for entry in self._entries.values())

    def _entry(self, key: DeviceKey, report: Report) -> _Entry:
        entry = self._entries.setdefault(key, _Entry())
        self.figures.reports += 1
        entry.waiting.append(report)
        if len(entry.waiting) > _WAITING_MAX:  # while the API is away; its sender repeats what is not answered
            entry.waiting.popleft()
            self.figures.dropped += 1
        return entry

    def _launch(self, key: DeviceKey, entry: _Entry) -> None:
        if not entry.flying and self._scope is not None and (entry.waiting or entry.pending):
            entry.flying = True
            self._scope.spawn(self._fly(key, entry), name=f"status-{key[0]}/{key[1]}")

    async def _fly(self, key: DeviceKey, entry: _Entry) -> None:
        while entry.waiting or entry.pending:
            await self._pace.turn()
            reports, entry.waiting = entry.waiting, deque()
            pending, entry.pending = entry.pending, PendingStatus()
            try:
                await self._write(key, entry, pending, reports)
            except asyncio.CancelledError:
                entry.pending.restore(pending)
                entry.waiting.extendleft(reversed(reports))
                raise
            except ApplianceError as error:
                if not is_retryable(error):
                    # No answer: the edge says it again, and by then a person may have mended the cause.
                    if entry.refused != error.message:  # once, not with every report
                        _log.error("cannot write a device status", device="/".join(key), error=str(error))
                    entry.refused = error.message
                    self.figures.dropped += len(reports)
                    continue
                entry.pending.restore(pending)
                entry.waiting.extendleft(reversed(reports))
                entry.twins = None
                delay = entry.backoff.next_delay()
                _log.warning(
                    "will write a device status again", device="/".join(key), seconds=round(delay, 1), error=str(error)
                )
                await asyncio.sleep(delay)
            except Exception as error:  # noqa: BLE001 - one device's status must not end the others'
                _log.error("cannot write a device status", device="/".join(key), error=error, exc_info=error)
                self.figures.dropped += len(reports)
                entry.twins = None
            else:
                entry.backoff.reset()
                entry.refused = ""
                for report in reports:
                    self._answer(report)
        entry.flying = False
        if entry.twins is None and self._entries.get(key) is entry:
            del self._entries[key]

    async def _write(self, key: DeviceKey, entry: _Entry, pending: PendingStatus, reports: Collection[Report]) -> None:
        device = await self._devices.device(key)
        if device is None:
            entry.twins = None
            for node in {report.node for report in reports}:
                self._unknown(node, key)
            return
        uid = str(device["metadata"].get("uid", ""))
        if entry.twins is None or entry.uid != uid:
            entry.twins = load_twins(await self.ensure(device))
            entry.uid = uid
        twins, patch = status_patch(entry.twins, pending, self._devices.properties(device))
        if patch is None:
            return
        try:
            await self._client.patch(DEVICE_STATUSES, key[0], key[1], patch)
        except ApiError as error:
            if not error.not_found:
                raise
            await self.ensure(device)
            if "twins" not in patch["status"] and twins:
                patch["status"]["twins"] = [{"propertyName": name, **halves} for name, halves in twins.items()]
            await self._client.patch(DEVICE_STATUSES, key[0], key[1], patch)
        entry.twins = twins
        self.figures.writes += 1

    async def ensure(self, device: Mapping[str, Any]) -> Mapping[str, Any]:
        """The DeviceStatus of a Device, made when it is missing: same name, owned by the Device.

        A status left behind by an earlier Device of that name is replaced. Idempotent.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._get_or_create(device["metadata"])
            except ApiError as error:
                if not error.already_exists or attempt == _ATTEMPTS:
                    raise
                await asyncio.sleep(0.02 * attempt)  # another writer was faster: look again
        raise AssertionError("unreachable")

    async def _get_or_create(self, device: Mapping[str, Any]) -> Mapping[str, Any]:
        namespace, name, uid = device["namespace"], device["name"], device["uid"]
        try:
            existing = await self._client.get(DEVICE_STATUSES, namespace, name)
        except ApiError as error:
            if not error.not_found:
                raise
        else:
            owners = existing["metadata"].get("ownerReferences") or []
            controller = next((owner for owner in owners if owner.get("controller")), None)
            if controller is not None and controller.get("uid") == uid:
                return existing
            if controller is None:  # made by hand: adopt it
                owner = {"metadata": {"ownerReferences": [*owners, _owner(name, uid)]}}
                return await self._client.patch(DEVICE_STATUSES, namespace, name, owner)
            await self._delete(namespace, name, existing["metadata"]["uid"])
        body = {
            "apiVersion": DEVICE_STATUSES.api_version,
            "kind": DEVICE_STATUSES.kind,
            "metadata": {"namespace": namespace, "name": name, "ownerReferences": [_owner(name, uid)]},
            "spec": {},
        }
        return await self._client.create(DEVICE_STATUSES, body, namespace=namespace)

    async def _delete(self, namespace: str, name: str, uid: str) -> None:
        try:
            await self._client.delete(DEVICE_STATUSES, namespace, name, uid=uid)
        except ApiError as error:
            if not (error.not_found or error.conflict):  # the garbage collector was faster
                raise


def _owner(name: str, uid: str) -> dict[str, Any]:
    return {
        "apiVersion": DEVICES.api_version,
        "kind": DEVICES.kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


class _Pace:
    """A bucket of `rate` turns a second; whoever finds it empty waits in line."""

    def __init__(self, clock: Clock, rate: float) -> None:
        self._clock = clock
        self._rate = rate
        self._turns = rate
        self._seen = clock.monotonic()

    async def turn(self) -> None:
        now = self._clock.monotonic()
        self._turns = min(self._rate, self._turns + (now - self._seen) * self._rate)
        self._seen = now
        self._turns -= 1.0
        if self._turns < 0.0:
            await asyncio.sleep(-self._turns / self._rate)
