"""Reads a free-form configData, collecting everything that is wrong with it."""

import difflib
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from edgeappliance.devicemodel import FieldError

_TYPO = 0.75
"""So alike (difflib's ratio) two keys are one: to go on without it would be to do something else than was meant."""


class Fields:
    """Keys that are asked for are known; `unknown` reports the others. Numbers may come as text ("9600").

    What is wrong goes to `errors`, what is only strange to `warnings`.
    """

    def __init__(
        self, config: Mapping[str, Any], path: str, errors: list[FieldError], warnings: list[FieldError]
    ) -> None:
        self._config = {key: value for key, value in config.items() if value is not None}
        self._path = path
        self._errors = errors
        self._warnings = warnings
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
        """Record each key that nobody asked for.

        One that is nearly ours is an error. Another one is a warning: Devices written for other mappers carry keys
        that mean nothing here, and their users want them polled.
        """
        for key in sorted(self._config.keys() - self._asked):
            folded = {known.lower(): known for known in sorted(self._asked)}
            matches = difflib.get_close_matches(key.lower(), folded, n=1, cutoff=_TYPO)
            if matches:
                self.fail(key, f'is not a known key; did you mean "{folded[matches[0]]}"?')
            else:
                self._warnings.append(FieldError(f"{self._path}.{key}", "is not a known key and does nothing"))

    def nested(self, *keys: str) -> str:
        """The first of `keys` that holds an object, empty when there is none."""
        return next((key for key in keys if isinstance(self._config.get(key), Mapping)), "")

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
