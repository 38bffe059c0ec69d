"""Frames out of noise: any bytes give valid frames or nothing."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.mappers.bench.slave import crc16
from edgeappliance.mappers.modbus.pdu import crc16 as library_crc16
from edgeappliance.mappers.modbus.rtu_frames import ReplyBuffer


def frame(unit: int, pdu: bytes) -> bytes:
    return bytes([unit]) + pdu + crc16(bytes([unit]) + pdu)


GOOD = frame(1, b"\x03\x04\x00\x01\x00\x02")


@given(st.binary(max_size=300))
def test_both_check_sums_agree(data: bytes) -> None:
    assert crc16(data) == library_crc16(data)


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_any_bytes_are_survived_and_only_sound_frames_come_out(chunks: list[bytes]) -> None:
    buffer = ReplyBuffer(1, 3)
    for chunk in chunks:
        buffer.feed(chunk)
        while (found := buffer.take()) is not None:
            assert frame(*found) in b"".join(chunks)
    while (found := buffer.take(final=True)) is not None:
        assert frame(*found) in b"".join(chunks)


@given(st.lists(st.integers(1, len(GOOD) - 1), max_size=4).map(sorted))
def test_a_frame_in_pieces_comes_out_when_its_last_byte_is_there(cuts: list[int]) -> None:
    buffer = ReplyBuffer(1, 3)
    edges = [0, *cuts, len(GOOD)]
    for begin, end in pairwise(edges):
        assert buffer.take() is None
        assert buffer.missing() >= 1
        buffer.feed(GOOD[begin:end])
    assert buffer.take() == (1, GOOD[1:-2])
    assert len(buffer) == 0


def test_a_late_frame_in_front_does_not_hide_the_one_behind_it() -> None:
    buffer = ReplyBuffer(1, 3)
    buffer.feed(frame(9, b"\x04\x02\x11\x11") + GOOD)
    assert buffer.take() == (9, b"\x04\x02\x11\x11")
    assert buffer.take() == (1, GOOD[1:-2])


def test_noise_that_looks_like_a_long_frame_is_given_up_at_the_end() -> None:
    buffer = ReplyBuffer(1, 3)
    buffer.feed(b"\x01\x03\xfa" + GOOD)
    assert buffer.take() is None
    assert buffer.take(final=True) == (1, GOOD[1:-2])
