"""From stored Device and DeviceModel objects and local device files to specifications for who works with devices.

The catalogue decides what a change touches; this component feeds it and hands the outcome on, in order, until
every receiver has taken it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from edgeappliance.devicemodel.catalogue import Catalogue, CatalogueChange
from edgeappliance.devicemodel.spec import DeviceInvalid, DeviceSpec
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.errors import TransientError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.metamanager.objects import Change
from edgeappliance.wire.operations import Operation, ResourceType

RETRY = 2.0
"""Seconds before a receiver that could not take a specification (disk full) is asked again."""

LOCAL_CHECK = 3.0
"""Seconds between looks at the folder of local device files."""

Object = Mapping[str, Any]


class Objects(Protocol):
    """What this needs of metamanager."""

    def subscribe(self, resource_type: str, callback: Callable[[Change], Any]) -> None: ...

    async def objects(self, resource_type: str) -> list[dict[str, Any]]: ...


Receiver = Callable[[CatalogueChange], Awaitable[None]]
"""Somebody who works with devices (the twin, the mappers). A TransientError means: tell me again."""


class LocalDevices(Protocol):
    """The folder of local device files."""

    def changed(self) -> bool:
        """Whether a file came, went or changed since the last `read`. Blocks on the file system."""
        ...

    def read(self) -> tuple[Sequence[Object], Sequence[Object], Sequence[str]]:
        """(models, devices, errors) of all files; a bad file is an error text and costs the others nothing."""
        ...


class Devices:
    """All devices of this node, from the cloud and from local files."""

    def __init__(
        self,
        scope: TaskScope,
        *,
        objects: Objects,
        receivers: Sequence[Receiver],
        local: LocalDevices | None = None,
    ) -> None:
        self._scope = scope
        self._objects = objects
        self._receivers = tuple(receivers)
        self._local = local
        self._local_keys: dict[str, set[tuple[str, str]]] = {"model": set(), "device": set()}
        self._local_errors: tuple[str, ...] = ()
        self._catalogue = Catalogue()
        self._changes: asyncio.Queue[CatalogueChange] = asyncio.Queue()
        self._problem = ""
        self._running = False
        self._log = get_logger("devices")
        objects.subscribe(ResourceType.DEVICE, self._device_changed)
        objects.subscribe(ResourceType.DEVICE_MODEL, self._model_changed)

    async def start(self) -> None:
        """Hand out what is stored; the cloud may come later."""
        self._catalogue = Catalogue()
        self._changes = asyncio.Queue()
        for model in await self._objects.objects(ResourceType.DEVICE_MODEL):
            self._feed(self._catalogue.upsert_model, model)
        for device in await self._objects.objects(ResourceType.DEVICE):
            self._feed(self._catalogue.upsert_device, device)
        self._scope.spawn(self._hand_out(), name="hand-out")
        if self._local is not None:
            await self._read_local(self._local)
            self._scope.spawn(self._watch_local(self._local), name="local-files")
        self._running = True

    async def stop(self) -> None:
        self._running = False
        await self._scope.cancel()

    def health(self) -> Health:
        invalid = {
            change.device_id: "; ".join(map(str, change.errors))
            for change in self._catalogue.results()
            if change.spec is None
        }
        details = {
            "devices": sum(1 for change in self._catalogue.results() if change.spec is not None),
            "invalid": invalid,
            "files": list(self._local_errors),
            "waiting": self._changes.qsize(),
        }
        if not self._running:
            return Health(State.STOPPED, details=details)
        if self._problem:
            return Health(State.DEGRADED, self._problem, "it is tried again; see component store", details=details)
        if invalid or self._local_errors:
            first = next((f"{device}: {why}" for device, why in invalid.items()), "") or self._local_errors[0]
            return Health(State.DEGRADED, first, "correct the Device, its model or the file", details=details)
        return Health(State.RUNNING, details=details)

    def specification(self, device_id: str) -> DeviceSpec | None:
        """The specification of a device when it is known and valid."""
        return self._catalogue.device(device_id)

    def results(self) -> list[CatalogueChange]:
        """Every device with its specification or its errors."""
        return self._catalogue.results()

    # Changes from the cloud, after they are on the disk.

    async def _device_changed(self, change: Change) -> None:
        if change.operation != Operation.DELETE and change.value is not None:
            self._feed(self._catalogue.upsert_device, change.value)
        else:
            self._take(self._catalogue.remove_device(change.resource.namespace, change.resource.name))

    async def _model_changed(self, change: Change) -> None:
        if change.operation != Operation.DELETE and change.value is not None:
            self._feed(self._catalogue.upsert_model, change.value)
        else:
            self._take(self._catalogue.remove_model(change.resource.namespace, change.resource.name))

    def _feed(self, upsert: Callable[[Object], list[CatalogueChange]], value: Object) -> None:
        try:
            self._take(upsert(value))
        except DeviceInvalid as error:
            self._log.warning("object without a name ignored", error=error)

    def _take(self, changes: Sequence[CatalogueChange]) -> None:
        for change in changes:
            if change.errors:
                self._log.warning(
                    "device is not usable", device=change.device_id, errors=[str(e) for e in change.errors]
                )
            self._changes.put_nowait(change)

    async def _hand_out(self) -> None:
        while True:
            change = await self._changes.get()
            for receiver in self._receivers:
                await self._give(receiver, change)

    async def _give(self, receiver: Receiver, change: CatalogueChange) -> None:
        while True:
            try:
                await receiver(change)
            except TransientError as error:
                self._problem = f"{change.device_id}: {error.message}"
                await asyncio.sleep(RETRY)
            else:
                self._problem = ""
                return

    # Local files.

    async def _watch_local(self, local: LocalDevices) -> None:
        while True:
            await asyncio.sleep(LOCAL_CHECK)
            if await asyncio.to_thread(local.changed):
                await self._read_local(local)

    async def _read_local(self, local: LocalDevices) -> None:
        models, devices, errors = await asyncio.to_thread(local.read)
        for text in errors:
            if text not in self._local_errors:
                self._log.warning("local device file refused", error=text)
        self._local_errors = tuple(errors)
        self._exchange("model", models, self._catalogue.upsert_model, self._catalogue.remove_model)
        self._exchange("device", devices, self._catalogue.upsert_device, self._catalogue.remove_device)

    def _exchange(
        self,
        kind: str,
        values: Sequence[Object],
        upsert: Callable[..., list[CatalogueChange]],
        remove: Callable[..., list[CatalogueChange]],
    ) -> None:
        """Replace all local objects of a kind; the catalogue reports only what really changed."""
        keys = set()
        for value in values:
            metadata = value.get("metadata", {})
            keys.add((str(metadata.get("namespace") or "default"), str(metadata.get("name", ""))))
            try:
                self._take(upsert(value, local=True))
            except DeviceInvalid as error:
                self._local_errors = (*self._local_errors, str(error))
        for namespace, name in self._local_keys[kind] - keys:
            self._take(remove(namespace, name, local=True))
        self._local_keys[kind] = keys
