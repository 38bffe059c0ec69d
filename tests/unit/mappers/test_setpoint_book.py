"""Set-points that the twin repeats, that fail, are withdrawn, or come true."""

from itertools import pairwise

from edgeappliance.mappers.setpoint_book import SetPointBook

KEY = ("d", "a")


def test_a_difference_is_written_once_however_often_it_is_said() -> None:
    book = SetPointBook()
    assert book.differs("d", {"a": "5"}, 0.0) == [(KEY, "5")]
    assert book.differs("d", {"a": "5"}, 0.1) == []
    assert book.differs("d", {"a": "6"}, 0.2) == [(KEY, "6")]
    assert not book.written(KEY, "5", "", 0.3)  # an older one; the newer is on its way
    assert book.differs("d", {"a": "6"}, 0.4) == []


def test_what_has_just_arrived_is_not_written_again_by_its_echo() -> None:
    book = SetPointBook()
    book.differs("d", {"a": "5"}, 0.0)
    assert not book.written(KEY, "5", "", 1.0)
    assert book.differs("d", {"a": "5"}, 1.5) == []
    # Seconds later it is a difference again: somebody changed the device.
    assert book.differs("d", {"a": "5"}, 4.0) == [(KEY, "5")]


def test_a_failure_is_tried_again_with_back_off_and_named_meanwhile() -> None:
    book = SetPointBook()
    now, tries = 0.0, []
    while now < 300:
        if book.differs("d", {"a": "5"}, now):
            tries.append(now)
            book.written(KEY, "5", "no answer", now)
        now += 0.5
    gaps = [after - before for before, after in pairwise(tries)]
    assert gaps[:6] == [1, 2, 4, 8, 16, 32]
    assert max(gaps) == 60
    assert book.failure(KEY) == "set-point 5 not reached: no answer"
    assert book.due(now + 60) == {"d"}


def test_a_withdrawn_set_point_is_forgotten() -> None:
    book = SetPointBook()
    book.differs("d", {"a": "5", "b": "1"}, 0.0)
    assert book.written(KEY, "5", "out of range", 0.1)
    assert not book.written(KEY, "5", "out of range", 0.2)  # said already
    assert book.differs("d", {"b": "1"}, 0.3) == []
    assert book.failure(KEY) == ""
    assert book.due(20.0) == set()


def test_a_device_that_is_back_is_tried_at_once() -> None:
    book = SetPointBook()
    book.differs("d", {"a": "5"}, 0.0)
    for moment in (1.0, 3.0, 7.0):
        book.written(KEY, "5", "no answer", moment)
    assert book.due(8.0) == set()
    book.hurry("d")
    assert book.due(8.0) == {"d"}
    assert book.differs("d", {"a": "5"}, 8.0) == [(KEY, "5")]


def test_success_after_a_failure_is_worth_saying() -> None:
    book = SetPointBook()
    book.differs("d", {"a": "5"}, 0.0)
    book.written(KEY, "5", "no answer", 0.1)
    book.differs("d", {"a": "5"}, 2.0)
    assert book.written(KEY, "5", "", 2.1)
    assert book.failure(KEY) == ""


def test_what_was_under_way_when_a_line_went_away_is_asked_for_at_once() -> None:
    book = SetPointBook()
    assert book.differs("d", {"p": "1"}, 100.0)
    assert book.due(101.0) == set()
    book.lost("d")
    assert book.due(101.0) == {"d"}
    assert book.differs("d", {"p": "1"}, 101.0) == [(("d", "p"), "1")]


def test_a_write_whose_line_went_away_is_asked_for_again() -> None:
    book = SetPointBook()
    book.differs("d", {"a": "5"}, 0.0)
    assert book.due(20.0) == set()
    assert book.due(31.0) == {"d"}
    assert book.differs("d", {"a": "5"}, 31.0) == [(KEY, "5")]
    assert book.differs("d", {"a": "5"}, 32.0) == []
