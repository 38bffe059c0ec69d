"""What pods use: on a real engine, and from files as control groups v1, v2 and both have them."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeappliance.edged.cgroups import Cgroups, Interface, Usage, process_age
from edgeappliance.edged.pods.observed import Kind, ObservedContainer, Phase
from edgeappliance.edged.pods.spec import Container, EmptyDir, Metadata, Pod, PodSpec, Volume
from edgeappliance.edged.probes.runner import Tally, Tried
from edgeappliance.edged.stats import Stats, UnknownSeries
from edgeappliance.kernel.clock import Clock, SystemClock
from edgeappliance.kubeapi.times import parse_time
from tests.support.docker_fixtures import BUSYBOX
from tests.support.dockerd import Dockerd

BUSY = "while true; do :; done"


@dataclass
class Running:
    pod: Pod
    containers: tuple[ObservedContainer, ...] = ()
    started_ms: int = 1_700_000_000_000


@dataclass
class Use:
    bytes: int
    inodes: int


def stats(
    directory: Path,
    *pods: Running,
    cgroups: Cgroups | None = None,
    clock: Clock | None = None,
    tally: Tally | None = None,
    walks: list[str] | None = None,
) -> Stats:
    """`walks` gets the pods whose volumes are walked through."""

    async def volumes(uid: str) -> Mapping[str, Use]:
        if walks is not None:
            walks.append(uid)
        return {"cache": Use(4096, 2)}

    return Stats(
        node="edge-1",
        cgroups=cgroups or Cgroups(),
        clock=clock or SystemClock(),
        data_directory=directory,
        image_directory=lambda: None,
        pods=lambda: pods,
        tally=lambda: tally or {},
        volumes=volumes,
    )


async def observe(dockerd: Dockerd, name: str, kind: Kind) -> ObservedContainer:
    seen = await dockerd.call("inspect_container", name)
    return ObservedContainer(
        id=seen["Id"],
        name="" if kind is Kind.SANDBOX else name,
        kind=kind,
        pod_uid="u1",
        namespace="shop",
        pod_name="web",
        attempt=0,
        phase=Phase.RUNNING,
        started_ms=parse_time(seen["State"]["StartedAt"][:23] + "Z") or 0,
        pid=seen["State"]["Pid"],
        image=BUSYBOX,
    )


@pytest.fixture
async def web(dockerd: Dockerd) -> Running:
    """A pod of a sandbox and a container that keeps one core busy."""
    for name, command in (("pause", "sleep 1000"), ("app", BUSY)):
        await dockerd.call("create_container", BUSYBOX, ["sh", "-c", command], name=name)
        await dockerd.call("start", name)
    spec = PodSpec(containers=[Container(name="app")], volumes=[Volume(name="cache", empty_dir=EmptyDir())])
    pod = Pod(metadata=Metadata(name="web", namespace="shop", uid="u1"), spec=spec)
    return Running(pod, (await observe(dockerd, "pause", Kind.SANDBOX), await observe(dockerd, "app", Kind.APP)))


async def test_a_busy_container_on_a_real_engine(web: Running, tmp_path: Path) -> None:
    summary = await stats(tmp_path, web).summary()
    node, (pod,) = summary["node"], summary["pods"]
    assert pod["podRef"] == {"name": "web", "namespace": "shop", "uid": "u1"}
    (app,) = pod["containers"]
    assert app["name"] == "app"
    assert app["cpu"]["usageNanoCores"] > 100_000_000  # of two cores that others use too
    assert 0 < app["memory"]["workingSetBytes"] < 50_000_000
    assert app["memory"]["rssBytes"] > 0
    assert pod["cpu"]["usageCoreNanoSeconds"] >= app["cpu"]["usageCoreNanoSeconds"]
    assert pod["process_stats"]["process_count"] >= 2
    assert (pod["network"]["name"], len(pod["network"]["interfaces"])) == ("eth0", 1)
    assert pod["volume"][0]["name"] == "cache"
    assert pod["volume"][0]["usedBytes"] == 4096
    assert node["nodeName"] == "edge-1"
    assert node["cpu"]["usageNanoCores"] > app["cpu"]["usageNanoCores"] * 0.8
    assert node["memory"]["availableBytes"] > 0
    assert node["fs"]["capacityBytes"] > node["fs"]["availableBytes"] > 0
    assert node["startTime"] < pod["containers"][0]["startTime"]


async def test_volumes_are_walked_through_once_a_minute_however_often_somebody_asks(tmp_path: Path) -> None:
    walks: list[str] = []
    spec = PodSpec(containers=[Container(name="app")], volumes=[Volume(name="cache", empty_dir=EmptyDir())])
    part = stats(tmp_path, Running(Pod(metadata=Metadata(name="web", uid="u1"), spec=spec)), walks=walks)
    for _ in range(3):
        assert (await part.summary())["pods"][0]["volume"][0]["usedBytes"] == 4096
    assert walks == ["u1"]


async def test_the_text_pages(web: Running, tmp_path: Path) -> None:
    part = stats(tmp_path, web)
    resource = (await part.exposition("resource")).decode()
    labels = r'\{container="app",namespace="shop",pod="web"\}'
    assert re.search(rf"^container_cpu_usage_seconds_total{labels} [0-9.e-]+ \d{{13}}$", resource, re.MULTILINE)
    assert re.search(rf"^container_memory_working_set_bytes{labels} \d+ \d{{13}}$", resource, re.MULTILINE)
    assert re.search(r"^node_memory_working_set_bytes \d+ \d{13}$", resource, re.MULTILINE)
    assert "scrape_error 0\n" in resource
    cadvisor = (await part.exposition("cadvisor")).decode()
    assert re.search(r'^container_network_receive_bytes_total\{id="/.+interface="eth0"\} \d+', cadvisor, re.MULTILINE)
    assert f'image="{BUSYBOX}",name="{web.containers[1].id}"' in cadvisor
    kubelet = (await part.exposition("")).decode()
    assert "kubelet_running_pods 1\n" in kubelet
    assert 'kubelet_running_containers{container_state="running"} 1\n' in kubelet
    with pytest.raises(UnknownSeries, match="nonsense"):
        await part.exposition("nonsense")
    for page in (resource, cadvisor, kubelet):
        for line in page.splitlines():
            assert re.fullmatch(r'(# (HELP|TYPE) .+|[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? \S+( \d+)?)', line)


async def test_tries_of_probes_with_awkward_names(tmp_path: Path) -> None:
    tally = {Tried("shop", 'w"e\\b', "u1", "app", "Liveness", "failed"): 3}
    text = (await stats(tmp_path, tally=tally).exposition("probes")).decode()
    assert text.splitlines()[-1] == (
        'prober_probe_total{container="app",namespace="shop",pod="w\\"e\\\\b",pod_uid="u1",'
        'probe_type="Liveness",result="failed"} 3'
    )
    assert await stats(tmp_path).exposition("probes") == b""


async def test_a_container_that_has_just_ended_is_left_out(tmp_path: Path) -> None:
    gone = ObservedContainer(
        id="c",
        name="app",
        kind=Kind.APP,
        pod_uid="u1",
        namespace="shop",
        pod_name="web",
        attempt=0,
        phase=Phase.RUNNING,
        pid=4_194_304,
    )
    pod = Pod(metadata=Metadata(name="web", uid="u1"), spec=PodSpec(containers=[Container(name="app")]))
    summary = await stats(tmp_path, Running(pod, (gone,))).summary()
    assert summary["pods"][0]["containers"] == []


async def test_a_recent_look_spares_the_second(tmp_path: Path) -> None:
    clock = SystemClock()
    part = stats(tmp_path, clock=clock)
    await part.summary()
    before = clock.monotonic()
    assert (await part.look()).rates
    assert "usageNanoCores" in (await part.summary())["node"]["cpu"]
    assert clock.monotonic() - before < 0.4


# -- files as they lie on other machines ----------------------------------------------------------------------


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


STAT_V2 = "anon 700\nfile 250\ninactive_file 200\npgfault 11\npgmajfault 2\n"
STAT_V1 = "cache 300\ntotal_inactive_file 300\ntotal_rss 600\ntotal_pgfault 9\ntotal_pgmajfault 1\n"


def test_control_groups_v2(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/system.slice/docker-c1.scope"
    files = {
        "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
        "proc/42/cgroup": "0::/system.slice/docker-c1.scope\n",
        f"{group}/memory.current": "1000\n",
        f"{group}/memory.stat": STAT_V2,
        f"{group}/cpu.stat": "usage_usec 5000\nuser_usec 4000\n",
        f"{group}/pids.current": "3\n",
    }
    write(tmp_path, files)
    cgroups = Cgroups(root=tmp_path)
    assert cgroups.usage(42) == Usage(5_000_000, 1000, 800, 700, 11, 2, 3)
    assert cgroups.group(42) == "/system.slice/docker-c1.scope"
    assert cgroups.usage(43) is None
    assert cgroups.usage(0) is None


def test_control_groups_v1_beside_an_empty_v2(tmp_path: Path) -> None:
    files = {
        "proc/self/mountinfo": (
            "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
            "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
            "39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
            "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
            "99 31 0:99 / /elsewhere rw - tmpfs tmpfs rw\nrubbish\n"
        ),
        "proc/42/cgroup": "8:pids:/docker/c1\n4:memory:/docker/c1\n2:cpu,cpuacct:/docker/c1\n0::/\nrubbish\n",
        "sys/fs/cgroup/memory/docker/c1/memory.usage_in_bytes": "1000\n",
        "sys/fs/cgroup/memory/docker/c1/memory.stat": STAT_V1,
        "sys/fs/cgroup/cpu,cpuacct/docker/c1/cpuacct.usage": "123456\n",
        "sys/fs/cgroup/pids/docker/c1/pids.current": "2\n",
    }
    write(tmp_path, files)
    assert Cgroups(root=tmp_path).usage(42) == Usage(123456, 1000, 700, 600, 9, 1, 2)


def test_a_kernel_without_the_memory_controller_measures_nothing(tmp_path: Path) -> None:
    """Raspberry Pi OS switches it off unless cgroup_enable=memory is on the kernel's command line."""
    write(
        tmp_path,
        {
            "proc/self/mountinfo": "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            "proc/42/cgroup": "0::/docker/c1\n",
            "sys/fs/cgroup/docker/c1/cpu.stat": "usage_usec 5000\n",
        },
    )
    assert Cgroups(root=tmp_path).usage(42) == Usage(cpu_ns=5_000_000)


def test_the_age_of_a_process_whatever_its_name(tmp_path: Path) -> None:
    tail = " ".join(["S", *["0"] * 18, "5000"])
    write(
        tmp_path,
        {"proc/9/stat": f"9 (a) b( c) {tail} 0 0\n", "proc/uptime": "80.5 100.0\n", "proc/8/stat": "8 (x) S 1"},
    )
    assert process_age(9, root=tmp_path) == 30.5
    assert process_age(8, root=tmp_path) is None
    assert process_age(7, root=tmp_path) is None
    assert process_age(0) is None
    mine = process_age(os.getpid())
    assert mine is not None
    assert 0 < mine < 3600 * 24


def test_the_machine_and_its_network(tmp_path: Path) -> None:
    files = {
        "proc/meminfo": "MemTotal: 1000 kB\nMemFree: 200 kB\nMemAvailable: 600 kB\nAnonPages: 100 kB\nrubbish\n",
        "proc/stat": "cpu  100 0 50 900 10 0 0 0 0 0\ncpu0 1 1 1 1\nbtime 1700000000\n",
        "proc/vmstat": "pgfault 5\npgmajfault 1\n",
        "proc/loadavg": "0.0 0.0 0.0 1/77 99\n",
        "proc/7/net/dev": "Inter-| Receive\n face |bytes\n    lo: 1 0 0 0 0 0 0 0 1 0 0 0 0 0 0 0\n"
        "  eth0: 10 1 2 0 0 0 0 0 30 1 4 0 0 0 0 0\n broken: 1\n",
        "proc/7/net/route": "Iface Destination Gateway Flags RefCnt Use Metric Mask\n"
        "eth1 0000A8C0 00000000 0001 0 0 0 0000FFFF 0 0 0\neth0 00000000 010011AC 0003 0 0 0 00000000 0 0 0\n",
    }
    write(tmp_path, files)
    cgroups = Cgroups(root=tmp_path)
    machine = cgroups.machine()
    assert (machine.memory, machine.working_set, machine.rss) == (800 * 1024, 400 * 1024, 100 * 1024)
    assert machine.cpu_ns == 150 * 10_000_000
    assert (machine.page_faults, machine.pids) == (5, 77)
    assert cgroups.boot_ms() == 1_700_000_000_000
    assert cgroups.interfaces(7) == [Interface("eth0", 10, 2, 30, 4)]
    assert cgroups.default_interface(7) == "eth0"
    assert cgroups.default_interface(8) == ""
    assert Cgroups(root=tmp_path / "nothing").machine() == Usage()
