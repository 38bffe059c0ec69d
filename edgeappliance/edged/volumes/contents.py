"""What the files of a volume hold: config maps, secrets, the pod's own fields, service account tokens."""

from collections.abc import Sequence
from typing import Any, Protocol

from edgeappliance.edged.pods.environment import CONFIG_MAP, SECRET, ConfigMissing, Facts, field_value, resource_value
from edgeappliance.edged.pods.spec import DownwardFile, KeyToPath, Pod, Projection, TokenProjection, Volume
from edgeappliance.edged.volumes.payload import (
    File,
    Payload,
    PayloadError,
    checked_mode,
    checked_path,
    config_map_data,
    merged,
    secret_data,
    select,
)
from edgeappliance.kernel.errors import ApplianceError, InputError


class Objects(Protocol):
    """Config maps and secrets."""

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None: ...

    def trouble(self, kind: str, namespace: str, name: str) -> str:
        """Why nobody could say whether there is one; "" when there is none."""
        ...


class Tokens(Protocol):
    """Tokens of service accounts, bound to pods."""

    async def token(self, pod: Pod, *, audience: str, seconds: int) -> str: ...

    def due(self, now: float) -> set[str]: ...

    async def forget(self, uid: str) -> None: ...


class Contents:
    """Fetches what a volume is made of. Raises PayloadError in the kubelet's words."""

    def __init__(self, *, objects: Objects, tokens: Tokens) -> None:
        self._objects = objects
        self._tokens = tokens

    async def files(self, pod: Pod, volume: Volume, facts: Facts) -> dict[str, File]:
        """The files of a volume that is written by us, by path."""
        try:
            return merged(await self._sources(pod, volume, facts))
        except (ConfigMissing, InputError) as error:
            raise PayloadError(error.message) from None

    async def _sources(self, pod: Pod, volume: Volume, facts: Facts) -> list[Payload]:
        if (config := volume.config_map) is not None:
            return [await self._keys(pod, CONFIG_MAP, config.name, config.items, config.default_mode, config.optional)]
        if (secret := volume.secret) is not None:
            return [
                await self._keys(pod, SECRET, secret.secret_name, secret.items, secret.default_mode, secret.optional)
            ]
        if (downward := volume.downward_api) is not None:
            return [_own_fields(pod, downward.items, downward.default_mode, facts)]
        if (projected := volume.projected) is not None:
            return [await self._projection(pod, source, projected.default_mode, facts) for source in projected.sources]
        raise PayloadError("no volume plugin matched")

    async def _projection(self, pod: Pod, source: Projection, mode: int, facts: Facts) -> Payload:
        for kind, part in ((CONFIG_MAP, source.config_map), (SECRET, source.secret)):
            if part is not None:
                return await self._keys(pod, kind, part.name, part.items, mode, part.optional)
        if source.downward_api is not None:
            return _own_fields(pod, source.downward_api.items, mode, facts)
        if source.service_account_token is not None:
            return await self._token(pod, source.service_account_token, mode)
        raise PayloadError("no volume plugin matched")

    async def _keys(
        self, pod: Pod, kind: str, name: str, items: Sequence[KeyToPath], mode: int, optional: bool
    ) -> dict[str, File]:
        namespace = pod.metadata.namespace
        obj = await self._objects.get(kind, namespace, name)
        if obj is None:
            if optional:
                return {}
            trouble = self._objects.trouble(kind, namespace, name)
            raise PayloadError(
                f"failed to fetch {kind} {namespace}/{name}: {trouble}" if trouble else f'{kind} "{name}" not found'
            )
        if kind == CONFIG_MAP:
            return select(config_map_data(obj), items, mode=mode, optional=optional, kind="config")
        return select(secret_data(obj), items, mode=mode, optional=optional, kind="secret")

    async def _token(self, pod: Pod, wanted: TokenProjection, mode: int) -> dict[str, File]:
        path = checked_path(wanted.path)
        try:
            token = await self._tokens.token(pod, audience=wanted.audience, seconds=wanted.expiration_seconds)
        except ApplianceError as error:
            raise PayloadError(f"failed to fetch token: {error.message}") from None
        owner = run_as_user(pod)
        if owner is not None or pod.spec.security_context.fs_group is not None:
            mode = 0o600  # whoever else looks into the container has no business with it
        return {path: File(token.encode(), checked_mode(mode), owner)}


def run_as_user(pod: Pod) -> int | None:
    """The one user that all containers run as; None when they differ or it is the image's."""
    default = pod.spec.security_context.run_as_user
    users = {
        default if container.security_context.run_as_user is None else container.security_context.run_as_user
        for container in pod.containers()
    }
    return users.pop() if len(users) == 1 else None


def _own_fields(pod: Pod, items: Sequence[DownwardFile], mode: int, facts: Facts) -> dict[str, File]:
    """Files of downwardAPI. Of fields only those of metadata: the others may change without the pod's doing."""
    found = {}
    for item in items:
        if item.field_ref is not None:
            if not item.field_ref.field_path.startswith("metadata."):
                raise PayloadError(f"unsupported fieldPath: {item.field_ref.field_path}")
            text = field_value(pod, item.field_ref.field_path, facts)
        elif item.resource_field_ref is not None:
            if not item.resource_field_ref.container_name:
                raise PayloadError(f"{item.path}: resourceFieldRef.containerName: Required value")
            text = resource_value(pod, pod.spec.containers[0], item.resource_field_ref, facts)
        else:
            raise PayloadError(f"{item.path}: fieldRef or resourceFieldRef: Required value")
        chosen = checked_mode(mode if item.mode is None else item.mode)
        found[checked_path(item.path)] = File(text.encode("utf-8", "replace"), chosen)
    return found
