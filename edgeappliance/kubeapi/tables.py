"""metav1.Table: rows of cells that kubectl prints without knowing the kind."""

from collections.abc import Iterable, Sequence
from typing import Any

from edgeappliance.kubeapi.columns import AGE, NAME, Column

DEFAULT_COLUMNS = (NAME, AGE)


def table(
    objects: Iterable[dict[str, Any]],
    columns: Sequence[Column],
    *,
    now_ms: int,
    metadata: dict[str, Any],
    include: str,
    headers: bool = True,
    version: str = "v1",
) -> dict[str, Any]:
    """The Table of some objects.

    `metadata` is the list's metadata; `include` is the query's includeObject: `None`, `Metadata` (the default)
    or `Object`. Without `headers` (later frames of a watch) the column definitions are left out.
    """
    return {
        "kind": "Table",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": metadata,
        "columnDefinitions": [column.definition() for column in columns] if headers else None,
        "rows": [_row(value, columns, now_ms, include, version) for value in objects],
    }


def _row(value: dict[str, Any], columns: Sequence[Column], now_ms: int, include: str, version: str) -> dict[str, Any]:
    row: dict[str, Any] = {"cells": [column.read(value, now_ms) for column in columns]}
    if include == "Object":
        row["object"] = value
    elif include != "None":
        row["object"] = partial_metadata(value, version=version)
    return row


def partial_metadata(value: dict[str, Any], *, version: str = "v1") -> dict[str, Any]:
    """metav1.PartialObjectMetadata of an object."""
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": value.get("metadata", {}),
    }
