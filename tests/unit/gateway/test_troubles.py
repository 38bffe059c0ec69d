"""What of the parts' health is told, and how often."""

from cloudgateway.cli.troubles import Troubles
from edgeappliance.kernel.component import Health, State

WELL = Health(State.RUNNING)
AWAY = Health(State.DEGRADED, "the API does not answer", "start it")


def test_a_trouble_is_told_once_when_it_lasts() -> None:
    troubles = Troubles()
    assert troubles.look({"cluster": AWAY}) == ({}, [])
    assert troubles.look({"cluster": AWAY}) == ({"cluster": AWAY}, [])
    assert troubles.look({"cluster": AWAY}) == ({}, [])


def test_what_passes_at_once_is_not_told() -> None:
    troubles = Troubles()
    for parts in ({"cluster": AWAY}, {"cluster": WELL}, {"cluster": AWAY}, {"cluster": WELL}):
        assert troubles.look(parts) == ({}, [])


def test_another_part_with_the_same_trouble_is_not_told() -> None:
    troubles = Troubles()
    mirrors = Health(State.DEGRADED, "the API does not answer (watching pods)")
    parts = {"cluster": AWAY, "mirrors": mirrors, "hub": Health(State.FAILED, "cannot listen")}
    troubles.look(parts)
    assert list(troubles.look(parts)[0]) == ["cluster", "hub"]


def test_what_is_over_is_told_and_its_return_too() -> None:
    troubles = Troubles()
    for _ in range(2):
        troubles.look({"cluster": AWAY})
    assert troubles.look({"cluster": WELL}) == ({}, ["cluster"])
    troubles.look({"cluster": AWAY})
    assert troubles.look({"cluster": AWAY}) == ({"cluster": AWAY}, [])
