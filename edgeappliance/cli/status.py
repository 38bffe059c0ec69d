"""`edgecore status` and `edgecore devices`: what the running process says of itself."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgeappliance.cli.output import say
from edgeappliance.kernel import control

_MARK = {"running": "ok", "degraded": "!!", "failed": "XX", "starting": "..", "stopped": "--"}


def status(socket: Path, *, as_json: bool) -> int:
    """Print the state of every component; exit code 1 when one has failed."""
    report = asyncio.run(control.call(socket, "status"))
    if as_json:
        say(json.dumps(report, indent=2, ensure_ascii=False))
    else:
        say("\n".join(render_status(report)))
    return 1 if any(part["state"] == "failed" for part in report["components"].values()) else 0


def render_status(report: Mapping[str, Any]) -> list[str]:
    """The report as lines for a terminal."""
    lines = [f"node {report['node']}   edgecore {report['version']}   up {span(report['uptime_s'])}", ""]
    rows = []
    for name, part in report["components"].items():
        since = span(report["now_ms"] / 1000 - part["since_ms"] / 1000) if part["since_ms"] else ""
        rows.append((_MARK.get(part["state"], "??"), name, part["state"], since, figures(part["details"])))
    lines += table(("", "COMPONENT", "STATE", "SINCE", ""), rows)
    for name, part in report["components"].items():
        if part["reason"]:
            lines += ["", f"{name}: {part['reason']}"]
            if part["next_step"]:
                lines.append(f"  what to do: {part['next_step']}")
    return lines


def figures(details: Mapping[str, Any]) -> str:
    """Details for people: units as they are spoken, and no count of what never happened."""
    return ", ".join(text for text in (_figure(key, value, details) for key, value in details.items()) if text)


def _figure(key: str, value: Any, others: Mapping[str, Any]) -> str:
    if isinstance(value, bool):
        return f"{key.replace('_', ' ')}: {'yes' if value else 'no'}"
    if isinstance(value, str) and value:
        return f"{key.replace('_', ' ')} {value}"
    if not isinstance(value, int | float) or (value == 0 and key.endswith("_total")):
        return ""
    name = key.removesuffix("_total")
    if name != key and name in others:  # those of now have that name
        return f"{name.replace('_', ' ')} in all {value}"
    if name.endswith("_timestamp_seconds"):
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(value))
        return f"{name.removesuffix('_timestamp_seconds').replace('_', ' ')} {when}"
    if name.endswith("_bytes"):
        return f"{name.removesuffix('_bytes').replace('_', ' ')} {size(value)}"
    return f"{name.replace('_', ' ')} {value}"


def size(count: float) -> str:
    """Bytes for people: 900 B, 37 kB, 1.4 MB."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000 or unit == "GB":
            break
    return f"{count:.1f} {unit}" if count < 10 else f"{count:.0f} {unit}"


def devices(socket: Path, *, only: str, as_json: bool) -> int:
    """Print devices with their properties; exit code 1 when the one asked for is not there."""
    report = asyncio.run(control.call(socket, "devices"))
    found = [device for device in report["devices"] if only in ("", device["id"])]
    if as_json:
        say(json.dumps(found, indent=2, ensure_ascii=False))
    elif found:
        for device in found:
            say("\n".join(render_device(device, report["now_ms"])))
    elif only:
        known = ", ".join(device["id"] for device in report["devices"]) or "none"
        say(f"no device {only}; known: {known}")
    else:
        say("no devices yet: apply a Device with kubectl, or put a file into the mappers directory")
    return 0 if found or not only else 1


def render_device(device: Mapping[str, Any], now_ms: int) -> list[str]:
    """One device as lines for a terminal."""
    head = f"{device['id']}   {device['protocol'] or 'no mapper'}   {device['state'] or 'state unknown'}"
    if device["line"]:
        head += f"   {device['line']} unit {device['unit']}"
    lines = [head]
    if device["reason"]:
        lines.append(f"  {device['reason']}")
    lines += [f"  error: {error}" for error in device["errors"]]
    lines += [f"  warning: {warning}" for warning in device.get("warnings", ())]
    rows = []
    for item in device["properties"]:
        age = span((now_ms - item["reported_ms"]) / 1000) if item["reported_ms"] else ""
        quality = ": ".join(part for part in (item["quality"], item["reason"]) if part)
        desired = item["desired"] if item["desired"] is not None else ""
        reported = item["reported"] if item["reported"] is not None else ""
        rows.append(
            (item["name"], item["type"], short(reported), item["unit"], age, short(desired), short(quality, 80))
        )
    lines += [
        "  " + line for line in table(("PROPERTY", "TYPE", "REPORTED", "UNIT", "AGE", "DESIRED", "QUALITY"), rows)
    ]
    return [*lines, ""]


def short(text: str, limit: int = 40) -> str:
    """A value that an app chose, on one line of a terminal that it does not steer; `--json` has the whole."""
    plain = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[: limit + 1])
    return plain if len(text) <= limit else f"{plain[: limit - 3]}..."


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they need to be; an empty column is left out."""
    used = [index for index in range(len(head)) if any(row[index] for row in rows)]
    widths = {index: max(len(head[index]), *(len(row[index]) for row in rows)) for index in used}
    return ["  ".join(row[index].ljust(widths[index]) for index in used).rstrip() for row in [head, *rows]]


def span(seconds: float) -> str:
    """A duration for people: 7s, 3m20s, 5h04m, 12d3h; a negative one (the clock jumped) is 0s."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"
