"""The embedded API without a transport: one request in, one answer out."""

import asyncio
import platform
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from cloudgateway.apiserver.account_tokens import DOCUMENTS, AccountTokens
from cloudgateway.apiserver.actions import PodActions
from cloudgateway.apiserver.bodies import BodyReader
from cloudgateway.apiserver.definitions import Definitions
from cloudgateway.apiserver.podcalls import STREAMS
from cloudgateway.apiserver.reviews import review
from cloudgateway.apiserver.rules import admin_failure
from cloudgateway.apiserver.store import ObjectStore
from cloudgateway.apiserver.streams import PodStreams
from cloudgateway.apiserver.writing import Writer, Written
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.database import StorageCorrupt, StorageError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.web.client import Upgraded
from edgeappliance.kubeapi import discovery
from edgeappliance.kubeapi.builtin_types import API_VERSION
from edgeappliance.kubeapi.errors import (
    StatusFailure,
    bad_request,
    internal,
    method_not_allowed,
    not_acceptable,
    not_found,
    too_large,
    unauthorized,
    unknown_path,
)
from edgeappliance.kubeapi.openapi import OpenApi
from edgeappliance.kubeapi.openapi_protobuf import ANSWER_TYPE, ASKED_TYPE
from edgeappliance.kubeapi.reading import Reader
from edgeappliance.kubeapi.request import BODY_LIMIT, JSON, ApiRequest, ApiResponse, Target, User, accepted_views, flag
from edgeappliance.kubeapi.request import parse_target as parse
from edgeappliance.kubeapi.resources import Registry, ResourceType
from edgeappliance.kubeapi.storage import Entry

ADMIN_GROUP = "system:masters"
USAGE_GROUP = "metrics.k8s.io"
GATEWAY = User("system:cloudgateway", (ADMIN_GROUP,))
"""The identity of cloudgateway's own controllers, which need no transport."""

DELETED_AT_ONCE = 256
"""Objects of a collection whose deletions share a commit."""

Action = Callable[[ApiRequest, Target, ResourceType], Awaitable[ApiResponse]]
_NO_SUCH_METHOD = "the server does not allow this method on the requested resource"
_HEALTH = ("/healthz", "/livez", "/readyz")
_SUBRESOURCES = {
    "namespaces": ("finalize",),
    "certificatesigningrequests.certificates.k8s.io": ("approval",),
    "serviceaccounts": ("token",),
    "pods": ("binding", "eviction"),
}
_REFUSED_SUBRESOURCES = {
    ("pods", "ephemeralcontainers"): "ephemeral containers are not supported by the embedded API of cloudgateway",
}
_NODE_PAGE = re.compile(r"/api/v1/nodes/(?P<node>[^/]+)/proxy(?P<path>/.*)?")
_NO_KUBELETS = "the kubelets of the edges are not reached: cloudstream.enable is false on this gateway"


class Usage(Protocol):
    """metrics.k8s.io: what nodes and pods use."""

    async def answer(self, request: ApiRequest, target: Target) -> ApiResponse:
        """Raises StatusFailure."""
        ...


class ApiCore:
    """Dispatches requests to the verbs. `ready` tells what `/readyz` says."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        registry: Registry,
        openapi: OpenApi,
        definitions: Definitions,
        clock: Clock,
        keys: Path,
    ) -> None:
        """`keys` is the directory of the key that signs tokens of service accounts."""
        self._store = store
        self._registry = registry
        self._openapi = openapi
        self._reader = Reader(store, clock)
        self._bodies = BodyReader()
        self.writer = Writer(store, clock, definitions.kind, self._bodies)
        pods = PodActions(store=store, writer=self.writer, clock=clock, bodies=self._bodies)
        self._tokens = AccountTokens(keys, store=store, clock=clock, bodies=self._bodies)
        self._actions: dict[tuple[str, str], Action] = {
            ("pods", "binding"): pods.bind,
            ("pods", "eviction"): pods.evict,
            ("serviceaccounts", "token"): self._tokens.issue,
        }
        self.ready = True
        self.streams: PodStreams | None = None
        """The way to the kubelets, where there is one."""
        self.usage: Usage | None = None
        self._log = get_logger("apiserver")

    async def handle(self, request: ApiRequest) -> ApiResponse:
        """Answer one request. Never raises but for cancellation: failures are Status answers."""
        try:
            if len(request.body) > BODY_LIMIT:
                raise too_large(BODY_LIMIT)
            return await self._dispatch(request)
        except StatusFailure as failure:
            return ApiResponse(failure.code, failure.encode())
        except RecursionError:
            return ApiResponse(400, bad_request("the body of the request is nested too deeply").encode())
        except StorageError as error:
            self._log.error("request failed on storage", method=request.method, path=request.path, error=error)
            text = error.message if isinstance(error, StorageCorrupt) else str(error)
            wait = StatusFailure(503, "ServiceUnavailable", text, details={"retryAfterSeconds": 1})
            return ApiResponse(wait.code, wait.encode())
        except Exception as error:  # noqa: BLE001 - a fault of ours is answered and logged, the others go on
            self._log.error("request failed", method=request.method, path=request.path, error=error, exc_info=error)
            return ApiResponse(500, internal(f"{type(error).__name__}: {error}").encode())

    async def _dispatch(self, request: ApiRequest) -> ApiResponse:
        page = _NODE_PAGE.fullmatch(request.path)
        if page is not None:
            self._admit(request, Target("", "v1", "nodes", name=page["node"]))
            return await self._kubelets().node_page(request, page["node"], page["path"] or "/")
        target = parse(request.path)
        if target is None:
            if request.path in DOCUMENTS and request.user is not None and request.method in ("GET", "HEAD"):
                return await self._tokens.document(request.path)
            return self._document(request)
        if request.user is None:
            raise unauthorized()
        answer = review(request, target, self._bodies)
        if answer is not None:
            return answer
        resource = self._admit(request, target)
        if target.group == USAGE_GROUP and self.usage is not None:
            return await self.usage.answer(request, target)
        if resource.key == "pods" and target.subresource in STREAMS:
            raise bad_request("Upgrade request required")
        if resource.key == "pods" and target.subresource == "log":
            if request.method not in ("GET", "HEAD"):
                raise method_not_allowed(_NO_SUCH_METHOD)
            return await self._kubelets().log(request, target)
        self._check_subresource(target, resource)
        response = await self._verb(request, target, resource)
        if resource.deprecation:
            return ApiResponse(
                response.status, response.body, response.content_type, (*response.warnings, resource.deprecation)
            )
        return response

    async def connect(
        self, user: User, target: Target, query: Mapping[str, Sequence[str]], protocols: Sequence[str]
    ) -> Upgraded:
        """A stream to the kubelet for pods/exec, attach or portforward. Raises StatusFailure."""
        self._admit(ApiRequest(method="POST", path="", user=user), target)
        return await self._kubelets().connect(target, query, protocols=protocols)

    def _admit(self, request: ApiRequest, target: Target) -> ResourceType:
        """The resource of a request that may be made. Raises StatusFailure."""
        resource = self._registry.get(target.group, target.version, target.resource)
        if request.user is None:
            raise unauthorized()
        if resource is None:
            raise unknown_path()
        if ADMIN_GROUP not in request.user.groups:
            raise admin_failure(request.user, request.method.lower(), resource, target.namespace)
        if resource.refusal:
            raise method_not_allowed(resource.refusal)
        if target.namespace and not resource.namespaced:
            raise unknown_path()
        return resource

    def _kubelets(self) -> PodStreams:
        if self.streams is None:
            raise method_not_allowed(_NO_KUBELETS)
        return self.streams

    def _check_subresource(self, target: Target, resource: ResourceType) -> None:
        subresource = target.subresource
        if not subresource or (subresource == "status" and resource.status):
            return
        if subresource in _SUBRESOURCES.get(resource.key, ()):
            return
        refusal = _REFUSED_SUBRESOURCES.get((resource.key, subresource))
        raise method_not_allowed(refusal) if refusal else unknown_path()

    async def _verb(self, request: ApiRequest, target: Target, resource: ResourceType) -> ApiResponse:
        method = request.method
        if method not in ("GET", "HEAD"):
            try:
                return await self._change(request, target, resource)
            except StatusFailure:
                await self._store.settled()  # a refusal may rest on writes that no read shows yet
                raise
        if (resource.key, target.subresource) in self._actions:
            raise method_not_allowed(_NO_SUCH_METHOD)
        if flag(request.query, "watch"):
            return ApiResponse(200, self._reader.watch(request, target, resource))
        if target.name:
            return ApiResponse(200, self._reader.get(request, target, resource))
        return ApiResponse(200, self._reader.collection(request, target, resource))

    async def _change(self, request: ApiRequest, target: Target, resource: ResourceType) -> ApiResponse:
        method = request.method
        action = self._actions.get((resource.key, target.subresource))
        if action is not None:
            if method != "POST":
                raise method_not_allowed(_NO_SUCH_METHOD)
            return await action(request, target, resource)
        if method == "POST" and not target.name:
            return self._written(request, resource, await self.writer.create(request, target, resource))
        if method == "PUT" and target.name:
            return self._written(request, resource, await self.writer.update(request, target, resource))
        if method == "PATCH" and target.name:
            return self._written(request, resource, await self.writer.patch(request, target, resource))
        if method == "DELETE" and not target.subresource:
            if target.name:
                return await self._delete(request, target, resource)
            return await self._delete_collection(request, target, resource)
        raise method_not_allowed(_NO_SUCH_METHOD)

    def _written(self, request: ApiRequest, resource: ResourceType, done: Written) -> ApiResponse:
        body = self._reader.encoding(request, resource).one(done.entry)
        return ApiResponse(201 if done.created else 200, body, JSON, tuple(done.warnings))

    async def _delete(self, request: ApiRequest, target: Target, resource: ResourceType) -> ApiResponse:
        entry, gone = await self.writer.delete(request, target, resource)
        if not gone or self.writer.kind(resource).returned:
            return ApiResponse(200, self._reader.encoding(request, resource).one(entry))
        details = {"name": entry.name, "kind": resource.plural, "uid": entry.uid}
        if resource.group:
            details["group"] = resource.group
        return _json({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    async def _delete_collection(self, request: ApiRequest, target: Target, resource: ResourceType) -> ApiResponse:
        if "deletecollection" not in resource.verbs:
            raise method_not_allowed(_NO_SUCH_METHOD)
        wanted = self._reader.filter(request, target, resource)
        response = self._reader.collection(request, target, resource)
        entries = self._reader.select(resource, wanted)
        for start in range(0, len(entries), DELETED_AT_ONCE):
            await asyncio.gather(
                *(self._delete_one(request, resource, entry) for entry in entries[start : start + DELETED_AT_ONCE])
            )
        return ApiResponse(200, response)

    async def _delete_one(self, request: ApiRequest, resource: ResourceType, entry: Entry) -> None:
        one = Target(resource.group, resource.version, resource.plural, entry.namespace, entry.name)
        try:
            await self.writer.delete(request, one, resource)
        except StatusFailure as failure:
            if failure.reason != "NotFound":  # somebody else deleted it first: that is what was asked
                raise

    # What is not a resource.

    def _document(self, request: ApiRequest) -> ApiResponse:
        path = request.path.rstrip("/") or "/"
        if path == "/version":
            return _json(_version_info())
        if path in _HEALTH or path.startswith(tuple(f"{name}/" for name in _HEALTH)):
            if not self.ready:
                return ApiResponse(500, b"not ready", "text/plain; charset=utf-8")
            return ApiResponse(200, b"ok", "text/plain; charset=utf-8")
        if request.user is None:
            raise unauthorized()
        if request.method not in ("GET", "HEAD"):
            raise unknown_path()
        if path.startswith("/openapi/"):
            return self._openapi_document(request, path)
        if path in ("/api", "/apis"):
            return self._groups(request, core=path == "/api")
        if path == "/":
            return _json(
                {"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]}
            )
        parts = path.strip("/").split("/")
        found: dict[str, Any] | None = None
        if parts[0] == "api" and len(parts) == 2:
            found = discovery.api_resource_list(self._registry, "", parts[1])
        elif parts[0] == "apis" and len(parts) == 2:
            found = discovery.api_group(self._registry, parts[1])
        elif parts[0] == "apis" and len(parts) == 3:
            found = discovery.api_resource_list(self._registry, parts[1], parts[2])
        if found is None:
            raise unknown_path()
        return _json(found)

    def _groups(self, request: ApiRequest, *, core: bool) -> ApiResponse:
        for view in accepted_views(request.accept):
            if view.as_ == "APIGroupDiscoveryList" and view.version in ("v2", "v2beta1"):
                return ApiResponse(
                    200,
                    msgspec.json.encode(discovery.aggregated(self._registry, core=core, version=view.version)),
                    discovery.AGGREGATED_TYPE.format(version=view.version),
                )
            if view.as_ == "":
                break
        return _json(discovery.api_versions() if core else discovery.api_group_list(self._registry))

    def _openapi_document(self, request: ApiRequest, path: str) -> ApiResponse:
        if path == "/openapi/v2" and ASKED_TYPE in request.accept:
            return ApiResponse(200, self._openapi.version_two_protobuf(), ANSWER_TYPE)
        if not accepted_views(request.accept):
            raise not_acceptable("only the following media types are accepted: application/json")
        if path == "/openapi/v2":
            return ApiResponse(200, self._openapi.version_two())
        if path == "/openapi/v3":
            return ApiResponse(200, self._openapi.index())
        parts = path.removeprefix("/openapi/v3/").split("/")
        document = None
        if parts[0] == "api" and len(parts) == 2:
            document = self._openapi.document("", parts[1])
        elif parts[0] == "apis" and len(parts) == 3:
            document = self._openapi.document(parts[1], parts[2])
        if document is None:
            raise not_found("", "openapi", path)
        return ApiResponse(200, document)


def _json(value: Any, status: int = 200) -> ApiResponse:
    return ApiResponse(status, msgspec.json.encode(value))


def _version_info() -> dict[str, str]:
    major, minor, _ = API_VERSION.split(".")
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"v{API_VERSION}+edgeappliance",
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "cpython",
        "platform": f"{platform.system().lower()}/{platform.machine()}",
    }
