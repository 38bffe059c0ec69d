"""Tokens of service accounts for pods (reference 1.4 F; Kubernetes: "Configure Service Accounts for Pods").

A token is bound to its pod and asked of the cloud. It is kept on the disk too: after a cold boot without a link the
pod starts with the one that it had, be it expired; the API refuses that one, the pod's own work goes on.
"""

import asyncio
import hashlib
import random
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from edgeappliance.edged.pods.spec import Pod
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.errors import PermanentError, TransientError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kubeapi.times import parse_time
from edgeappliance.store.meta import MetaRow
from edgeappliance.wire.operations import ResourceType
from edgeappliance.wire.resource import ResourceName

QUERY_TIMEOUT = 15.0

MAX_AGE = 24 * 3600.0
"""Seconds after which a token is renewed, however long it is valid."""

RENEW_AT = 0.8
"""Part of its life after which it is renewed."""

RETRY_INITIAL, RETRY_MAXIMUM = 5.0, 300.0

MIN_SECONDS = 600
"""The API issues no shorter ones."""


class Source(Protocol):
    """What this needs of metamanager."""

    async def query(self, resource: str, *, content: Any, timeout: float) -> Any: ...


class Store(Protocol):
    """What this needs of the node's store."""

    async def put(self, row: MetaRow) -> None: ...

    async def delete(self, key: str) -> bool: ...

    async def list(self, type: str) -> list[MetaRow]: ...


class Link(Protocol):
    """What this needs of edgehub."""

    def on_connection(self, callback: Callable[[bool], None]) -> None: ...


class TokenRefused(PermanentError):
    """The cloud gives no token for this."""


class Stored(msgspec.Struct, frozen=True):
    """A token on the disk. Times in Unix ms; seconds: how long it was valid when it came."""

    token: str
    pod: str
    got_ms: int
    seconds: int
    expires_ms: int


@dataclass(slots=True)
class _Entry:
    """One token, or the want of one. due, retry_at: monotonic seconds."""

    pod: str
    backoff: Backoff
    stored: Stored | None = None
    due: float = 0.0
    retry_at: float = 0.0
    trouble: str = ""
    refused: bool = False


class Tokens:
    """The tokens of all pods of this node."""

    def __init__(
        self,
        *,
        source: Source,
        store: Store,
        link: Link,
        clock: Clock,
        random: Callable[[], float] = random.random,
    ) -> None:
        self._source = source
        self._store = store
        self._clock = clock
        self._random = random
        self._entries: dict[str, _Entry] = {}
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._loading = asyncio.Lock()
        self._loaded = False
        self._log = get_logger("edged")
        link.on_connection(self._link_changed)

    async def token(self, pod: Pod, *, audience: str, seconds: int) -> str:
        """A token for the pod's service account, renewed when it is due.

        While it cannot be renewed the present one is given. Raises TransientError, TokenRefused.
        """
        await self._load()
        key = _key(pod, audience, seconds)
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            entry = self._entries.setdefault(
                key, _Entry(pod.uid, Backoff(initial=RETRY_INITIAL, maximum=RETRY_MAXIMUM))
            )
            now = self._clock.monotonic()
            if now >= max(entry.due, entry.retry_at):
                await self._renew(key, entry, pod, audience, seconds)
            if entry.refused and (entry.stored is None or entry.stored.expires_ms <= self._clock.wall_ms()):
                raise TokenRefused(entry.trouble)
            if entry.stored is None:
                raise TransientError(entry.trouble or "no token yet")
            return entry.stored.token

    def due(self, now: float) -> set[str]:
        """Uids of pods with a token that is to be renewed, or that is missing and can be asked for again."""
        return {entry.pod for entry in self._entries.values() if now >= max(entry.due, entry.retry_at)}

    async def forget(self, uid: str) -> None:
        """The pod is gone: its tokens with it."""
        await self._load()
        for key in [key for key, entry in self._entries.items() if entry.pod == uid]:
            stored = self._entries.pop(key).stored
            if stored is not None:
                await self._store.delete(key)

    async def _renew(self, key: str, entry: _Entry, pod: Pod, audience: str, seconds: int) -> None:
        """Ask the cloud; on failure keep what there is, and note why."""
        try:
            stored = await self._request(pod, audience, seconds)
        except PermanentError as error:
            self._failed(entry, error.message, refused=True)
        except TransientError as error:
            self._failed(entry, error.message, refused=False)
        else:
            entry.stored, entry.trouble, entry.refused, entry.retry_at = stored, "", False, 0.0
            entry.backoff.reset()
            entry.due = self._clock.monotonic() + self._life(stored)
            await self._store.put(
                MetaRow(key, ResourceType.SERVICE_ACCOUNT_TOKEN, msgspec.json.encode(stored), uid=pod.uid)
            )

    def _failed(self, entry: _Entry, why: str, *, refused: bool) -> None:
        entry.trouble, entry.refused = why, refused
        entry.retry_at = self._clock.monotonic() + entry.backoff.next_delay()
        if entry.stored is not None:
            self._log.info("token not renewed", pod=entry.pod, reason=why)

    async def _request(self, pod: Pod, audience: str, seconds: int) -> Stored:
        seconds = max(MIN_SECONDS, seconds)
        account = pod.spec.service_account_name or "default"
        resource = ResourceName(pod.metadata.namespace, ResourceType.SERVICE_ACCOUNT_TOKEN, account)
        asked_ms = self._clock.wall_ms()
        answer = await self._source.query(
            str(resource), content=token_request(pod, audience, seconds), timeout=QUERY_TIMEOUT
        )
        return _understood(answer, pod.uid, asked_ms=asked_ms, seconds=seconds)

    def _life(self, stored: Stored) -> float:
        """Seconds from when it came until it is renewed; a little less for some, so that not all come at once."""
        return min(MAX_AGE, stored.seconds * RENEW_AT) * (1.0 - 0.1 * self._random())

    async def _load(self) -> None:
        """Take up what was on the disk."""
        async with self._loading:
            if self._loaded:
                return
            for row in await self._store.list(ResourceType.SERVICE_ACCOUNT_TOKEN):
                try:
                    stored = msgspec.json.decode(row.value, type=Stored)
                except msgspec.MsgspecError:
                    await self._store.delete(row.key)  # another release's
                    continue
                age = (self._clock.wall_ms() - stored.got_ms) / 1000
                # A clock that went backwards says nothing of the age: then it is renewed.
                left = self._life(stored) - age if age >= 0 else 0.0
                entry = _Entry(stored.pod, Backoff(initial=RETRY_INITIAL, maximum=RETRY_MAXIMUM), stored)
                entry.due = self._clock.monotonic() + max(0.0, left)
                self._entries[row.key] = entry
            self._loaded = True

    def _link_changed(self, connected: bool) -> None:
        if connected:
            for entry in self._entries.values():
                entry.retry_at = 0.0
                entry.backoff.reset()


def token_request(pod: Pod, audience: str, seconds: int) -> dict[str, Any]:
    """TokenRequest (authentication.k8s.io/v1) for a token bound to the pod, with the keys that Go writes."""
    reference = {"kind": "Pod", "apiVersion": "v1", "name": pod.metadata.name, "uid": pod.uid}
    return {
        "metadata": {"creationTimestamp": None},
        "spec": {
            "audiences": [audience] if audience else None,
            "expirationSeconds": seconds,
            "boundObjectRef": reference,
        },
        "status": {"token": "", "expirationTimestamp": None},
    }


def _understood(answer: Any, uid: str, *, asked_ms: int, seconds: int) -> Stored:
    """The token in a TokenRequest that was answered."""
    status = answer.get("status") if isinstance(answer, dict) else None
    token = status.get("token") if isinstance(status, dict) else None
    if not isinstance(token, str) or not token:
        raise TransientError("the cloud answered without a token")
    spec = answer.get("spec")
    granted = spec.get("expirationSeconds") if isinstance(spec, dict) else None
    if isinstance(granted, int) and granted > 0:
        seconds = granted
    expires_ms = parse_time(status.get("expirationTimestamp")) if isinstance(status, dict) else None
    return Stored(token, uid, asked_ms, seconds, expires_ms or asked_ms + seconds * 1000)


def _key(pod: Pod, audience: str, seconds: int) -> str:
    """The row of a token. Four segments: no resource of the cloud has that many."""
    account = pod.spec.service_account_name or "default"
    which = hashlib.sha256(f"{pod.uid}\0{audience}\0{seconds}".encode()).hexdigest()[:32]
    return f"{pod.metadata.namespace}/{ResourceType.SERVICE_ACCOUNT_TOKEN}/{account}/{which}"
