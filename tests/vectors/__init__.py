"""Recorded traffic between an unmodified KubeEdge 1.23 edgecore and cloudcore, frame by frame.

A line: `t` Unix seconds; `dir` up (edge to cloud), down, edge (the relay's notes); `frame` http, tls, or the websocket
header bits; `payload` as sent. cloudcore splits what is longer than 4082 bytes.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FRAMES = Path(__file__).with_name("edge-cloud-frames.jsonl")


class Recorded(NamedTuple):
    """One whole message, reassembled: `direction` up or down, `text` with its newline."""

    time: float
    direction: str
    text: str


def messages() -> Iterator[Recorded]:
    """Every message of the recording, in order."""
    parts: dict[str, str] = {}
    for line in FRAMES.read_text("utf-8").splitlines():
        frame = json.loads(line)
        if not frame["frame"].startswith("fin"):
            continue
        direction = frame["dir"]
        parts[direction] = parts.get(direction, "") + frame["payload"]
        if frame["frame"].startswith("fin1") and parts[direction].strip().startswith("{"):
            yield Recorded(frame["t"], direction, parts.pop(direction))
