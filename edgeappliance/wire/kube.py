"""Kubernetes answers inside messages: ObjectResp and Go's rendering of an API error (reference 2.1, F3, F4)."""

from typing import Any

import msgspec


class ErrorDetails(msgspec.Struct, omit_defaults=True):
    """metav1.StatusDetails, the parts an edge looks at."""

    name: str = ""
    group: str = ""
    kind: str = ""
    uid: str = ""


class Status(msgspec.Struct, omit_defaults=True):
    """metav1.Status. `metadata` is always written, as Go does."""

    metadata: dict[str, Any] = msgspec.field(default_factory=dict)
    kind: str = ""
    apiVersion: str = ""
    status: str = ""
    message: str = ""
    reason: str = ""
    details: ErrorDetails | None = None
    code: int = 0


class StatusError(msgspec.Struct):
    """A Kubernetes API error as Go marshals it."""

    ErrStatus: Status


class ObjectResp(msgspec.Struct):
    """Answer to insert, patch and lease requests: an object or an error, both keys always present."""

    Object: msgspec.Raw = msgspec.Raw(b"null")
    Err: StatusError | None = None


def object_resp(value: Any) -> dict[str, Any]:
    """Content of a successful ObjectResp."""
    return {"Object": value, "Err": None}


def error_resp(error: dict[str, Any], value: Any = None) -> dict[str, Any]:
    """Content of a failed ObjectResp; `error` is what `status_error` made."""
    return {"Object": value, "Err": error}


def status_error(
    code: int, reason: str, message: str, *, name: str = "", kind: str = "", group: str = ""
) -> dict[str, Any]:
    """`{"ErrStatus":{...}}` with upstream's keys in upstream's order; `kind` is the plural, as client-go fills it."""
    details = {key: value for key, value in (("name", name), ("group", group), ("kind", kind)) if value}
    body: dict[str, Any] = {"metadata": {}, "status": "Failure", "message": message, "reason": reason}
    if details:
        body["details"] = details
    body["code"] = code
    return {"ErrStatus": body}


def parse_status_error(value: Any) -> Status | None:
    """The API error in a content value, or None when it is not one."""
    if not isinstance(value, dict) or not isinstance(value.get("ErrStatus"), dict):
        return None
    try:
        return msgspec.convert(value["ErrStatus"], Status)
    except msgspec.ValidationError:
        return Status(status="Failure", message=str(value["ErrStatus"].get("message", "")), code=500)
