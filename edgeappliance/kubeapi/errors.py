"""Failures as the Kubernetes API says them: a metav1.Status with code, reason and causes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from edgeappliance.kernel.errors import PermanentError


@dataclass(frozen=True, slots=True)
class Cause:
    """One line of `status.details.causes`: reason, text and the field path (`spec.ports[0].name`)."""

    reason: str
    message: str
    field: str = ""

    def value(self) -> dict[str, str]:
        """The JSON form; an empty field is left out."""
        result = {"reason": self.reason, "message": self.message}
        if self.field:
            result["field"] = self.field
        return result


class StatusFailure(PermanentError):
    """A request that is answered with a Status of kind Failure.

    `code` is the HTTP status, `reason` the machine-readable word (metav1.StatusReason), `details` the
    optional `status.details`.
    """

    def __init__(self, code: int, reason: str, message: str, *, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = dict(details) if details else None

    def status(self) -> dict[str, Any]:
        """The metav1.Status object."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            body["details"] = self.details
        body["code"] = self.code
        return body

    def encode(self) -> bytes:
        """The Status as JSON bytes."""
        return msgspec.json.encode(self.status())


def _details(group: str, kind: str, name: str = "", causes: Iterable[Cause] = ()) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if name:
        details["name"] = name
    if group:
        details["group"] = group
    if kind:
        details["kind"] = kind
    listed = [cause.value() for cause in causes]
    if listed:
        details["causes"] = listed
    return details


def _qualified(group: str, resource: str) -> str:
    return f"{resource}.{group}" if group else resource


def not_found(group: str, resource: str, name: str) -> StatusFailure:
    """404 NotFound of one object."""
    return StatusFailure(
        404,
        "NotFound",
        f'{_qualified(group, resource)} "{name}" not found',
        details=_details(group, resource, name),
    )


def unknown_path() -> StatusFailure:
    """404 of a path that no resource lives on, in upstream's words."""
    return StatusFailure(404, "NotFound", "the server could not find the requested resource")


def already_exists(group: str, resource: str, name: str) -> StatusFailure:
    """409 AlreadyExists."""
    return StatusFailure(
        409,
        "AlreadyExists",
        f'{_qualified(group, resource)} "{name}" already exists',
        details=_details(group, resource, name),
    )


MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"


def conflict(group: str, resource: str, name: str, message: str = MODIFIED) -> StatusFailure:
    """409 Conflict: an outdated resourceVersion or an unmet precondition."""
    return StatusFailure(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {_qualified(group, resource)} "{name}": {message}',
        details=_details(group, resource, name),
    )


def invalid(group: str, kind: str, name: str, causes: Iterable[Cause]) -> StatusFailure:
    """422 Invalid with every field error at once."""
    listed = tuple(causes)
    lines = [f"{cause.field}: {cause.message}" if cause.field else cause.message for cause in listed]
    text = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
    qualified = f"{kind}.{group}" if group else kind
    return StatusFailure(
        422, "Invalid", f'{qualified} "{name}" is invalid: {text}', details=_details(group, kind, name, listed)
    )


def invalid_option(method: str, field: str, value: object, supported: Iterable[str]) -> StatusFailure:
    """422 for a query parameter or delete option with a value that it cannot have."""
    verb = {"POST": "Create", "PUT": "Update", "PATCH": "Patch", "DELETE": "Delete"}.get(method, "List")
    words = ", ".join(f'"{word}"' for word in supported)
    cause = Cause("FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {words}', field)
    return invalid("meta.k8s.io", f"{verb}Options", "", [cause])


def bad_request(message: str) -> StatusFailure:
    """400 BadRequest."""
    return StatusFailure(400, "BadRequest", message)


def unauthorized() -> StatusFailure:
    """401 Unauthorized."""
    return StatusFailure(401, "Unauthorized", "Unauthorized")


def forbidden(group: str, resource: str, name: str, message: str) -> StatusFailure:
    """403 Forbidden."""
    target = f'{_qualified(group, resource)} "{name}"' if name else _qualified(group, resource)
    return StatusFailure(403, "Forbidden", f"{target} is forbidden: {message}", details=_details(group, resource, name))


def method_not_allowed(message: str) -> StatusFailure:
    """405 MethodNotAllowed, also used to say plainly what this API does not do."""
    return StatusFailure(405, "MethodNotAllowed", message)


def not_acceptable(message: str) -> StatusFailure:
    """406 NotAcceptable: none of the asked content types can be written."""
    return StatusFailure(406, "NotAcceptable", message)


def unsupported_media_type(message: str) -> StatusFailure:
    """415 UnsupportedMediaType: the body's content type cannot be read."""
    return StatusFailure(415, "UnsupportedMediaType", message)


def too_large(limit: int) -> StatusFailure:
    """413 RequestEntityTooLarge; `limit` in bytes."""
    return StatusFailure(413, "RequestEntityTooLarge", f"the request body is larger than {limit} bytes")


def expired(message: str, *, continue_token: str = "") -> StatusFailure:
    """410 Expired: the resourceVersion or continue token is too old; the client lists again."""
    failure = StatusFailure(410, "Expired", message)
    if continue_token:
        failure.details = {"metadata": {"continue": continue_token}}
    return failure


def too_new(asked: int, current: int) -> StatusFailure:
    """504 Timeout for a resourceVersion that this server has not reached; the client retries after 1 s."""
    return StatusFailure(
        504,
        "Timeout",
        f"Timeout: Too large resource version: {asked}, current: {current}",
        details={
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        },
    )


def internal(message: str) -> StatusFailure:
    """500 InternalError."""
    return StatusFailure(
        500,
        "InternalError",
        f"Internal error occurred: {message}",
        details={"causes": [{"reason": "", "message": message}]},
    )
