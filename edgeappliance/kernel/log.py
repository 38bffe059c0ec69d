"""Structured logging: an event and its fields, as text for people and journald or as JSON lines."""

import json
import logging
import math
import os
import sys
import time
from typing import Any

from edgeappliance.kernel.errors import ApplianceError

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

CHATTY = ("websockets", "aiohttp.access", "asyncio", "pymodbus", "docker.api", "docker.auth", "docker.utils", "urllib3")
"""Loggers of libraries of which only warnings are shown. `docker` itself is the name of a component of ours."""


class Logger:
    """A named logger whose calls take an event and keyword fields."""

    __slots__ = ("_inner",)

    def __init__(self, inner: logging.Logger) -> None:
        self._inner = inner

    def _log(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if self._inner.isEnabledFor(level):
            exc_info = fields.pop("exc_info", None)
            self._inner.log(level, event, extra={"fields": fields}, exc_info=exc_info)

    def debug(self, event: str, **fields: Any) -> None:
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._log(logging.ERROR, event, fields)


def get_logger(name: str) -> Logger:
    """The logger of a component."""
    return Logger(logging.getLogger(name))


def _text(value: Any) -> str:
    """An error of ours says all in its text; of any other the type belongs to it."""
    if isinstance(value, BaseException) and not isinstance(value, ApplianceError):
        return f"{type(value).__name__}: {value}"
    return str(value)


def _render(value: Any) -> str:
    text = _text(value)
    if not text.isprintable():  # a peer's bytes must not steer a terminal or forge a line
        return json.dumps(text)
    if text == "" or any(char in text for char in ' "='):
        return json.dumps(text, ensure_ascii=False)
    return text


def _plain(value: Any) -> Any:
    """The value as JSON has it: numbers, lists and tables stay what they are."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return _text(value)


class TextFormatter(logging.Formatter):
    """`time level component: event key=value ...`; under journald a priority prefix in place of time and level."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        parts = [f"{record.name}: {record.getMessage()}"]
        parts += [f"{key}={_render(value)}" for key, value in fields.items()]
        line = " ".join(parts)
        if record.exc_info and record.levelno >= logging.ERROR:
            line += "\n" + self.formatException(record.exc_info)
        if self._journal:
            prefix = f"<{_PRIORITY.get(record.levelno, 5)}>"
            return "\n".join(prefix + part for part in line.splitlines())
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        return f"{stamp} {record.levelname.lower():7} {line}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, and the fields; one of the same name gets a `_`."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        taken = frozenset(entry)
        entry.update((f"{key}_" if key in taken else key, _plain(value)) for key, value in fields.items())
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def setup(*, level: str = "info", form: str = "text") -> None:
    """Log to stderr from now on. `level` debug|info|warning|error, `form` text|json."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter(journal=_into_journal()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in CHATTY:
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def _into_journal() -> bool:
    """Whether stderr goes to journald: systemd names that stream by device and inode (systemd.exec(5)).

    The variable alone says nothing: what a unit starts inherits it and may write elsewhere.
    """
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
