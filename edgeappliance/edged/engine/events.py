"""The engine's events about containers of ours (Engine API, "Monitor events"), as they come."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode

from edgeappliance.edged.engine.api import ContainerEvent, EngineAway
from edgeappliance.edged.engine.observe import read_event
from edgeappliance.edged.engine.wire import Answer, ask, refusal
from edgeappliance.edged.pods.observed import OWNER

MAX_LINE = 1024 * 1024
"""Bytes of one event: its labels are all in it."""

_ACTIONS = ["create", "start", "die", "oom", "kill", "stop", "pause", "unpause", "restart", "rename", "destroy"]
"""Not the three events that every exec, so every exec probe, would bring."""

OVERLAP = 2.0
"""Seconds of the past that are asked for: the engine answers a moment before it listens."""


async def subscribe(socket: Path, api: str, *, node: str, wall_ms: int) -> Answer:
    """Ask for the events from now on. Raises EngineAway, EngineRefused."""
    filters = {"type": ["container"], "label": [f"{OWNER}={node}"], "event": _ACTIONS}
    since = max(0.0, wall_ms / 1000 - OVERLAP)
    query = urlencode({"filters": json.dumps(filters), "since": f"{since:.3f}"})
    answer = await ask(socket, "GET", f"{api}/events?{query}")
    if answer.status != 200:
        try:
            raise refusal(answer.status, await answer.body())
        finally:
            await answer.close()
    return answer


async def events(answer: Answer) -> AsyncIterator[ContainerEvent]:
    """One after the other, until the engine ends. Raises EngineAway when it breaks or is not understood."""
    rest = b""
    while data := await answer.read():
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > MAX_LINE:
            raise EngineAway("the Docker Engine's event has no end of line")
        for line in lines:
            if not line.strip():
                continue
            try:
                document = json.loads(line)
            except (ValueError, RecursionError):
                raise EngineAway("the Docker Engine's event is not JSON") from None
            event = read_event(document) if isinstance(document, dict) else None
            if event is not None:
                yield event
