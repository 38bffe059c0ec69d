"""Many lines of one event become a few and a count."""

import logging
from collections.abc import Iterator

import pytest

from cloudgateway.cli.crowd import Crowd


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, dict[str, object]]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.getMessage(), getattr(record, "fields", {})))


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, logger = Lines(), logging.getLogger("fleet")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)


def test_a_fleet_that_reconnects_is_a_few_lines_and_a_count(lines: Lines) -> None:
    now = 0.0
    crowd, logger = Crowd(burst=3, window=10, monotonic=lambda: now), logging.getLogger("fleet")
    lines.addFilter(crowd)
    for _ in range(2000):
        logger.info("node connected")
    logger.warning("something else")
    assert [event for event, _ in lines.lines] == ["node connected"] * 3 + ["something else"]
    crowd.flush()
    assert len(lines.lines) == 4
    now = 10.0
    crowd.flush()
    assert lines.lines[4:] == [("node connected", {"more": 1997, "shown": 3, "seconds": 10})]
    logger.info("node connected")
    assert len(lines.lines) == 6
    crowd.flush(everything=True)
    assert len(lines.lines) == 6, "nothing was held back"
