"""metadata of every object: what a client may set, what the server keeps, and its rules."""

from typing import Any

from edgeappliance.kubeapi.errors import Cause
from edgeappliance.kubeapi.names import label_key_error, label_value_error

Object = dict[str, Any]

SYSTEM_FIELDS = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")
ANNOTATIONS_LIMIT = 256 * 1024
FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


def metadata_causes(metadata: Object, old: Object | None) -> list[Cause]:
    """What is wrong with an object's metadata; names are checked by the kind's own rule."""
    found = []
    for key, value in (metadata.get("labels") or {}).items():
        if error := label_key_error(key):
            found.append(Cause("FieldValueInvalid", f'Invalid value: "{key}": {error}', "metadata.labels"))
        if error := label_value_error(str(value)):
            found.append(Cause("FieldValueInvalid", f'Invalid value: "{value}": {error}', "metadata.labels"))
    annotations = metadata.get("annotations")
    if annotations:
        size = 0
        for key, value in annotations.items():
            size += len(key) + len(str(value).encode("utf-8", "surrogatepass"))
            if error := label_key_error(key.lower()):
                found.append(Cause("FieldValueInvalid", f'Invalid value: "{key}": {error}', "metadata.annotations"))
        if size > ANNOTATIONS_LIMIT:
            text = f"Too long: may not be more than {ANNOTATIONS_LIMIT} bytes"
            found.append(Cause("FieldValueTooLong", text, "metadata.annotations"))
    if metadata.get("finalizers"):
        found += _finalizer_causes(metadata, old)
    if metadata.get("ownerReferences"):
        found += _owner_causes(metadata["ownerReferences"])
    return found


def _finalizer_causes(metadata: Object, old: Object | None) -> list[Cause]:
    found = []
    for name in metadata["finalizers"]:
        if error := label_key_error(str(name)):
            found.append(Cause("FieldValueInvalid", f'Invalid value: "{name}": {error}', "metadata.finalizers"))
    if old is not None and "deletionTimestamp" in old:
        known = set(old.get("finalizers") or ())
        added = [name for name in metadata["finalizers"] if name not in known]
        if added:
            text = (
                "Forbidden: no new finalizers can be added if the object is being deleted, "
                f"found new finalizers {added}"
            )
            found.append(Cause("FieldValueForbidden", text, "metadata.finalizers"))
    return found


def _owner_causes(owners: list[Object]) -> list[Cause]:
    found = []
    controllers = 0
    for index, owner in enumerate(owners):
        for key in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(key):
                text = f"{key} must not be empty"
                path = f"metadata.ownerReferences[{index}].{key}"
                found.append(Cause("FieldValueInvalid", f'Invalid value: "": {text}', path))
        controllers += bool(owner.get("controller"))
    if controllers > 1:
        text = "Invalid value: only one reference can have Controller set to true"
        found.append(Cause("FieldValueInvalid", text, "metadata.ownerReferences"))
    return found


def carry(new: Object, old: Object) -> None:
    """Give updated metadata what only the server sets."""
    new.pop("managedFields", None)
    new.pop("selfLink", None)
    for key in SYSTEM_FIELDS:
        if key in old:
            new[key] = old[key]
        else:
            new.pop(key, None)
    new["name"] = old["name"]
    if "namespace" in old:
        new["namespace"] = old["namespace"]
    for key in ("finalizers", "ownerReferences", "labels", "annotations"):
        if key in new and not new[key]:
            del new[key]
