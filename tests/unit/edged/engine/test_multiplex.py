"""Frames of stdout and stderr, cut anywhere."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.edged.engine.api import EngineAway
from edgeappliance.edged.engine.multiplex import MAX_FRAME, STDERR, STDOUT, Demultiplexer, StampedFrames

FRAMES = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=40)), max_size=20)
CUTS = st.lists(st.integers(min_value=1, max_value=30), max_size=60)


def frame(kind: int, data: bytes) -> bytes:
    return struct.pack(">BxxxI", kind, len(data)) + data


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` in pieces of these lengths, the rest at the end."""
    out = []
    for cut in cuts:
        out.append(data[:cut])
        data = data[cut:]
    return [*out, data]


@given(FRAMES, CUTS)
def test_every_byte_comes_out_once_in_order_with_its_kind(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    decoder = Demultiplexer()
    wire = b"".join(frame(kind, data) for kind, data in frames)
    came = [(kind, byte) for piece in pieces(wire, cuts) for kind, data in decoder.feed(piece) for byte in data]
    assert came == [(kind, byte) for kind, data in frames for byte in data]


@given(FRAMES, CUTS)
def test_frames_of_stamped_logs_come_whole(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    decoder = StampedFrames()
    lines = [(kind, data.replace(b"\n", b"") + b"\n") for kind, data in frames]
    wire = b"".join(frame(kind, data) for kind, data in lines)
    assert [out for piece in pieces(wire, cuts) for out in decoder.feed(piece)] == lines


def test_neighbours_of_one_kind_leave_together() -> None:
    wire = b"".join(frame(STDOUT, b"line\n") for _ in range(100))
    assert Demultiplexer().feed(wire) == [(STDOUT, b"line\n" * 100)]


def test_a_part_of_a_frame_is_not_held_back() -> None:
    decoder = Demultiplexer()
    assert decoder.feed(frame(STDERR, b"password: ")[:-4]) == [(STDERR, b"passwo")]
    assert decoder.feed(b"rd: ") == [(STDERR, b"rd: ")]


def test_a_stream_without_frames_is_noticed() -> None:
    with pytest.raises(EngineAway, match="not in frames"):
        Demultiplexer().feed(b"hello world, this is text")
    with pytest.raises(EngineAway, match="not in frames"):
        StampedFrames().feed(struct.pack(">BxxxI", 1, MAX_FRAME + 1))


def test_a_long_line_has_one_time_stamp() -> None:
    decoder = StampedFrames()
    wire = (
        frame(STDOUT, b"2026-01-01T00:00:00.1Z first ")
        + frame(STDERR, b"2026-01-01T00:00:00.2Z other\n")
        + frame(STDOUT, b"2026-01-01T00:00:00.1Z second\n")
        + frame(STDOUT, b"2026-01-01T00:00:00.3Z next\n")
    )
    assert decoder.feed(wire) == [
        (STDOUT, b"2026-01-01T00:00:00.1Z first "),
        (STDERR, b"2026-01-01T00:00:00.2Z other\n"),
        (STDOUT, b"second\n"),
        (STDOUT, b"2026-01-01T00:00:00.3Z next\n"),
    ]
