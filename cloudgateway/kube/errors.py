"""What can go wrong between the gateway and a Kubernetes API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from edgeappliance.kernel.errors import ApplianceError, TransientError

__all__ = ["ApiError", "ApiUnavailable", "api_error", "is_retryable"]

_RETRYABLE = frozenset({408, 409, 429, 500, 502, 503, 504})


class ApiUnavailable(TransientError):
    """No answer: the connection failed, broke or timed out. The request may or may not have been done."""


class ApiError(ApplianceError):
    """The API answered with a failure.

    `code` is the HTTP status, `reason` the machine word (``NotFound``, ``Conflict``, ...), `status` the whole
    ``Status`` object as plain JSON values.
    """

    def __init__(self, *, code: int, reason: str, message: str, status: Mapping[str, Any]) -> None:
        super().__init__(message, code=code, reason=reason)
        self.code = code
        self.reason = reason
        self.status = status

    @property
    def not_found(self) -> bool:
        return self.code == 404

    @property
    def already_exists(self) -> bool:
        return self.code == 409 and self.reason == "AlreadyExists"

    @property
    def conflict(self) -> bool:
        return self.code == 409 and self.reason != "AlreadyExists"

    @property
    def gone(self) -> bool:
        """The resourceVersion of a watch or of a list's continuation is too old: list again."""
        return self.code == 410

    @property
    def retryable(self) -> bool:
        """Whether the same request can succeed later without anybody changing it."""
        return self.code in _RETRYABLE and not self.already_exists


def is_retryable(error: BaseException) -> bool:
    """Whether work that failed with `error` is worth repeating as it is."""
    if isinstance(error, ApiError):
        return error.retryable
    return isinstance(error, TransientError)


def api_error(code: int, body: bytes) -> ApiError:
    """The error for a failed response; a body that is not a ``Status`` becomes a made-up one."""
    try:
        status = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        status = None
    if not isinstance(status, dict) or status.get("kind") != "Status":
        text = body[:1024].decode("utf-8", "replace").strip() or f"HTTP status {code}"
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": text,
            "reason": _REASONS.get(code, "Unknown"),
            "code": code,
        }
    return ApiError(
        code=status_code if isinstance(status_code := status.get("code"), int) else code,
        reason=str(status.get("reason", "")),
        message=str(status.get("message", "")),
        status=status,
    )


_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "Conflict",
    410: "Gone",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}
