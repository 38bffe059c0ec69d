"""The JSONPath of `additionalPrinterColumns`: fields, quoted keys, indexes, wildcards and equality filters."""

import re
from typing import Any

_STEP = re.compile(
    r"""\.(?P<field>(?:\\.|[^.\[\]\\])+)
      | \[\s*'(?P<quoted>(?:\\.|[^'\\])*)'\s*\]
      | \[\s*"(?P<double>(?:\\.|[^"\\])*)"\s*\]
      | \[\s*(?P<index>-?\d{1,9})\s*\]
      | (?P<all>\[\s*\*\s*\]|\.\*)
      | \[\s*\?\(\s*@\.(?P<key>[\w./-]+)\s*(?P<op>==|!=)\s*(?P<quote>["'])(?P<value>[^"']*)(?P=quote)\s*\)\s*\]
    """,
    re.VERBOSE,
)


class JsonPath:
    """A parsed path (`.status.conditions[?(@.type=="Ready")].status`). Raises ValueError for other syntax."""

    __slots__ = ("_steps", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        body = text.strip()
        if body.startswith("{") and body.endswith("}"):
            body = body[1:-1].strip()
        body = body.removeprefix("$")
        if body and body[0] not in ".[":
            body = "." + body
        self._steps: list[tuple[str, Any]] = []
        position = 0
        while position < len(body):
            match = _STEP.match(body, position)
            if match is None:
                raise ValueError(f"JSON path {text!r} cannot be read at {body[position : position + 20]!r}")
            self._steps.append(_step(match))
            position = match.end()

    def find(self, value: Any) -> list[Any]:
        """Every value that the path leads to."""
        found = [value]
        for word, operand in self._steps:
            found = [item for current in found for item in _walk(current, word, operand)]
        return found


def _step(match: re.Match[str]) -> tuple[str, Any]:
    if match["all"]:
        return ("all", None)
    if match["index"]:
        return ("index", int(match["index"]))
    if match["key"]:
        return ("filter", (match["key"].split("."), match["value"], match["op"] == "=="))
    name = match["field"] or match["quoted"] or match["double"] or ""
    return ("field", re.sub(r"\\(.)", r"\1", name))


def _walk(value: Any, word: str, operand: Any) -> list[Any]:
    if word == "field":
        return [value[operand]] if isinstance(value, dict) and operand in value else []
    if word == "index":
        return [value[operand]] if isinstance(value, list) and -len(value) <= operand < len(value) else []
    if word == "all":
        if isinstance(value, dict):
            return list(value.values())
        return list(value) if isinstance(value, list) else []
    keys, wanted, equal = operand
    return [item for item in value if (_lookup(item, keys) == wanted) is equal] if isinstance(value, list) else []


def _lookup(value: Any, keys: list[str]) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
