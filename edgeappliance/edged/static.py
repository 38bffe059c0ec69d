"""Static pods: files of a folder, run whatever the cloud says (Kubernetes: "Create static Pods").

They may not refer to config maps, secrets or service accounts, because nobody would bring those to the node. In the
cloud each is shown by a mirror pod.
"""

import asyncio
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgeappliance.edged.pods.environment import references
from edgeappliance.edged.pods.reading import read_pod
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.component import Health, State
from edgeappliance.kernel.errors import InputError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kernel.supervisor import TaskScope
from edgeappliance.kubeapi.times import rfc3339

SOURCE = "kubernetes.io/config.source"
HASH = "kubernetes.io/config.hash"
SEEN = "kubernetes.io/config.seen"
MIRROR = "kubernetes.io/config.mirror"

CHECK = 20.0
"""Seconds between looks at the folder, as the kubelet's fileCheckFrequency."""

MAX_FILE = 1024 * 1024
MAX_FILES = 500
MAX_VALUES = 50_000
"""Values in one file: a few lines of YAML with aliases can stand for billions."""
MAX_DEPTH = 64

_SUFFIXES = (".yaml", ".yml", ".json")
_TIMESTAMP = "tag:yaml.org,2002:timestamp"

Pair = tuple[dict[str, Any], dict[str, Any]]
"""A static pod and the object that mirrors it."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What the folder showed of one file."""

    inode: int
    modified_ns: int
    size: int


class StaticPods:
    """The pods of a folder. A component.

    A file that cannot be used is named in its health and costs the others nothing.

    owner: the uid of the Node object, which owns the mirrors; "" while it is not known.
    """

    def __init__(
        self,
        scope: TaskScope,
        *,
        directory: Path,
        node: str,
        clock: Clock,
        owner: Callable[[], str] = lambda: "",
        check: float = CHECK,
    ) -> None:
        self._scope = scope
        self._directory = directory
        self._node = node
        self._clock = clock
        self._owner = owner
        self._check = check
        self._looks: dict[str, _Look] = {}
        self._pods: dict[str, dict[str, Any]] = {}
        self._errors: dict[str, str] = {}
        self._listeners: list[Callable[[list[Pair]], None]] = []
        self._running = False
        self._readable = False
        self._told = False
        self._log = get_logger("static")

    def on_change(self, callback: Callable[[list[Pair]], None]) -> None:
        """Call `callback` with every pod and its mirror: once at the start, then when a file came, went or changed."""
        self._listeners.append(callback)

    def pods(self) -> list[Pair]:
        """All static pods of this node."""
        return [(pod, mirror(pod, node=self._node, owner=self._owner())) for pod in self._pods.values()]

    async def start(self) -> None:
        """Read the folder; it may be absent."""
        await self._look()
        self._running = True
        if self._readable:
            self._tell()
        self._scope.spawn(self._watch(), name="watch")

    async def stop(self) -> None:
        self._running = False
        await self._scope.cancel()

    def health(self) -> Health:
        details = {"pods": len(self._pods), "files": [f"{name}: {why}" for name, why in sorted(self._errors.items())]}
        if not self._running:
            return Health(State.STOPPED, details=details)
        if self._errors:
            name, why = min(self._errors.items())
            return Health(State.DEGRADED, f"{name}: {why}", f"correct the file in {self._directory}", details=details)
        return Health(State.RUNNING, details=details)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._check)
            if await self._look() or (self._readable and not self._told):
                self._tell()

    def _tell(self) -> None:
        self._told = True
        pods = self.pods()
        for listener in self._listeners:
            listener(pods)

    async def _look(self) -> bool:
        """Read what is new in the folder; whether a pod came, went or changed."""
        try:
            looks = await asyncio.to_thread(_scan, self._directory)
        except OSError as error:
            # Not readable just now is no reason to end pods that run, nor to say that there are none.
            self._readable = False
            self._note({str(self._directory): error.strerror or str(error)})
            return False
        self._readable = True
        changed = [name for name, look in looks.items() if self._looks.get(name) != look]
        gone = [name for name in self._looks if name not in looks]
        if not changed and not gone:
            return False
        self._looks = looks
        before = dict(self._pods)
        errors = {name: why for name, why in self._errors.items() if name in looks and name not in changed}
        for name in gone:
            self._pods.pop(name, None)
        for name in sorted(changed):
            try:
                self._pods[name] = await asyncio.to_thread(self._read, name)
            except InputError as error:
                # Perhaps an editor has not written all of it: a pod that runs goes on.
                errors[name] = error.message
        errors |= self._namesakes()
        self._note(errors)
        return self._pods != before

    def _read(self, name: str) -> dict[str, Any]:
        document = read_document(_bytes(self._directory / name))
        known = self._pods.get(name)
        pod = static_pod(document, node=self._node, file=name, seen_ms=self._clock.wall_ms())
        if known is not None and known["metadata"]["uid"] == pod["metadata"]["uid"]:
            return known
        return pod

    def _namesakes(self) -> dict[str, str]:
        """Of several files with one pod's name the first counts."""
        taken: dict[tuple[str, str], str] = {}
        errors = {}
        for name in sorted(self._pods):
            metadata = self._pods[name]["metadata"]
            key = (metadata["namespace"], metadata["name"])
            first = taken.setdefault(key, name)
            if first != name:
                errors[name] = f"metadata.name: {'/'.join(key)} stands in {first} already"
                self._looks.pop(name)  # read again at the next look: the other may be gone by then
        for name in errors:
            del self._pods[name]
        return errors

    def _note(self, errors: dict[str, str]) -> None:
        for name, why in errors.items():
            if self._errors.get(name) != why:
                self._log.warning("static pod not usable", file=name, reason=why)
        self._errors = errors


def _scan(directory: Path) -> dict[str, _Look]:
    """The files of the folder. Blocking."""
    looks: dict[str, _Look] = {}
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.name.endswith(_SUFFIXES):
                    continue
                try:
                    status = entry.stat()
                except OSError:
                    continue  # removed while we looked, or a link to nothing
                if stat.S_ISREG(status.st_mode) and len(looks) < MAX_FILES:
                    looks[entry.name] = _Look(status.st_ino, status.st_mtime_ns, status.st_size)
    except FileNotFoundError:
        return {}
    return looks


def _bytes(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", field="") from None
    if len(data) > MAX_FILE:
        raise InputError(f"is larger than {MAX_FILE} bytes", field="")
    return data


def read_document(data: bytes) -> dict[str, Any]:
    """The one object of a YAML or JSON file, as JSON would have it. Raises InputError. Pure."""
    if data.lstrip()[:1] == b"{":
        try:
            value = msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            value = _yaml(data)  # `{a: b}` is YAML as well
    else:
        value = _yaml(data)
    budget = [MAX_VALUES]
    plain = _plain(value, "", 0, budget)
    if not isinstance(plain, dict):
        raise InputError("must be an object", field="")
    return plain


def _yaml(data: bytes) -> Any:
    import yaml  # only on nodes that have such a file

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the base is chosen at run time
        """Times stay texts, as they are in JSON."""

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for first, resolvers in Loader.yaml_implicit_resolvers.items()
    }
    try:
        _check_depth(yaml.parse(data, Loader=Loader))
        documents = [value for value in yaml.load_all(data, Loader=Loader) if value is not None]
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error)
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise InputError(f"is not YAML: {problem}{where}", field="") from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"is not YAML: {error}", field="") from None
    if len(documents) != 1:
        raise InputError(f"must hold one object, not {len(documents)}", field="")
    return documents[0]


def _check_depth(events: Iterable[Any]) -> None:
    """libyaml's loader calls itself for each level and takes the process along when the stack ends."""
    depth = 0
    for count, event in enumerate(events):
        name = type(event).__name__
        if name in ("SequenceStartEvent", "MappingStartEvent"):
            depth += 1
        elif name in ("SequenceEndEvent", "MappingEndEvent"):
            depth -= 1
        if depth > MAX_DEPTH:
            raise InputError(f"is nested deeper than {MAX_DEPTH}", field="")
        if count > 4 * MAX_VALUES:
            raise InputError(f"has more than {MAX_VALUES} values", field="")


def _plain(value: Any, field: str, depth: int, budget: list[int]) -> Any:
    budget[0] -= 1
    if budget[0] < 0:
        raise InputError(f"has more than {MAX_VALUES} values", field="")
    if depth > MAX_DEPTH:
        raise InputError(f"is nested deeper than {MAX_DEPTH}", field=field[:200])
    if isinstance(value, dict):
        found = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise InputError(f"the key {key!r} must be a text: put it in quotes", field=field)
            found[key] = _plain(item, f"{field}.{key}" if field else key, depth + 1, budget)
        return found
    if isinstance(value, list):
        return [_plain(item, f"{field}[{index}]", depth + 1, budget) for index, item in enumerate(value)]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise InputError(f"a {type(value).__name__} has no place in a pod", field=field)


def static_pod(document: Mapping[str, Any], *, node: str, file: str, seen_ms: int) -> dict[str, Any]:
    """The pod that a file describes, complete as from the API. Raises InputError that names the field. Pure."""
    version, kind = document.get("apiVersion"), document.get("kind")
    if (version, kind) != ("v1", "Pod"):
        raise InputError(f"must be apiVersion v1, kind Pod, not {version} {kind}", field="kind")
    given, spec = document.get("metadata"), document.get("spec")
    if not isinstance(given, dict):
        raise InputError("must be an object", field="metadata")
    if not isinstance(spec, dict):
        raise InputError("must be an object", field="spec")
    name = given.get("name")
    if not isinstance(name, str) or not name:
        raise InputError("is required", field="metadata.name")
    encoded = msgspec.json.encode({"metadata": given, "spec": spec}, order="deterministic")
    uid = hashlib.sha256(b"\0".join((node.encode(), file.encode("utf-8", "surrogateescape"), encoded))).hexdigest()[:32]
    annotations = {
        **_texts(given.get("annotations"), "metadata.annotations"),
        HASH: uid,
        SEEN: rfc3339(seen_ms),
        SOURCE: "file",
    }
    annotations.pop(MIRROR, None)
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-{_as_name(node)}",
            "namespace": given.get("namespace") or "default",
            "uid": uid,
            "labels": _texts(given.get("labels"), "metadata.labels"),
            "annotations": annotations,
        },
        "spec": {**spec, "nodeName": node, "tolerations": _tolerations(spec.get("tolerations"))},
        "status": {"phase": "Pending"},
    }
    _check(pod)
    return pod


def _check(pod: dict[str, Any]) -> None:
    read = read_pod(pod)
    for reference in sorted(references(read), key=lambda item: (item.kind, item.name)):
        raise InputError(f"a static pod may not refer to {reference.kind}s ({reference.name})", field="spec")
    if read.spec.service_account_name:
        raise InputError("a static pod may not refer to service accounts", field="spec.serviceAccountName")
    for index, volume in enumerate(read.spec.volumes):
        sources = volume.projected.sources if volume.projected is not None else ()
        if any(source.service_account_token is not None for source in sources):
            raise InputError("a static pod may not refer to service accounts", field=f"spec.volumes[{index}].projected")


def _texts(value: Any, field: str) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError("must be an object", field=field)
    for key, text in value.items():
        if not isinstance(text, str):
            raise InputError("must be a text: put it in quotes", field=f"{field}.{key}")
    return dict(value)


def _tolerations(given: Any) -> list[Any]:
    """With the one that every static pod has: no taint drives it away."""
    own = {"operator": "Exists", "effect": "NoExecute"}
    found = list(given) if isinstance(given, list) else []
    return found if own in found else [*found, own]


def _as_name(node: str) -> str:
    return re.sub(r"[^a-z0-9.-]", "-", node.lower())


def mirror(pod: Mapping[str, Any], *, node: str, owner: str = "") -> dict[str, Any]:
    """The object that shows a static pod in the cloud. owner: uid of the Node object, "" when unknown. Pure."""
    metadata = {key: value for key, value in pod["metadata"].items() if key != "uid"}
    metadata["annotations"] = {**metadata["annotations"], MIRROR: metadata["annotations"][HASH]}
    if owner:
        reference = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": owner, "controller": True}
        metadata["ownerReferences"] = [reference]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}
