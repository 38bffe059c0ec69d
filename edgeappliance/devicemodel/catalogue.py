"""All devices and models that a node knows; says which device specifications a change touches."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from edgeappliance.devicemodel.merge import merge, model_name, object_key
from edgeappliance.devicemodel.spec import DeviceInvalid, DeviceSpec, FieldError

_Key: TypeAlias = tuple[str, str]


@dataclass(frozen=True, slots=True)
class CatalogueChange:
    """What became of a device: its new specification, or None and the reasons (none: it was removed)."""

    device_id: str
    spec: DeviceSpec | None
    errors: tuple[FieldError, ...] = ()

    @property
    def removed(self) -> bool:
        """The device is gone, as opposed to invalid."""
        return self.spec is None and not self.errors


class Catalogue:
    """Devices and models by namespace and name, in two layers: from the cloud, and from local files.

    An object from the cloud hides the local one of the same name; when it goes, the local one is back.
    Each call returns only the devices whose specification or errors really changed.
    """

    def __init__(self) -> None:
        self._devices: dict[bool, dict[_Key, Mapping[str, Any]]] = {False: {}, True: {}}
        self._models: dict[bool, dict[_Key, Mapping[str, Any]]] = {False: {}, True: {}}
        self._results: dict[_Key, CatalogueChange] = {}

    def upsert_device(self, obj: Mapping[str, Any], *, local: bool = False) -> list[CatalogueChange]:
        """Take a Device object.

        Raises:
            DeviceInvalid: it has no name; every other error comes back in a change.
        """
        key = object_key(obj)
        self._devices[local][key] = obj
        return self._recompute([key])

    def remove_device(self, namespace: str, name: str, *, local: bool = False) -> list[CatalogueChange]:
        """Forget a Device; nothing happens when it is not known."""
        self._devices[local].pop((namespace, name), None)
        return self._recompute([(namespace, name)])

    def upsert_model(self, obj: Mapping[str, Any], *, local: bool = False) -> list[CatalogueChange]:
        """Take a DeviceModel object and recompute what depends on it.

        Raises:
            DeviceInvalid: it has no name.
        """
        key = object_key(obj)
        self._models[local][key] = obj
        return self._recompute(self._users_of(key))

    def remove_model(self, namespace: str, name: str, *, local: bool = False) -> list[CatalogueChange]:
        """Forget a DeviceModel; its devices become invalid."""
        self._models[local].pop((namespace, name), None)
        return self._recompute(self._users_of((namespace, name)))

    def device(self, device_id: str) -> DeviceSpec | None:
        """The specification of ``<namespace>/<name>`` when it is valid."""
        namespace, _, name = device_id.partition("/")
        result = self._results.get((namespace, name))
        return result.spec if result else None

    def results(self) -> list[CatalogueChange]:
        """Every device with its specification or its errors."""
        return list(self._results.values())

    def _users_of(self, model: _Key) -> list[_Key]:
        namespace, name = model
        keys = dict.fromkeys([*self._devices[False], *self._devices[True]])
        return [
            key
            for key in keys
            if key[0] == namespace and (device := self._effective(self._devices, key)) and model_name(device) == name
        ]

    def _recompute(self, keys: Iterable[_Key]) -> list[CatalogueChange]:
        changes = []
        for key in keys:
            before, after = self._results.pop(key, None), self._result(key)
            if after is not None:
                self._results[key] = after
                if after != before:
                    changes.append(after)
            elif before is not None:
                changes.append(CatalogueChange("/".join(key), None))
        return changes

    def _result(self, key: _Key) -> CatalogueChange | None:
        device = self._effective(self._devices, key)
        if device is None:
            return None
        model = self._effective(self._models, (key[0], model_name(device)))
        try:
            spec = merge(device, model, local=key not in self._devices[False])
        except DeviceInvalid as invalid:
            return CatalogueChange("/".join(key), None, invalid.errors)
        return CatalogueChange(spec.id, spec)

    @staticmethod
    def _effective(layers: Mapping[bool, Mapping[_Key, Mapping[str, Any]]], key: _Key) -> Mapping[str, Any] | None:
        cloud = layers[False].get(key)
        return cloud if cloud is not None else layers[True].get(key)
