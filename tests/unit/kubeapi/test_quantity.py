"""Quantities in their canonical text."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.kubeapi.quantity import canonical


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("1000m", "1"),
        ("0.5", "500m"),
        ("1024Mi", "1Gi"),
        ("0.5Gi", "512Mi"),
        ("1.5Ki", "1536"),
        ("1500Ki", "1500Ki"),
        ("1e3", "1e3"),
        ("0.1n", "1n"),
        ("-1.5", "-1500m"),
        ("0Gi", "0"),
        ("1000E", "1000E"),
    ],
)
def test_canonical_forms(text: str, result: str) -> None:
    assert canonical(text) == result


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "1Zi", "1ee3", "--1", "1_0", "9" * 100, "1e9999", "١"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="quantities must match"):
        canonical(text)


UNITS = {"": Decimal(1), "m": Decimal("0.001"), "k": Decimal(1000), "Ki": Decimal(1024), "Gi": Decimal(1024**3)}


@given(st.integers(-(10**9), 10**9), st.sampled_from(sorted(UNITS)))
def test_the_canonical_text_is_canonical_and_keeps_the_value(number: int, unit: str) -> None:
    text = canonical(f"{number}{unit}")
    assert canonical(text) == text
    suffixes = {**UNITS, "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "Mi": Decimal(1024**2)}
    suffixes |= {"Ti": Decimal(1024**4), "Pi": Decimal(1024**5), "Ei": Decimal(1024**6)}
    digits = text.rstrip("mkMGTPEiK")
    assert Decimal(digits) * suffixes[text[len(digits) :]] == number * UNITS[unit]
