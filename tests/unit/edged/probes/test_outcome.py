"""What a row of answers makes of a container."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeappliance.edged.pods.spec import Probe
from edgeappliance.edged.probes.outcome import Answer, Outcome, ProbeKind, Verdict, after, first

S, F, U = Answer(Verdict.SUCCESS), Answer(Verdict.FAILURE, "no"), Answer(Verdict.UNKNOWN)


def run(kind: ProbeKind, probe: Probe, *answers: Answer) -> Outcome:
    outcome = first(kind)
    for answer in answers:
        outcome = after(outcome, answer, kind=kind, probe=probe)
    return outcome


def test_before_the_first_answer_a_container_lives_and_is_not_ready() -> None:
    assert [first(kind).passed for kind in (ProbeKind.LIVENESS, ProbeKind.READINESS, ProbeKind.STARTUP)] == [
        True,
        False,
        None,
    ]


def test_three_failures_in_a_row_condemn_and_the_last_output_is_kept() -> None:
    probe = Probe()
    assert not run(ProbeKind.LIVENESS, probe, F, F).condemned
    assert not run(ProbeKind.LIVENESS, probe, F, F, S, F, F).condemned
    condemned = run(ProbeKind.LIVENESS, probe, F, F, Answer(Verdict.FAILURE, "last"))
    assert condemned.condemned
    assert condemned.output == "last"


def test_readiness_comes_and_goes_by_its_thresholds_and_never_condemns() -> None:
    probe = Probe(success_threshold=2, failure_threshold=2)
    assert run(ProbeKind.READINESS, probe, S).passed is False
    assert run(ProbeKind.READINESS, probe, S, S).passed is True
    assert run(ProbeKind.READINESS, probe, S, S, F).passed is True
    assert run(ProbeKind.READINESS, probe, S, S, F, S, F).passed is True
    gone = run(ProbeKind.READINESS, probe, S, S, F, F)
    assert (gone.passed, gone.condemned) == (False, False)


@pytest.mark.parametrize("kind", list(ProbeKind))
def test_a_try_that_went_wrong_itself_says_nothing(kind: ProbeKind) -> None:
    assert run(kind, Probe(failure_threshold=1), U, U, U) == first(kind)
    between = run(kind, Probe(failure_threshold=2), F, U, F)
    assert between == run(kind, Probe(failure_threshold=2), F, F)


def test_a_startup_probe_passes_or_condemns() -> None:
    assert run(ProbeKind.STARTUP, Probe(failure_threshold=5), F, F, S).passed is True
    assert run(ProbeKind.STARTUP, Probe(failure_threshold=2), F, F).condemned


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([S, F, U]), max_size=30),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sampled_from(list(ProbeKind)),
)
def test_the_value_in_force_is_that_of_the_last_run_that_was_long_enough(
    answers: list[Answer], success: int, failure: int, kind: ProbeKind
) -> None:
    """Against the definition: runs of equal answers, the unknown ones taken out."""
    probe = Probe(success_threshold=success, failure_threshold=failure)
    in_force = first(kind).passed
    condemned = False
    length, last = 0, None
    for answer in (item for item in answers if item is not U):
        length = length + 1 if answer is last else 1
        last = answer
        if not condemned and length >= (success if answer is S else failure):
            in_force = answer is S
            condemned = answer is F and kind is not ProbeKind.READINESS
    outcome = run(kind, probe, *answers)
    assert (outcome.passed, outcome.condemned) == (in_force, condemned)
