"""Typed settings from TOML.

Settings are msgspec Structs whose fields are `Annotated[type, Meta(description=...)]`; the prose is the documentation
of the key. Everything wrong with a file is reported at once, with file and key path; an unknown key is an error with
a suggestion.
"""

import difflib
import textwrap
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import toml

from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.files import replace_file

S = TypeVar("S", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong: the key's path (`cloud.address`) and what is wrong with it."""

    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message


class SettingsError(OperatorError):
    """A configuration that cannot be used. `problems` are all of them."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        listing = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"{source} cannot be used:\n{listing}", next_step="correct the keys named above")


def load(kind: type[S], path: Path) -> S:
    """The settings in a TOML file; defaults for what it does not say. Raises SettingsError, OperatorError."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise OperatorError(f"{path} does not exist", next_step="name the file with --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise OperatorError(f"{path} cannot be read: {error}", next_step="check the file and its mode") from None
    return loads(kind, text, source=str(path))


def loads(kind: type[S], text: str, *, source: str) -> S:
    """The settings in a TOML text. Raises SettingsError with every problem."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(source, [Problem("", f"is not TOML: {error}")]) from None
    return convert(kind, values, source=source)


def convert(kind: type[S], values: Mapping[str, Any], *, source: str) -> S:
    """The settings in plain values. Raises SettingsError with every problem."""
    problems: list[Problem] = []
    result = _struct(kind, values, "", problems)
    if problems or result is None:
        raise SettingsError(source, problems)
    return result


def _struct(kind: type[S], values: Mapping[str, Any], path: str, problems: list[Problem]) -> S | None:
    hints = typing.get_type_hints(kind, include_extras=True)
    known = dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
    before = len(problems)
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; known keys: {', '.join(sorted(known))}"
            problems.append(Problem(_join(path, key), f"unknown key{hint}"))
    arguments = {}
    for key, name in known.items():
        if key in values:
            arguments[name] = _value(hints[name], values[key], _join(path, key), problems)
    if len(problems) > before:
        return None
    try:
        result = kind(**arguments)
    except TypeError as error:  # a required key is missing
        problems.append(Problem(path, str(error).replace("argument", "key")))
        return None
    rules = getattr(result, "problems", None)  # what a table says of itself, for rules across its keys
    if callable(rules):
        problems += [Problem(_join(path, key), message) for key, message in rules()]
    return result


def _value(kind: Any, value: Any, path: str, problems: list[Problem]) -> Any:
    plain = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
    if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
        if not isinstance(value, Mapping):
            problems.append(Problem(path, "must be a table"))
            return None
        return _struct(plain, value, path, problems)
    if typing.get_origin(plain) in (list, tuple) and isinstance(value, list):
        inner = typing.get_args(plain)[0]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            items = [_value(inner, item, f"{path}[{index}]", problems) for index, item in enumerate(value)]
            return items if typing.get_origin(plain) is list else tuple(items)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at `$")
        problems.append(Problem(path + where.rstrip("`"), f"{text[:1].lower()}{text[1:]} (it is {value!r})"))
        return None


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values as TOML; a power cut leaves the old file or the new one. Raises OperatorError."""
    try:
        replace_file(path, toml.dumps(values).encode(), mode=0o644)
    except OSError as error:
        raise OperatorError(
            f"{path} cannot be written: {error.strerror}",
            next_step="check the directory, its owner and its file system",
        ) from None


def describe(kind: type[msgspec.Struct]) -> str:
    """A TOML file with every key, its documentation and its default, all defaults commented out."""
    lines: list[str] = []
    _describe(kind, "", lines)
    return "\n".join(lines).strip() + "\n"


def _describe(kind: type[msgspec.Struct], path: str, lines: list[str]) -> None:
    hints = typing.get_type_hints(kind, include_extras=True)
    tables = []
    for field in msgspec.structs.fields(kind):
        plain, text = _unwrap(hints[field.name])
        if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
            tables.append((field.encode_name, plain, text))
            continue
        lines += _comment(text)
        default = _default(field)
        lines.append(f"# {field.encode_name} = {default}" if default else f"# {field.encode_name} =")
        lines.append("")
    for name, plain, text in tables:
        lines += _comment(text)
        lines.append(f"[{_join(path, name)}]")
        _describe(plain, _join(path, name), lines)


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 96)]


def _unwrap(kind: Any) -> tuple[Any, str]:
    if typing.get_origin(kind) is typing.Annotated:
        plain, *meta = typing.get_args(kind)
        texts = [item.description for item in meta if isinstance(item, msgspec.Meta) and item.description]
        return plain, " ".join(texts)
    return kind, ""


def _default(field: Any) -> str:
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return ""
    if value is None:
        return ""
    if value == {}:
        return "{}"  # toml would write a table of its own
    return toml.dumps({"x": msgspec.to_builtins(value)}).partition("=")[2].strip()
