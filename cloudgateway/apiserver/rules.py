"""Decisions about a write that are functions of values: options, names, finalizers, what counts as a change."""

from typing import Any

from cloudgateway.apiserver.bodies import BodyReader
from cloudgateway.apiserver.kinds import Kind
from cloudgateway.apiserver.metadata import FOREGROUND, ORPHAN
from edgeappliance.kubeapi.errors import Cause, StatusFailure, bad_request, conflict, forbidden, invalid_option
from edgeappliance.kubeapi.names import subdomain_error
from edgeappliance.kubeapi.request import ApiRequest, Target, User, number
from edgeappliance.kubeapi.resources import ResourceType
from edgeappliance.kubeapi.storage import Entry

Object = dict[str, Any]
FIELD_VALIDATION = ("Ignore", "Strict", "Warn")
GRACE_LIMIT = 2**31
"""Seconds of grace that are remembered at most."""
PROPAGATION = ("Foreground", "Background", "Orphan")


def dry_run(request: ApiRequest) -> bool:
    """Whether the request asks for a rehearsal (`dryRun=All`)."""
    text = request.query.get("dryRun", "")
    if text not in ("", "All"):
        raise invalid_option(request.method, "dryRun", text, ("All",))
    return text == "All"


def unknown_fields(unknown: list[str], request: ApiRequest) -> list[str]:
    """Warnings for fields that were dropped; StatusFailure 400 in Strict mode."""
    mode = request.query.get("fieldValidation") or "Warn"
    if mode not in FIELD_VALIDATION:
        raise invalid_option(request.method, "fieldValidation", mode, FIELD_VALIDATION)
    if not unknown or mode == "Ignore":
        return []
    words = [f'unknown field "{path}"' for path in unknown[:100]]
    if mode == "Strict":
        raise bad_request(f"strict decoding error: {', '.join(words)}")
    return words


def name_causes(name: str, kind: Kind, resource: ResourceType) -> list[Cause]:
    """What is wrong with a new object's name."""
    if not name:
        return [Cause("FieldValueRequired", "Required value: name or generateName is required", "metadata.name")]
    error = (subdomain_error if resource.custom else kind.name_error)(name)
    return [Cause("FieldValueInvalid", f'Invalid value: "{name}": {error}', "metadata.name")] if error else []


def specification(value: Object, resource: ResourceType) -> Object:
    """The part of an object whose changes `metadata.generation` counts."""
    aside = ("metadata", "status") if resource.status else ("metadata",)
    return {key: item for key, item in value.items() if key not in aside}


def finished(value: Object) -> bool:
    """Whether a deletion waits for nothing any more."""
    metadata = value["metadata"]
    return (
        "deletionTimestamp" in metadata
        and not metadata.get("finalizers")
        and not metadata.get("deletionGracePeriodSeconds")
        and not (value.get("kind") == "Namespace" and value.get("spec", {}).get("finalizers"))
    )


def heartbeat_only(resource: ResourceType, target: Target, value: Object, old: Object) -> bool:
    """Whether a node's status says nothing new but that the node lives."""
    if resource.key != "nodes" or target.subresource != "status":
        return False

    def essence(item: Object) -> Object:
        status = dict(item.get("status") or {})
        status["conditions"] = [
            {key: part for key, part in condition.items() if key != "lastHeartbeatTime"}
            for condition in status.get("conditions") or ()
        ]
        return {**item, "status": status}

    return essence(value) == essence(old)


_OPTION_TYPES: tuple[tuple[str, type, str], ...] = (
    ("gracePeriodSeconds", int, "an integer"),
    ("preconditions", dict, "an object"),
    ("propagationPolicy", str, "a string"),
    ("orphanDependents", bool, "a boolean"),
    ("dryRun", list, "an array"),
)


def delete_options(request: ApiRequest, bodies: BodyReader) -> Object:
    """metav1.DeleteOptions of a request: the body's, completed by the query's."""
    options = bodies.read(request) if request.body else {}
    query = request.query
    if "gracePeriodSeconds" in query:
        options.setdefault("gracePeriodSeconds", number(query, "gracePeriodSeconds", maximum=GRACE_LIMIT))
    if "propagationPolicy" in query:
        options.setdefault("propagationPolicy", query["propagationPolicy"])
    if "orphanDependents" in query:
        options.setdefault("orphanDependents", query["orphanDependents"] == "true")
    return options_of(options)


def options_of(options: Object) -> Object:
    """metav1.DeleteOptions checked and bounded, in place."""
    for key, kind, word in _OPTION_TYPES:
        if options.get(key) is not None and (
            not isinstance(options[key], kind) or isinstance(options[key], bool) is not (kind is bool)
        ):
            raise bad_request(f"DeleteOptions.{key} must be {word}")
    if options.get("gracePeriodSeconds") is not None:
        options["gracePeriodSeconds"] = max(min(options["gracePeriodSeconds"], GRACE_LIMIT), -1)
    policy = options.get("propagationPolicy")
    if policy is not None and policy not in PROPAGATION:
        raise invalid_option("DELETE", "propagationPolicy", policy, PROPAGATION)
    if options.get("dryRun") and options["dryRun"] != ["All"]:
        raise invalid_option("DELETE", "dryRun", options["dryRun"], ("All",))
    return options


def deletion_finalizers(present: list[str], options: Object) -> list[str]:
    """The object's finalizers with the one that the propagation policy asks for."""
    policy = options.get("propagationPolicy")
    if policy is None and options.get("orphanDependents") is not None:
        policy = "Orphan" if options["orphanDependents"] else "Background"
    if policy is None:
        return list(present)
    kept = [name for name in present if name not in (FOREGROUND, ORPHAN)]
    if policy == "Foreground":
        kept.append(FOREGROUND)
    elif policy == "Orphan":
        kept.append(ORPHAN)
    return kept


def check_preconditions(resource: ResourceType, entry: Entry, preconditions: Object) -> None:
    """Raise StatusFailure 409 when the object is not the one that was meant."""
    for key, word, present in (("uid", "UID", entry.uid), ("resourceVersion", "ResourceVersion", str(entry.version))):
        asked = preconditions.get(key)
        if asked not in (None, "", present):
            text = f"Precondition failed: {word} in precondition: {asked}, {word} in object meta: {present}"
            raise conflict(resource.group, resource.plural, entry.name, text)


def admin_failure(user: User | None, verb: str, resource: ResourceType, namespace: str) -> StatusFailure:
    """403 in upstream's words."""
    who = user.name if user is not None else "system:anonymous"
    scope = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
    return forbidden(
        resource.group,
        resource.plural,
        "",
        f'User "{who}" cannot {verb} resource "{resource.plural}" in API group "{resource.group}"{scope}: '
        "the embedded API admits administrators only (group system:masters); RBAC objects are stored, not enforced",
    )
