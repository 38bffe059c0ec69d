"""Resource quantities (`500m`, `1Gi`) in the one form that the API stores and shows.

Rules: Kubernetes API conventions, "Quantity": no fractional digits, the largest suffix that keeps all digits;
binary suffixes stay binary, exponents stay exponents; nothing finer than a nano, rounded up.
"""

import re
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

LENGTH_LIMIT = 64
_FORM = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:([KMGTPE]i)|([numkMGTPE])|[eE]([+-]?\d{1,3}))?", re.ASCII)
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SUFFIX = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_NANO = Decimal("1e-9")


@lru_cache(maxsize=1024)
def canonical(text: str) -> str:
    """The canonical text of a quantity; ValueError when it is none."""
    value, binary, exponent = _parse(text)
    value = _rounded(value)
    if binary and value == value.to_integral_value() and (abs(value) >= 1024 or value == 0):
        return _binary(int(value))
    return _decimal(value, exponents=exponent)


@lru_cache(maxsize=1024)
def amount(text: str) -> Decimal:
    """The number that a quantity stands for (`1Ki` is 1024), no finer than a nano; ValueError when it is none."""
    return _rounded(_parse(text)[0])


def _parse(text: str) -> tuple[Decimal, bool, bool]:
    """Number, whether it was written with a binary suffix, whether with an exponent."""
    match = _FORM.fullmatch(text) if len(text) <= LENGTH_LIMIT else None
    if match is None:
        raise ValueError("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    sign, digits, binary, suffix, exponent = match.groups()
    value = Decimal(sign + digits)
    if binary:
        value *= 1024 ** _BINARY.index(binary)
    elif exponent is not None:
        value = value.scaleb(int(exponent))
    else:
        value = value.scaleb(_DECIMAL[suffix or ""])
    return value, bool(binary), exponent is not None


def _rounded(value: Decimal) -> Decimal:
    """No finer than a nano; what is finer is rounded away from zero."""
    steps = (abs(value) / _NANO).to_integral_value(rounding=ROUND_CEILING)
    return (steps * _NANO).copy_sign(value)


def _binary(value: int) -> str:
    power = 0
    while value and value % 1024 == 0 and power < len(_BINARY) - 1:
        value //= 1024
        power += 1
    return f"{value}{_BINARY[power]}"


def _decimal(value: Decimal, *, exponents: bool) -> str:
    if not value:
        return "0"
    exponent = -9
    amount = int(value.scaleb(9))
    while amount % 1000 == 0 and exponent < 18:
        amount //= 1000
        exponent += 3
    if exponents:
        return f"{amount}e{exponent}" if exponent else str(amount)
    return f"{amount}{_SUFFIX[exponent]}"
