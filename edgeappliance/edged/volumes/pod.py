"""The volumes of all pods of this node: made before a pod's containers, kept up to date, removed after them."""

import asyncio
import os
import posixpath
import re
import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgeappliance.edged.engine.create import Mount
from edgeappliance.edged.pods.environment import Facts
from edgeappliance.edged.pods.resources import to_bytes
from edgeappliance.edged.pods.spec import Container, EmptyDir, Pod, Volume, VolumeMount
from edgeappliance.edged.volumes import files
from edgeappliance.edged.volumes.atomic import is_filled, write_all
from edgeappliance.edged.volumes.beneath import Escape
from edgeappliance.edged.volumes.contents import Contents, Objects, Tokens
from edgeappliance.edged.volumes.errors import CONFIG_ERROR, VolumeError, set_up_failed
from edgeappliance.edged.volumes.hostpath import HostPathError, HostSource, host_source
from edgeappliance.edged.volumes.hosts import host_network_file, hosts_file
from edgeappliance.edged.volumes.patience import NoAnswer, Patience
from edgeappliance.edged.volumes.payload import PayloadError, with_group
from edgeappliance.edged.volumes.subpath import Resolved, resolve, resolve_in_memory, sub_path
from edgeappliance.edged.volumes.tree import Usage, measure, remove_tree
from edgeappliance.edged.volumes.verify import MountLine, Place, container_mounts, mounted_at
from edgeappliance.kernel.errors import InputError
from edgeappliance.kernel.log import get_logger
from edgeappliance.kubeapi.names import label_error

ETC_HOSTS = "/etc/hosts"

_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_PROPAGATION = {"HostToContainer": "rslave", "Bidirectional": "rshared"}
"""None is the engine's default: private, but not for paths that hold its own directory, where it refuses that."""


class VolumeEngine(Protocol):
    """What this needs of the engine."""

    async def create_volume(self, name: str, *, size: int | None, group: int | None = None) -> None: ...

    async def remove_volume(self, name: str) -> None: ...

    async def volumes(self) -> list[tuple[str, Mapping[str, str]]]: ...

    async def root(self) -> Path: ...


@dataclass(frozen=True, slots=True)
class _Expected:
    """What a container must see at `target`."""

    target: str
    resolved: Resolved


class PodVolumes:
    """Everything below `<state>/pods/<uid>/`, and the engine's volumes for emptyDir in memory.

    Calls for one pod exclude each other. Raises VolumeError with the kubelet's reason and words.
    """

    def __init__(
        self,
        state: Path,
        *,
        engine: VolumeEngine,
        objects: Objects,
        tokens: Tokens,
        cluster_domain: str,
        patience: Patience | None = None,
    ) -> None:
        self._pods = state / "pods"
        self._engine = engine
        self._contents = Contents(objects=objects, tokens=tokens)
        self._tokens = tokens
        self._cluster_domain = cluster_domain
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._patience = patience or Patience()
        self._log = get_logger("edged")
        self._expected: dict[tuple[str, str], tuple[_Expected, ...]] = {}

    # -- before the sandbox -------------------------------------------------------------------------------

    async def prepare(self, pod: Pod, facts: Facts) -> None:
        """Make every volume of the pod, or bring it up to date; call it before the sandbox and each container."""
        async with self._lock(pod.uid):
            volumes = self._directory(pod.uid) / "volumes"
            try:
                await asyncio.to_thread(files.make_private, volumes)
            except OSError as error:
                raise VolumeError(_words(error, volumes)) from None
            # All at once: on a silent link each object that is not here costs its time-out.
            outcomes = await asyncio.gather(
                *(self._prepare_one(pod, volume, volumes, facts) for volume in pod.spec.volumes),
                return_exceptions=True,
            )
            for outcome in outcomes:
                if outcome is not None:
                    raise outcome

    async def _prepare_one(self, pod: Pod, volume: Volume, volumes: Path, facts: Facts) -> None:
        if label_error(volume.name):
            raise set_up_failed(volume.name, f"name: {label_error(volume.name)}")
        path = volumes / volume.name
        try:
            if volume.empty_dir is not None:
                await self._make_empty_dir(pod, volume.name, volume.empty_dir, path)
            elif volume.host_path is not None:
                await self._source(pod, volume)
            elif not await asyncio.to_thread(is_filled, path):
                await self._write(pod, volume, path, facts)
            else:
                await self._write_again(pod, volume, path, facts)
        except (HostPathError, PayloadError, InputError) as error:
            raise set_up_failed(volume.name, str(error)) from None
        except OSError as error:
            raise set_up_failed(volume.name, _words(error, path)) from None

    async def _make_empty_dir(self, pod: Pod, name: str, spec: EmptyDir, path: Path) -> None:
        if spec.medium == "":
            await asyncio.to_thread(files.make_shared, path, group=pod.spec.security_context.fs_group)
        elif spec.medium == "Memory":
            size = None if spec.size_limit is None else to_bytes(spec.size_limit, field="sizeLimit")
            await self._engine.create_volume(
                memory_volume(pod.uid, name), size=size, group=pod.spec.security_context.fs_group
            )
        else:
            raise set_up_failed(name, f'unknown storage medium "{spec.medium}"')

    # -- config maps, secrets -----------------------------------------------------------------------------

    async def refresh(self, pod: Pod, facts: Facts) -> bool:
        """Bring what is made of config maps, secrets and the pod itself up to date; running containers see it.

        Returns whether a file changed. What cannot be made any more stays as it was, and VolumeError says why.
        """
        async with self._lock(pod.uid):
            volumes = self._directory(pod.uid) / "volumes"
            changed, failed = False, None
            for volume in pod.spec.volumes:
                path = volumes / volume.name
                if not is_written(volume) or not await asyncio.to_thread(is_filled, path):
                    continue
                try:
                    changed |= await self._write(pod, volume, path, facts)
                except PayloadError as error:
                    failed = set_up_failed(volume.name, str(error))
                except OSError as error:
                    failed = set_up_failed(volume.name, _words(error, path))
            if failed is not None:
                raise failed
            return changed

    async def _write_again(self, pod: Pod, volume: Volume, path: Path, facts: Facts) -> None:
        """A volume that is there serves the next container as it is when it cannot be made anew."""
        try:
            await self._write(pod, volume, path, facts)
        except (PayloadError, OSError) as error:
            self._log.warning("volume keeps its former files", pod=pod.key, volume=volume.name, reason=str(error))

    async def _write(self, pod: Pod, volume: Volume, path: Path, facts: Facts) -> bool:
        payload = await self._contents.files(pod, volume, facts)
        group = pod.spec.security_context.fs_group
        if group is not None:
            payload = with_group(payload)
        return await asyncio.to_thread(write_all, path, payload, group=group)

    # -- before a container -------------------------------------------------------------------------------

    def sandbox_mounts(self, pod: Pod) -> list[Mount]:
        """For the sandbox: volumes in memory live as long as a running container has them."""
        return [
            Mount(memory_volume(pod.uid, volume.name), sandbox_target(volume.name), volume=True)
            for volume in pod.spec.volumes
            if _in_memory(volume)
        ]

    async def mounts(
        self,
        pod: Pod,
        container: Container,
        *,
        env: Sequence[str],
        facts: Facts,
        attempt: int,
        sandbox_pid: int = 0,
    ) -> list[Mount]:
        """What the container is to see: its volumes, /etc/hosts and the file for its termination message.

        env: of the container, `K=V`, for subPathExpr. sandbox_pid: of the pod's sandbox, through which paths in
        memory volumes are seen. Call it for every attempt, after `prepare`.
        """
        async with self._lock(pod.uid):
            directory = self._directory(pod.uid)
            volumes = {volume.name: volume for volume in pod.spec.volumes}
            found: list[Mount] = []
            expected: list[_Expected] = []
            for mount in container.volume_mounts:
                volume = volumes.get(mount.name)
                if volume is None:
                    raise VolumeError(
                        f'cannot find volume "{mount.name}" to mount into container "{container.name}"',
                        reason=CONFIG_ERROR,
                    )
                way = sub_path(mount, env)
                if not way:
                    found.append(await self._whole(pod, volume, mount))
                    continue
                one, resolved = await self._part(pod, container, volume, mount, way, sandbox_pid)
                found.append(one)
                if not is_written(volume):
                    expected.append(_Expected(one.target, resolved))
            try:
                found += await self._files(pod, container, {mount.target for mount in found}, facts, attempt)
            except OSError as error:
                raise VolumeError(_words(error, directory), reason=CONFIG_ERROR) from None
            self._expected[pod.uid, container.name] = tuple(expected)
            return found

    async def _files(
        self, pod: Pod, container: Container, taken: Collection[str], facts: Facts, attempt: int
    ) -> list[Mount]:
        """What a container sees beside its volumes."""
        found = []
        if ETC_HOSTS not in map(posixpath.normpath, taken) and (facts.pod_ip or pod.spec.host_network):
            path = self._directory(pod.uid) / "etc-hosts"
            await asyncio.to_thread(self._write_hosts, pod, path, facts)
            found.append(Mount(str(path), ETC_HOSTS))
        if container.termination_message_path:
            path = self._termination_file(pod.uid, container.name, attempt)
            await asyncio.to_thread(files.make_message_file, path, attempt)
            found.append(Mount(str(path), _absolute(container.termination_message_path)))
        return found

    async def _whole(self, pod: Pod, volume: Volume, mount: VolumeMount) -> Mount:
        target = _absolute(mount.mount_path)
        read_only = mount.read_only or is_written(volume)
        if _in_memory(volume):
            return Mount(memory_volume(pod.uid, volume.name), target, read_only, volume=True)
        source = await self._source(pod, volume)
        propagation = _PROPAGATION.get(mount.mount_propagation, "")
        return Mount(source.path, target, read_only, propagation, device=source.device, create=source.create)

    async def _part(
        self, pod: Pod, container: Container, volume: Volume, mount: VolumeMount, way: str, sandbox_pid: int
    ) -> tuple[Mount, Resolved]:
        """A path below a volume, made where containers may make it themselves."""
        propagation = _PROPAGATION.get(mount.mount_propagation, "")
        make = not is_written(volume)
        try:
            if _in_memory(volume):
                if not sandbox_pid:
                    raise Escape("the pod's sandbox does not run")
                propagation = "rslave"  # the engine refuses anything else below its own directory
                inner = await self._engine.root() / "volumes" / memory_volume(pod.uid, volume.name) / "_data"
                seen = sandbox_target(volume.name)
                resolved = await asyncio.to_thread(resolve_in_memory, sandbox_pid, seen, way, engine=inner, make=make)
            else:
                source = await self._source(pod, volume)
                resolved = await self._patience.look(source.path, lambda: _resolve(source, way, make))
        except (Escape, NoAnswer, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise VolumeError(
                f'failed to prepare subPath for volumeMount "{mount.name}" of container "{container.name}": '
                f"{way}: {why}",
                reason=CONFIG_ERROR,
            ) from None
        read_only = mount.read_only or is_written(volume)
        return Mount(resolved.path, _absolute(mount.mount_path), read_only, propagation), resolved

    async def _source(self, pod: Pod, volume: Volume) -> HostSource:
        if volume.host_path is None:
            return HostSource(str(self._directory(pod.uid) / "volumes" / volume.name))
        wanted = volume.host_path
        try:
            return await self._patience.look(wanted.path, lambda: host_source(wanted))
        except (HostPathError, NoAnswer) as error:
            raise set_up_failed(volume.name, str(error)) from None

    def _write_hosts(self, pod: Pod, path: Path, facts: Facts) -> None:
        if pod.spec.host_network:
            text = host_network_file(pod, host=files.read_text(Path(ETC_HOSTS), limit=1 << 20))
        else:
            text = hosts_file(pod, ip=facts.pod_ip, cluster_domain=self._cluster_domain)
        files.write_in_place(path, text.encode("utf-8", "replace"))

    # -- after a container has started, and has ended -----------------------------------------------------

    async def verify(self, pod: Pod, container: str, pid: int) -> None:
        """Compare what the process sees with what was meant for it. VolumeError: it must be killed at once."""
        expected = self._expected.get((pod.uid, container), ())
        if not expected:
            return
        lines = await asyncio.to_thread(container_mounts, pid)
        if lines is None:
            return  # it has ended already
        for item in expected:
            if not _is_seen(item, lines):
                raise VolumeError(
                    f'container "{container}" sees another path than its volume at {item.target}: '
                    "a directory of the volume was exchanged while it started",
                    reason="RunContainerError",
                )

    async def termination_message(self, uid: str, container: str, attempt: int, *, limit: int = 4096) -> str:
        """What the container wrote as its last words, at most `limit` bytes; "" when nothing."""
        path = self._termination_file(uid, container, attempt)
        return await asyncio.to_thread(files.read_text, path, limit=limit)

    # -- the whole pod ------------------------------------------------------------------------------------

    async def usage(self, uid: str) -> dict[str, Usage]:
        """What the pod's volumes take on the disk of this node, by name."""
        return await asyncio.to_thread(_measured, self._directory(uid) / "volumes")

    def due(self, now: float) -> set[str]:
        """Uids of pods with a token to be renewed, or tried for again: refresh them. `now` in monotonic seconds."""
        return self._tokens.due(now)

    async def known(self) -> set[str]:
        """Uids of all pods that have a directory here."""
        names = await asyncio.to_thread(_names, self._pods)
        return {name for name in names if _UID.fullmatch(name)}

    async def remove(self, uid: str) -> None:
        """Remove everything of a pod whose containers are gone. Idempotent."""
        async with self._lock(uid):
            directory = self._directory(uid)
            for key in [key for key in self._expected if key[0] == uid]:
                del self._expected[key]
            await self._tokens.forget(uid)
            prefix = memory_volume(uid, "")
            for name, _ in await self._engine.volumes():
                if name.startswith(prefix):
                    await self._engine.remove_volume(name)
            try:
                await asyncio.to_thread(remove_tree, directory)
            except OSError as error:
                raise VolumeError(_words(error, directory)) from None

    def _lock(self, uid: str) -> asyncio.Lock:
        return self._locks.setdefault(uid, asyncio.Lock())

    def _directory(self, uid: str) -> Path:
        if not _UID.fullmatch(uid):
            raise VolumeError(f"metadata.uid: {uid!r} is no name of a directory")
        return self._pods / uid

    def _termination_file(self, uid: str, container: str, attempt: int) -> Path:
        if label_error(container):
            raise VolumeError(f"container name {container!r}: {label_error(container)}", reason=CONFIG_ERROR)
        return self._directory(uid) / "containers" / container / str(attempt)


def _words(error: OSError, path: Path) -> str:
    return f"{error.filename or path}: {error.strerror}"


def memory_volume(uid: str, name: str) -> str:
    """The engine's volume for an emptyDir with medium Memory. Neither part may hold a dot."""
    return f"edgeappliance.{uid}.{name}"


def sandbox_target(name: str) -> str:
    """Where a sandbox has a memory volume."""
    return f"/volumes/{name}"


def is_written(volume: Volume) -> bool:
    """Whether we write its files: those are read-only to containers, whatever the mount says."""
    return volume.empty_dir is None and volume.host_path is None


def _in_memory(volume: Volume) -> bool:
    return volume.empty_dir is not None and volume.empty_dir.medium == "Memory"


def _absolute(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


def _resolve(source: HostSource, below: str, make: bool) -> Resolved:
    if source.create:
        os.makedirs(source.path, mode=0o755, exist_ok=True)
    return resolve(Path(source.path), below, make=make)


def _is_seen(item: _Expected, lines: Sequence[MountLine]) -> bool:
    resolved = item.resolved
    seen = mounted_at(lines, item.target)
    if seen is None:
        # The image has a link in the way to the target (/var/run): then the mount has another name.
        return any(Place(line.device, line.root) == resolved.place for line in lines)
    return resolved.volume.holds(seen) or seen == resolved.place


def _measured(volumes: Path) -> dict[str, Usage]:
    return {name: measure(volumes / name) for name in sorted(_names(volumes))}


def _names(directory: Path) -> set[str]:
    try:
        return set(os.listdir(directory))
    except FileNotFoundError:
        return set()
