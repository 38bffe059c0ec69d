"""The typed device: what the twin and the mappers know of a Device and its DeviceModel."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from edgeappliance.kernel.errors import PermanentError

DEFAULT_COLLECT_CYCLE_MS = 1000
"""A cycle of 0 or none means one second (KubeEdge reference 7.4)."""


class PropertyType(StrEnum):
    """The types of a DeviceModel property (KubeEdge reference 6.2)."""

    INT = "INT"
    FLOAT = "FLOAT"
    DOUBLE = "DOUBLE"
    STRING = "STRING"
    BOOLEAN = "BOOLEAN"
    BYTES = "BYTES"
    STREAM = "STREAM"

    @property
    def twin_type(self) -> str:
        """The type name in a twin: twins know no double, bytes or stream (KubeEdge reference 4.5).

        A DOUBLE travels as ``float``, BYTES as ``string`` (base64), a STREAM as ``string`` (its address).
        """
        return _TWIN_TYPES[self]


_TWIN_TYPES: Mapping[PropertyType, str] = {
    PropertyType.INT: "int",
    PropertyType.FLOAT: "float",
    PropertyType.DOUBLE: "float",
    PropertyType.STRING: "string",
    PropertyType.BOOLEAN: "boolean",
    PropertyType.BYTES: "string",
    PropertyType.STREAM: "string",
}


class Access(StrEnum):
    """Whether a desired value may be written to the field."""

    READ_ONLY = "ReadOnly"
    READ_WRITE = "ReadWrite"


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with a Device or its model; `path` is such as ``spec.properties[2].name``."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class DeviceInvalid(PermanentError):
    """A Device that cannot be used, with everything that is wrong with it."""

    def __init__(self, device_id: str, errors: tuple[FieldError, ...]) -> None:
        super().__init__(f"device {device_id}: " + "; ".join(str(error) for error in errors))
        self.device_id = device_id
        self.errors = errors


@dataclass(frozen=True, slots=True)
class PropertySpec:
    """One property of a device.

    `minimum` and `maximum` are in the property's unit; cycles are milliseconds; `visitor` is the model's
    ``visitors.configData`` overlaid key by key with the device's (KubeEdge reference 7.3).
    """

    name: str
    type: PropertyType
    access: Access = Access.READ_WRITE
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    desired: str | None = None
    visitor: Mapping[str, Any] = field(default_factory=dict)
    report_cycle_ms: int = 0
    collect_cycle_ms: int = DEFAULT_COLLECT_CYCLE_MS
    report_to_cloud: bool = False
    push_method: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """A device with its model applied. `state_report_cycle_ms` is 0 when its state is not reported."""

    namespace: str
    name: str
    model: str
    protocol: str
    protocol_config: Mapping[str, Any] = field(default_factory=dict)
    properties: tuple[PropertySpec, ...] = ()
    state_report_cycle_ms: int = 0
    local: bool = False

    @property
    def id(self) -> str:
        """``<namespace>/<name>``, the device id in topics and messages (KubeEdge reference 4.2)."""
        return f"{self.namespace}/{self.name}"

    def property(self, name: str) -> PropertySpec | None:
        """The property of that name."""
        return next((spec for spec in self.properties if spec.name == name), None)
