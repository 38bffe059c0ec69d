"""What the machine is and how it is, read from /proc and /sys (what kubelet puts into node.status)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KUBERNETES = "v1.32.10"
KUBEEDGE = "v1.23.0"
"""The releases whose interfaces this edge speaks: its version is reported in KubeEdge's form (reference 1)."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm"}

MEMORY_LOW_KIB = 100 * 1024
"""Kubelet's default for MemoryPressure: less than 100 MiB available."""

DISK_LOW = 0.10
"""Kubelet's default for DiskPressure: less than a tenth of the file system free."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What does not change while the process runs."""

    cpus: int
    memory_kib: int
    disk_kib: int
    architecture: str
    kernel: str
    os_image: str
    machine_id: str
    system_uuid: str
    boot_id: str

    def capacity(self, *, pods: int) -> dict[str, str]:
        """node.status.capacity."""
        return {
            "cpu": str(self.cpus),
            "ephemeral-storage": f"{self.disk_kib}Ki",
            "memory": f"{self.memory_kib}Ki",
            "pods": str(pods),
        }

    def allocatable(self, *, pods: int) -> dict[str, str]:
        """node.status.allocatable: less the eviction limits, as kubelet does."""
        return {
            "cpu": str(self.cpus),
            "ephemeral-storage": str(int(self.disk_kib * 1024 * (1 - DISK_LOW))),
            "memory": f"{max(0, self.memory_kib - MEMORY_LOW_KIB)}Ki",
            "pods": str(pods),
        }

    def node_info(self, version: str) -> dict[str, str]:
        """node.status.nodeInfo; `version` is this program's."""
        return {
            "machineID": self.machine_id,
            "systemUUID": self.system_uuid,
            "bootID": self.boot_id,
            "kernelVersion": self.kernel,
            "osImage": self.os_image,
            "containerRuntimeVersion": "none://",
            "kubeletVersion": f"{KUBERNETES}-kubeedge-{KUBEEDGE}-edgeappliance-{version}",
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": self.architecture,
        }

    def labels(self, node: str) -> dict[str, str]:
        """The labels that a KubeEdge node registers with."""
        return {
            "beta.kubernetes.io/arch": self.architecture,
            "beta.kubernetes.io/os": "linux",
            "kubernetes.io/arch": self.architecture,
            "kubernetes.io/hostname": node,
            "kubernetes.io/os": "linux",
            "node-role.kubernetes.io/agent": "",
            "node-role.kubernetes.io/edge": "",
        }


@dataclass(frozen=True, slots=True)
class Pressure:
    """What kubelet's pressure conditions say."""

    memory: bool = False
    disk: bool = False


def read_machine(data_directory: Path, *, root: Path = Path("/")) -> Machine:
    """Facts of this machine; the disk is the one that holds `data_directory`. What cannot be read is empty or 0."""
    machine = os.uname().machine
    disk = os.statvfs(data_directory)
    machine_id = _text(root / "etc/machine-id")
    return Machine(
        cpus=len(os.sched_getaffinity(0)),
        memory_kib=_meminfo(root).get("MemTotal", 0),
        disk_kib=disk.f_blocks * disk.f_frsize // 1024,
        architecture=_ARCHITECTURES.get(machine, machine),
        kernel=os.uname().release,
        os_image=_os_release(root).get("PRETTY_NAME", "Linux"),
        machine_id=machine_id,
        system_uuid=_text(root / "sys/class/dmi/id/product_uuid")
        or _text(root / "proc/device-tree/serial-number")
        or machine_id,
        boot_id=_text(root / "proc/sys/kernel/random/boot_id"),
    )


def read_pressure(data_directory: Path, *, root: Path = Path("/")) -> Pressure:
    """How memory and disk are now."""
    available = _meminfo(root).get("MemAvailable", MEMORY_LOW_KIB)
    disk = os.statvfs(data_directory)
    return Pressure(memory=available < MEMORY_LOW_KIB, disk=disk.f_bavail < disk.f_blocks * DISK_LOW)


def conditions(pressure: Pressure) -> Mapping[str, Mapping[str, Any]]:
    """node.status.conditions by type, without times, in the words of kubelet and edged."""
    return {
        "MemoryPressure": _condition(
            pressure.memory,
            bad=("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            good=("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ),
        "DiskPressure": _condition(
            pressure.disk,
            bad=("KubeletHasDiskPressure", "kubelet has disk pressure"),
            good=("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ),
        "PIDPressure": {
            "status": "False",
            "reason": "KubeletHasSufficientPID",
            "message": "kubelet has sufficient PID available",
        },
        "Ready": {"status": "True", "reason": "EdgeReady", "message": "edge is posting ready status"},
    }


def _condition(on: bool, *, bad: tuple[str, str], good: tuple[str, str]) -> Mapping[str, str]:
    reason, message = bad if on else good
    return {"status": "True" if on else "False", "reason": reason, "message": message}


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip("\x00\n ")
    except OSError:
        return ""  # absent on this board, or only root may read it


def _meminfo(root: Path) -> dict[str, int]:
    found = {}
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[:1]
        if number and number[0].isdecimal():
            found[name] = int(number[0])
    return found


def _os_release(root: Path) -> dict[str, str]:
    found = {}
    for line in _text(root / "etc/os-release").splitlines():
        name, _, value = line.partition("=")
        found[name] = value.strip('"')
    return found
