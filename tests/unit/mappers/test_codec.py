"""Bytes to text and back: every order, every width, every byte."""

import struct
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.devicetwin.values import type_refused
from edgeappliance.mappers.codec import Codec, DecodeError, EncodeError, Raw, Shown

ORDERS = {"ABCD": (False, False), "CDAB": (True, False), "BADC": (False, True), "DCBA": (True, True)}


def in_order(data: bytes, order: str) -> bytes:
    """What a device of that order sends for big-endian `data`; written as the letters say."""
    words = [data[index : index + 2] for index in range(0, len(data), 2)]
    if order in ("CDAB", "DCBA"):
        words.reverse()
    if order in ("BADC", "DCBA"):
        words = [word[::-1] for word in words]
    return b"".join(words)


def codec(raw: Raw, shown: Shown, size: int, order: str = "ABCD", **more: object) -> Codec:
    swap_words, swap_bytes = ORDERS[order]
    return Codec(raw, shown, size, swap_words=swap_words, swap_bytes=swap_bytes, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("raw", "form", "number"),
    [
        (Raw.INT, ">h", -1234), (Raw.UINT, ">H", 65000), (Raw.INT, ">i", -123456789), (Raw.UINT, ">I", 4_000_000_001),
        (Raw.INT, ">q", -(2**62) - 7), (Raw.UINT, ">Q", 2**64 - 2),
    ],
)  # fmt: skip
def test_integers_in_all_orders(order: str, raw: Raw, form: str, number: int) -> None:
    wire = in_order(struct.pack(form, number), order)
    it = codec(raw, Shown.INT if number < 2**63 else Shown.FLOAT, len(wire), order)
    assert it.decode(wire) == str(number)
    assert it.encode(str(number)) == wire


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("form", "number"), [(">f", 230.5), (">f", -1.5e-7), (">d", 3.141592653589793)])
def test_floats_in_all_orders(order: str, form: str, number: float) -> None:
    wire = in_order(struct.pack(form, number), order)
    it = codec(Raw.FLOAT, Shown.FLOAT, len(wire), order)
    assert float(it.decode(wire)) == number
    assert it.encode(repr(number)) == wire


@pytest.mark.parametrize(
    ("order", "letters"), [("ABCD", b"ABCD"), ("CDAB", b"CDAB"), ("BADC", b"BADC"), ("DCBA", b"DCBA")]
)
def test_the_letters_mean_what_everybody_means(order: str, letters: bytes) -> None:
    assert codec(Raw.UINT, Shown.INT, 4, order).decode(letters) == str(int.from_bytes(b"ABCD", "big"))


def test_a_float32_is_shown_as_the_shortest_number_that_is_it() -> None:
    it = codec(Raw.FLOAT, Shown.FLOAT, 4)
    assert it.decode(struct.pack(">f", 0.1)) == "0.1"
    assert it.decode(struct.pack(">f", 16777216.0)) == "16777216"
    assert it.decode(struct.pack(">f", 3.4028234663852886e38)).startswith("34028235")
    for special in ("nan", "inf", "-inf"):
        with pytest.raises(DecodeError):
            it.decode(struct.pack(">f", float(special)))


def test_scale_and_offset_are_exact() -> None:
    it = codec(Raw.INT, Shown.FLOAT, 2, scale=Decimal("0.1"), offset=Decimal("-40"))
    assert it.decode(struct.pack(">h", 3)) == "-39.7"
    assert it.encode("-39.7") == struct.pack(">h", 3)
    assert codec(Raw.UINT, Shown.FLOAT, 2, scale=Decimal("0.1"), precision=0).decode(b"\x00\x19") == "2"
    # A whole number is truncated, as KubeEdge's mapper does.
    assert codec(Raw.UINT, Shown.INT, 2, scale=Decimal("0.1")).decode(b"\x00\x1d") == "2"


def test_bits_are_cut_out_and_put_back_among_their_neighbours() -> None:
    it = codec(Raw.UINT, Shown.INT, 2, bit=4, bit_count=3)
    assert it.decode(b"\x00\x50") == "5"
    assert it.encode("2", b"\xff\xff") == b"\xff\xaf"
    flag = codec(Raw.UINT, Shown.BOOLEAN, 2, "BADC", bit=0)
    assert flag.decode(b"\x01\x00") == "true"
    assert flag.encode("false", b"\x01\x80") == b"\x00\x80"
    with pytest.raises(EncodeError, match="does not fit 3 bits"):
        it.encode("8", b"\x00\x00")


def test_coils_are_bit_0_first() -> None:
    it = codec(Raw.UINT, Shown.INT, 4, packed=True)
    assert it.decode(b"\x01\x00\x01\x00") == "5"
    assert it.encode("5") == b"\x01\x00\x01\x00"
    with pytest.raises(EncodeError):
        it.encode("16")


def test_texts() -> None:
    it = codec(Raw.TEXT, Shown.STRING, 6)
    assert it.decode(b"ab\0xyz") == "ab"
    assert it.encode("Grün") == "Grün".encode() + b"\0"
    assert codec(Raw.TEXT, Shown.STRING, 4, "BADC").decode(b"BADC") == "ABCD"
    with pytest.raises(EncodeError, match="do not fit 6"):
        it.encode("1234567")
    with pytest.raises(DecodeError, match="not utf-8"):
        it.decode(b"\xff\xfe\xfd\xfc\xfb\xfa")
    assert codec(Raw.TEXT, Shown.STRING, 4, encoding="utf-16-be").decode("hi".encode("utf-16-be")) == "hi"
    assert codec(Raw.BYTES, Shown.STRING, 2).decode(b"\x00\xff") == "AP8="


def test_what_a_twin_would_refuse_is_named() -> None:
    """A twin refuses the whole message: one counter at its end would keep all values of its device back."""
    counter = b"\xff" * 8
    with pytest.raises(DecodeError, match="18446744073709551615 does not fit a 64-bit int; use type DOUBLE or STRING"):
        codec(Raw.UINT, Shown.INT, 8).decode(counter)
    assert codec(Raw.UINT, Shown.FLOAT, 8).decode(counter) == "18446744073709551615"
    assert codec(Raw.UINT, Shown.STRING, 8).decode(counter) == "18446744073709551615"
    with pytest.raises(DecodeError, match="beyond the numbers"):
        codec(Raw.FLOAT, Shown.FLOAT, 8, scale=Decimal(1000)).decode(struct.pack(">d", 1.7e308))


@pytest.mark.parametrize("encoding", ["idna", "punycode", "utf-7", "utf-16", "utf-32-le", "shift_jis"])
@given(st.binary(min_size=8, max_size=8))
def test_texts_of_any_encoding_are_values_or_errors(encoding: str, data: bytes) -> None:
    try:
        text = codec(Raw.TEXT, Shown.STRING, 8, encoding=encoding).decode(data)
    except DecodeError as error:
        assert str(error)
    else:
        text.encode()


@pytest.mark.parametrize("text", ["", "x", "NaN", "inf", "1e500", "1e999999999", "70000", "-1", "1.5", "0x10"])
def test_what_does_not_fit_a_register_is_refused_by_name(text: str) -> None:
    with pytest.raises(EncodeError):
        codec(Raw.UINT, Shown.INT, 2).encode(text)


CODECS = st.builds(
    codec,
    st.sampled_from([Raw.INT, Raw.UINT]),
    st.sampled_from(list(Shown)),
    st.sampled_from([2, 4, 8]),
    st.sampled_from(list(ORDERS)),
    scale=st.decimals("-1e6", "1e6", allow_nan=False).filter(lambda scale: abs(scale) > Decimal("1e-9")),
    offset=st.decimals("-1e6", "1e6", allow_nan=False),
    precision=st.none() | st.integers(0, 15),
) | st.builds(
    codec,
    st.sampled_from([Raw.FLOAT]),
    st.sampled_from(list(Shown)),
    st.sampled_from([4, 8]),
    st.sampled_from(list(ORDERS)),
)


@given(CODECS, st.binary(min_size=0, max_size=9))
def test_decoding_is_total(it: Codec, data: bytes) -> None:
    try:
        text = it.decode(data)
    except DecodeError as error:
        assert str(error)
    else:
        assert len(text) <= 1024
        assert type_refused(text, str(it.shown)) == ""
        assert "E" not in text.upper() or it.shown is Shown.BOOLEAN


@given(CODECS, st.text(max_size=30) | st.floats().map(repr) | st.integers().map(str))
def test_encoding_is_total(it: Codec, text: str) -> None:
    try:
        data = it.encode(text)
    except EncodeError as error:
        assert str(error)
    else:
        assert len(data) == it.size


@given(st.sampled_from([Raw.INT, Raw.UINT]), st.sampled_from([2, 4, 8]), st.sampled_from(list(ORDERS)), st.data())
def test_what_was_decoded_encodes_to_the_same_bytes(raw: Raw, size: int, order: str, data: st.DataObject) -> None:
    wire = data.draw(st.binary(min_size=size, max_size=size))
    it = codec(raw, Shown.FLOAT, size, order, scale=Decimal("0.001"), offset=Decimal("12.5"))
    assert it.encode(it.decode(wire)) == wire


@given(st.sampled_from([4, 8]), st.sampled_from(list(ORDERS)), st.data())
def test_floats_survive_the_way_through_text(size: int, order: str, data: st.DataObject) -> None:
    wire = data.draw(st.binary(min_size=size, max_size=size))
    it = codec(Raw.FLOAT, Shown.FLOAT, size, order)
    try:
        text = it.decode(wire)
    except DecodeError:
        return
    assert it.encode(text) == wire or text == "0"
