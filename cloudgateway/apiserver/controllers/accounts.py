"""Every namespace has a service account `default`, which pods have that name no other."""

import asyncio

import msgspec

from cloudgateway.apiserver.store import ObjectStore
from cloudgateway.apiserver.writing import Writer
from edgeappliance.kernel.database import StorageError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kubeapi.errors import StatusFailure
from edgeappliance.kubeapi.request import ApiRequest, Target
from edgeappliance.kubeapi.resources import Registry
from edgeappliance.kubeapi.storage import Change, ChangeType

ACCOUNTS, NAMESPACES = "serviceaccounts", "namespaces"
DEFAULT = "default"
RETRY_SECONDS = 5.0


class DefaultAccounts:
    """Makes the account of a new namespace, and makes it anew when somebody deletes it."""

    def __init__(self, *, store: ObjectStore, writer: Writer, registry: Registry) -> None:
        self._store = store
        self._writer = writer
        self._registry = registry
        self._work: set[str] = {entry.name for entry in store.entries(NAMESPACES)}
        self._wake = asyncio.Event()
        self._wake.set()
        self._log = get_logger("accounts")
        store.listen(self._listen)

    def _listen(self, change: Change) -> None:
        entry = change.entry
        if entry.resource == NAMESPACES and change.type is ChangeType.ADDED:
            self._look_at(entry.name)
        elif entry.resource == ACCOUNTS and entry.name == DEFAULT and change.type is ChangeType.DELETED:
            self._look_at(entry.namespace)

    def _look_at(self, namespace: str) -> None:
        self._work.add(namespace)
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._work:
                await self._make(self._work.pop())

    async def _make(self, namespace: str) -> None:
        resource = self._registry.stored(ACCOUNTS)
        owner = self._store.get(NAMESPACES, "", namespace)
        if resource is None or owner is None or owner.deleting:
            return
        if self._store.head(ACCOUNTS, namespace, DEFAULT) is not None:
            return
        body = msgspec.json.encode({"metadata": {"name": DEFAULT}})
        request = ApiRequest(method="POST", path="", body=body)
        try:
            await self._writer.create(request, Target("", "v1", ACCOUNTS, namespace), resource)
        except (StatusFailure, StorageError) as error:
            if isinstance(error, StatusFailure) and error.reason in ("AlreadyExists", "NotFound", "Forbidden"):
                return  # somebody was faster, or the namespace is going
            self._log.warning("service account not made yet", namespace=namespace, error=error)
            asyncio.get_running_loop().call_later(RETRY_SECONDS, self._look_at, namespace)
