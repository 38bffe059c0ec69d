"""Installs the custom resources of the gateway (KubeEdge reference 6), again and again if need be."""

from __future__ import annotations

import asyncio
from importlib import resources as package_files
from typing import Any

from cloudgateway.kube.client import KubeClient, KubeObject
from cloudgateway.kube.errors import ApiError
from cloudgateway.kube.resources import CRDS
from edgeappliance.kernel.errors import TransientError
from edgeappliance.kernel.log import get_logger

__all__ = ["crd_documents", "crd_manifest", "install_crds"]

_log = get_logger("kube.crds")
_ATTEMPTS = 5


def crd_documents() -> list[KubeObject]:
    """The definitions as objects, by name."""
    import yaml  # only where CRDs are installed or shown

    # Ten times as fast, where PyYAML was built with libyaml: this is a tenth of the gateway's start.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [yaml.load(text, Loader=loader) for text in _texts()]  # noqa: S506  - safe either way


def crd_manifest() -> str:
    """The definitions as one YAML text that kubectl takes."""
    return "---\n".join(_texts())


async def install_crds(client: KubeClient, *, timeout: float = 30.0) -> list[str]:
    """Creates or updates every definition and waits until the API serves them; gives the names that changed.

    Idempotent, and safe when two gateways do it at once. Raises ApiError, ApiUnavailable, and TransientError
    when the API does not establish a definition within `timeout` seconds.
    """
    documents = crd_documents()
    changed = await asyncio.gather(*(_apply(client, document) for document in documents))
    async with asyncio.TaskGroup() as waiting:
        for document in documents:
            waiting.create_task(_established(client, document["metadata"]["name"], timeout))
    names = [str(document["metadata"]["name"]) for document, new in zip(documents, changed, strict=True) if new]
    if names:
        _log.info("installed custom resources", names=", ".join(names))
    return names


def _texts() -> list[str]:
    folder = package_files.files(__package__) / "crds"
    found = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return [file.read_text(encoding="utf-8") for file in found]


async def _apply(client: KubeClient, wanted: KubeObject) -> bool:
    name = wanted["metadata"]["name"]
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            try:
                existing = await client.get(CRDS, None, name)
            except ApiError as error:
                if not error.not_found:
                    raise
                await client.create(CRDS, wanted)
                return True
            if _covers(existing["spec"], wanted["spec"]):
                return False
            # Not a patch: a version or a field that is gone from our definition must go from the stored one.
            await client.update(CRDS, {**existing, "spec": _keep_conversion(existing["spec"], wanted["spec"])})
            return True
        except ApiError as error:
            # Another gateway was faster: look again.
            if attempt == _ATTEMPTS or not (error.conflict or error.already_exists):
                raise
    raise AssertionError("unreachable")


def _keep_conversion(existing: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    conversion = existing.get("conversion")
    return {**wanted, "conversion": conversion} if conversion else wanted


def _covers(existing: Any, wanted: Any) -> bool:
    """Whether `existing` says all that `wanted` says; the server adds defaults of its own to objects."""
    if isinstance(wanted, dict):
        if not isinstance(existing, dict):
            return False
        if "properties" in wanted and set(existing.get("properties") or {}) - set(wanted["properties"]):
            return False
        return all(_covers(existing.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(existing, list) and len(existing) == len(wanted) and all(map(_covers, existing, wanted))
    # The server leaves out what is the default: an empty string, false, zero.
    return bool(existing == wanted) or (not existing and not wanted)


async def _established(client: KubeClient, name: str, timeout: float) -> None:
    delay = 0.02
    try:
        async with asyncio.timeout(timeout):
            while True:
                conditions = (await client.get(CRDS, None, name)).get("status", {}).get("conditions") or []
                state = {condition["type"]: condition for condition in conditions}
                if state.get("Established", {}).get("status") == "True":
                    return
                refused = state.get("NamesAccepted", {})
                if refused.get("status") == "False":
                    raise TransientError(
                        f"the API does not accept the names of {name}: {refused.get('message', '')}",
                        next_step="another definition uses the same kind or short name; remove it",
                    )
                await asyncio.sleep(delay)
                delay = min(delay * 2, 1.0)
    except TimeoutError:
        raise TransientError(f"the API did not establish {name} within {timeout:.0f} s") from None
