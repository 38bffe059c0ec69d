"""The embedded API put together: database, core, controllers and, when asked for, the HTTPS shell."""

import asyncio
import secrets
import ssl
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from cloudgateway.apiserver.controllers.accounts import DefaultAccounts
from cloudgateway.apiserver.controllers.cleanup import Cleanup
from cloudgateway.apiserver.controllers.garbage import GarbageCollector
from cloudgateway.apiserver.controllers.nodes import NodeWatch
from cloudgateway.apiserver.controllers.scheduler import Scheduler
from cloudgateway.apiserver.core import ADMIN_GROUP, GATEWAY, ApiCore
from cloudgateway.apiserver.definitions import CRD_KEY, Definitions
from cloudgateway.apiserver.store import ObjectStore
from cloudgateway.apiserver.streams import Kubelets, PodStreams
from cloudgateway.apiserver.usage import RESOURCES, UsageApi
from edgeappliance.kernel.clock import Clock, SystemClock
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.database import Database, StorageCorrupt, StorageError
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.kubeapi.builtin_types import BuiltinTypes
from edgeappliance.kubeapi.builtins import builtin_resources
from edgeappliance.kubeapi.openapi import OpenApi
from edgeappliance.kubeapi.request import ApiRequest, ApiResponse, User
from edgeappliance.kubeapi.resources import Registry
from edgeappliance.kubeapi.storage import Change, ChangeType

NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
DATABASE = "objects.db"
PKI = "pki"
TOKEN_FILE = "admin.token"  # noqa: S105 - a file's name
STOP_SECONDS = 10.0
CONTROLLER_PAUSE = 5.0
"""Seconds after which a controller that failed runs again."""
ANY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


class Shell:
    """A listening HTTPS server of the API."""

    def __init__(self, server: Any, url: str) -> None:
        self._server = server
        self.url = url
        """`https://host:port`."""

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self._server.port)

    async def close(self) -> None:
        """Stop listening; requests under way end. Idempotent."""
        await self._server.close()


class EmbeddedApi:
    """The embedded Kubernetes API of one directory. Build it with `await EmbeddedApi.open(...)`."""

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock,
        database: Database,
        store: ObjectStore,
        core: ApiCore,
        registry: Registry,
    ) -> None:
        self.directory = directory
        self.registry = registry
        self.core = core
        self._clock = clock
        self._database = database
        self.store = store
        self._shells: list[Shell] = []
        self._failure: BaseException | None = None
        self._trouble = ""
        self._closed = False
        self._log = get_logger("apiserver")
        self._tasks = TaskScope("apiserver", self._failed)
        self._pump = self._tasks.spawn(store.run(), name="writer")

    @classmethod
    async def open(cls, directory: Path, *, clock: Clock | None = None) -> "EmbeddedApi":
        """Open or create the API of a directory; its controllers run until `close`.

        Raises OperatorError or StorageError when the directory cannot be used. A damaged database is left where it
        is and nothing is started: nothing can fill it again, and an API that begins empty has the edges delete all
        that they run.
        """
        clock = clock or SystemClock()
        try:
            await asyncio.to_thread(_prepare, directory)
        except OSError as error:
            raise OperatorError(
                f"{directory}: {error.strerror}", next_step="name a directory that this user may write to"
            ) from None
        path = directory / DATABASE
        try:
            database = await Database.open(path, schema="cloudgateway.apiserver.schema", renew=False)
        except StorageCorrupt as error:
            raise _damaged(path, error.message) from None
        types = BuiltinTypes()
        registry = Registry(builtin_resources(types))
        openapi = OpenApi(registry, types)
        definitions = Definitions(registry, types, openapi, clock)

        def fields(key: str) -> tuple[str, ...]:
            resource = registry.stored(key)
            return resource.fields if resource is not None else ()

        try:
            store = await ObjectStore.open(database, fields=fields, first=definitions.load)
            if store.virgin and await asyncio.to_thread((directory / TOKEN_FILE).exists):
                raise _damaged(path, "it is empty, but this directory has been served before")
        except (StorageCorrupt, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
            await database.close()
            raise _damaged(path, str(error)) from None
        except BaseException:
            await database.close()
            raise
        store.listen(definitions.listen)

        def end_watches(change: Change) -> None:
            if change.entry.resource == CRD_KEY and change.type is ChangeType.DELETED:
                store.forget(change.entry.name)

        store.listen(end_watches)
        core = ApiCore(
            store=store,
            registry=registry,
            openapi=openapi,
            definitions=definitions,
            clock=clock,
            keys=directory / PKI,
        )
        api = cls(directory, clock=clock, database=database, store=store, core=core, registry=registry)
        try:
            await api._begin()
        except BaseException:
            await api.close()
            raise
        return api

    async def _begin(self) -> None:
        for name in NAMESPACES:
            body = b'{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"%s"}}' % name.encode()
            answer = await self.handle(ApiRequest(method="POST", path="/api/v1/namespaces", body=body, user=GATEWAY))
            if answer.status not in (201, 409):
                raise StorageError(f"the namespace {name} cannot be made: HTTP status {answer.status}")
        writer = self.core.writer
        garbage = GarbageCollector(store=self.store, writer=writer, registry=self.registry)
        cleanup = Cleanup(store=self.store, writer=writer, registry=self.registry, clock=self._clock)
        nodes = NodeWatch(store=self.store, writer=writer, registry=self.registry, clock=self._clock)
        scheduler = Scheduler(store=self.store, writer=writer, registry=self.registry, clock=self._clock)
        accounts = DefaultAccounts(store=self.store, writer=writer, registry=self.registry)
        controllers = (
            ("accounts", accounts.run),
            ("garbage", garbage.run),
            ("cleanup", cleanup.run),
            ("nodes", nodes.run),
            ("scheduler", scheduler.run),
        )
        for name, run in controllers:
            self._tasks.spawn(self._keep(name, run), name=name)

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run a controller for good: a fault in one must end neither the others nor the API."""
        while True:
            try:
                await run()
            except Exception as error:  # noqa: BLE001 - said in the log and in health, then tried again
                self._trouble = f"controller {name}: {type(error).__name__}: {error}"
                self._log.error("controller failed", controller=name, error=error, exc_info=error)
            await asyncio.sleep(CONTROLLER_PAUSE)

    def _failed(self, error: BaseException) -> None:
        self._failure = error
        self.core.ready = False

    async def handle(self, request: ApiRequest) -> ApiResponse:
        """Answer one request; `request.user` is who asks (None: only health and version are answered)."""
        return await self.core.handle(request)

    def reach_kubelets(self, kubelets: Kubelets) -> None:
        """Answer what kubelets answer from now on: logs, exec, attach, port-forward, nodes/proxy and metrics.k8s.io."""
        self.core.streams = PodStreams(self.store, kubelets)
        self.core.usage = UsageApi(self.store, kubelets)
        for resource in RESOURCES:
            self.registry.add(resource)

    async def serve(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        *,
        names: Iterable[str] = (),
    ) -> Shell:
        """Serve over HTTPS with the API's own certificate, or with `ssl_context`.

        `names` are further host names and addresses for the certificate. Raises OperatorError when the address
        cannot be had.
        """
        from cloudgateway.apiserver.shell import HttpShell  # aiohttp only where the API is served

        anywhere = host in ANY_ADDRESS
        if ssl_context is None:
            hosts = names if anywhere else (*names, host)
            ssl_context = await asyncio.to_thread(lambda: self._certificates(hosts).server_context())
        token = await asyncio.to_thread(self._token)
        server = HttpShell(self.handle, {token: User("edge-appliance-admin", (ADMIN_GROUP,))}, self.core.connect)
        try:
            await server.start(host, port, ssl_context)
        except OSError as error:
            raise OperatorError(
                f"the Kubernetes API cannot listen on {host}:{port}: {error.strerror}",
                next_step="free the port or configure another one",
            ) from None
        reached = "127.0.0.1" if anywhere else host
        shell = Shell(server, f"https://{f'[{reached}]' if ':' in reached else reached}:{server.port}")
        self._shells.append(shell)
        self._log.info("Kubernetes API is served", url=shell.url)
        return shell

    async def write_kubeconfig(self, path: Path, *, server: str) -> None:
        """Write the administrator's kubeconfig (mode 0600) for a server URL (`shell.url`)."""
        from cloudgateway.apiserver.kubeconfig import write_kubeconfig

        def write() -> None:
            write_kubeconfig(path, server=server, certificates=self._certificates(()))

        await asyncio.to_thread(write)

    def _certificates(self, names: Iterable[str]) -> Any:
        from cloudgateway.apiserver.tls import ApiCertificates  # cryptography only where a certificate is handled

        return ApiCertificates(self.directory / PKI, wall_ms=self._clock.wall_ms(), names=names)

    def _token(self) -> str:
        """The administrator's bearer token, made once."""
        from cloudgateway.apiserver.tls import write_private

        path = self.directory / TOKEN_FILE
        try:
            token = path.read_text().strip()
        except FileNotFoundError:
            token = ""
        if len(token) < 32:
            token = secrets.token_urlsafe(32)
            write_private(path, token.encode() + b"\n")
        return token

    def health(self) -> Health:
        """State for `status`."""
        if self._failure is not None:
            return Health(State.FAILED, str(self._failure), "restart cloudgateway; please report it with the log")
        if self._closed:
            return Health(State.STOPPED)
        if self._database.damaged.is_set():
            return Health(  # not FAILED: a restart would lose the copy in memory, the only sound one that is left
                State.DEGRADED,
                f"{self.directory / DATABASE} is damaged: changes are refused, reads are answered from memory",
                "save your objects now (kubectl get ... -o yaml), before cloudgateway is stopped",
            )
        if self._trouble:
            return Health(State.DEGRADED, self._trouble, "this is a fault of ours: please report it with the log")
        return Health(State.RUNNING, details={"resource_version": self.store.version})

    async def close(self) -> None:
        """Stop serving, write what waits, close the database. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for shell in self._shells:
            await shell.close()
        self.store.stop()
        await asyncio.wait([self._pump], timeout=STOP_SECONDS)
        await self._tasks.cancel()
        try:
            await self.store.close()
        except StorageError as error:
            self._log.error("the last changes that need no disk could not be written", error=error)
        finally:
            await self._database.close()


def _prepare(directory: Path) -> None:
    """The directory and the database file, both for their owner alone: secrets are in it."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = directory / DATABASE
    if not database.exists() and _leftovers(database):
        raise _damaged(database, "it is gone, but the log of its last changes is there")
    database.touch(mode=0o600)
    database.chmod(0o600)  # SQLite gives its side files the same mode


def _leftovers(database: Path) -> bool:
    """Whether SQLite's log of a database holds something: opening the database anew would delete it."""
    log = database.with_name(f"{database.name}-wal")
    return log.exists() and log.stat().st_size > 0


def _damaged(path: Path, what: str) -> OperatorError:
    return OperatorError(
        f"{path}: {what}. It holds every object of this site and nothing can fill it again, so it has been left as "
        "it is and nothing is started: an API that begins empty would have the edges delete their pods and devices",
        next_step=f"put a good copy in its place, or save what can be read: sqlite3 {path.name} .recover | sqlite3 "
        f"saved.db; to begin anew with no objects at all move {path.name}, {path.name}-wal and {TOKEN_FILE} away",
    )
