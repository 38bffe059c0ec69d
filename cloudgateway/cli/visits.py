"""`cloudgateway token` and `crds install`: short visits to the API, whether the gateway runs or not."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from cloudgateway.config import GatewaySettings
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.crd_install import install_crds
from cloudgateway.kube.errors import ApiUnavailable
from cloudgateway.onboarding.kube_secrets import KubeSecrets
from cloudgateway.onboarding.vault import Vault, format_expiry
from cloudgateway.site import ADMIN_KUBECONFIG, cluster_api, embedded_api, prepare
from edgeappliance.kernel import log
from edgeappliance.kernel.errors import OperatorError

T = TypeVar("T")
_HOUR = 3600
_LONGEST_HOURS = 87_600


def create(config: GatewaySettings, *, hours: float | None, note: str) -> int:
    """Print a new token."""
    life = config.enrolment.token_hours if hours is None else hours
    if not 0 < life <= _LONGEST_HOURS:
        raise OperatorError(f"--hours {life:g} is out of range", next_step=f"choose up to {_LONGEST_HOURS} hours")

    async def visit(client: KubeClient) -> str:
        await prepare(client, crds=False)
        vault, now = Vault(KubeSecrets(client)), datetime.now(UTC)
        authority = await vault.authority(now)
        token, _ = await vault.create_token(authority, lifetime_s=round(life * _HOUR), note=note, now=now)
        return token

    print(_visit(config, visit))
    return 0


def listing(config: GatewaySettings) -> int:
    """Print every token with its expiry."""
    records = _visit(config, lambda client: Vault(KubeSecrets(client)).list_tokens())
    now = int(datetime.now(UTC).timestamp())
    rows = [("ID", "EXPIRES", "STATE", "NOTE")]
    for record in records:
        rows.append((record.jti, format_expiry(record.expires_at), _left(record.expires_at - now), record.note))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip())
    return 0


def _left(seconds: int) -> str:
    if seconds < 0:
        return "expired"
    minutes = round(seconds / 60)
    return f"{minutes / 60:.0f} h left" if minutes >= 120 else f"{minutes} min left"


def revoke(config: GatewaySettings, jti: str) -> int:
    """Take a token back. Raises OperatorError when there is none of that id."""
    if not _visit(config, lambda client: Vault(KubeSecrets(client)).revoke_token(jti)):
        raise OperatorError(f"there is no token {jti!r}", next_step="see `cloudgateway token list` for the ids")
    print(f"token {jti} is revoked; nodes that joined with it stay joined")
    return 0


def install(config: GatewaySettings) -> int:
    """Create or update the custom resources."""
    names = _visit(config, install_crds)
    print("\n".join(names) if names else "all custom resources are up to date")
    return 0


def _visit(config: GatewaySettings, work: Callable[[KubeClient], Awaitable[T]]) -> T:
    log.setup(level="warning")
    return asyncio.run(_visited(config, work))


async def _visited(config: GatewaySettings, work: Callable[[KubeClient], Awaitable[T]]) -> T:
    """Through the running gateway's API, or straight into the embedded one's directory when none runs."""
    directory = config.embedded.directory
    if not directory:
        return await _through_cluster(config, work)
    kubeconfig = Path(directory) / ADMIN_KUBECONFIG
    if await asyncio.to_thread(_is_there, kubeconfig):
        named = msgspec.structs.replace(config.kubernetes, kubeconfig=str(kubeconfig), context="")
        try:
            return await _through_cluster(msgspec.structs.replace(config, kubernetes=named), work)
        except ApiUnavailable:
            pass  # the gateway is not running: its directory is free
    fresh = not await asyncio.to_thread(_is_there, Path(directory))
    api = await embedded_api(config, serve=False)
    if fresh:  # said, because it may be a slip of the pen
        print(f"cloudgateway: {directory} did not exist; it is a new site now, with a CA of its own", file=sys.stderr)
    try:
        return await work(api.client)
    finally:
        await api.close()


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise OperatorError(
            f"{path}: {error.strerror}", next_step="run this as the user who runs the gateway, or as root"
        ) from None


async def _through_cluster(config: GatewaySettings, work: Callable[[KubeClient], Awaitable[T]]) -> T:
    api = await cluster_api(config)
    try:
        return await work(api.client)
    finally:
        await api.close()
