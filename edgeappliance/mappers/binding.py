"""What a protocol makes of a DeviceSpec, and where the engine finds protocols."""

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from edgeappliance.devicemodel import DeviceInvalid, DeviceSpec, FieldError
from edgeappliance.mappers.driver import Driver, UnitKey, UnitProfile
from edgeappliance.mappers.points import Point


class LineSettings(Protocol):
    """How a line is reached: a dataclass, named by `key`. One key is one line; it has one owner."""

    @property
    def key(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Binding:
    """A device on its line. `warnings` are about configuration that does nothing."""

    line: LineSettings
    unit: UnitKey
    profile: UnitProfile
    points: tuple[Point, ...]
    warnings: tuple[FieldError, ...] = ()


class FieldProtocol(Protocol):
    """A protocol's two entries."""

    def bind(self, spec: DeviceSpec) -> Binding:
        """Validate a device's configuration. Raises DeviceInvalid with all errors."""
        ...

    def driver(self, line: Any) -> Driver:
        """A driver for a line that `bind` named; it is not open yet."""
        ...


class Protocols:
    """Protocols by ``protocolName`` (in any case), imported when the first device asks for one."""

    def __init__(self, modules: Mapping[str, str]) -> None:
        self._modules = dict(modules)
        self._loaded: dict[str, FieldProtocol] = {}

    @classmethod
    def built_in(cls) -> "Protocols":
        """What comes with the appliance."""
        return cls({"modbus": "edgeappliance.mappers.modbus.protocol"})

    def serves(self, name: str) -> bool:
        """Whether devices of this protocol are ours; others belong to external mappers."""
        return name.lower() in self._modules

    def unserved(self, name: str) -> str:
        """Why nothing is read of a device of a protocol that is not ours."""
        matches = difflib.get_close_matches(name.lower(), self._modules, n=1)
        hint = f'did you mean "{matches[0]}"?' if matches else f"built in: {', '.join(sorted(self._modules))}"
        return f'no built-in mapper speaks "{name}" ({hint}); values must come from a program on MQTT'

    def of(self, spec: DeviceSpec) -> FieldProtocol:
        """The protocol of a device. Raises DeviceInvalid when there is none of that name."""
        name = spec.protocol.lower()
        if name not in self._modules:
            known = ", ".join(sorted(self._modules))
            error = FieldError("spec.protocol.protocolName", f'"{spec.protocol}" is not one of {known}')
            raise DeviceInvalid(spec.id, (error,))
        if name not in self._loaded:
            module = importlib.import_module(self._modules[name])
            self._loaded[name] = module.protocol()
        return self._loaded[name]
