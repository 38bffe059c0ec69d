"""Answers of edgecontroller in the forms that edges expect (KubeEdge reference 1.4, 2.1, F3, F4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudgateway.kube.errors import ApiError
from edgeappliance.kernel.errors import ApplianceError
from edgeappliance.wire.kube import error_resp, object_resp, status_error
from edgeappliance.wire.message import Message
from edgeappliance.wire.operations import OK, Group, Source

__all__ = ["failure", "failure_resp", "found", "found_resp", "ok"]


def ok(request: Message) -> Message:
    """``"OK"``."""
    return _reply(request, OK)


def found(request: Message, obj: Mapping[str, Any], *, versioned: bool = True) -> Message:
    """The object itself."""
    return _reply(request, obj, _version(obj) if versioned else "")


def found_resp(request: Message, obj: Mapping[str, Any], *, versioned: bool = True) -> Message:
    """The object in an ObjectResp."""
    return _reply(request, object_resp(obj), _version(obj) if versioned else "")


def failure(request: Message, error: ApplianceError) -> Message:
    """``{"ErrStatus": {...}}``."""
    return _reply(request, error_body(error))


def failure_resp(request: Message, error: ApplianceError) -> Message:
    """An ObjectResp with an error."""
    return _reply(request, error_resp(error_body(error)))


def error_body(error: ApplianceError) -> dict[str, Any]:
    """An error as Go marshals a Kubernetes StatusError; what is no answer of the API becomes unavailability."""
    if not isinstance(error, ApiError):
        return status_error(503, "ServiceUnavailable", error.message)
    body: dict[str, Any] = {
        "metadata": {},
        "status": "Failure",
        "message": error.message,
        "reason": error.reason,
    }
    details = error.status.get("details")
    if details:
        body["details"] = details
    body["code"] = error.code
    return {"ErrStatus": body}


def _version(obj: Mapping[str, Any]) -> str:
    return str((obj.get("metadata") or {}).get("resourceVersion", ""))


def _reply(request: Message, content: Any, version: str = "") -> Message:
    return request.reply(content, source=Source.EDGECONTROLLER, group=Group.RESOURCE, resource_version=version)
