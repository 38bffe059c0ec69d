"""Label and field selectors, parsed once and matched against an object's labels or selectable fields."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgeappliance.kubeapi.errors import bad_request
from edgeappliance.kubeapi.names import label_key_error, label_value_error

SELECTOR_LIMIT = 8192

_REQUIREMENT = re.compile(
    r"""\s*(?:
        (?P<absent>!)\s*(?P<nokey>[^\s,=!<>()]+)
      | (?P<key>[^\s,=!<>()]+)\s*(?:
            (?P<set>in|notin)\s*\((?P<values>[^()]*)\)
          | (?P<op>==|=|!=|>|<)\s*(?P<value>[^\s,=!<>()]*)
        )?
    )\s*(?:,|$)""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term: `operator` is one of in, notin, exists, absent, gt, lt."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a set of labels meets the term (a missing key meets notin, as upstream has it)."""
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "absent":
                return value is None
        if value is None:
            return False
        try:
            number, bound = int(value), int(next(iter(self.values)))
        except ValueError:
            return False
        return number > bound if self.operator == "gt" else number < bound


def node_requirement_met(operator: str, values: Sequence[str], value: str | None) -> bool:
    """Whether a node's label (None: it has none) meets a requirement of a node selector term (core/v1
    NodeSelectorRequirement: In, NotIn, Exists, DoesNotExist, Gt, Lt)."""
    match operator:
        case "In":
            return value is not None and value in values
        case "NotIn":
            return value is None or value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    if operator not in ("Gt", "Lt") or value is None or len(values) != 1:
        return False
    try:
        number, bound = int(value), int(values[0])
    except ValueError:
        return False
    return number > bound if operator == "Gt" else number < bound


@dataclass(frozen=True, slots=True)
class Selector:
    """A conjunction of requirements; an empty one matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether all requirements are met."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __bool__(self) -> bool:
        return bool(self.requirements)


def parse_labels(text: str) -> Selector:
    """A label selector (`a=b,c!=d,e in (f,g),h,!i,j>1`); bad_request when it cannot be read."""
    if len(text) > SELECTOR_LIMIT:
        raise bad_request("unable to parse requirement: the label selector is too long")
    found: list[Requirement] = []
    position, end = 0, len(text)
    if not text.strip():
        return Selector()
    while position < end:
        match = _REQUIREMENT.match(text, position)
        if match is None or match.end() == position:
            raise bad_request(f"unable to parse requirement: found {text[position : position + 40]!r}")
        found.append(_requirement(match))
        if match.end() == end and text[end - 1] == ",":
            raise bad_request("unable to parse requirement: a requirement is missing after the last comma")
        position = match.end()
    return Selector(tuple(found))


def _requirement(match: re.Match[str]) -> Requirement:
    key = match["nokey"] or match["key"]
    if error := label_key_error(key):
        raise bad_request(f'unable to parse requirement: key "{key}": {error}')
    if match["absent"]:
        return Requirement(key, "absent")
    if match["set"]:
        values = frozenset(item.strip() for item in match["values"].split(","))
        operator = match["set"]
    elif match["op"] in (">", "<"):
        values = frozenset((match["value"],))
        if not re.fullmatch(r"-?\d{1,18}", match["value"]):
            raise bad_request(f'unable to parse requirement: "{match["value"]}" must be an integer')
        return Requirement(key, "gt" if match["op"] == ">" else "lt", values)
    elif match["op"]:
        values = frozenset((match["value"],))
        operator = "notin" if match["op"] == "!=" else "in"
    else:
        return Requirement(key, "exists")
    for value in values:
        if error := label_value_error(value):
            raise bad_request(f'unable to parse requirement: values: "{value}": {error}')
    return Requirement(key, operator, values)


def parse_fields(text: str) -> Selector:
    """A field selector (`metadata.name=x,status.phase!=Failed`); bad_request when it cannot be read."""
    if len(text) > SELECTOR_LIMIT:
        raise bad_request("invalid field selector: it is too long")
    found: list[Requirement] = []
    for term in _split_unescaped(text):
        if not term:
            continue
        for operator, meaning in (("!=", "notin"), ("==", "in"), ("=", "in")):
            key, separator, value = term.partition(operator)
            if separator:
                found.append(Requirement(key, meaning, frozenset((_unescape(value),))))
                break
        else:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
    return Selector(tuple(found))


def _split_unescaped(text: str) -> list[str]:
    terms, current, escaped = [], "", False
    for character in text:
        if escaped:
            current += "\\" + character
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == ",":
            terms.append(current)
            current = ""
        else:
            current += character
    return [*terms, current]


def _unescape(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value)
