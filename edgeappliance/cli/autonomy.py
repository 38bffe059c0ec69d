"""`edgecore autonomy`: what would survive a cut from the cloud, before it comes."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeappliance.cli.output import say
from edgeappliance.cli.status import short, table
from edgeappliance.kernel import control

_PARTS = ("certificate", "outbox", "clock", "engine")


def autonomy(socket: Path, *, as_json: bool) -> int:
    """Print the report of the running process; exit code 1 when something would not survive."""
    report = asyncio.run(control.call(socket, "autonomy"))
    say(json.dumps(report, indent=2, ensure_ascii=False) if as_json else "\n".join(render_autonomy(report)))
    return 0 if report["survives"] else 1


def render_autonomy(report: Mapping[str, Any]) -> list[str]:
    """The report as lines for a terminal."""
    lines = [f"node {report['node']}", ""]
    rows = [_row(pod) for pod in report["pods"]]
    if rows:
        lines += table(("", "POD", "IMAGES", "CONFIG", "SECRETS", "TOKENS"), rows)
    else:
        lines.append("no pods")
    lines += [
        "",
        f"certificate  {_certificate(report['certificate'])}",
        f"outbox       {_outbox(report['outbox'])}",
        f"clock        {_clock(report['clock'])}",
    ]
    if report["engine"]["trouble"]:
        lines.append(f"docker       {short(report['engine']['trouble'], 200)}")
    todo = [(f"{pod['namespace']}/{pod['name']}", text) for pod in report["pods"] for text in pod["todo"]]
    todo += [(part, text) for part in _PARTS for text in report[part]["todo"]]
    if todo:
        lines += ["", "what to do:", *(f"  {short(where, 80)}: {short(text, 300)}" for where, text in todo)]
    lines += ["", _sum(report, bool(todo))]
    return lines


def _row(pod: Mapping[str, Any]) -> tuple[str, ...]:
    mark = "--" if pod["ended"] else "ok" if pod["survives"] else "XX"
    name = short(f"{pod['namespace']}/{pod['name']}", 80)
    if pod["ended"]:
        return (mark, name, "ended", "", "", "")
    images = _count(pod["images"]) if pod["images_known"] else "?"
    return (mark, name, images, *(_count(pod[key]) for key in ("configs", "secrets", "tokens")))


def _count(have: Mapping[str, Any]) -> str:
    return f"{have['have']}/{have['need']}" if have["need"] else ""


def _certificate(part: Mapping[str, Any]) -> str:
    days = part["days"]
    if days is None:
        return "none: this node has no cloud"
    return f"{days:.0f} days left" if days > 0 else "ended"


def _outbox(part: Mapping[str, Any]) -> str:
    return part["text"] if part["hours"] is None else f"{part['hours']:.0f} hours left ({part['text']})"


def _clock(part: Mapping[str, Any]) -> str:
    sources = [part["daemon"]] if part["daemon"] else []
    if part["synchronised"] is False:
        sources[-1] += " (not synchronised)"
    if part["rtc"]:
        sources.append(f"RTC {part['rtc']}" if part["keeps_time"] else f"RTC {part['rtc']} (does not keep time)")
    return ", ".join(sources) or "none"


def _sum(report: Mapping[str, Any], todo: bool) -> str:
    if not report["survives"]:
        return "not everything would survive a cut"
    return "everything would survive a cut" + (", with the above in mind" if todo else "")
