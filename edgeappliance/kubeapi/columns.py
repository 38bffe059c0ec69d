"""Columns of server-side tables: their head and how a cell is read from an object."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgeappliance.kubeapi.jsonpath import JsonPath
from edgeappliance.kubeapi.times import age

Reader = Callable[[dict[str, Any], int], Any]
"""Cell of an object at a time (Unix ms)."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `priority` above 0 shows with `-o wide` only; `type` and `format` are OpenAPI's."""

    name: str
    read: Reader
    type: str = "string"
    format: str = ""
    priority: int = 0
    description: str = ""

    def definition(self) -> dict[str, Any]:
        """The metav1.TableColumnDefinition."""
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


def read_name(value: dict[str, Any], now_ms: int) -> Any:
    """metadata.name."""
    return value.get("metadata", {}).get("name", "")


def read_age(value: dict[str, Any], now_ms: int) -> Any:
    """Age by metadata.creationTimestamp."""
    return age(value.get("metadata", {}).get("creationTimestamp"), now_ms)


NAME = Column("Name", read_name, format="name", description="Name must be unique within a namespace.")
AGE = Column("Age", read_age, description="Time since the object was created.")


def path_column(
    name: str, path: str, *, type: str = "string", format: str = "", priority: int = 0, description: str = ""
) -> Column:
    """A column of a custom resource (`additionalPrinterColumns`). Raises ValueError for an unreadable path."""
    parsed = JsonPath(path)

    def read(value: dict[str, Any], now_ms: int) -> Any:
        found = parsed.find(value)
        return _cell(found, type, now_ms) if found else None

    return Column(name, read, type, format, priority, description)


def _cell(found: list[Any], type_: str, now_ms: int) -> Any:
    value = found[0]
    match type_:
        case "date":
            return age(value, now_ms) if value else None
        case "integer":
            return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
        case "number":
            return value if isinstance(value, int | float) and not isinstance(value, bool) else None
        case "boolean":
            return value if isinstance(value, bool) else None
    if len(found) > 1:
        return ",".join(_text(item) for item in found)
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        # Go prints a map this way; a user who compares with a cluster sees the same.
        return "map[" + " ".join(f"{key}:{_text(item)}" for key, item in sorted(value.items())) + "]"
    if isinstance(value, list):
        return "[" + " ".join(_text(item) for item in value) + "]"
    return str(value)
