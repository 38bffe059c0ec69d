"""One Device and its DeviceModel become one DeviceSpec, or the list of everything that is wrong with them."""

import math
import re
from collections.abc import Mapping
from typing import Any

from edgeappliance.devicemodel.spec import (
    DEFAULT_COLLECT_CYCLE_MS,
    Access,
    DeviceInvalid,
    DeviceSpec,
    FieldError,
    PropertySpec,
    PropertyType,
)

_PROPERTY_NAME = re.compile(r"[a-zA-Z0-9\-_.,:/@#]{1,128}\Z")
# The same number meant nanoseconds to the mappers of KubeEdge 1.15-1.17 (KubeEdge reference 7.5, "cycle unit
# trap"): nobody polls a register less than once a week, but many files hold 1000000000 for a second.
_LONGEST_CYCLE_MS = 7 * 86_400_000


def merge(device: Mapping[str, Any], model: Mapping[str, Any] | None, *, local: bool = False) -> DeviceSpec:
    """Apply `model` (a DeviceModel object, None when it is not known) to `device` (a Device object).

    Both are devices.kubeedge.io/v1beta1 objects as the API serves them: unknown keys are ignored, null is
    absent.
    Model values are the base; device keys override them one by one at the top level (KubeEdge reference 7.3).

    Raises:
        DeviceInvalid: with all errors of the device and of the part of the model that it uses.
    """
    return _Merge(device, model).spec(local=local)


def model_name(device: Mapping[str, Any]) -> str:
    """The name in ``spec.deviceModelRef``, empty when there is none."""
    spec = device.get("spec")
    reference = spec.get("deviceModelRef") if isinstance(spec, Mapping) else None
    name = reference.get("name") if isinstance(reference, Mapping) else None
    return name if isinstance(name, str) else ""


def object_key(item: Mapping[str, Any]) -> tuple[str, str]:
    """(namespace, name) of an object; a missing namespace is ``default``.

    Raises:
        DeviceInvalid: without a name.
    """
    metadata = item.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    name, namespace = metadata.get("name"), metadata.get("namespace") or "default"
    if not isinstance(name, str) or not name or not isinstance(namespace, str):
        raise DeviceInvalid("?", (FieldError("metadata.name", "is missing"),))
    return namespace, name


class _Merge:
    """One merge; collects errors while it reads."""

    def __init__(self, device: Mapping[str, Any], model: Mapping[str, Any] | None) -> None:
        self._errors: list[FieldError] = []
        self._namespace, self._name = object_key(device)
        self._device = self._mapping(device.get("spec"), "spec")
        self._model_name = model_name(device)
        self._model = None if model is None else self._mapping(model.get("spec"), f"{self._model_path}.spec")

    @property
    def _model_path(self) -> str:
        return f"devicemodel({self._model_name})"

    def spec(self, *, local: bool) -> DeviceSpec:
        model_properties = self._model_properties()
        protocol = self._mapping(self._device.get("protocol"), "spec.protocol")
        protocol_name = self._text(protocol.get("protocolName"), "spec.protocol.protocolName")
        if not protocol_name and "protocolName" not in protocol:
            protocol_name = self._text((self._model or {}).get("protocol"), f"{self._model_path}.spec.protocol")
        if not protocol_name:
            self._fail("spec.protocol.protocolName", "is missing")
        config = {
            **self._mapping(
                (self._model or {}).get("protocolConfigData"), f"{self._model_path}.spec.protocolConfigData"
            ),
            **self._mapping(protocol.get("configData"), "spec.protocol.configData"),
        }
        properties = self._properties(model_properties)
        state_cycle = self._state_cycle()
        if self._errors:
            raise DeviceInvalid(f"{self._namespace}/{self._name}", tuple(self._errors))
        return DeviceSpec(
            namespace=self._namespace,
            name=self._name,
            model=self._model_name,
            protocol=protocol_name,
            protocol_config=config,
            properties=properties,
            state_report_cycle_ms=state_cycle,
            local=local,
        )

    def _model_properties(self) -> dict[str, tuple[str, Mapping[str, Any]]] | None:
        """Model properties by name with their paths; None when the model is not known (said once)."""
        if not self._model_name:
            self._fail("spec.deviceModelRef.name", "is missing")
            return None
        if self._model is None:
            self._fail(
                "spec.deviceModelRef.name",
                f'device model "{self._model_name}" is not known in namespace "{self._namespace}"',
            )
            return None
        found: dict[str, tuple[str, Mapping[str, Any]]] = {}
        for path, item in self._items(self._model.get("properties"), f"{self._model_path}.spec.properties"):
            name = item.get("name")
            if isinstance(name, str) and name not in found:
                found[name] = (path, item)
            else:
                self._fail(f"{path}.name", "is missing" if not name else f'"{name}" is used twice')
        return found

    def _properties(
        self, model_properties: Mapping[str, tuple[str, Mapping[str, Any]]] | None
    ) -> tuple[PropertySpec, ...]:
        specs: list[PropertySpec] = []
        names: set[str] = set()
        for path, item in self._items(self._device.get("properties"), "spec.properties"):
            name = item.get("name")
            if not isinstance(name, str) or not _PROPERTY_NAME.match(name):
                self._fail(f"{path}.name", "must be 1 to 128 characters of a-z A-Z 0-9 - _ . , : / @ #")
                continue
            if name in names:
                self._fail(f"{path}.name", f'"{name}" is used twice')
                continue
            names.add(name)
            if model_properties is not None and name not in model_properties:
                self._fail(f"{path}.name", f'"{name}" is not a property of device model "{self._model_name}"')
                continue
            model_path, model_item = (model_properties or {}).get(name, ("", {}))
            spec = self._property(name, path, item, model_path, model_item)
            if spec is not None:
                specs.append(spec)
        return tuple(specs)

    def _property(
        self,
        name: str,
        path: str,
        item: Mapping[str, Any],
        model_path: str,
        model_item: Mapping[str, Any],
    ) -> PropertySpec | None:
        kind = self._type(model_item.get("type"), f"{model_path}.type") if model_path else PropertyType.STRING
        access = self._access(model_item.get("accessMode"), f"{model_path}.accessMode")
        minimum = self._number(model_item.get("minimum"), f"{model_path}.minimum")
        maximum = self._number(model_item.get("maximum"), f"{model_path}.maximum")
        if minimum is not None and maximum is not None and minimum > maximum:
            self._fail(f"{model_path}.minimum", f"{minimum:g} is above the maximum {maximum:g}")
        visitor = {
            **self._visitor(model_item.get("visitors"), f"{model_path}.visitors"),
            **self._visitor(item.get("visitors"), f"{path}.visitors"),
        }
        push = item.get("pushMethod")
        push_method = self._mapping(push, f"{path}.pushMethod") if push is not None else None
        collect = self._cycle(item.get("collectCycle"), f"{path}.collectCycle")
        report = self._cycle(item.get("reportCycle"), f"{path}.reportCycle")
        desired = self._desired(item.get("desired"), f"{path}.desired")
        report_to_cloud = self._boolean(item.get("reportToCloud"), f"{path}.reportToCloud")
        if kind is None:
            return None
        return PropertySpec(
            name=name,
            type=kind,
            access=access,
            minimum=minimum,
            maximum=maximum,
            unit=self._text(model_item.get("unit"), f"{model_path}.unit"),
            desired=desired,
            visitor=visitor,
            report_cycle_ms=report,
            collect_cycle_ms=collect or DEFAULT_COLLECT_CYCLE_MS,
            report_to_cloud=report_to_cloud,
            push_method=push_method,
        )

    def _state_cycle(self) -> int:
        report = self._mapping(self._device.get("stateReport"), "spec.stateReport")
        if not self._boolean(report.get("reportToCloud"), "spec.stateReport.reportToCloud"):
            return 0
        cycle = self._cycle(report.get("reportCycle"), "spec.stateReport.reportCycle")
        return cycle or DEFAULT_COLLECT_CYCLE_MS

    def _visitor(self, value: object, path: str) -> Mapping[str, Any]:
        return self._mapping(self._mapping(value, path).get("configData"), f"{path}.configData")

    def _desired(self, value: object, path: str) -> str | None:
        desired = self._mapping(value, path)
        text = desired.get("value")
        # The API's schema knows text only; a local TOML file says `value = 5`.
        if isinstance(text, bool):
            return "true" if text else "false"
        if isinstance(text, int | float):
            return str(text)
        if text is not None and not isinstance(text, str):
            self._fail(f"{path}.value", "must be text")
            return None
        return text

    def _type(self, value: object, path: str) -> PropertyType | None:
        if isinstance(value, str) and value.upper() in PropertyType.__members__:
            return PropertyType[value.upper()]
        known = ", ".join(PropertyType)
        self._fail(path, "is missing" if value in (None, "") else f"{value!r} is not one of {known}")
        return None

    def _access(self, value: object, path: str) -> Access:
        if value in (None, ""):
            return Access.READ_WRITE
        if isinstance(value, str):
            for access in Access:
                if value.lower() == access.lower():
                    return access
        self._fail(path, f"{value!r} is not one of {', '.join(Access)}")
        return Access.READ_ONLY

    def _number(self, value: object, path: str) -> float | None:
        if value in (None, ""):
            return None
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            try:
                number = float(value)
            except (ValueError, OverflowError):
                number = math.nan
            if math.isfinite(number):
                return number
        self._fail(path, f"{value!r} is not a number")
        return None

    def _cycle(self, value: object, path: str) -> int:
        if value is None:
            return 0
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            self._fail(path, "must be a whole number of milliseconds")
            return 0
        if value < 0:
            self._fail(path, "must not be negative")
            return 0
        if value > _LONGEST_CYCLE_MS:
            self._fail(path, f"{value} ms is {value // 86_400_000} days; cycles are milliseconds, not nanoseconds")
            return 0
        return value

    def _boolean(self, value: object, path: str) -> bool:
        if value is None or isinstance(value, bool):
            return bool(value)
        self._fail(path, "must be true or false")
        return False

    def _text(self, value: object, path: str) -> str:
        if value is None or isinstance(value, str):
            return value or ""
        self._fail(path, "must be text")
        return ""

    def _mapping(self, value: object, path: str) -> Mapping[str, Any]:
        if value is None:
            return {}
        if isinstance(value, Mapping):
            return value
        self._fail(path, "must be an object")
        return {}

    def _items(self, value: object, path: str) -> list[tuple[str, Mapping[str, Any]]]:
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            self._fail(path, "must be a list")
            return []
        return [(f"{path}[{index}]", self._mapping(item, f"{path}[{index}]")) for index, item in enumerate(value)]

    def _fail(self, path: str, message: str) -> None:
        self._errors.append(FieldError(path, message))
