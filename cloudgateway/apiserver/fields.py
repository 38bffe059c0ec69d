"""Field errors of one object, in upstream's words."""

import json
from collections.abc import Iterable
from typing import Any

from edgeappliance.kubeapi.errors import Cause


class Fields:
    """Collects what is wrong; each method names the field by its path."""

    def __init__(self) -> None:
        self.causes: list[Cause] = []

    def required(self, path: str, text: str = "") -> None:
        """A value that must be there."""
        self._add("FieldValueRequired", f"Required value: {text}" if text else "Required value", path)

    def invalid(self, path: str, value: Any, text: str) -> None:
        """A value that cannot be."""
        self._add("FieldValueInvalid", f"Invalid value: {_shown(value)}: {text}", path)

    def unsupported(self, path: str, value: Any, supported: Iterable[str]) -> None:
        """A word that is none of those there are."""
        words = ", ".join(f'"{word}"' for word in sorted(supported))
        self._add("FieldValueNotSupported", f"Unsupported value: {_shown(value)}: supported values: {words}", path)

    def duplicate(self, path: str, value: Any) -> None:
        """A value that must be there once only."""
        self._add("FieldValueDuplicate", f"Duplicate value: {_shown(value)}", path)

    def forbidden(self, path: str, text: str) -> None:
        """A field that may not be set, or not changed."""
        self._add("FieldValueForbidden", f"Forbidden: {text}", path)

    def not_found(self, path: str, value: Any) -> None:
        """A reference to what is not there."""
        self._add("FieldValueNotFound", f"Not found: {_shown(value)}", path)

    def checked(self, path: str, value: Any, error: str) -> None:
        """`invalid` where a rule of `kubeapi.names` found an error."""
        if error:
            self.invalid(path, value, error)

    def at_least(self, path: str, value: int | None, least: int = 0) -> None:
        """A number that must not be smaller."""
        if value is not None and value < least:
            text = f"must be greater than or equal to {least}" if least == 0 else f"must be greater than {least - 1}"
            self.invalid(path, value, text)

    def between(self, path: str, value: int | None, low: int, high: int) -> None:
        """A number within bounds."""
        if value is not None and not low <= value <= high:
            self.invalid(path, value, f"must be between {low} and {high}, inclusive")

    def one_of(self, path: str, value: str | None, supported: Iterable[str]) -> None:
        """A word of a list, where it is set."""
        if value is not None and value not in supported:
            self.unsupported(path, value, supported)

    def _add(self, reason: str, message: str, path: str) -> None:
        self.causes.append(Cause(reason, message, path))


def _shown(value: Any) -> str:
    """A value as an error shows it; long ones are cut."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 256 else f"{text[:253]}..."
