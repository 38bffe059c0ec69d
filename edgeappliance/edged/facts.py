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

PIDS_LOW = 0.10
"""PIDPressure: less than a tenth of the kernel's process numbers free."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Below what the machine is under pressure; the defaults are a kubelet's.

    memory: KiB available. disk, inodes: free fraction of the file system.
    """

    memory_kib: int = 100 * 1024
    disk: float = 0.10
    inodes: float = 0.05


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

    def allocatable(self, *, pods: int, limits: Limits) -> dict[str, str]:
        """node.status.allocatable: less the eviction limits, as kubelet does."""
        return {
            "cpu": str(self.cpus),
            "ephemeral-storage": str(int(self.disk_kib * 1024 * (1 - limits.disk))),
            "memory": f"{max(0, self.memory_kib - limits.memory_kib)}Ki",
            "pods": str(pods),
        }

    def node_info(self, version: str, *, runtime: str = "none://") -> dict[str, str]:
        """node.status.nodeInfo; `version` is this program's, `runtime` the engine's (`docker://20.10.24`)."""
        return {
            "machineID": self.machine_id,
            "systemUUID": self.system_uuid,
            "bootID": self.boot_id,
            "kernelVersion": self.kernel,
            "osImage": self.os_image,
            "containerRuntimeVersion": runtime,
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
    pids: bool = False


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


def read_pressure(data_directory: Path, *, limits: Limits, root: Path = Path("/")) -> Pressure:
    """How memory, disk and process numbers are now."""
    available = _meminfo(root).get("MemAvailable", limits.memory_kib)
    disk = os.statvfs(data_directory)
    inodes_low = disk.f_files > 0 and disk.f_favail < disk.f_files * limits.inodes  # some file systems count none
    return Pressure(
        memory=available < limits.memory_kib,
        disk=disk.f_bavail < disk.f_blocks * limits.disk or inodes_low,
        pids=_pids_low(root),
    )


def _pids_low(root: Path) -> bool:
    """Whether process numbers run out. `/proc/loadavg` names the tasks that exist behind the slash of its 4th word."""
    most = min(_number(root / "proc/sys/kernel/pid_max"), _number(root / "proc/sys/kernel/threads-max"))
    words = _text(root / "proc/loadavg").split()
    tasks = words[3].partition("/")[2] if len(words) > 3 else ""
    return most > 0 and tasks.isdecimal() and most - int(tasks) < most * PIDS_LOW


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdecimal() else 0


def conditions(pressure: Pressure, *, trouble: str = "") -> Mapping[str, Mapping[str, Any]]:
    """node.status.conditions by type, without times, in the words of kubelet and edged.

    trouble: why no pod can run here, "" when they can.
    """
    ready = {"status": "True", "reason": "EdgeReady", "message": "edge is posting ready status"}
    if trouble:
        ready = {"status": "False", "reason": "KubeletNotReady", "message": trouble}
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
        "PIDPressure": _condition(
            pressure.pids,
            bad=("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            good=("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ),
        "Ready": ready,
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
