"""Reads a free-form configData, collecting everything that is wrong with it."""

import difflib
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from edgeappliance.devicemodel import FieldError


class Fields:
    """Keys that are asked for are known; `unknown` reports the others. Numbers may come as text ("9600")."""

    def __init__(self, config: Mapping[str, Any], path: str, errors: list[FieldError]) -> None:
        self._config = {key: value for key, value in config.items() if value is not None}
        self._path = path
        self._errors = errors
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._config

    def fail(self, key: str, message: str) -> None:
        """Something is wrong with a key."""
        self._errors.append(FieldError(f"{self._path}.{key}", message))

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number within limits; `default` when absent or wrong (which is recorded)."""
        value = self._get(key)
        if value is None:
            return default
        number = _decimal(value)
        if number is None or number != number.to_integral_value():
            self.fail(key, f"{value!r} is not a whole number")
        elif not low <= number <= high:
            self.fail(key, f"{value} is not within {low} to {high}")
        else:
            return int(number)
        return default

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        """As `integer`; None when absent."""
        return None if self._get(key) is None else self.integer(key, low, low, high)

    def decimal(self, key: str, default: Decimal) -> Decimal:
        """A finite number, exact as it was written."""
        value = self._get(key)
        if value is None:
            return default
        number = _decimal(value)
        if number is None:
            self.fail(key, f"{value!r} is not a number")
        elif number and not -30 <= number.adjusted() <= 30:
            self.fail(key, f"{value} is too large or too small to be meant")
        else:
            return number
        return default

    def text(self, key: str, default: str = "") -> str:
        """A text."""
        value = self._get(key)
        if value is None:
            return default
        if isinstance(value, str) and value:
            return value
        self.fail(key, "must be text that is not empty")
        return default

    def choice(self, key: str, choices: Mapping[str, str], default: str, *, shown: Iterable[str] = ()) -> str:
        """One of the keys of `choices` in any case, given back as its value; `shown` are the words for an error."""
        value = self._get(key)
        if value is None:
            return default
        found = choices.get(str(value).lower())
        if found is None:
            self.fail(key, f"{value!r} is not one of {', '.join(dict.fromkeys(shown or choices))}")
            return default
        return found

    def boolean(self, key: str, default: bool = False) -> bool:
        """True or false, also as text."""
        value = self._get(key)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        if value in ("true", "false"):
            return bool(value == "true")
        self.fail(key, "must be true or false")
        return default

    def unknown(self) -> None:
        """Record each key that nobody asked for, with the one that was probably meant."""
        for key in sorted(self._config.keys() - self._asked):
            near = next((known for known in self._asked if known.lower() == key.lower()), None)
            matches = [near] if near else difflib.get_close_matches(key, self._asked, n=1)
            hint = f'; did you mean "{matches[0]}"?' if matches else ""
            self.fail(key, f"is not a known key{hint}")

    def _get(self, key: str) -> Any:
        self._asked.add(key)
        return self._config.get(key)


def _decimal(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str) or len(str(value)) > 64:
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
