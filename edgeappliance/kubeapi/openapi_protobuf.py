"""The OpenAPI v2 document in protobuf, the only form in which kubectl asks for it.

Layout: gnostic's OpenAPIv2.proto (Document, Schema). Only the definitions are written: kubectl reads them to
validate documents of kind List and to explain with its older template.
"""

import struct
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

ASKED_TYPE = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
ANSWER_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
"""What kubectl accepts, and what it must be told that it got: Go's MIME parser refuses the @ it asked with."""

# JSON name: field number in message Schema, by how the value is written.
_TEXTS = {"$ref": 1, "format": 2, "title": 3, "description": 4, "pattern": 13, "discriminator": 26}
_DOUBLES = {"multipleOf": 6, "maximum": 7, "minimum": 9}
_BOOLS = {"exclusiveMaximum": 8, "exclusiveMinimum": 10, "uniqueItems": 16, "readOnly": 27}
_INTEGERS = {
    "maxLength": 11,
    "minLength": 12,
    "maxItems": 14,
    "minItems": 15,
    "maxProperties": 17,
    "minProperties": 18,
}


def encode_document(definitions: Mapping[str, Any], *, title: str, version: str) -> bytes:
    """A Document with these OpenAPI v2 definitions."""
    named = b"".join(_named(name, _schema(node)) for name, node in sorted(definitions.items()))
    info = _text(1, title) + _text(2, version)
    return _text(1, "2.0") + _bytes(2, info) + _bytes(8, b"") + _bytes(9, named)


def _schema(node: Mapping[str, Any]) -> bytes:
    parts = []
    for key, value in node.items():
        if key in _TEXTS:
            parts.append(_text(_TEXTS[key], str(value)))
        elif key in _DOUBLES:
            parts.append(_key(_DOUBLES[key], 1) + struct.pack("<d", value))
        elif key in _BOOLS:
            parts.append(_key(_BOOLS[key], 0) + _varint(bool(value)))
        elif key in _INTEGERS:
            parts.append(_key(_INTEGERS[key], 0) + _varint(int(value)))
        elif key.startswith("x-"):
            parts.append(_bytes(31, _text(1, key) + _bytes(2, _any(value))))
        else:
            parts.append(_structure(key, value))
    return b"".join(parts)


def _structure(key: str, value: Any) -> bytes:
    match key:
        case "default":
            return _bytes(5, _any(value))
        case "required":
            return b"".join(_text(19, item) for item in value)
        case "enum":
            return b"".join(_bytes(20, _any(item)) for item in value)
        case "additionalProperties":
            inner = _key(2, 0) + _varint(value) if isinstance(value, bool) else _bytes(1, _schema(value))
            return _bytes(21, inner)
        case "type":
            return _bytes(22, _text(1, value))
        case "items":
            return _bytes(23, _bytes(1, _schema(value)))
        case "allOf":
            return b"".join(_bytes(24, _schema(item)) for item in value)
        case "properties":
            return _bytes(25, b"".join(_named(name, _schema(item)) for name, item in value.items()))
    return b""


def _named(name: str, value: bytes) -> bytes:
    return _bytes(1, _text(1, name) + _bytes(2, value))


def _any(value: Any) -> bytes:
    """gnostic's Any: the value as YAML text, of which JSON is a part."""
    return _bytes(2, msgspec.json.encode(value))


def _text(number: int, value: str) -> bytes:
    return _bytes(number, value.encode())


def _bytes(number: int, value: bytes) -> bytes:
    return _key(number, 2) + _varint(len(value)) + value


def _key(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _varint(value: int) -> bytes:
    return bytes(_septets(value))


def _septets(value: int) -> Iterable[int]:
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value
