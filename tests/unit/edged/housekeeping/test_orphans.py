"""What is left of pods that nobody knows."""

from edgeappliance.edged.housekeeping.orphans import Orphans, Remains
from edgeappliance.edged.pods.observed import Kind, ObservedContainer, Phase


def container(id: str, uid: str, kind: Kind = Kind.APP) -> ObservedContainer:
    return ObservedContainer(
        id=id, name="app", kind=kind, pod_uid=uid, namespace="default", pod_name="p", attempt=0, phase=Phase.RUNNING
    )


def test_only_what_is_unknown_twice_in_a_row_and_containers_before_their_sandbox() -> None:
    orphans = Orphans()
    sandbox, app = container("s", "u1", Kind.SANDBOX), container("a", "u1")
    strays = {"u1": [sandbox, app]}
    assert orphans.find(strays=strays, directories={"u1"}, known=set()) == Remains()
    found = orphans.find(strays=strays, directories={"u1"}, known=set())
    assert [item.id for item in found.containers] == ["a", "s"]
    assert found.directories == ()  # a container may still write there
    assert orphans.find(strays={}, directories={"u1"}, known=set()).directories == ("u1",)


def test_a_pod_that_comes_meanwhile_is_no_orphan() -> None:
    orphans = Orphans()
    strays = {"u1": [container("a", "u1")]}
    orphans.find(strays=strays, directories={"u2"}, known=set())
    assert orphans.find(strays=strays, directories={"u2"}, known={"u1", "u2"}) == Remains()
    assert orphans.find(strays=strays, directories={"u2"}, known=set()) == Remains()


def test_after_doubts_it_takes_two_looks_again() -> None:
    orphans = Orphans()
    orphans.find(strays={}, directories={"u1"}, known=set())
    orphans.forget()
    assert orphans.find(strays={}, directories={"u1"}, known=set()) == Remains()
