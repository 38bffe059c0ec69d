"""JSON patch (RFC 6902) with JSON pointers (RFC 6901)."""

import copy
from typing import Any

import msgspec

from edgeappliance.kubeapi.errors import StatusFailure, bad_request

OPERATIONS_LIMIT = 10_000
"""Operations in one patch, as upstream has it."""
COPIED_LIMIT = 3 * 1024 * 1024
"""Bytes that the copy operations of one patch may make, as upstream has it: copies of copies double each time."""


def json_patch(document: Any, operations: Any) -> Any:
    """The document with all operations applied, or none: raises StatusFailure (400 or 422) at the first that fails."""
    if not isinstance(operations, list):
        raise bad_request("a JSON patch is an array of operations")
    if len(operations) > OPERATIONS_LIMIT:
        raise StatusFailure(
            413, "RequestEntityTooLarge", f"The allowed maximum operations in a JSON patch is {OPERATIONS_LIMIT}"
        )
    result = copy.deepcopy(document)
    copied = 0
    for index, operation in enumerate(operations):
        if not isinstance(operation, dict):
            raise bad_request(f"operation {index} of the JSON patch is no object")
        if operation.get("op") == "copy":
            result, size = _copy(result, operation, index)
            copied += size
            if copied > COPIED_LIMIT:
                raise StatusFailure(
                    413,
                    "RequestEntityTooLarge",
                    f"the copy operations of the JSON patch make more than {COPIED_LIMIT} bytes",
                )
        else:
            result = _apply(result, operation, index)
    return result


def _copy(document: Any, operation: dict[str, Any], index: int) -> tuple[Any, int]:
    """The document with a copy added, and the bytes of the copy."""
    path = _pointer(operation.get("path"), index, "path")
    value = msgspec.json.encode(_get(document, _pointer(operation.get("from"), index, "from"), index))
    return _add(document, path, msgspec.json.decode(value), index), len(value)


def _apply(document: Any, operation: dict[str, Any], index: int) -> Any:
    verb = operation.get("op")
    path = _pointer(operation.get("path"), index, "path")
    match verb:
        case "add":
            return _add(document, path, _operand(operation, index), index)
        case "remove":
            return _remove(document, path, index)[0]
        case "replace":
            if path:
                _get(document, path, index)
            return _set(document, path, _operand(operation, index), index)
        case "move":
            source = _pointer(operation.get("from"), index, "from")
            if path[: len(source)] == source and path != source:
                raise _failed(index, "cannot move a value into one of its own children")
            document, value = _remove(document, source, index)
            return _add(document, path, value, index)
        case "test":
            if not _equal(_get(document, path, index), _operand(operation, index)):
                raise _failed(index, f"testing value {operation.get('path')} failed")
            return document
    raise bad_request(f"operation {index} of the JSON patch has an unknown op {verb!r}")


def _failed(index: int, message: str) -> StatusFailure:
    return StatusFailure(
        422, "Invalid", f"the server rejected our request due to an error in our request: operation {index}: {message}"
    )


def _operand(operation: dict[str, Any], index: int) -> Any:
    if "value" not in operation:
        raise bad_request(f"operation {index} of the JSON patch lacks a value")
    return copy.deepcopy(operation["value"])


def _pointer(text: Any, index: int, name: str) -> list[str]:
    if not isinstance(text, str):
        raise bad_request(f"operation {index} of the JSON patch lacks {name}")
    if text == "":
        return []
    if not text.startswith("/"):
        raise bad_request(f"operation {index} of the JSON patch: {name} {text!r} is no JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in text[1:].split("/")]


def _position(part: str, size: int, index: int) -> int:
    if not part.isascii() or not part.isdigit() or (part != "0" and part[0] == "0"):
        raise _failed(index, f"{part!r} is no array index")
    position = int(part) if len(part) < 10 else size + 1
    if position >= size:
        raise _failed(index, f"index {part} is out of bounds of an array of {size}")
    return position


def _get(document: Any, path: list[str], index: int) -> Any:
    for part in path:
        if isinstance(document, dict):
            if part not in document:
                raise _failed(index, f"missing path: there is no key {part!r}")
            document = document[part]
        elif isinstance(document, list):
            document = document[_position(part, len(document), index)]
        else:
            raise _failed(index, f"missing path: {part!r} is below a plain value")
    return document


def _set(document: Any, path: list[str], value: Any, index: int) -> Any:
    if not path:
        return value
    parent = _get(document, path[:-1], index)
    if isinstance(parent, list):
        parent[_position(path[-1], len(parent), index)] = value
    elif isinstance(parent, dict):
        parent[path[-1]] = value
    else:
        raise _failed(index, f"missing path: {path[-1]!r} is below a plain value")
    return document


def _add(document: Any, path: list[str], value: Any, index: int) -> Any:
    if not path:
        return value
    parent = _get(document, path[:-1], index)
    if isinstance(parent, list):
        size = len(parent)
        parent.insert(size if path[-1] == "-" else _position(path[-1], size + 1, index), value)
    elif isinstance(parent, dict):
        parent[path[-1]] = value
    else:
        raise _failed(index, f"missing path: {path[-1]!r} is below a plain value")
    return document


def _remove(document: Any, path: list[str], index: int) -> tuple[Any, Any]:
    if not path:
        return None, document
    value = _get(document, path, index)
    parent = _get(document, path[:-1], index)
    if isinstance(parent, list):
        del parent[int(path[-1])]
    else:
        del parent[path[-1]]
    return document, value


def _equal(left: Any, right: Any) -> bool:
    """Equality as JSON has it: true is not 1, 1 is 1.0."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    return bool(left == right)
