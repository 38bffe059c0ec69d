"""What the API server behind cloudcore makes of an edge's patch of a pod (reference 1.4 B)."""

from typing import Any

Json = dict[str, Any]

MERGE_KEYS = {
    "conditions": "type",
    "podIPs": "ip",
    "hostIPs": "ip",
    "containerStatuses": "",
    "initContainerStatuses": "",
    "ephemeralContainerStatuses": "",
    "resourceClaimStatuses": "name",
}
"""Lists of a pod's status with the key by which a strategic merge patch merges them; "": they are replaced."""


def patched(status: Json, patch: Json) -> Json:
    """A strategic merge patch of a pod's status, as an API server applies it."""
    merged = dict(status)
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            before = merged.get(key)
            merged[key] = patched(before if isinstance(before, dict) else {}, value)
        elif isinstance(value, list) and MERGE_KEYS.get(key):
            merged[key] = _list(merged.get(key) or [], value, MERGE_KEYS[key])
        else:
            merged[key] = value
    return merged


def _list(before: list[Json], patch: list[Json], key: str) -> list[Json]:
    if any(item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if "$patch" not in item]
    found = {item[key]: item for item in before}
    for item in patch:
        if item.get("$patch") == "delete":
            found.pop(item[key], None)
        else:
            found[item[key]] = patched(found.get(item[key], {}), item)
    return list(found.values())
