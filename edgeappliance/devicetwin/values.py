"""What a twin's keys, values and types may be (KubeEdge reference 4.5)."""

import re

from edgeappliance.wire.limits import MAX_TWIN_VALUE

DELETED = "deleted"
"""The type of a tombstone."""

DEFAULT_TYPE = "string"

TYPES = frozenset(("int", "integer", "float", "boolean", "string"))
"""What the type of a live key may be."""

NOT_INT = "the value is not int or integer"
NOT_FLOAT = "the value is not float"
NOT_BOOLEAN = "the bool value must be true or false"
NOT_A_TYPE = "the value type is not allowed"
BAD_KEY = (
    "the key of a twin must have 1 to 128 characters: upper or lower case letters of English, digits,"
    " and the special characters - _ . , : / @ #"
)
BAD_VALUE_STRICT = (
    "the value of a twin must have at most 512 characters: upper or lower case letters of English, digits,"
    " and the special characters - _ . , : / @ #"
)
BAD_VALUE = f"the value of a twin must have at most {MAX_TWIN_VALUE} bytes"

_KEY = re.compile(r"[a-zA-Z0-9\-_.,:/@#]{1,128}\Z")
_STRICT_VALUE = re.compile(r"[a-zA-Z0-9\-_.,:/@#]{1,512}\Z")
_INT = re.compile(r"[+-]?[0-9]+\Z")
_INT64 = 2**63

# Go's strconv.ParseFloat. Underscores stand between digits or after the base prefix; hexadecimal needs an exponent.
_DECIMAL = re.compile(
    r"[+-]?(?:[0-9](?:_?[0-9])*(?:\.(?:[0-9](?:_?[0-9])*)?)?|\.[0-9](?:_?[0-9])*)(?:[eE][+-]?[0-9](?:_?[0-9])*)?\Z"
)
_HEX = r"[0-9a-fA-F](?:_?[0-9a-fA-F])*"
_HEXADECIMAL = re.compile(rf"[+-]?0[xX](?:_?{_HEX}(?:\.(?:{_HEX})?)?|\.{_HEX})[pP][+-]?[0-9](?:_?[0-9])*\Z")
_SPECIAL = re.compile(r"(?:[+-]?inf(?:inity)?|nan)\Z", re.IGNORECASE)


def key_allowed(key: str) -> bool:
    """Whether `key` can name a property."""
    return _KEY.match(key) is not None


def value_refused(value: str, *, strict: bool) -> str:
    """Why `value` is no twin value, empty when it is one.

    Any text up to 1 KiB of UTF-8 is; with `strict` what KubeEdge takes (its filter lets the empty text pass).
    """
    if strict:
        return "" if not value or _STRICT_VALUE.match(value) else BAD_VALUE_STRICT
    if len(value) * 4 > MAX_TWIN_VALUE and len(value.encode()) > MAX_TWIN_VALUE:
        return BAD_VALUE
    return ""


def type_refused(value: str, type_name: str) -> str:
    """Why `value` is not of the twin type `type_name`, empty when it is."""
    if type_name in ("string", "", DELETED):
        return ""
    if type_name in ("int", "integer"):
        return "" if _INT.match(value) and len(value) <= 64 and -_INT64 <= int(value) < _INT64 else NOT_INT
    if type_name == "float":
        return "" if _is_float(value) else NOT_FLOAT
    if type_name == "boolean":
        return "" if value in ("true", "false") else NOT_BOOLEAN
    return NOT_A_TYPE


def _is_float(value: str) -> bool:
    if _SPECIAL.match(value):
        return True
    try:
        if _DECIMAL.match(value):
            return abs(float(value)) != float("inf")  # Go calls what does not fit out of range
        if _HEXADECIMAL.match(value):
            float.fromhex(value.replace("_", ""))
            return True
    except (ValueError, OverflowError):
        return False
    return False
