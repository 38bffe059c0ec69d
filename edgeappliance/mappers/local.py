"""Devices from ``mappers.d/*.toml``: a gateway without any cloud.

The structure is that of Device and DeviceModel, with name and namespace beside the keys of their spec::

    [[model]]
    name = "meter"
    [[model.properties]]
    name = "voltage"
    type = "FLOAT"
    accessMode = "ReadOnly"
    visitors.configData = { register = "InputRegister", offset = 0, limit = 2 }

    [[device]]
    name = "meter-1"
    deviceModelRef.name = "meter"
    protocol.protocolName = "modbus"
    protocol.configData = { serialPort = "/dev/serial/by-id/...", slaveID = 1 }
    properties = [{ name = "voltage", collectCycle = 1000 }]
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LARGEST_FILE = 4 * 1024 * 1024
_NAMED = {"name", "namespace"}
# The keys of Device and DeviceModel (KubeEdge reference 6.1, 6.2). What stands below a configData is the
# protocol's own and is checked by it.
_DEVICE = {"deviceModelRef", "nodeName", "properties", "protocol", "methods", "stateReport"}
_DEVICE_PROPERTY = {
    "name",
    "desired",
    "visitors",
    "reportCycle",
    "collectCycle",
    "reportToCloud",
    "pushMethod",
}
_MODEL = {"protocol", "protocolConfigData", "properties"}
_MODEL_PROPERTY = {"name", "description", "type", "accessMode", "minimum", "maximum", "unit", "visitors"}


@dataclass(frozen=True, slots=True)
class LocalProblem:
    """Something wrong with a file; `path` is the field, empty when it is the whole file."""

    file: Path
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.path}: {self.message}" if self.path else f"{self.file}: {self.message}"


@dataclass(frozen=True, slots=True)
class LocalDevices:
    """Objects as the API would serve them, with their file, and what was wrong; a bad file gives none."""

    models: tuple[tuple[Path, Mapping[str, Any]], ...]
    devices: tuple[tuple[Path, Mapping[str, Any]], ...]
    problems: tuple[LocalProblem, ...]


def load_directory(directory: Path) -> LocalDevices:
    """All files of `directory`, in the order of their names; a missing directory holds none. Blocking."""
    models: list[tuple[Path, Mapping[str, Any]]] = []
    devices: list[tuple[Path, Mapping[str, Any]]] = []
    problems: list[LocalProblem] = []
    origin: dict[tuple[str, str, str], Path] = {}
    for file in sorted(directory.glob("*.toml")):
        reader = _File(file)
        reader.read()
        for kind, objects in (("model", reader.models), ("device", reader.devices)):
            for item in objects:
                name, namespace = item["metadata"]["name"], item["metadata"]["namespace"]
                other = origin.setdefault((kind, namespace, name), file)
                if other != file:
                    reader.fail(kind, f'"{namespace}/{name}" stands in {other.name} already')
        if reader.problems:
            problems += reader.problems
            continue
        models += [(file, item) for item in reader.models]
        devices += [(file, item) for item in reader.devices]
    return LocalDevices(tuple(models), tuple(devices), tuple(problems))


class LocalFolder:
    """A folder of local device files that is looked at again and again. Both calls block on the file system."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: dict[str, tuple[int, int, int]] = {}

    def changed(self) -> bool:
        """Whether a file came, went or changed since the last `read`."""
        return self._look() != self._seen

    def read(self) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]], list[str]]:
        """(models, devices, errors) of all files."""
        self._seen = self._look()
        local = load_directory(self._directory)
        return (
            [item for _, item in local.models],
            [item for _, item in local.devices],
            [str(problem) for problem in local.problems],
        )

    def _look(self) -> dict[str, tuple[int, int, int]]:
        seen = {}
        for file in self._directory.glob("*.toml"):
            try:
                status = file.stat()
            except OSError:
                continue  # removed while we looked
            seen[file.name] = (status.st_ino, status.st_mtime_ns, status.st_size)
        return seen


class _File:
    """One file; collects everything that is wrong with it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.models: list[dict[str, Any]] = []
        self.devices: list[dict[str, Any]] = []
        self.problems: list[LocalProblem] = []

    def read(self) -> None:
        """Parse and check."""
        try:
            if self._file.stat().st_size > _LARGEST_FILE:
                self.fail("", f"is larger than {_LARGEST_FILE} bytes")
                return
            values = tomllib.loads(self._file.read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            self.fail("", f"cannot be read: {error}")
            return
        except tomllib.TOMLDecodeError as error:
            self.fail("", f"is not TOML: {error}")
            return
        self._known(values, {"model", "device"}, "")
        self.models = self._objects(values, "model", "DeviceModel", _MODEL, _MODEL_PROPERTY)
        self.devices = self._objects(values, "device", "Device", _DEVICE, _DEVICE_PROPERTY)

    def fail(self, path: str, message: str) -> None:
        """Record a problem."""
        self.problems.append(LocalProblem(self._file, path, message))

    def _objects(
        self, values: Mapping[str, Any], key: str, kind: str, known: set[str], known_property: set[str]
    ) -> list[dict[str, Any]]:
        objects = []
        for path, item in self._tables(values.get(key, []), key):
            self._known(item, known | _NAMED, path)
            name, namespace = item.get("name"), item.get("namespace", "default")
            if not isinstance(name, str) or not name:
                self.fail(f"{path}.name", "is missing")
                continue
            if not isinstance(namespace, str) or not namespace:
                self.fail(f"{path}.namespace", "must be text that is not empty")
                continue
            for property_path, entry in self._tables(item.get("properties", []), f"{path}.properties"):
                self._known(entry, known_property, property_path)
            spec = {field: value for field, value in item.items() if field not in _NAMED}
            metadata = {"name": name, "namespace": namespace}
            objects.append(
                {"apiVersion": "devices.kubeedge.io/v1beta1", "kind": kind, "metadata": metadata, "spec": spec}
            )
        return objects

    def _tables(self, value: object, path: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
        if not isinstance(value, list):
            self.fail(path, f"must be a list of tables: [[{path}]]")
            return
        for index, item in enumerate(value):
            if isinstance(item, Mapping):
                yield f"{path}[{index}]", item
            else:
                self.fail(f"{path}[{index}]", "must be a table")

    def _known(self, table: Mapping[str, Any], known: set[str], path: str) -> None:
        for key in sorted(table.keys() - known):
            matches = difflib.get_close_matches(key, known, n=1)
            hint = f'; did you mean "{matches[0]}"?' if matches else ""
            self.fail(f"{path}.{key}" if path else key, f"is not a known key{hint}")
