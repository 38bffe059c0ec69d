"""One figure of a benchmark: a JSON line on stdout."""

import json
from typing import Literal


def figure(
    bench: str, value: float, unit: str, *, target: float | None, how: str, better: Literal["less", "more"] = "less"
) -> bool:
    """Print `{"bench","value","unit","target","ok","how"}`; whether the target is met (always, without one)."""
    ok = target is None or (value <= target if better == "less" else value >= target)
    line = {"bench": bench, "value": round(value, 4), "unit": unit, "target": target, "ok": ok, "how": how}
    print(json.dumps(line, ensure_ascii=False), flush=True)
    return ok


def percentile(values: list[float], part: float) -> float:
    """The value below which `part` (0..1) of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]
