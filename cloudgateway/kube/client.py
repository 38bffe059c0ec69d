"""One client for every Kubernetes API the gateway meets: objects in, objects out, as plain JSON values."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote

import msgspec

from cloudgateway.kube.errors import ApiError, api_error
from cloudgateway.kube.resources import GVR
from cloudgateway.kube.transport import Request, Response, Transport

__all__ = ["KubeClient", "KubeObject", "ObjectList", "PatchType", "WatchEvent"]

KubeObject = dict[str, Any]
"""One API object as decoded JSON."""

_PAGE = 500
_ATTEMPTS_WHEN_BUSY = 4
_LONGEST_EVENT = 16 * 1024 * 1024


class PatchType(StrEnum):
    """Content types of PATCH."""

    MERGE = "application/merge-patch+json"
    JSON = "application/json-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"


@dataclass(frozen=True, slots=True)
class ObjectList:
    """All items of a list and the resourceVersion from which a watch continues."""

    items: list[KubeObject]
    resource_version: str


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """``type`` is ADDED, MODIFIED, DELETED or BOOKMARK; an ERROR event is raised as ApiError instead."""

    type: str
    object: KubeObject


class _RawEvent(msgspec.Struct):
    type: str
    object: dict[str, Any]


_event_decoder = msgspec.json.Decoder(_RawEvent)


class KubeClient:
    """Requests to one API.

    `concurrency` bounds the requests in flight (watches do not count), `timeout` is seconds for one request.
    Every call raises ApiUnavailable without an answer and ApiError for a failed one. A server that says it is
    busy (429, or 503 with Retry-After) is asked again a few times first; such a request was not carried out.
    """

    def __init__(self, transport: Transport, *, concurrency: int = 32, timeout: float = 15.0) -> None:
        self._transport = transport
        self._slots = asyncio.Semaphore(concurrency)
        self._timeout = timeout

    async def close(self) -> None:
        """Closes the transport."""
        await self._transport.close()

    async def get(self, gvr: GVR, namespace: str | None, name: str, *, subresource: str = "") -> KubeObject:
        return await self._object(Request("GET", _object_path(gvr, namespace, name, subresource)))

    async def list(
        self,
        gvr: GVR,
        namespace: str | None = None,
        *,
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
        limit: int = _PAGE,
    ) -> ObjectList:
        """All objects that match, fetched in pages of `limit`.

        Items carry ``apiVersion`` and ``kind`` also where the server leaves them out of lists. If the
        continuation expires between two pages, the server's newer snapshot is listed from the start, once.
        """
        for attempt in (1, 2):
            try:
                return await self._list(
                    gvr, namespace, _selectors(label_selector, field_selector), metadata_only, limit
                )
            except ApiError as error:
                if not error.gone or attempt == 2:
                    raise
        raise AssertionError("unreachable")

    async def create(
        self,
        gvr: GVR,
        body: Mapping[str, Any] | msgspec.Raw,
        *,
        namespace: str | None = None,
        name: str = "",
        subresource: str = "",
    ) -> KubeObject:
        """POST; `name` and `subresource` address creations such as ``serviceaccounts/x/token``."""
        return await self._object(Request("POST", _path(gvr, namespace, name, subresource), body=_encode(body)))

    async def update(self, gvr: GVR, body: Mapping[str, Any], *, subresource: str = "") -> KubeObject:
        """PUT of a whole object, addressed by its own metadata."""
        metadata = body["metadata"]
        path = _object_path(gvr, metadata.get("namespace"), metadata["name"], subresource)
        return await self._object(Request("PUT", path, body=_encode(body)))

    async def patch(
        self,
        gvr: GVR,
        namespace: str | None,
        name: str,
        body: Mapping[str, Any] | Sequence[Any] | bytes,
        *,
        content_type: PatchType = PatchType.MERGE,
        subresource: str = "",
        query: Mapping[str, str] | None = None,
    ) -> KubeObject:
        """PATCH with a body of `content_type` (bytes are sent as they are); `query` adds e.g. fieldManager."""
        return await self._object(
            Request(
                "PATCH",
                _object_path(gvr, namespace, name, subresource),
                query=query or {},
                body=body if isinstance(body, bytes) else _encode(body),
                content_type=content_type,
            )
        )

    async def delete(
        self,
        gvr: GVR,
        namespace: str | None,
        name: str,
        *,
        options: Mapping[str, Any] | None = None,
        uid: str = "",
    ) -> KubeObject:
        """DELETE; `options` is a DeleteOptions body, `uid` adds the precondition on it.

        Gives the server's answer: the object when finalizers or a grace period keep it, else a Status.
        """
        body: dict[str, Any] = dict(options or {})
        if uid:
            body["preconditions"] = {**body.get("preconditions", {}), "uid": uid}
        path = _object_path(gvr, namespace, name)
        return await self._object(Request("DELETE", path, body=_encode(body) if body else None))

    async def watch(
        self,
        gvr: GVR,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
        timeout: int = 300,
    ) -> AsyncIterator[Sequence[WatchEvent]]:
        """Changes after `resource_version`, in batches as they arrive, until the server ends the watch.

        Bookmarks are asked for. `timeout` is how long the server may keep the watch open, in seconds. Raises
        ApiError (410 when the version is too old) and ApiUnavailable.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(timeout),
            **_selectors(label_selector, field_selector),
        }
        request = Request(
            "GET", _path(gvr, namespace), query=query, accept=_accept(metadata_only, "PartialObjectMetadata")
        )
        async with self._transport.stream(request, read_timeout=timeout + 15.0) as chunks:
            rest = b""
            async for chunk in chunks:
                lines = (rest + chunk).split(b"\n") if rest else chunk.split(b"\n")
                rest = lines.pop()
                if len(rest) > _LONGEST_EVENT:
                    raise api_error(500, b"a watch event is longer than 16 MiB")
                if events := [_event(line, gvr) for line in lines if line]:
                    yield events

    async def _list(
        self, gvr: GVR, namespace: str | None, selectors: Mapping[str, str], metadata_only: bool, limit: int
    ) -> ObjectList:
        items: list[KubeObject] = []
        token = ""
        while True:
            query = {**selectors, "limit": str(limit)}
            if token:
                query["continue"] = token
            page = await self._object(
                Request(
                    "GET",
                    _path(gvr, namespace),
                    query=query,
                    accept=_accept(metadata_only, "PartialObjectMetadataList"),
                )
            )
            for item in page.get("items") or []:
                _complete(item, gvr)
                items.append(item)
            metadata = page.get("metadata") or {}
            token = metadata.get("continue", "")
            if not token:
                return ObjectList(items, str(metadata.get("resourceVersion", "")))

    async def _object(self, request: Request) -> KubeObject:
        response = await self._send(request)
        try:
            value = msgspec.json.decode(response.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            value = None
        if not isinstance(value, dict):
            raise api_error(502, b"the API answered with something that is not a JSON object")
        return value

    async def _send(self, request: Request) -> Response:
        for attempt in range(1, _ATTEMPTS_WHEN_BUSY + 1):
            async with self._slots:
                response = await self._transport.send(request, timeout=self._timeout)
            if response.status < 300:
                return response
            busy = response.status == 429 or (response.status == 503 and response.retry_after > 0)
            if not busy or attempt == _ATTEMPTS_WHEN_BUSY:
                break
            await asyncio.sleep(min(response.retry_after or 0.2 * attempt, 5.0))
        raise api_error(response.status, response.body)


def _object_path(gvr: GVR, namespace: str | None, name: str, subresource: str = "") -> str:
    """The path of one object. An empty name would address all of them, a dotted one something else altogether."""
    if not name:
        raise _unusable("resource name may not be empty")
    return _path(gvr, namespace, name, subresource)


def _path(gvr: GVR, namespace: str | None, name: str = "", subresource: str = "") -> str:
    for segment in (namespace, name):
        if segment in (".", ".."):
            raise _unusable(f"{segment!r} is no name of an object or a namespace")
    return gvr.path(quote(namespace, safe="") if namespace else None, quote(name, safe=":"), subresource)


def _unusable(message: str) -> ApiError:
    return ApiError(code=400, reason="BadRequest", message=message, status={})


def _encode(body: Any) -> bytes:
    return msgspec.json.encode(body)


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    query = {}
    if label_selector:
        query["labelSelector"] = label_selector
    if field_selector:
        query["fieldSelector"] = field_selector
    return query


def _accept(metadata_only: bool, kind: str) -> str:
    # The plain type behind the comma is the fallback of a server that has no metadata-only form.
    return f"application/json;as={kind};g=meta.k8s.io;v=v1,application/json" if metadata_only else "application/json"


def _complete(item: KubeObject, gvr: GVR) -> None:
    if "kind" not in item or item["kind"] == "PartialObjectMetadata":
        item["kind"] = gvr.kind
        item["apiVersion"] = gvr.api_version


def _event(line: bytes, gvr: GVR) -> WatchEvent:
    try:
        raw = _event_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise api_error(502, b"a watch event is not a JSON object: " + line[:200]) from error
    if raw.type == "ERROR":
        code = raw.object.get("code")
        raise api_error(code if isinstance(code, int) else 500, msgspec.json.encode(raw.object))
    if raw.type != "BOOKMARK":
        _complete(raw.object, gvr)
    return WatchEvent(raw.type, raw.object)
