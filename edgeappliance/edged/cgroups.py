"""What processes use, from the kernel's own files: control groups v1, v2 and both at once, /proc.

(Kernel documentation: admin-guide/cgroup-v1/memory.rst, cpuacct.rst, admin-guide/cgroup-v2.rst.) Blocking, some tens of
microseconds a container: meant for a thread. What cannot be read is None: a container may end at any moment.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one container or of the machine. Memory in bytes, cpu_ns since the start.

    working_set: what is used less the file cache that can be dropped at once: a kubelet evicts by it.
    """

    cpu_ns: int = 0
    memory: int = 0
    working_set: int = 0
    rss: int = 0
    page_faults: int = 0
    major_page_faults: int = 0
    pids: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(self)))


@dataclass(frozen=True, slots=True)
class Interface:
    """Counters of one network interface since it is there."""

    name: str
    rx_bytes: int
    rx_errors: int
    tx_bytes: int
    tx_errors: int


@dataclass(frozen=True, slots=True)
class _Mount:
    root: str
    path: Path

    def folder(self, group: str) -> Path:
        """Where a group's files are; groups above the root of the mount are not visible."""
        if self.root != "/" and (group == self.root or group.startswith(f"{self.root}/")):
            group = group[len(self.root) :]
        return self.path / group.lstrip("/")


class Cgroups:
    """Reads what containers use. `root` is where /proc is looked for, and everything that its files name."""

    def __init__(self, *, root: Path = Path("/")) -> None:
        self._root = root
        self._mounts: dict[str, _Mount] | None = None
        """By controller of v1; under "" the mount of v2."""

    def usage(self, pid: int) -> Usage | None:
        """Of the control groups that a process is in: of its container, when it is a container's first."""
        groups = self._groups(pid)
        if groups is None:
            return None
        mounts = self._known_mounts()
        if "cpuacct" in mounts and "cpuacct" in groups:
            return _usage_v1({name: mounts[name].folder(groups[name]) for name in groups if name in mounts})
        if "" in mounts and "" in groups:
            return _usage_v2(mounts[""].folder(groups[""]))
        return None

    def machine(self) -> Usage:
        """Of everything on this machine. Its working set is what MemAvailable leaves."""
        memory = table(self._root / "proc/meminfo", factor=1024)
        total = memory.get("MemTotal", 0)
        counters = table(self._root / "proc/vmstat")
        return Usage(
            cpu_ns=self._machine_cpu(),
            memory=max(0, total - memory.get("MemFree", 0)),
            working_set=max(0, total - memory.get("MemAvailable", 0)),
            rss=memory.get("AnonPages", 0),
            page_faults=counters.get("pgfault", 0),
            major_page_faults=counters.get("pgmajfault", 0),
            pids=self._processes(),
        )

    def available_memory(self) -> int:
        """Bytes that can be had without swapping."""
        return table(self._root / "proc/meminfo", factor=1024).get("MemAvailable", 0)

    def boot_ms(self) -> int:
        """When the machine was started, Unix ms; 0 when that cannot be told."""
        return table(self._root / "proc/stat").get("btime", 0) * 1000

    def interfaces(self, pid: int) -> list[Interface]:
        """The network interfaces that a process sees, the loopback left out."""
        found = []
        for line in _text(self._root / f"proc/{pid}/net/dev").splitlines()[2:]:
            name, _, rest = line.partition(":")
            counts = rest.split()
            if name.strip() != "lo" and len(counts) >= 11 and all(count.isdecimal() for count in counts):
                n = [int(count) for count in counts]
                found.append(Interface(name.strip(), n[0], n[2], n[8], n[10]))
        return found

    def default_interface(self, pid: int) -> str:
        """Name of the interface that the default route of a process uses, "" without one."""
        for line in _text(self._root / f"proc/{pid}/net/route").splitlines()[1:]:
            words = line.split()
            if len(words) > 7 and words[1] == words[7] == "00000000":
                return words[0]
        return ""

    def group(self, pid: int) -> str:
        """Path of the control group of a process, "" when it is gone: the `id` of its series."""
        groups = self._groups(pid) or {}
        return groups.get("cpuacct") or groups.get("") or ""

    def _groups(self, pid: int) -> dict[str, str] | None:
        """Controller -> group of a process; "" is v2's."""
        if pid <= 0:
            return None
        found = {}
        for line in _text(self._root / f"proc/{pid}/cgroup").splitlines():
            _, _, rest = line.partition(":")
            controllers, colon, group = rest.partition(":")
            if colon:
                for name in controllers.split(","):
                    found[name] = group
        return found or None

    def _known_mounts(self) -> dict[str, _Mount]:
        if self._mounts is None:
            self._mounts = dict(self._find_mounts())
        return self._mounts

    def _find_mounts(self) -> Iterator[tuple[str, _Mount]]:
        """(proc_pid_mountinfo(5))"""
        for line in _text(self._root / "proc/self/mountinfo").splitlines():
            left, _, right = line.partition(" - ")
            where, what = left.split(), right.split()
            if len(where) < 5 or len(what) < 3 or what[0] not in ("cgroup", "cgroup2"):
                continue
            mount = _Mount(where[3], self._root / where[4].lstrip("/"))
            if what[0] == "cgroup2":
                yield "", mount
            else:
                for option in what[2].split(","):
                    yield option, mount

    def _machine_cpu(self) -> int:
        """Nanoseconds in which any core did something: all but idle and iowait, guests counted once."""
        first = _text(self._root / "proc/stat").partition("\n")[0].split()
        ticks = [int(word) for word in first[1:9] if word.isdecimal()]
        if len(ticks) < 8:
            return 0
        return (sum(ticks) - ticks[3] - ticks[4]) * (NANOSECONDS // os.sysconf("SC_CLK_TCK"))

    def _processes(self) -> int:
        words = _text(self._root / "proc/loadavg").split()
        tasks = words[3].partition("/")[2] if len(words) > 3 else ""
        return int(tasks) if tasks.isdecimal() else 0


def _usage_v1(folders: dict[str, Path]) -> Usage | None:
    cpu_ns = _number(folders["cpuacct"] / "cpuacct.usage")
    if cpu_ns is None:
        return None
    memory, pids = folders.get("memory"), folders.get("pids")
    used = (_number(memory / "memory.usage_in_bytes") or 0) if memory is not None else 0
    stat = table(memory / "memory.stat") if memory is not None else {}
    return Usage(
        cpu_ns=cpu_ns,
        memory=used,
        working_set=max(0, used - stat.get("total_inactive_file", 0)),
        rss=stat.get("total_rss", 0),
        page_faults=stat.get("total_pgfault", 0),
        major_page_faults=stat.get("total_pgmajfault", 0),
        pids=(_number(pids / "pids.current") or 0) if pids is not None else 0,
    )


def _usage_v2(folder: Path) -> Usage | None:
    cpu = table(folder / "cpu.stat")
    if not cpu:  # there for every group, whichever controllers are on
        return None
    used = _number(folder / "memory.current") or 0
    stat = table(folder / "memory.stat")
    return Usage(
        cpu_ns=cpu.get("usage_usec", 0) * 1000,
        memory=used,
        working_set=max(0, used - stat.get("inactive_file", 0)),
        rss=stat.get("anon", 0),
        page_faults=stat.get("pgfault", 0),
        major_page_faults=stat.get("pgmajfault", 0),
        pids=_number(folder / "pids.current") or 0,
    )


def process_age(pid: int, *, root: Path = Path("/")) -> float | None:
    """Seconds since a process was started, whatever the wall clock did meanwhile; None when it is gone.

    (proc_pid_stat(5): the name in parentheses may hold anything, `starttime` is the 20th word behind it.)
    """
    words = _text(root / f"proc/{pid}/stat").rpartition(")")[2].split()
    uptime = _text(root / "proc/uptime").split()
    if pid <= 0 or len(words) < 20 or not words[19].isdecimal() or not uptime:
        return None
    try:
        return max(0.0, float(uptime[0]) - int(words[19]) / os.sysconf("SC_CLK_TCK"))
    except ValueError:
        return None


def table(path: Path, *, factor: int = 1) -> dict[str, int]:
    """Lines of a name and a number, times `factor`; what is not a number is left out."""
    found = {}
    for line in _text(path).splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdecimal():
            found[words[0].rstrip(":")] = int(words[1]) * factor
    return found


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii", "replace")
    except OSError:
        return ""
