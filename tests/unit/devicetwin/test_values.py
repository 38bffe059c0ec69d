"""Keys, values and types of a twin."""

import pytest

from edgeappliance.devicetwin.values import (
    BAD_VALUE,
    BAD_VALUE_STRICT,
    NOT_A_TYPE,
    NOT_BOOLEAN,
    NOT_FLOAT,
    NOT_INT,
    key_allowed,
    type_refused,
    value_refused,
)


@pytest.mark.parametrize("value", ["0", "-1", "+5", "9223372036854775807", "-9223372036854775808", "007"])
def test_int(value: str):
    assert type_refused(value, "int") == ""
    assert type_refused(value, "integer") == ""


@pytest.mark.parametrize("value", ["", "1.0", "1_0", "9223372036854775808", " 1", "0x10", "1\n", "٣", "-", "1" * 5000])
def test_not_int(value: str):
    assert type_refused(value, "int") == NOT_INT


@pytest.mark.parametrize(
    "value",
    ["1", "1e3", "-0.5", "0x1p-2", "1_0", "NaN", "inf", "-Infinity", "+5", ".5", "5.", "0X_1.8P3", "1e-400"],
)
def test_float(value: str):
    assert type_refused(value, "float") == ""


@pytest.mark.parametrize(
    "value", ["", ".", "1e", "0x1", "1__0", "_1", "+nan", "1e400", "0x1p2000", "1,5", "1 ", "1\n", "infin", "٣"]
)
def test_not_float(value: str):
    assert type_refused(value, "float") == NOT_FLOAT


def test_boolean_and_the_rest():
    assert type_refused("true", "boolean") == ""
    assert type_refused("True", "boolean") == NOT_BOOLEAN
    assert type_refused("", "boolean") == NOT_BOOLEAN
    assert type_refused("anything at all", "string") == ""
    assert type_refused("", "") == ""
    for name in ("double", "bytes", "INT", "String", "deletd"):
        assert type_refused("1", name) == NOT_A_TYPE


def test_keys_are_anchored_at_the_very_end():
    assert key_allowed("a-zA_Z.,:/@#0")
    assert not key_allowed("")
    assert not key_allowed("a b")
    assert not key_allowed("a\n")
    assert key_allowed("k" * 128)
    assert not key_allowed("k" * 129)


def test_values_are_any_text_up_to_a_kibibyte():
    for value in ("with space", "50 %", "+5", "größe", "a\n", "=", '"', ""):
        assert value_refused(value, strict=False) == ""
    assert value_refused("x" * 1024, strict=False) == ""
    assert value_refused("x" * 1025, strict=False) == BAD_VALUE
    assert value_refused("ü" * 512, strict=False) == ""
    assert value_refused("ü" * 513, strict=False) == BAD_VALUE


def test_strict_values_are_those_of_kubeedge():
    for value in ("with space", "50%", "+5", "größe", "a\n", "=", '"', "x" * 513):
        assert value_refused(value, strict=True) == BAD_VALUE_STRICT
    for value in ("", "a-b_c.d,e:f/g@h#1", "x" * 512):
        assert value_refused(value, strict=True) == ""
