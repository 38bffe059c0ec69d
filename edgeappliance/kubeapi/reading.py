"""Get, list and watch: answers are put together from encoded objects wherever the client wants them plain."""

import base64
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import msgspec

from edgeappliance.kernel.clock import Clock
from edgeappliance.kubeapi.errors import (
    StatusFailure,
    bad_request,
    expired,
    not_acceptable,
    not_found,
    too_new,
)
from edgeappliance.kubeapi.framing import bookmark_frame, error_frame, object_list, watch_frame
from edgeappliance.kubeapi.request import ApiRequest, Target, View, accepted_views, flag, number
from edgeappliance.kubeapi.resources import ResourceType
from edgeappliance.kubeapi.selectors import Selector, parse_fields, parse_labels
from edgeappliance.kubeapi.storage import Change, ChangeType, Entry, Storage
from edgeappliance.kubeapi.tables import DEFAULT_COLUMNS, partial_metadata, table

BOOKMARK_INTERVAL = 60.0
SNAPSHOT_LIMIT = 32
SNAPSHOT_AGE = 300.0
"""Unfinished paged lists that are kept, and for how many seconds."""
PIECE = 256 * 1024
"""Bytes after which a watch hands on what it has: what a client that reads slowly holds in memory."""
WATCH_SECONDS = (1800, 3600)
_VERSION_LIMIT = 2**62


@dataclass(frozen=True, slots=True)
class Filter:
    """What of a collection a request is about."""

    namespace: str
    labels: Selector
    fields: Selector

    def matches(self, entry: Entry | None) -> bool:
        """Whether an object is asked for."""
        if entry is None or (self.namespace and entry.namespace != self.namespace):
            return False
        if self.labels and not self.labels.matches(entry.labels):
            return False
        if self.fields:
            known = {**entry.fields, "metadata.name": entry.name, "metadata.namespace": entry.namespace}
            return self.fields.matches(known)
        return True


@dataclass(frozen=True, slots=True)
class _Snapshot:
    version: int
    entries: Sequence[Entry]
    made: float


class Encoding:
    """How the objects of one request are written: plain, as partial metadata, or as rows of a table."""

    def __init__(self, resource: ResourceType, view: View, include: str, clock: Clock) -> None:
        self.resource = resource
        self.view = view
        self._include = include
        self._clock = clock

    @property
    def mark(self) -> tuple[str, ...]:
        """Equal for requests whose frames are equal."""
        return (self.resource.version, self.view.as_, self.view.version, self._include)

    @property
    def plain(self) -> bool:
        """Whether objects are written whole."""
        return self.view.as_ == ""

    def whole(self, entry: Entry) -> bytes:
        """The object in the version of the resource."""
        if entry.api_version == self.resource.api_version:
            return entry.value
        value = entry.object()
        value["apiVersion"] = self.resource.api_version
        return msgspec.json.encode(value)

    def one(self, entry: Entry, *, headers: bool = True) -> bytes:
        """One object in the form asked for."""
        if self.plain:
            return self.whole(entry)
        value = msgspec.json.decode(self.whole(entry))
        if self.view.as_ == "Table":
            return self.table([entry], {"resourceVersion": str(entry.version)}, headers=headers)
        return msgspec.json.encode(partial_metadata(value, version=self.view.version or "v1"))

    def table(self, entries: Sequence[Entry], metadata: dict[str, object], *, headers: bool = True) -> bytes:
        """Objects as a Table."""
        return msgspec.json.encode(
            table(
                (msgspec.json.decode(self.whole(entry)) for entry in entries),
                self.resource.columns or DEFAULT_COLUMNS,
                now_ms=self._clock.wall_ms(),
                metadata=metadata,
                include=self._include,
                headers=headers,
                version=self.view.version or "v1",
            )
        )


class Reader:
    """The reading verbs over a store."""

    def __init__(self, store: Storage, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._snapshots: OrderedDict[str, _Snapshot] = OrderedDict()
        self._snapshot_count = 0

    def encoding(self, request: ApiRequest, resource: ResourceType) -> Encoding:
        """How to answer a request; 406 when it takes nothing that can be written."""
        for view in accepted_views(request.accept):
            if view.as_ in ("", "PartialObjectMetadata", "PartialObjectMetadataList") or (
                view.as_ == "Table" and view.version in ("", "v1", "v1beta1")
            ):
                return Encoding(resource, view, request.query.get("includeObject") or "Metadata", self._clock)
        raise not_acceptable("only the following media types are accepted: application/json")

    def get(self, request: ApiRequest, target: Target, resource: ResourceType) -> bytes:
        """GET of one object."""
        encoding = self.encoding(request, resource)
        self._check_reached(request)
        entry = self._store.get(resource.key, target.namespace, target.name)
        if entry is None:
            raise not_found(resource.group, resource.plural, target.name)
        return encoding.one(entry)

    def filter(self, request: ApiRequest, target: Target, resource: ResourceType) -> Filter:
        """The selectors of a request; 400 for a field that cannot be selected by."""
        fields = parse_fields(request.query.get("fieldSelector", ""))
        for requirement in fields.requirements:
            if requirement.key not in ("metadata.name", "metadata.namespace", *resource.fields):
                raise bad_request(
                    f'Unable to find "{resource.api_version}, Resource={resource.plural}" that match label selector '
                    f'"{request.query.get("labelSelector", "")}", field selector '
                    f'"{request.query.get("fieldSelector", "")}": field label not supported: {requirement.key}'
                )
        return Filter(target.namespace, parse_labels(request.query.get("labelSelector", "")), fields)

    def select(self, resource: ResourceType, wanted: Filter) -> Sequence[Entry]:
        """The visible objects that a filter asks for."""
        entries = self._store.entries(resource.key, wanted.namespace)
        if wanted.labels or wanted.fields:
            return [entry for entry in entries if wanted.matches(entry)]
        return entries

    def collection(self, request: ApiRequest, target: Target, resource: ResourceType) -> bytes:
        """GET of a collection, whole or in pages."""
        encoding = self.encoding(request, resource)
        query = request.query
        wanted = self.filter(request, target, resource)
        limit = number(query, "limit", maximum=_VERSION_LIMIT)
        token = query.get("continue", "")
        remaining = 0
        if token:
            if query.get("resourceVersion") not in (None, "", "0"):
                raise bad_request("specifying resource version is not allowed when using continue")
            snapshot, start = self._resume(token)
            version, entries = snapshot.version, snapshot.entries
        else:
            self._check_version(request)
            version, entries, start = self._store.version, self.select(resource, wanted), 0
        following = ""
        page = entries[start:] if start else entries
        if limit and len(page) > limit:
            remaining = len(page) - limit
            page = page[:limit]
            following = self._keep(token, version, entries, start + limit)
        if encoding.view.as_ == "Table":
            metadata: dict[str, object] = {"resourceVersion": str(version)}
            if following:
                metadata |= {"continue": following, "remainingItemCount": remaining}
            return encoding.table(page, metadata)
        if encoding.plain:
            api_version, kind = resource.api_version, resource.list_kind
        else:
            api_version, kind = f"meta.k8s.io/{encoding.view.version or 'v1'}", "PartialObjectMetadataList"
        return object_list(
            api_version,
            kind,
            map(encoding.one, page),
            version=version,
            continue_token=following,
            remaining=remaining if following and not (wanted.labels or wanted.fields) else None,
        )

    def _check_reached(self, request: ApiRequest) -> int:
        """The asked resourceVersion; 504 when this server has not given it out yet."""
        asked = _version(request.query.get("resourceVersion", ""))
        if asked > self._store.version:
            raise too_new(asked, self._store.version)
        return asked

    def _check_version(self, request: ApiRequest) -> None:
        asked = self._check_reached(request)
        match = request.query.get("resourceVersionMatch", "")
        if match not in ("", "Exact", "NotOlderThan"):
            raise bad_request(f'resourceVersionMatch: Unsupported value: "{match}"')
        if match and not request.query.get("resourceVersion"):
            raise bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided")
        if match == "Exact" and asked != self._store.version:
            raise expired(f"The provided resource version is too old: {asked}; the embedded API keeps no old lists")

    def _keep(self, token: str, version: int, entries: Sequence[Entry], start: int) -> str:
        """Remember a paged list; its token for the next page."""
        now = self._clock.monotonic()
        while self._snapshots:
            oldest = next(iter(self._snapshots.values()))
            if len(self._snapshots) < SNAPSHOT_LIMIT and now - oldest.made < SNAPSHOT_AGE:
                break
            self._snapshots.popitem(last=False)
        name = _token_name(token)
        if name not in self._snapshots:
            self._snapshot_count += 1
            name = f"{self._snapshot_count:x}-{random.getrandbits(32):08x}"
            self._snapshots[name] = _Snapshot(version, entries, now)
        return base64.urlsafe_b64encode(f"{name}:{start}".encode()).decode()

    def _resume(self, token: str) -> tuple[_Snapshot, int]:
        name, start = _token_name(token), _token_start(token)
        snapshot = self._snapshots.get(name)
        if snapshot is None:
            raise expired(
                "The provided continue parameter is too old to display a consistent list result. You must start a "
                "new list without the continue parameter."
            )
        return snapshot, start

    # Watching.

    def watch(self, request: ApiRequest, target: Target, resource: ResourceType) -> AsyncIterator[bytes]:
        """A watch: checked now, streamed as the caller iterates."""
        encoding = self.encoding(request, resource)
        query = request.query
        wanted = self.filter(request, target, resource)
        if target.name:
            by_name = parse_fields(f"metadata.name={target.name}")
            wanted = Filter(
                wanted.namespace, wanted.labels, Selector((*wanted.fields.requirements, *by_name.requirements))
            )
        asked = _version(query.get("resourceVersion", ""))
        bookmarks = flag(query, "allowWatchBookmarks")
        stream_list = flag(query, "sendInitialEvents")
        if stream_list and query.get("resourceVersionMatch") != "NotOlderThan":
            raise bad_request("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        seconds = number(query, "timeoutSeconds", maximum=24 * 3600) or random.uniform(*WATCH_SECONDS)  # noqa: S311
        if asked > self._store.version:
            raise too_new(asked, self._store.version)
        return self._stream(
            resource,
            encoding,
            wanted,
            asked=asked,
            initial=stream_list or (asked == 0 and "sendInitialEvents" not in query),
            bookmarks=bookmarks,
            mark_end=stream_list and bookmarks,
            until=self._clock.monotonic() + seconds,
        )

    async def _stream(
        self,
        resource: ResourceType,
        encoding: Encoding,
        wanted: Filter,
        *,
        asked: int,
        initial: bool,
        bookmarks: bool,
        mark_end: bool,
        until: float,
    ) -> AsyncIterator[bytes]:
        history = self._store.history(resource.key)
        headers = encoding.view.as_ == "Table"
        position: int | None
        if initial or asked == 0:
            position, began = history.end, self._store.version
            frames, size = [], 0
            for entry in self.select(resource, wanted) if initial else ():
                frames.append(watch_frame("ADDED", encoding.one(entry, headers=headers)))
                headers = False
                size += len(frames[-1])
                if size > PIECE:
                    yield b"".join(frames)
                    frames, size = [], 0
            if mark_end:
                frames.append(bookmark_frame(resource.api_version, resource.kind, began, initial_end=True))
            if frames:
                yield b"".join(frames)
        else:
            position = history.position_after(asked)
        next_bookmark = self._clock.monotonic() + BOOKMARK_INTERVAL
        while True:
            changes = history.read(position) if position is not None else None
            if changes is None or position is None:
                yield error_frame(expired(f"too old resource version: {asked} ({history.floor})"))
                return
            if changes:
                position += len(changes)
                asked = changes[-1].version
                frames, size = [], 0
                for change in changes:
                    frame = _frame(change, encoding, wanted, headers=headers)
                    if frame:
                        frames.append(frame)
                        headers = False
                        size += len(frame)
                    if size > PIECE:
                        yield b"".join(frames)
                        frames, size = [], 0
                if frames:
                    yield b"".join(frames)
                    continue
            now = self._clock.monotonic()
            if now >= until or history.closed:
                return
            if bookmarks and now >= next_bookmark:
                next_bookmark = now + BOOKMARK_INTERVAL
                # Everything up to the visible version is in the history that has just been read to its end.
                if position == history.end:
                    yield bookmark_frame(resource.api_version, resource.kind, self._store.version)
                    continue
            if position == history.end:
                await history.wait(min(until, next_bookmark) - now)


def _frame(change: Change, encoding: Encoding, wanted: Filter, *, headers: bool) -> bytes:
    """The event that a watcher sees of a change: leaving its selection is a deletion to it. Empty for none."""
    before = wanted.matches(change.previous) if change.previous is not None else False
    after = change.type is not ChangeType.DELETED and wanted.matches(change.entry)
    if not before and not after:
        return b""
    kind = ChangeType.MODIFIED if before and after else ChangeType.ADDED if after else ChangeType.DELETED
    mark = (kind, headers, *encoding.mark)
    if encoding.view.as_ == "Table":
        return watch_frame(kind, encoding.one(change.entry, headers=headers))  # ages differ with the time
    frame = change.frames.get(mark)
    if frame is None:
        frame = change.frames[mark] = watch_frame(kind, encoding.one(change.entry))
    return frame


def _version(text: str) -> int:
    if text == "":
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise StatusFailure(400, "BadRequest", f'Invalid value: "{text[:40]}": resourceVersion is not a number')
    return int(text)


def _token_parts(token: str) -> tuple[str, str]:
    if not token:
        return "", ""
    try:
        name, _, start = base64.urlsafe_b64decode(token[:200].encode()).decode().partition(":")
    except ValueError:
        raise bad_request("continue key is not valid") from None
    if not start.isdigit() or len(start) > 12:
        raise bad_request("continue key is not valid")
    return name, start


def _token_name(token: str) -> str:
    return _token_parts(token)[0]


def _token_start(token: str) -> int:
    return int(_token_parts(token)[1])
