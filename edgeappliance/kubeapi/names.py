"""Names, labels and identifiers: the syntax rules of Kubernetes and the making of new ones."""

import random
import re
import uuid

NAME_LIMIT = 253
LABEL_LIMIT = 63

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")

# Upstream's alphabet: no vowels and no look-alikes, so that generated names spell nothing.
_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character (e.g. 'example.com')"
)
LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
    "and must start and end with an alphanumeric character (e.g. 'my-name')"
)


def subdomain_error(name: str) -> str:
    """Why a name is no RFC 1123 subdomain; empty when it is one."""
    if len(name) > NAME_LIMIT:
        return f"must be no more than {NAME_LIMIT} characters"
    return "" if _SUBDOMAIN.fullmatch(name) else SUBDOMAIN_RULE


def label_error(name: str) -> str:
    """Why a name is no RFC 1123 label; empty when it is one."""
    if len(name) > LABEL_LIMIT:
        return f"must be no more than {LABEL_LIMIT} characters"
    return "" if _LABEL.fullmatch(name) else LABEL_RULE


def path_segment_error(name: str) -> str:
    """Why a name (of a role, say) cannot stand in a URL path; empty when it can."""
    if name in (".", ".."):
        return f"may not be '{name}'"
    if "/" in name or "%" in name:
        return "may not contain '/' or '%'"
    return "" if name else "a name is required"


def label_key_error(key: str) -> str:
    """Why a text is no label or annotation key (`[prefix/]name`); empty when it is one."""
    prefix, slash, name = key.rpartition("/")
    if slash and subdomain_error(prefix):
        return f"prefix part {subdomain_error(prefix)}"
    if not name or len(name) > LABEL_LIMIT or not _QUALIFIED.fullmatch(name):
        return (
            "name part must consist of at most 63 alphanumeric characters, '-', '_' or '.', "
            "and must start and end with an alphanumeric character"
        )
    return ""


def label_value_error(value: str) -> str:
    """Why a text is no label value; empty when it is one."""
    if len(value) > LABEL_LIMIT or not _LABEL_VALUE.fullmatch(value):
        return (
            "a valid label must be an empty string or consist of at most 63 alphanumeric characters, "
            "'-', '_' or '.', and must start and end with an alphanumeric character"
        )
    return ""


def generated_name(prefix: str) -> str:
    """`metadata.generateName` completed: at most 58 characters of the prefix and five random ones."""
    return prefix[: LABEL_LIMIT - 5] + "".join(random.choices(_ALPHABET, k=5))  # noqa: S311 - a name, no secret


def new_uid() -> str:
    """A fresh `metadata.uid`."""
    return str(uuid.uuid4())
