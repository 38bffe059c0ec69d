"""What the other parts stand on: the Kubernetes API (a cluster's or the embedded one), its mirrors, its preparation."""

import asyncio
import fcntl
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cloudgateway.apiserver.embedded import EmbeddedApi
from cloudgateway.config import GatewaySettings
from cloudgateway.kube.access import find_access, load_kubeconfig
from cloudgateway.kube.client import KubeClient
from cloudgateway.kube.crd_install import install_crds
from cloudgateway.kube.errors import ApiError
from cloudgateway.kube.informers import Informers
from cloudgateway.kube.resources import NAMESPACES, NODES
from edgeappliance.kernel.backoff import Backoff
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.errors import ApplianceError, OperatorError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope

NAMESPACE = "kubeedge"
ADMIN_KUBECONFIG = "admin.kubeconfig"
_LOCK = "lock"


@dataclass(slots=True)
class Api:
    """A way to the API. `ca` is its CA as PEM text, `url` where kubectl reaches it."""

    client: KubeClient
    ca: str
    url: str
    embedded: EmbeddedApi | None = None
    lock: IO[str] | None = None

    async def close(self) -> None:
        """Close what was opened."""
        await self.client.close()
        if self.embedded is not None:
            await self.embedded.close()
        if self.lock is not None:
            self.lock.close()


async def cluster_api(settings: GatewaySettings) -> Api:
    """The cluster's API by kubeconfig or service account. Raises OperatorError."""
    from cloudgateway.kube.http_transport import HttpTransport  # aiohttp only where HTTP is spoken

    kubernetes = settings.kubernetes
    path = Path(kubernetes.kubeconfig) if kubernetes.kubeconfig else None
    access = await asyncio.to_thread(find_access, path, context=kubernetes.context)
    return Api(KubeClient(HttpTransport(access)), access.ca.decode("ascii", "replace"), access.server)


async def embedded_api(settings: GatewaySettings, *, serve: bool) -> Api:
    """The embedded API of `embedded.directory`, alone in it; `serve` opens its port and writes the kubeconfig.

    Raises OperatorError when another gateway uses the directory.
    """
    from cloudgateway.kube.local_transport import LocalTransport

    directory = Path(settings.embedded.directory)
    lock = await asyncio.to_thread(_lock, directory)
    api: EmbeddedApi | None = None
    try:
        api = await EmbeddedApi.open(directory)
        if not serve:
            return Api(KubeClient(LocalTransport(api)), "", "", api, lock)
        shell = await api.serve(settings.embedded.host, settings.embedded.port, names=settings.embedded.names)
        kubeconfig = directory / ADMIN_KUBECONFIG
        await api.write_kubeconfig(kubeconfig, server=shell.url)
        ca = (await asyncio.to_thread(load_kubeconfig, kubeconfig)).ca.decode("ascii")
        return Api(KubeClient(LocalTransport(api)), ca, shell.url, api, lock)
    except BaseException:
        if api is not None:
            await api.close()
        lock.close()
        raise


def _lock(directory: Path) -> IO[str]:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (directory / _LOCK).open("a")
    except OSError as error:
        raise OperatorError(
            f"{directory}: {error.strerror}", next_step="name a directory that this user may write to"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise OperatorError(
            f"another cloudgateway uses {directory}", next_step="stop it first, or name another directory"
        ) from None
    return lock


async def prepare(client: KubeClient, *, crds: bool) -> None:
    """The namespace, and the custom resources when asked for. Idempotent. Raises ApplianceError."""
    if crds:
        await install_crds(client)
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    try:
        await client.create(NAMESPACES, body)
    except ApiError as error:
        if error.already_exists:
            return
        try:  # it may be there and we may not make namespaces
            await client.get(NAMESPACES, None, NAMESPACE)
        except ApiError:
            raise error from None


class Preparation:
    """Prepares a cluster once it answers. A component."""

    def __init__(self, client: KubeClient, *, crds: bool, tasks: TaskScope) -> None:
        self._client = client
        self._crds = crds
        self._tasks = tasks
        self._done = False
        self._trouble: ApplianceError | None = None
        self.installed = asyncio.Event()
        """Set when the custom resources are there, as far as it is ours to install them."""
        if not crds:
            self.installed.set()
        self._log = get_logger("kube")

    async def start(self) -> None:
        self._tasks.spawn(self._prepare(), name="prepare")

    async def stop(self) -> None:
        """Nothing to undo."""

    def health(self) -> Health:
        if self._done:
            return Health(State.RUNNING)
        if self._trouble is None:
            return Health(State.STARTING, "asking the Kubernetes API")
        return Health(
            State.DEGRADED,
            self._trouble.message,
            self._trouble.next_step or "check kubernetes.kubeconfig and whether the API server answers",
        )

    async def _prepare(self) -> None:
        backoff = Backoff(initial=0.5, maximum=15.0)
        while not self._done:
            try:
                await prepare(self._client, crds=self._crds)
                self._done = True
                self.installed.set()
            except ApplianceError as error:
                if self._trouble is None or self._trouble.message != error.message:
                    self._log.warning("cluster not prepared", error=error)
                self._trouble = error
                await asyncio.sleep(backoff.next_delay())


class Mirrors:
    """The life of the shared mirrors. A component."""

    def __init__(self, informers: Informers) -> None:
        self.informers = informers

    async def start(self) -> None:
        """Each mirror runs from its first use; after a restart all go on."""
        self.informers.resume()

    async def stop(self) -> None:
        self.informers.pause()

    def health(self) -> Health:
        troubles = self.informers.troubles()
        if troubles:
            alike: dict[str, list[str]] = {}  # a server that is away says the same of every resource
            for resource, trouble in sorted(troubles.items()):
                alike.setdefault(trouble, []).append(resource)
            text = "; ".join(f"{trouble} ({', '.join(names)})" for trouble, names in alike.items())
            return Health(
                State.DEGRADED, text, "check the API server; are the CRDs installed? (cloudgateway crds install)"
            )
        return Health(State.RUNNING)


class KubeNodes:
    """`onboarding.Nodes` over the API."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def exists(self, name: str) -> bool:
        try:
            await self._client.get(NODES, None, name)
        except ApiError as error:
            if error.not_found:
                return False
            raise
        return True
