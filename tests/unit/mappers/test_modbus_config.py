"""A Device's configuration: KubeEdge's keys, ours, and every error at once with its field."""

from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.devicemodel import DeviceInvalid
from edgeappliance.mappers.binding import Binding
from edgeappliance.mappers.codec import DecodeError, EncodeError, Raw, Shown
from edgeappliance.mappers.modbus.protocol import Modbus
from edgeappliance.mappers.modbus.settings import SerialSettings, TcpSettings
from edgeappliance.mappers.modbus.spaces import Space
from edgeappliance.mappers.points import Point
from edgeappliance.mappers.setpoints import check_set_point
from tests.support.fieldbus import spec_of

SERIAL = {"slaveID": 1, "serialPort": "/dev/ttyUSB0"}
VISITORS = "spec.properties[0].visitors.configData"


def bind(protocol: dict[str, Any], **visitor: Any) -> Binding:
    given = {"register": "HoldingRegister", "offset": 10, **visitor}
    return Modbus().bind(spec_of("d", protocol, {"p": {k: v for k, v in given.items() if v != "absent"}}))


def bound(**visitor: Any) -> Point:
    return bind(SERIAL, **visitor).points[0]


def errors(protocol: dict[str, Any], **visitor: Any) -> list[str]:
    with pytest.raises(DeviceInvalid) as invalid:
        bind(protocol, **visitor)
    return [str(error) for error in invalid.value.errors]


def test_the_keys_of_kubeedge() -> None:
    config = {
        "slaveID": 1, "serialPort": "/dev/ttyS0", "baudRate": 19200, "dataBits": 8, "stopBits": 2, "parity": "even",
    }  # fmt: skip
    binding = bind(config, limit=2, scale=0.1, isSwap=True, isRegisterSwap=True, dataType="int", type="INT")
    assert binding.line == SerialSettings("/dev/ttyS0", 19200, 8, 2, "E")
    assert binding.unit == 1
    codec = binding.points[0].codec
    assert (codec.raw, codec.size, codec.swap_bytes, codec.swap_words) == (Raw.UINT, 4, True, True)
    assert codec.scale == Decimal("0.1")
    assert bind({"ip": "10.0.0.5", "port": 1502, "slaveID": 255}).line == TcpSettings("10.0.0.5", 1502)


def test_numbers_may_be_text_or_floats() -> None:
    assert bind({**SERIAL, "slaveID": "7", "baudRate": 9600.0}).unit == 7


@pytest.mark.parametrize(
    ("visitor", "raw", "size", "shown"),
    [
        ({"type": "INT"}, Raw.UINT, 2, Shown.INT),
        ({"type": "INT", "signed": True, "limit": 2}, Raw.INT, 4, Shown.INT),
        ({"type": "INT", "dataType": "int64"}, Raw.INT, 8, Shown.INT),
        ({"type": "FLOAT"}, Raw.FLOAT, 4, Shown.FLOAT),
        ({"type": "FLOAT", "limit": 1}, Raw.UINT, 2, Shown.FLOAT),
        ({"type": "DOUBLE"}, Raw.FLOAT, 8, Shown.FLOAT),
        ({"type": "DOUBLE", "dataType": "float32"}, Raw.FLOAT, 4, Shown.FLOAT),
        ({"type": "BOOLEAN"}, Raw.UINT, 2, Shown.BOOLEAN),
        ({"type": "BOOLEAN", "register": "CoilRegister"}, Raw.UINT, 1, Shown.BOOLEAN),
        ({"type": "STRING", "length": 15}, Raw.TEXT, 16, Shown.STRING),
        ({"type": "BYTES", "limit": 3}, Raw.BYTES, 6, Shown.STRING),
    ],
)
def test_data_types(visitor: dict[str, Any], raw: Raw, size: int, shown: Shown) -> None:
    codec = bound(**visitor).codec
    assert (codec.raw, codec.size, codec.shown) == (raw, size, shown)


@pytest.mark.parametrize(
    ("keys", "swaps"),
    [
        ({"byteOrder": "ABCD"}, (False, False)), ({"byteOrder": "cdab"}, (True, False)),
        ({"byteOrder": "BADC"}, (False, True)), ({"byteOrder": "DCBA"}, (True, True)),
        ({"wordOrder": "little"}, (True, False)), ({"byteOrder": "little", "wordOrder": "little"}, (True, True)),
        ({"byteOrder": "GHEFCDAB"}, (True, False)), ({"isSwap": True}, (False, True)),
    ],
)  # fmt: skip
def test_orders(keys: dict[str, Any], swaps: tuple[bool, bool]) -> None:
    codec = bound(**keys).codec
    assert (codec.swap_words, codec.swap_bytes) == swaps


def test_reports() -> None:
    assert bound().report.every == 60
    assert bound(report_cycle=5000).report.every == 5
    assert bound(report="change").report.every == 0
    assert not bound(report="cycle").report.on_change
    assert bound(deadband=0.5).report.deadband == Decimal("0.5")


def test_an_input_register_is_not_writable_whatever_the_model_says() -> None:
    assert bound().writable
    assert not bound(register="InputRegister").writable
    assert not bound(access="ReadOnly").writable


def test_all_errors_are_told_at_once_with_their_fields() -> None:
    told = errors(
        {"slaveID": 0, "serialPort": "/dev/ttyS0", "baudrate": 9600, "parity": "sometimes", "timeout": 10**9},
        register="Holding", offset=70000, limit="x", scale=0, bit=16, frobnicate=1,
    )  # fmt: skip
    assert told == [
        "spec.protocol.configData.parity: 'sometimes' is not one of none, even, odd",
        "spec.protocol.configData.slaveID: 0 is not within 1 to 247",
        "spec.protocol.configData.timeout: 1000000000 is not within 1 to 600000",
        'spec.protocol.configData.baudrate: is not a known key; did you mean "baudRate"?',
        f"{VISITORS}.register: 'Holding' is not one of CoilRegister, DiscreteInputRegister, HoldingRegister, "
        "InputRegister",
        f"{VISITORS}.offset: 70000 is not within 0 to 65535",
        f"{VISITORS}.limit: 'x' is not a whole number",
        f"{VISITORS}.bit: is for whole numbers in registers",
        f"{VISITORS}.scale: 0 would make every value 0; leave it out for 1",
        f"{VISITORS}.frobnicate: is not a known key and does nothing",
    ]


def test_keys_of_other_mappers_are_warnings_and_misspelt_ones_errors() -> None:
    binding = bind({**SERIAL, "customizedValues": {"serialType": "RS485"}}, max=10)
    assert [str(warning) for warning in binding.warnings] == [
        "spec.protocol.configData.customizedValues: is not a known key and does nothing",
        f"{VISITORS}.max: is not a known key and does nothing",
    ]
    assert errors(SERIAL, isswap=True, dataTyp="int") == [
        f'{VISITORS}.dataTyp: is not a known key; did you mean "dataType"?',
        f'{VISITORS}.isswap: is not a known key; did you mean "isSwap"?',
    ]
    assert errors({"slaveID": 1, "com": {"serialPort": "/dev/ttyS0"}})[0] == (
        "spec.protocol.configData.serialPort: is missing (or ip, for Modbus TCP): what stands below com belongs into "
        "configData itself"
    )


def test_more_registers_than_one_write_takes_are_for_reading() -> None:
    text: dict[str, Any] = {"type": "STRING", "limit": 124}
    assert "at most 123 registers can be written" in errors(SERIAL, **text)[0]
    assert bound(**text, access="ReadOnly").span.count == 124


@pytest.mark.parametrize(
    ("protocol", "visitor", "field"),
    [
        ({"slaveID": 1}, {}, "serialPort"),
        ({"serialPort": "/dev/ttyS0"}, {}, "slaveID"),
        ({**SERIAL, "ip": "1.2.3.4"}, {}, "ip"),
        (SERIAL, {"register": "absent"}, "register"),
        (SERIAL, {"offset": "absent"}, "offset"),
        (SERIAL, {"type": "STREAM"}, "dataType"),
        (SERIAL, {"type": "INT", "dataType": "string"}, "dataType"),
        (SERIAL, {"dataType": "float32", "limit": 3}, "limit"),
        (SERIAL, {"limit": 3}, "limit"),
        (SERIAL, {"type": "INT", "limit": 5}, "limit"),
        (SERIAL, {"offset": 65535}, "limit"),
        (SERIAL, {"register": "CoilRegister", "dataType": "string"}, "dataType"),
        (SERIAL, {"type": "INT", "bit": 15, "bitCount": 2}, "bit"),
        (SERIAL, {"type": "INT", "bitCount": 2}, "bitCount"),
        (SERIAL, {"type": "BOOLEAN", "bit": 1, "bitCount": 2}, "bitCount"),
        (SERIAL, {"isSwap": True, "byteOrder": "DCBA"}, "byteOrder"),
        (SERIAL, {"byteOrder": "CDAB", "wordOrder": "big"}, "wordOrder"),
        (SERIAL, {"type": "STRING", "encoding": "rot13"}, "encoding"),
        (SERIAL, {"type": "STRING", "length": 300}, "length"),
        (SERIAL, {"deadband": -1}, "deadband"),
        (SERIAL, {"scale": "1e99"}, "scale"),
        (SERIAL, {"scale": True}, "scale"),
        (SERIAL, {"isSwap": 5}, "isSwap"),
    ],
)
def test_each_error_names_its_field(protocol: dict[str, Any], visitor: dict[str, Any], field: str) -> None:
    assert any(error.split(":")[0].rsplit(".", 1)[-1] == field for error in errors(protocol, **visitor))


def test_swaps_of_coils_mean_nothing() -> None:
    """KubeEdge's sample devices say isSwap for every register, coils too."""
    codec = bound(register="CoilRegister", type="BOOLEAN", isSwap=True, isRegisterSwap=True).codec
    assert codec.decode(b"\1") == "true"


VISITOR_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "register": st.sampled_from(list(Space)),
    "limit": st.integers(1, 4),
    "dataType": st.sampled_from(
        ["int", "int16", "int32", "uint64", "float32", "float64", "boolean", "string", "bytes"]
    ),
    "scale": st.floats(-1e6, 1e6),
    "isSwap": st.booleans(),
    "isRegisterSwap": st.booleans(),
    "signed": st.booleans(),
    "byteOrder": st.sampled_from(["ABCD", "DCBA", "little"]),
    "bit": st.integers(0, 15),
    "bitCount": st.integers(1, 8),
    "length": st.integers(1, 9),
    "encoding": st.sampled_from(["utf-8", "latin-1", "utf-16", "idna"]),
    "valueOffset": st.floats(-1e9, 1e9),
    "precision": st.integers(0, 15),
}


@given(
    st.fixed_dictionaries({}, optional=VISITOR_VALUES),
    st.sampled_from(["INT", "FLOAT", "DOUBLE", "STRING", "BOOLEAN", "BYTES"]),
    st.none() | st.floats(-1e9, 1e9),
    st.binary(min_size=16, max_size=16),
    st.sampled_from(["5", "-0.5", "true", "NaN", "x", ""]),
)
def test_whatever_is_taken_decodes_and_encodes_or_says_why(
    visitor: dict[str, Any], kind: str, minimum: float | None, data: bytes, text: str
) -> None:
    """A line reads many devices: what its thread trips over stops all of them."""
    try:
        point = bind(SERIAL, **visitor, type=kind, minimum=minimum).points[0]
    except DeviceInvalid:
        return
    with suppress(DecodeError):
        point.codec.decode(data[: point.codec.size])
    with suppress(EncodeError):
        check_set_point(point, text)
