"""Log lines: for people, for journald, as JSON."""

import io
import json
import logging
import os
import sys
from typing import Any

import pytest

from edgeappliance.kernel import log
from edgeappliance.kernel.errors import TransientError


def record(**fields: Any) -> logging.LogRecord:
    made = logging.LogRecord("edgehub", logging.WARNING, "", 0, "link down", None, None)
    made.fields = fields
    return made


@pytest.fixture
def root():
    """The root logger as it was before."""
    logger = logging.getLogger()
    before = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:], logger.level = before


def test_a_line_for_journald_has_a_priority_instead_of_time_and_level() -> None:
    line = log.TextFormatter(journal=True).format(record(peer="a b", tries=3, error=ValueError("x")))
    assert line == '<4>edgehub: link down peer="a b" tries=3 error="ValueError: x"'


def test_an_error_of_ours_is_its_text_alone() -> None:
    line = log.TextFormatter(journal=True).format(record(error=TransientError("disk full", next_step="free some")))
    assert line == '<4>edgehub: link down error="disk full; free some"'


@pytest.mark.parametrize("value", ["\x1b[2J", "a\nforged", "\x9b31m", "a\rb", "\u202egnp"])
def test_what_a_peer_sent_cannot_steer_a_terminal_or_forge_a_line(value: str) -> None:
    line = log.TextFormatter(journal=False).format(record(topic=value))
    assert line.isprintable()
    assert json.loads(line.partition("topic=")[2]) == value


def test_json_keeps_types_and_what_names_collide() -> None:
    fields = {"tries": 3, "ok": True, "none": None, "list": ["a", 1], "nan": float("nan"), "level": "x", "logger": "y"}
    entry = json.loads(log.JsonFormatter().format(record(**fields)), parse_constant=pytest.fail)
    assert entry["logger"] == "edgehub"
    assert entry["level"] == "warning"
    assert entry["event"] == "link down"
    assert (entry["tries"], entry["ok"], entry["none"], entry["list"]) == (3, True, None, ["a", 1])
    assert (entry["nan"], entry["level_"], entry["logger_"]) == ("nan", "x", "y")


def test_the_journal_is_known_by_its_stream_not_by_the_variable_alone(
    monkeypatch: pytest.MonkeyPatch, root: logging.Logger
) -> None:
    with open(os.devnull, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        status = os.fstat(stderr.fileno())
        assert not journal_prefix(root)
        monkeypatch.setenv("JOURNAL_STREAM", "8:12345")  # inherited from a unit, but stderr goes elsewhere
        assert not journal_prefix(root)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert journal_prefix(root)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not journal_prefix(root)


def journal_prefix(root: logging.Logger) -> bool:
    log.setup(level="info", form="text")
    formatter = root.handlers[0].formatter
    assert formatter is not None
    return formatter.format(record()).startswith("<4>")


def test_our_own_docker_component_is_heard(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """The library beside it has the same name: after an outage nothing said that the engine was back."""
    log.setup(level="info", form="text")
    log.get_logger("docker").info("connected to the Docker Engine")
    logging.getLogger("docker.utils.config").info("Found file at path")
    assert [line.split(" ", 1)[1].strip() for line in capsys.readouterr().err.splitlines()] == [
        "info    docker: connected to the Docker Engine"
    ]
