"""Strategic merge patch: a merge patch that knows which lists are keyed.

What it needs of a type comes as a `Shape`: the shape of a property, of a map's values, of a list's items, and
how a list merges. `edgeappliance.kubeapi.builtin_types` gives it for the built-in kinds.
Directives (Kubernetes sig-api-machinery, strategic-merge-patch): `$patch: replace|delete|merge`,
`$retainKeys`, `$deleteFromPrimitiveList/<field>`, `$setElementOrder/<field>`.
"""

from typing import Any, Protocol

from edgeappliance.kubeapi.errors import bad_request

PATCH = "$patch"
RETAIN_KEYS = "$retainKeys"
DELETE_PRIMITIVES = "$deleteFromPrimitiveList/"
ELEMENT_ORDER = "$setElementOrder/"


class Shape(Protocol):
    """What a strategic merge must know of a type."""

    @property
    def merges(self) -> bool:
        """A list of this shape merges (strategy `merge`); otherwise it is replaced whole."""
        ...

    @property
    def merge_key(self) -> str:
        """The key by which a list's objects are told apart; empty for a list of plain values."""
        ...

    @property
    def replaces(self) -> bool:
        """A map of this shape is replaced whole (strategy `replace`)."""
        ...

    def child(self, name: str) -> "Shape | None":
        """The shape of a property; None when it is unknown (it then merges as plain JSON)."""
        ...

    def item(self) -> "Shape | None":
        """The shape of a list's items."""
        ...


def strategic_patch(target: dict[str, Any], patch: dict[str, Any], shape: Shape | None) -> dict[str, Any]:
    """The target with the patch applied; raises StatusFailure 400 for directives that make no sense."""
    result = _merge_map(target, patch, shape)
    return result if result is not None else {}


def _merge_map(target: Any, patch: dict[str, Any], shape: Shape | None) -> dict[str, Any] | None:
    """The merged map; None when the patch deletes it."""
    directive = patch.get(PATCH)
    if directive == "replace":
        replacement: dict[str, Any] = _strip(patch)
        return replacement
    if directive == "delete":
        return None
    if directive not in (None, "merge"):
        raise bad_request(f"unknown patch type {directive!r}: $patch is one of replace, delete, merge")
    result: dict[str, Any] = dict(target) if isinstance(target, dict) else {}
    if RETAIN_KEYS in patch:
        result = _retain(result, patch)
    orders: dict[str, list[Any]] = {}
    for key, value in patch.items():
        if key in (PATCH, RETAIN_KEYS):
            continue
        if key.startswith(DELETE_PRIMITIVES):
            _delete_primitives(result, key.removeprefix(DELETE_PRIMITIVES), value)
        elif key.startswith(ELEMENT_ORDER):
            if not isinstance(value, list):
                raise bad_request(f"{key} must be a list")
            orders[key.removeprefix(ELEMENT_ORDER)] = value
        elif value is None:
            result.pop(key, None)
        else:
            _merge_field(result, key, value, shape.child(key) if shape is not None else None)
    for key, order in orders.items():
        if isinstance(result.get(key), list):
            result[key] = _ordered(result[key], order, target, key, shape.child(key) if shape is not None else None)
    return result


def _merge_field(result: dict[str, Any], key: str, value: Any, shape: Shape | None) -> None:
    if isinstance(value, dict):
        if shape is not None and shape.replaces:
            result[key] = _strip(value)
            return
        merged = _merge_map(result.get(key), value, shape)
        if merged is None:
            result.pop(key, None)
        else:
            result[key] = merged
    elif isinstance(value, list):
        result[key] = _merge_list(result.get(key), value, shape)
    else:
        result[key] = value


def _retain(result: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    keys = patch[RETAIN_KEYS]
    if not isinstance(keys, list):
        raise bad_request("$retainKeys must be a list of field names")
    for key, value in patch.items():
        if not key.startswith("$") and value is not None and key not in keys:
            raise bad_request(f"$retainKeys lists what stays, but the patch sets {key!r} which is not in it")
    return {key: value for key, value in result.items() if key in keys}


def _delete_primitives(result: dict[str, Any], key: str, values: Any) -> None:
    if not isinstance(values, list):
        raise bad_request(f"{DELETE_PRIMITIVES}{key} must be a list")
    current = result.get(key)
    if isinstance(current, list):
        result[key] = [item for item in current if item not in values]


def _merge_list(target: Any, patch: list[Any], shape: Shape | None) -> list[Any]:
    current = list(target) if isinstance(target, list) else []
    if shape is None or not shape.merges:
        return [_strip(item) for item in patch if not _is_replace_marker(item)]
    if not shape.merge_key:
        return [*current, *(item for item in _unique(patch) if item not in current)]
    if any(_is_replace_marker(item) for item in patch):
        return [_strip(item) for item in patch if not _is_replace_marker(item)]
    key, item_shape = shape.merge_key, shape.item()
    for entry in patch:
        if not isinstance(entry, dict):
            raise bad_request(f"the items of a list merged by {key!r} must be objects")
        if key not in entry:
            raise bad_request(f"map: {entry} does not contain declared merge key: {key}")
        positions = [
            index for index, item in enumerate(current) if isinstance(item, dict) and item.get(key) == entry[key]
        ]
        if entry.get(PATCH) == "delete":
            current = [item for index, item in enumerate(current) if index not in positions]
            continue
        merged = _merge_map(current[positions[0]] if positions else {}, entry, item_shape)
        if merged is None:
            continue
        if positions:
            current[positions[0]] = merged
        else:
            current.append(merged)
    return current


def _is_replace_marker(item: Any) -> bool:
    return isinstance(item, dict) and len(item) == 1 and item.get(PATCH) == "replace"


def _ordered(merged: list[Any], order: list[Any], target: Any, field: str, shape: Shape | None) -> list[Any]:
    """The merged list with the patch's items in the order asked for.

    Items that only the server knows keep their place relative to the item that stood before them.
    """
    key = shape.merge_key if shape is not None else ""

    def identity(item: Any) -> Any:
        value = item.get(key) if key and isinstance(item, dict) else item
        return repr(value) if isinstance(value, dict | list) else value

    wanted = {identity(item): position for position, item in enumerate(order)}
    asked = sorted((item for item in merged if identity(item) in wanted), key=lambda item: wanted[identity(item)])
    only_server = [item for item in merged if identity(item) not in wanted]
    if not only_server:
        return asked
    before = target.get(field) if isinstance(target, dict) else None
    places = {identity(item): index for index, item in enumerate(before if isinstance(before, list) else merged)}
    return _interleave(asked, only_server, lambda item: places.get(identity(item)))


def _interleave(asked: list[Any], only_server: list[Any], place: Any) -> list[Any]:
    result: list[Any] = []
    left, right = 0, 0
    while left < len(asked) and right < len(only_server):
        mine, theirs = place(asked[left]), place(only_server[right])
        if mine is None or theirs is None or mine < theirs:
            result.append(asked[left])
            left += 1
        else:
            result.append(only_server[right])
            right += 1
    return [*result, *asked[left:], *only_server[right:]]


def _unique(items: list[Any]) -> list[Any]:
    kept: list[Any] = []
    for item in items:
        if item not in kept:
            kept.append(item)
    return kept


def _strip(value: Any) -> Any:
    """A value that is taken as it is, without the directives and nulls that only mean something in a merge."""
    if isinstance(value, dict):
        return {
            key: _strip(item)
            for key, item in value.items()
            if item is not None
            and key not in (PATCH, RETAIN_KEYS)
            and not key.startswith((DELETE_PRIMITIVES, ELEMENT_ORDER))
        }
    if isinstance(value, list):
        return [_strip(item) for item in value if not (isinstance(item, dict) and item.get(PATCH) == "delete")]
    return value
