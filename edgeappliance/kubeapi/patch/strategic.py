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
    for key, value in patch.items():  # deleted first, so that what a patch both deletes and adds is there
        if key.startswith(DELETE_PRIMITIVES):
            _delete_primitives(result, key.removeprefix(DELETE_PRIMITIVES), value)
    orders = {key.removeprefix(ELEMENT_ORDER): value for key, value in patch.items() if key.startswith(ELEMENT_ORDER)}
    for key, value in patch.items():
        if key in (PATCH, RETAIN_KEYS) or key.startswith(DELETE_PRIMITIVES):
            continue
        if key.startswith(ELEMENT_ORDER):
            _check_order(value, patch, key.removeprefix(ELEMENT_ORDER), shape)
        elif value is None:
            result.pop(key, None)
        else:
            _merge_field(result, key, value, shape.child(key) if shape is not None else None)
    for key, order in orders.items():
        if isinstance(result.get(key), list):
            known = shape.child(key) if shape is not None else None
            before = target.get(key) if isinstance(target, dict) else None
            result[key] = _ordered(
                result[key],
                order,
                before if isinstance(before, list) else [],
                known.merge_key if known is not None else "",
            )
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
        gone = {_identity(item, "") for item in values}
        result[key] = [item for item in current if _identity(item, "") not in gone]


def _merge_list(target: Any, patch: list[Any], shape: Shape | None) -> list[Any]:
    current = list(target) if isinstance(target, list) else []
    if shape is None or not shape.merges:
        return [_strip(item) for item in patch if not _is_replace_marker(item)]
    if any(_is_replace_marker(item) for item in patch):
        return [_strip(item) for item in patch if not _is_replace_marker(item)]
    key, item_shape = shape.merge_key, shape.item()
    if not key:
        return _ordered(_unique([*current, *patch]), patch, current, "")
    named, deleted = [], set()
    for entry in patch:
        if not isinstance(entry, dict):
            raise bad_request(f"the items of a list merged by {key!r} must be objects")
        if key not in entry:
            raise bad_request(f"an item of a patched list does not contain its declared merge key: {key}")
        if entry.get(PATCH) == "delete":
            deleted.add(_identity(entry, key))
        else:
            named.append(entry)
    merged = [item for item in current if not (isinstance(item, dict) and _identity(item, key) in deleted)]
    places: dict[Any, int] = {}
    for index, item in enumerate(merged):
        if isinstance(item, dict):
            places.setdefault(_identity(item, key), index)
    for entry in named:
        mark = _identity(entry, key)
        place = places.get(mark)
        value = _merge_map(merged[place] if place is not None else {}, entry, item_shape)
        if value is None:
            continue
        if place is not None:
            merged[place] = value
        else:
            places[mark] = len(merged)
            merged.append(value)
    return _ordered(merged, named, target if isinstance(target, list) else [], key)


def _is_replace_marker(item: Any) -> bool:
    return isinstance(item, dict) and len(item) == 1 and item.get(PATCH) == "replace"


def _check_order(order: Any, patch: dict[str, Any], field: str, shape: Shape | None) -> None:
    """A `$setElementOrder` must hold what the patch sets, in the same order."""
    if not isinstance(order, list):
        raise bad_request(f"{ELEMENT_ORDER}{field} must be a list")
    if not order:
        return
    known = shape.child(field) if shape is not None else None
    key = known.merge_key if known is not None else ""
    listed = [_identity(item, key) for item in order]
    position = 0
    given = patch.get(field)
    for item in given if isinstance(given, list) else ():
        if isinstance(item, dict) and item.get(PATCH) == "delete":
            continue
        while position < len(listed) and listed[position] != _identity(item, key):
            position += 1
        if position == len(listed):
            raise bad_request(f"the order in the patch list {field} does not match its $setElementOrder list")


def _identity(item: Any, key: str) -> Any:
    value = item.get(key) if key and isinstance(item, dict) else item
    return repr(value) if isinstance(value, dict | list) else value


def _ordered(merged: list[Any], order: list[Any], before: list[Any], key: str) -> list[Any]:
    """The merged list with the patch's items in the order asked for.

    Items that the order does not name are in the server's own order, and keep their place before those that
    followed them; an empty order names none.
    """
    wanted: dict[Any, int] = {}
    for position, item in enumerate(order):
        wanted.setdefault(_identity(item, key), position)
    asked = [item for item in merged if _identity(item, key) in wanted]
    asked.sort(key=lambda item: wanted[_identity(item, key)])
    only_server = [item for item in merged if _identity(item, key) not in wanted]
    places = {_identity(item, key): index for index, item in enumerate(before)}
    only_server.sort(key=lambda item: places.get(_identity(item, key), len(places)))
    return _interleave(asked, only_server, lambda item: places.get(_identity(item, key)))


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
    kept: dict[Any, Any] = {}
    for item in items:
        kept.setdefault(_identity(item, ""), item)
    return list(kept.values())


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
