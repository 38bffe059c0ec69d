"""What the pods and the machine use: measured when somebody asks, never in the background.

The JSON is a kubelet's `/stats/summary` (Kubernetes documentation, "Node metrics data"). A rate of CPU use needs two
looks: the last one serves as the first when it is recent, else there are two in one call.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from edgeappliance.edged.cgroups import Cgroups, Interface, Usage
from edgeappliance.edged.exposition import cadvisor_text, kubelet_text, probes_text, resource_text
from edgeappliance.edged.measured import FileSystem, Look, MeasuredContainer, MeasuredPod, Network
from edgeappliance.edged.pods.observed import Kind, ObservedContainer, ObservedPod
from edgeappliance.edged.pods.spec import Pod
from edgeappliance.edged.probes.runner import Tally
from edgeappliance.kernel.clock import Clock
from edgeappliance.kernel.errors import PermanentError
from edgeappliance.kubeapi.times import rfc3339

SHORT, LONG = 2.0, 60.0
"""Seconds that two looks may be apart for a rate between them."""

LOOK_TWICE = 0.5
"""Seconds between two looks when there was none that serves."""


WALK_EVERY = 60.0
"""Seconds for which the size of a pod's volumes is taken as known: to find it, they are walked through."""


class RunningPod(Protocol):
    """A pod with what is on the engine for it."""

    @property
    def pod(self) -> Pod: ...

    @property
    def containers(self) -> tuple[ObservedContainer, ...]: ...

    @property
    def started_ms(self) -> int: ...


class DiskUse(Protocol):
    """Bytes and inodes of a tree."""

    @property
    def bytes(self) -> int: ...

    @property
    def inodes(self) -> int: ...


Volumes = Callable[[str], Awaitable[Mapping[str, DiskUse]]]
"""What the volumes of a pod, by its UID, take on disk: walks through them."""


class UnknownSeries(PermanentError):
    """A page of metrics that there is none of."""


def file_system(path: Path) -> FileSystem:
    """Of the file system that holds `path`; zeros when it cannot be told."""
    try:
        found = os.statvfs(path)
    except OSError:
        return FileSystem()
    size = found.f_frsize
    return FileSystem(found.f_blocks * size, found.f_bavail * size, found.f_files, found.f_favail)


class Stats:
    """Measures on demand. Also what the kubelet API asks for under /stats and /metrics.

    image_directory: where the engine keeps its images, once that is known.
    tally: the tries of all probes.
    """

    def __init__(
        self,
        *,
        node: str,
        cgroups: Cgroups,
        clock: Clock,
        data_directory: Path,
        image_directory: Callable[[], Path | None],
        pods: Callable[[], Iterable[RunningPod]],
        tally: Callable[[], Tally],
        volumes: Volumes | None = None,
    ) -> None:
        self._node = node
        self._cgroups = cgroups
        self._clock = clock
        self._directory = data_directory
        self._image_directory = image_directory
        self._pods = pods
        self._tally = tally
        self._volumes = volumes
        self._last: Look | None = None
        self._walked: dict[str, tuple[float, Mapping[str, DiskUse]]] = {}
        self._looking = asyncio.Lock()

    async def look(self) -> Look:
        """Measure once; rates are against the look before, when that was recent."""
        pods = [(item.pod, item.started_ms, ObservedPod(item.pod.uid, item.containers)) for item in self._pods()]
        images = self._image_directory()
        look = await asyncio.to_thread(self._measure, pods, images)
        if self._last is None or look.at - self._last.at >= SHORT:
            last, self._last = self._last, look
        else:
            last = self._last
        if last is None or not 0 < look.at - last.at <= LONG:
            return look
        return _with_rates(look, last)

    async def look_twice(self) -> Look:
        """As `look`, and certain to have rates: waits half a second when no recent look serves."""
        async with self._looking:
            first = await self.look()
            if first.rates:
                return first
            await asyncio.sleep(LOOK_TWICE)
            second = await self.look()
            return second if second.rates else _with_rates(second, first)

    async def summary(self) -> dict[str, Any]:
        """The document of /stats/summary."""
        look = await self.look_twice()
        self._walked = {uid: walk for uid, walk in self._walked.items() if look.at - walk[0] < WALK_EVERY}
        pods = [await self._pod(item, look) for item in look.pods]
        return {"node": self._node_part(look), "pods": pods}

    async def exposition(self, kind: str) -> bytes:
        """Prometheus text: "resource", "cadvisor", "probes", or "" for the kubelet's own. Raises UnknownSeries."""
        if kind == "probes":
            return probes_text(self._tally()).encode()
        if kind not in ("", "resource", "cadvisor"):
            raise UnknownSeries(f"no metrics named {kind!r}")
        look = await self.look()
        if kind == "resource":
            return resource_text(look).encode()
        return (cadvisor_text(look) if kind else kubelet_text(look, self._node)).encode()

    def _measure(self, pods: Sequence[tuple[Pod, int, ObservedPod]], images: Path | None) -> Look:
        groups = self._cgroups
        node_fs = file_system(self._directory)
        return Look(
            at=self._clock.monotonic(),
            wall_ms=self._clock.wall_ms(),
            boot_ms=groups.boot_ms(),
            machine=groups.machine(),
            available_memory=groups.available_memory(),
            node_fs=node_fs,
            image_fs=file_system(images) if images is not None else node_fs,
            network=self._network(os.getpid()),
            pods=tuple(self._measure_pod(*pod) for pod in pods),
        )

    def _measure_pod(self, pod: Pod, started_ms: int, seen: ObservedPod) -> MeasuredPod:
        measured = [found for item in seen.running if (found := self._measure_container(item)) is not None]
        sandbox = next((item for item in measured if item.container.kind is Kind.SANDBOX), None)
        network = None
        if sandbox is not None and not pod.spec.host_network:
            network = self._network(sandbox.container.pid)
        containers = tuple(item for item in measured if item.container.kind is not Kind.SANDBOX)
        return MeasuredPod(pod, started_ms, containers, sandbox, network)

    def _measure_container(self, container: ObservedContainer) -> MeasuredContainer | None:
        usage = self._cgroups.usage(container.pid)
        if usage is None:
            return None
        return MeasuredContainer(container, usage, self._cgroups.group(container.pid))

    def _network(self, pid: int) -> Network:
        interfaces = tuple(self._cgroups.interfaces(pid))
        return Network(self._cgroups.default_interface(pid), interfaces)

    def _node_part(self, look: Look) -> dict[str, Any]:
        time = rfc3339(look.wall_ms)
        memory = {**_memory(look.machine, time), "availableBytes": look.available_memory}
        return {
            "nodeName": self._node,
            "startTime": rfc3339(look.boot_ms),
            "cpu": _cpu(look.machine, look.rates.get(""), time),
            "memory": memory,
            "network": _network_part(look.network, time),
            "fs": _fs(look.node_fs, time),
            "runtime": {"imageFs": _fs(look.image_fs, time)},
            "rlimit": {"time": time, "curproc": look.machine.pids},
        }

    async def _pod(self, measured: MeasuredPod, look: Look) -> dict[str, Any]:
        time = rfc3339(look.wall_ms)
        metadata = measured.pod.metadata
        part: dict[str, Any] = {
            "podRef": {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid},
            "startTime": rfc3339(measured.started_ms),
            "containers": [
                {
                    "name": item.container.name,
                    "startTime": rfc3339(item.container.started_ms),
                    "cpu": _cpu(item.usage, look.rates.get(item.container.id), time),
                    "memory": _memory(item.usage, time),
                }
                for item in measured.containers
            ],
            "cpu": _cpu(measured.usage, look.rates.get(metadata.uid), time),
            "memory": _memory(measured.usage, time),
            "process_stats": {"process_count": measured.usage.pids},
        }
        if measured.network is not None:
            part["network"] = _network_part(measured.network, time)
        if self._volumes is not None and any(volume.empty_dir is not None for volume in measured.pod.spec.volumes):
            if metadata.uid not in self._walked:
                self._walked[metadata.uid] = (look.at, await self._volumes(metadata.uid))
            used = self._walked[metadata.uid][1]
            part["volume"] = [
                {**_fs(look.node_fs, time), "usedBytes": use.bytes, "inodesUsed": use.inodes, "name": name}
                for name, use in used.items()
            ]
        return part


def _with_rates(look: Look, before: Look) -> Look:
    elapsed = look.at - before.at
    counters, old = _counters(look), _counters(before)
    rates = {
        key: max(0, round((value - old[key]) / elapsed)) for key, value in counters.items() if key in old and elapsed
    }
    return replace(look, rates=rates)


def _counters(look: Look) -> dict[str, int]:
    counters = {"": look.machine.cpu_ns}
    for pod in look.pods:
        counters[pod.pod.uid] = pod.usage.cpu_ns
        counters.update({item.container.id: item.usage.cpu_ns for item in pod.containers})
    return counters


def _cpu(usage: Usage, rate: int | None, time: str) -> dict[str, Any]:
    part: dict[str, Any] = {"time": time, "usageCoreNanoSeconds": usage.cpu_ns}
    if rate is not None:
        part["usageNanoCores"] = rate
    return part


def _memory(usage: Usage, time: str) -> dict[str, Any]:
    return {
        "time": time,
        "usageBytes": usage.memory,
        "workingSetBytes": usage.working_set,
        "rssBytes": usage.rss,
        "pageFaults": usage.page_faults,
        "majorPageFaults": usage.major_page_faults,
    }


def _fs(found: FileSystem, time: str) -> dict[str, Any]:
    return {
        "time": time,
        "availableBytes": found.available,
        "capacityBytes": found.capacity,
        "usedBytes": found.capacity - found.available,
        "inodesFree": found.inodes_free,
        "inodes": found.inodes,
        "inodesUsed": found.inodes - found.inodes_free,
    }


def _network_part(network: Network, time: str) -> dict[str, Any]:
    listed = [_interface(interface) for interface in network.interfaces]
    default = next((item for item in listed if item["name"] == network.default), listed[0] if listed else {})
    return {"time": time, **default, "interfaces": listed}


def _interface(interface: Interface) -> dict[str, Any]:
    return {
        "name": interface.name,
        "rxBytes": interface.rx_bytes,
        "rxErrors": interface.rx_errors,
        "txBytes": interface.tx_bytes,
        "txErrors": interface.tx_errors,
    }
