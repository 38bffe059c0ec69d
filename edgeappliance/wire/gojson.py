"""JSON the way the Go peers read and write it.

They write `<`, `>`, `&`, U+2028 and U+2029 as `\\u` escapes and end every document with a newline; they read
object keys of declared fields without regard to case, ignore unknown keys, and take `null` for "leave the zero
value" (reference 2.1, 2.3, 4.4). msgspec does the usual case at its own speed; the slow path below runs only
when that strict reading fails.
"""

import functools
import json
import re
import types
import typing
from typing import Any, TypeVar

import msgspec

from edgeappliance.wire.errors import WireError
from edgeappliance.wire.limits import MAX_DEPTH

T = TypeVar("T")

_NEEDS_ESCAPE = re.compile(rb"[<>&]|\xe2\x80[\xa8\xa9]")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPES = {
    b"<": b"\\u003c",
    b">": b"\\u003e",
    b"&": b"\\u0026",
    b"\xe2\x80\xa8": b"\\u2028",
    b"\xe2\x80\xa9": b"\\u2029",
}


def escape(document: bytes) -> bytes:
    """A JSON document with Go's HTML escapes. These bytes occur only inside strings, so a plain replace is exact."""
    # On a document that needs nothing, the usual one, four searches for a byte are far cheaper than the pattern.
    if b"<" not in document and b">" not in document and b"&" not in document and b"\xe2" not in document:
        return document
    return _NEEDS_ESCAPE.sub(lambda match: _ESCAPES[match.group()], document)


def dumps(value: Any) -> bytes:
    """The value as Go's encoder would send it, without the trailing newline."""
    return escape(msgspec.json.encode(value))


@functools.lru_cache(maxsize=256)
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def loads(data: bytes | str, kind: type[T], *, field: str = "") -> T:
    """The document as `kind`, read by Go's rules. Raises WireError naming the field below `field`."""
    try:
        return typing.cast(T, _decoder(typing.cast(Any, kind)).decode(data))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        pass  # not exactly our spelling: read it leniently before refusing it
    except RecursionError:
        raise WireError("nested too deeply", field=field) from None
    plain = parse(data, field=field)
    try:
        return msgspec.convert(fold(plain, kind), kind)
    except msgspec.ValidationError as error:
        raise _named(error, field) from None
    except RecursionError:
        raise WireError("nested too deeply", field=field) from None


def parse(data: bytes | str, *, field: str = "") -> Any:
    """The first JSON value of the text as plain Python values; what follows it is ignored, as the peers do."""
    try:
        text = data if isinstance(data, str) else bytes(data).decode()
    except UnicodeDecodeError as error:
        raise WireError(f"not UTF-8 at byte {error.start}", field=field) from None
    start = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        value, _ = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode(text, start)
        if _SURROGATE.search(text):
            value = _mended(value)
    except RecursionError:
        raise WireError("nested too deeply", field=field) from None
    except ValueError as error:
        raise WireError(f"not JSON: {error}", field=field) from None
    return value


def _mended(value: Any) -> Any:
    """The value with U+FFFD for halves of surrogate pairs, as Go reads them: nothing could write them again."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _named(error: msgspec.ValidationError, field: str) -> WireError:
    """msgspec says "Expected `str`, got `int` - at `$.header.msg_id`"; the path becomes the field."""
    text, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    return WireError(text, field=".".join(part for part in (field, path) if part))


def fold(value: Any, kind: Any, depth: int = 0) -> Any:
    """`value` with the keys of every declared field in their declared spelling, unknown keys and nulls dropped."""
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(value, dict):
        fields = _fields(kind)
        if fields is not None:
            folded = {}
            for key, item in value.items():
                known = fields.get(key.lower())
                if known is None:
                    continue
                name, field_kind = known
                if item is None and not _takes_null(field_kind):
                    continue
                folded[name] = fold(item, field_kind, depth + 1)
            return folded
        inner = _argument(kind, dict, 1)
        if inner is not None:
            return {key: fold(item, inner, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        inner = _argument(kind, list, 0)
        if inner is not None:
            return [fold(item, inner, depth + 1) for item in value]
    if _is_raw(kind):
        try:
            return msgspec.Raw(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode())
        except ValueError:  # 1e999 was read as infinity, which JSON has no word for
            raise WireError("holds a number out of range") from None
    return value


def _members(kind: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the type alone."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return typing.get_args(kind)
    return (kind,)


def _takes_null(kind: Any) -> bool:
    return any(member in (None, type(None), Any, msgspec.Raw) for member in _members(kind))


def _is_raw(kind: Any) -> bool:
    return any(member is msgspec.Raw for member in _members(kind))


def _argument(kind: Any, container: type, index: int) -> Any | None:
    for member in _members(kind):
        if typing.get_origin(member) is container:
            return typing.get_args(member)[index]
    return None


def _fields(kind: Any) -> dict[str, tuple[str, Any]] | None:
    for member in _members(kind):
        if isinstance(member, type) and issubclass(member, msgspec.Struct):
            return _struct_fields(member)
    return None


@functools.lru_cache(maxsize=256)
def _struct_fields(struct: type[msgspec.Struct]) -> dict[str, tuple[str, Any]]:
    hints = typing.get_type_hints(struct)
    return {
        encoded.lower(): (encoded, hints[name])
        for name, encoded in zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)
    }
