"""Secrets of namespace `kubeedge` through the Kubernetes API."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.errors import ApiError
from cloudgateway.kube.resources import SECRETS
from cloudgateway.onboarding.vault import Secret, SecretConflict

NAMESPACE = "kubeedge"


class KubeSecrets:
    """`vault.Secrets` over a KubeClient."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def get(self, name: str) -> Secret | None:
        try:
            found = await self._client.get(SECRETS, NAMESPACE, name)
        except ApiError as error:
            if error.not_found:
                return None
            raise
        data = {key: _decode(value) for key, value in (found.get("data") or {}).items()}
        return Secret(data, str(found["metadata"].get("resourceVersion", "")))

    async def create(self, name: str, data: Mapping[str, bytes]) -> None:
        try:
            await self._client.create(SECRETS, _object(name, data), namespace=NAMESPACE)
        except ApiError as error:
            if error.already_exists:
                raise SecretConflict from None
            raise

    async def replace(self, name: str, data: Mapping[str, bytes], version: str) -> None:
        try:
            await self._client.update(SECRETS, _object(name, data, version))
        except ApiError as error:
            if error.conflict or error.not_found:
                raise SecretConflict from None
            raise


def _object(name: str, data: Mapping[str, bytes], version: str = "") -> dict[str, Any]:
    metadata = {"name": name, "namespace": NAMESPACE}
    if version:
        metadata["resourceVersion"] = version
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


def _decode(value: object) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "")
    except (ValueError, binascii.Error):
        return b""
