"""The options in the query of a request, read as Kubernetes' API conversion reads them. Pure."""

from dataclasses import dataclass

from edgeappliance.edged.engine.api import LogQuery
from edgeappliance.kernel.web.exchange import HttpError, Request
from edgeappliance.kubeapi.times import parse_time

MAX_COMMAND = 256 * 1024
"""Bytes of a command with its arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogOptions:
    """`stream`: 1 stdout, 2 stderr, 0 both. `limit`: bytes after which it ends, None = no limit."""

    query: LogQuery
    previous: bool = False
    limit: int | None = None
    stream: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """What an exec or attach streams."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool
    command: tuple[str, ...] = ()


def flag(request: Request, *names: str) -> bool:
    """Whether one of them is there and is neither "false" nor "0"."""
    return any(values[0].lower() not in ("false", "0") for name in names if (values := request.query.get(name)))


def log_options(request: Request, *, now_ms: int) -> LogOptions:
    """Options of /containerLogs. Raises HttpError 400 or 422, naming the field."""
    tail = _number(request, "tailLines", least=0)
    seconds = _number(request, "sinceSeconds", least=1)
    limit = _number(request, "limitBytes", least=1)
    since_ms = 0
    if text := request.first("sinceTime"):
        if seconds is not None:
            raise HttpError(422, "at most one of `sinceTime` or `sinceSeconds` may be specified")
        since_ms = max(0, _time(text))
    elif seconds is not None:
        since_ms = max(0, now_ms - seconds * 1000)
    query = LogQuery(
        follow=flag(request, "follow"), tail=tail, since_ms=since_ms, timestamps=flag(request, "timestamps")
    )
    streams = {"": 0, "All": 0, "Stdout": 1, "Stderr": 2}
    stream = streams.get(request.first("stream"))
    if stream is None:
        raise HttpError(422, "stream: must be one of All, Stdout, Stderr")
    return LogOptions(query=query, previous=flag(request, "previous"), limit=limit, stream=stream)


def stream_options(request: Request) -> StreamOptions:
    """Options of /exec and /attach, in the words of a kubelet (input, output, error) or of the API (stdin, ...).

    Raises HttpError 400.
    """
    tty = flag(request, "tty")
    options = StreamOptions(
        stdin=flag(request, "input", "stdin"),
        stdout=flag(request, "output", "stdout"),
        stderr=flag(request, "error", "stderr") and not tty,  # a terminal has one output
        tty=tty,
        command=tuple(request.query.get("command", ())),
    )
    if not (options.stdin or options.stdout or options.stderr):
        raise HttpError(400, "you must specify at least 1 of stdin, stdout, stderr")
    if sum(map(len, options.command)) > MAX_COMMAND:
        raise HttpError(400, f"command: longer than {MAX_COMMAND} bytes")
    if any("\0" in word for word in options.command):
        raise HttpError(400, "command: holds a NUL")
    return options


def _number(request: Request, name: str, *, least: int) -> int | None:
    text = request.first(name)
    if not text:
        return None
    if not text.removeprefix("-").isascii() or not text.removeprefix("-").isdecimal() or len(text) > 19:
        raise HttpError(400, f'{name}: "{text[:40]}" is not a number')
    if int(text) < least:
        raise HttpError(422, f"{name}: must be greater than or equal to {least}")
    return int(text)


def _time(text: str) -> int:
    moment = parse_time(text)
    if moment is None:
        raise HttpError(400, f'sinceTime: "{text[:40]}" is not an RFC 3339 time')
    return moment
