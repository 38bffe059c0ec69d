"""The planner covers, keeps limits, and never costs more than single reads."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.mappers.driver import SpaceCost
from edgeappliance.mappers.planner import Learned, Span, cost, plan

RTU_9600 = SpaceCost(per_request=0.028, per_address=0.0023, max_count=125, max_gap=2000)

SPANS = st.builds(Span, st.integers(0, 400), st.integers(1, 8))
SPACES = st.builds(
    SpaceCost,
    per_request=st.floats(0.001, 0.1),
    per_address=st.floats(0, 0.01),
    max_count=st.integers(8, 125),
    max_gap=st.integers(0, 300),
)


def covered(blocks: list[Span], span: Span) -> bool:
    return any(block.start <= span.start and span.end <= block.end for block in blocks)


def test_neighbours_become_one_request_and_a_cheap_gap_is_read_over() -> None:
    assert plan([Span(0, 2), Span(2, 2), Span(10, 1)], RTU_9600) == [Span(0, 11)]


def test_a_gap_that_costs_more_than_a_request_is_not_read() -> None:
    assert plan([Span(0, 2), Span(20, 2)], RTU_9600) == [Span(0, 2), Span(20, 2)]


def test_a_device_limit_splits() -> None:
    space = SpaceCost(per_request=0.028, per_address=0.0023, max_count=10, max_gap=2000)
    blocks = plan([Span(address, 2) for address in range(0, 30, 2)], space)
    assert all(block.count <= 10 for block in blocks)
    assert len(blocks) == 3


def test_bits_of_one_register_are_one_span() -> None:
    assert plan([Span(5, 1)] * 16, RTU_9600) == [Span(5, 1)]


@given(st.lists(SPANS, max_size=40), SPACES)
def test_every_value_is_covered_within_the_limits_and_no_dearer_than_alone(spans: list[Span], space: SpaceCost) -> None:
    blocks = plan(spans, space)
    assert all(covered(blocks, span) for span in spans)
    assert all(block.count <= space.max_count for block in blocks)
    assert (
        sum(cost(block.count, space) for block in blocks) <= sum(cost(span.count, space) for span in set(spans)) + 1e-9
    )
    assert blocks == sorted(blocks)


@given(st.lists(SPANS, max_size=30), SPACES, st.lists(st.integers(0, 400), max_size=5), st.lists(SPANS, max_size=5))
def test_no_request_touches_what_was_learned(
    spans: list[Span], space: SpaceCost, cuts: list[int], holes: list[Span]
) -> None:
    learned = Learned(alone=set(spans[:3]), holes=set(holes), cuts=set(cuts))
    blocks = plan(spans, space, learned)
    assert all(covered(blocks, span) for span in spans)
    for block in blocks:
        inside = [span for span in set(spans) if block.start <= span.start and span.end <= block.end]
        # What several values were merged into, beyond overlapping ones, respects everything that was learned.
        ordered = sorted(inside)
        apart = [(a, b) for a, b in pairwise(ordered) if b.start >= max(s.end for s in ordered if s <= a)]
        if apart:
            assert not any(block.start < cut < block.end for cut in cuts)
            assert not any(hole.start < block.end and block.start < hole.end for hole in holes)


@given(
    st.lists(st.builds(Span, st.integers(0, 60), st.integers(1, 4)), min_size=1, max_size=20),
    st.sets(st.integers(0, 64)),
)
def test_learning_ends_with_every_legal_value_readable(spans: list[Span], missing: set[int]) -> None:
    """A device without some addresses: planning and learning come to rest, and what exists is read."""
    learned = Learned()
    space = SpaceCost(per_request=0.028, per_address=0.0023, max_count=125, max_gap=2000)
    read: set[Span] = set()
    for _ in range(400):
        refusals = 0
        for block in plan(spans, space, learned):
            if missing.isdisjoint(range(block.start, block.end)):
                read.update(span for span in spans if block.start <= span.start and span.end <= block.end)
            elif block not in learned.alone:
                refusals += 1
                learned.refused(block, spans)
                break
        if not refusals:
            break
    else:
        raise AssertionError("learning does not end")
    legal = {span for span in spans if missing.isdisjoint(range(span.start, span.end))}
    assert legal <= read
