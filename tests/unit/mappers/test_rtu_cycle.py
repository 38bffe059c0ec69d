"""The benchmark's measurement, short and with a generous bound: the wire is used, and never more than used."""

from tests.bench.rtu_cycle import measure, wire_time


def test_wire_time_is_what_one_computes_by_hand() -> None:
    # 8 + 5 + 200 characters of 11 bits at 9600 baud, and twice 3.5 characters.
    assert abs(wire_time(100, 9600) - 220 * 11 / 9600) < 1e-9
    # Above 19200 baud the silence is fixed.
    assert abs(wire_time(240, 115200) - (506 * 11 / 115200 + 4 * 0.00175)) < 1e-9


async def test_a_cycle_takes_its_wire_time_and_little_more() -> None:
    ratio, _, how = await measure(19200, 100, 2.0)
    assert 1.0 <= ratio < 1.6, how
