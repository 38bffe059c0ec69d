"""Which credentials of a docker config JSON are for an image (Kubernetes, "Pull an Image from a Private Registry")."""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from edgeappliance.edged.engine.api import Credentials
from edgeappliance.kernel.errors import InputError

HUB = "docker.io"
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})

MAX_CONFIG = 1024 * 1024
"""Bytes of a docker config JSON: as many as a Secret may have."""


def read_config(text: bytes, *, legacy: bool = False) -> dict[str, Credentials]:
    """The `auths` of a `.dockerconfigjson`, or with `legacy` a `.dockercfg`. Raises InputError naming the entry."""
    if len(text) > MAX_CONFIG:
        raise InputError(f"longer than {MAX_CONFIG} bytes", field="auths")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("is not JSON", field="") from None
    auths = document if legacy else document.get("auths") if isinstance(document, dict) else None
    if auths is None and isinstance(document, dict):
        return {}
    if not isinstance(auths, dict):
        raise InputError("is not an object", field="auths")
    return {address: _credentials(entry, address) for address, entry in auths.items()}


def _credentials(entry: Any, address: str) -> Credentials:
    field = f"auths.{address}"
    if not isinstance(entry, dict):
        raise InputError("is not an object", field=field)
    texts = {}
    for name in ("username", "password", "auth", "identitytoken", "registrytoken"):
        value = entry.get(name) or ""
        if not isinstance(value, str):
            raise InputError("is not a text", field=f"{field}.{name}")
        texts[name] = value
    username, password = texts["username"], texts["password"]
    if texts["auth"]:
        try:
            pair = base64.b64decode(texts["auth"], validate=True).decode()
        except (binascii.Error, ValueError):
            raise InputError("is not base64 of user:password", field=f"{field}.auth") from None
        username, colon, password = pair.partition(":")
        if not colon:
            raise InputError("is not base64 of user:password", field=f"{field}.auth")
        password = password.rstrip("\0")  # as `docker login` of old wrote it
    return Credentials(username, password, texts["identitytoken"], texts["registrytoken"])


def credentials_for(image: str, secret: Mapping[str, Any]) -> list[Credentials]:
    """What a Secret of type kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg has for an image, in the order
    to try it. Raises InputError naming the part of the secret that cannot be used."""
    data = secret.get("data")
    for key, legacy in ((".dockerconfigjson", False), (".dockercfg", True)):
        value = data.get(key) if isinstance(data, Mapping) else None
        if value is None:
            continue
        try:
            text = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise InputError("is not base64", field=f"data[{key}]") from None
        try:
            config = read_config(text, legacy=legacy)
        except InputError as error:
            raise InputError(error.message, field=f"data[{key}]") from None
        return for_image(image, [config])
    raise InputError("is missing", field="data[.dockerconfigjson]")


def for_image(name: str, configs: list[dict[str, Credentials]]) -> list[Credentials]:
    """Credentials to try for an image, in the order to try them: the longest match first, then as given."""
    registry, path = split(name)
    found: list[tuple[int, Credentials]] = []
    for config in configs:
        for address, credentials in config.items():
            host, prefix = _address(address)
            if _host_matches(host, registry) and _path_matches(prefix, path):
                found.append((len(prefix), credentials))
    found.sort(key=lambda entry: -entry[0])
    return list(_distinct(credentials for _, credentials in found))


def split(name: str) -> tuple[str, str]:
    """Registry (`docker.io` unless the name says otherwise) and path, without tag and digest, of an image name."""
    bare = name.partition("@")[0]
    first, slash, rest = bare.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        registry, path = first, rest
    else:
        registry, path = HUB, bare if slash else f"library/{bare}"
    head, slash, last = path.rpartition("/")
    path = head + slash + last.partition(":")[0]
    return (HUB, path) if registry in _HUB_NAMES else (registry, path)


def header(credentials: Credentials, registry: str) -> str:
    """The value of X-Registry-Auth (Engine API, "Authentication")."""
    if credentials.registry_token:
        content: Mapping[str, str] = {"registrytoken": credentials.registry_token}
    elif credentials.identity_token:
        content = {"username": credentials.username, "identitytoken": credentials.identity_token}
    else:
        content = {"username": credentials.username, "password": credentials.password}
    address = "https://index.docker.io/v1/" if registry == HUB else registry
    return base64.urlsafe_b64encode(json.dumps({**content, "serveraddress": address}).encode()).decode()


def _address(text: str) -> tuple[str, str]:
    """Host and path of a key of `auths`: `https://index.docker.io/v1/`, `*.example.com:5000/team`, `registry`."""
    bare = text.partition("://")[2] or text
    host, _, path = bare.partition("/")
    if path.startswith(("v1/", "v2/")) or path in ("v1", "v2"):
        path = path[2:]
    return (HUB if host in _HUB_NAMES else host), path.strip("/")


def _host_matches(pattern: str, registry: str) -> bool:
    """Part by part between the dots, `*` and `?` within a part; the ports must be the same."""
    pattern_host, _, pattern_port = pattern.partition(":")
    host, _, port = registry.partition(":")
    wanted, parts = pattern_host.split("."), host.split(".")
    return (
        pattern_port == port
        and len(wanted) == len(parts)
        and all(fnmatchcase(part, want) for want, part in zip(wanted, parts, strict=True))
    )


def _path_matches(prefix: str, path: str) -> bool:
    return not prefix or path == prefix or path.startswith(prefix + "/")


def _distinct(found: Iterator[Credentials]) -> Iterator[Credentials]:
    seen: set[Credentials] = set()
    for credentials in found:
        if credentials not in seen:
            seen.add(credentials)
            yield credentials
