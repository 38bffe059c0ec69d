"""The three roots of what can go wrong.

A caller decides by the root alone: retry with back-off, report and leave, or ask a person.
"""

from typing import Any


class ApplianceError(Exception):
    """Something went wrong and has a name. `next_step` is what a person can do, `fields` the values that matter."""

    def __init__(self, message: str, *, next_step: str = "", **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.message}; {self.next_step}" if self.next_step else self.message


class TransientError(ApplianceError):
    """May succeed when tried again: retry with back-off."""


class PermanentError(ApplianceError):
    """Will not succeed when tried again: report, do not retry."""


class OperatorError(ApplianceError):
    """A person must act; `next_step` says what to do."""


class InputError(PermanentError):
    """Input from outside that is not what it must be. `field` is the path of the offending part."""

    def __init__(self, message: str, *, field: str, next_step: str = "", **fields: Any) -> None:
        super().__init__(f"{field}: {message}" if field else message, next_step=next_step, **fields)
        self.field = field
