"""Which images go, in which order, and which never."""

import pytest

from edgeappliance.edged.engine.api import EngineRefused, Image
from edgeappliance.edged.housekeeping.images import ImageCollector, ImageLimits, listed_name, to_free
from edgeappliance.kernel.clock import ManualClock

LIMITS = ImageLimits(high=85, low=80)


class Shelf:
    """Images in the place of an engine's; `held` ones are refused as an engine refuses what a container uses."""

    def __init__(self, *names: str) -> None:
        self.shelf = {name: Image(f"sha256:{name}", (f"{name}:latest",), 100) for name in names}
        self.held: set[str] = set()

    async def images(self) -> list[Image]:
        return list(self.shelf.values())

    async def remove_image(self, id: str) -> None:
        name = id.removeprefix("sha256:")
        if name in self.held:
            raise EngineRefused("conflict: container 12ab is using its referenced image", code=409)
        del self.shelf[name]


@pytest.mark.parametrize(
    ("available", "wanted"),
    [(1000, 0), (151, 0), (150, 50), (100, 100), (0, 200)],
    ids=["empty", "below", "at", "above", "full"],
)
def test_from_the_high_mark_down_to_the_low_one(available: int, wanted: int) -> None:
    assert to_free(capacity=1000, available=available, limits=LIMITS) == wanted


def test_a_disk_that_cannot_be_measured_frees_nothing() -> None:
    assert to_free(capacity=0, available=0, limits=LIMITS) == 0


async def test_the_one_unused_longest_goes_first_and_only_as_many_as_needed() -> None:
    clock, engine = ManualClock(), Shelf("old", "used", "new")
    in_use = {"sha256:old", "sha256:used"}
    collector = ImageCollector(engine, clock=clock, in_use=lambda: in_use)
    await collector.look()
    clock.advance(1000)
    await collector.look()
    in_use.discard("sha256:old")
    clock.advance(1000)
    collected = await collector.collect(100, min_age=120)
    assert (collected.wanted, collected.freed) == (100, 100)
    assert set(engine.shelf) == {"old", "used"}  # `new` was never in use
    await collector.collect(10_000, min_age=120)
    assert set(engine.shelf) == {"used"}
    assert [image.id for image in collector.images] == ["sha256:used"]


async def test_a_young_image_stays_unless_the_disk_is_nearly_full() -> None:
    clock, engine = ManualClock(), Shelf("young")
    collector = ImageCollector(engine, clock=clock, in_use=set)
    assert (await collector.collect(100, min_age=120)).freed == 0
    clock.advance(119)
    assert (await collector.collect(100, min_age=120)).freed == 0
    assert (await collector.collect(100, min_age=0)).freed == 100


async def test_what_a_pod_wants_or_this_program_brings_stays_without_a_container() -> None:
    engine = Shelf("wanted", "pause", "other")
    collector = ImageCollector(engine, clock=ManualClock(), in_use=lambda: {"wanted:latest"}, kept=["pause:latest"])
    await collector.collect(10_000, min_age=0)
    assert set(engine.shelf) == {"wanted", "pause"}


async def test_an_image_that_somebody_else_uses_is_passed_over() -> None:
    engine = Shelf("theirs", "free")
    engine.held = {"theirs"}
    collected = await ImageCollector(engine, clock=ManualClock(), in_use=set).collect(10_000, min_age=0)
    assert collected.freed == 100
    assert set(engine.shelf) == {"theirs"}


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("nginx", "nginx:latest"),
        ("docker.io/library/nginx:1", "nginx:1"),
        ("index.docker.io/me/app", "me/app:latest"),
        ("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest"),
        ("r.test/a/b:2", "r.test/a/b:2"),
        ("r.test/a/b:2@sha256:00ff", "r.test/a/b@sha256:00ff"),
    ],
)
def test_names_as_the_engine_lists_them(name: str, listed: str) -> None:
    assert listed_name(name) == listed
