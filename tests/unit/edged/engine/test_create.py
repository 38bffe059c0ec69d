"""Create bodies: what a pod's fields become, and that a real engine does with them what Kubernetes promises."""

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgeappliance.edged.engine.api import EngineRefused, Image
from edgeappliance.edged.engine.create import (
    Mount,
    SandboxSettings,
    container_body,
    hostname,
    sandbox_body,
)
from edgeappliance.edged.engine.dns import Resolver, read_resolv, resolver
from edgeappliance.edged.engine.docker_engine import DockerEngine
from edgeappliance.edged.pause.archive import IMAGE, archive
from edgeappliance.edged.pods import observed
from edgeappliance.edged.pods.observed import Kind
from edgeappliance.edged.pods.spec import Pod, spec_hash
from edgeappliance.kernel.errors import InputError
from tests.support.docker_fixtures import BUSYBOX
from tests.support.dockerd import Dockerd
from tests.unit.edged.engine.conftest import NODE

HOST = Resolver(("192.0.2.1",), ("lan",), ("timeout:1",))
SETTINGS = SandboxSettings(cluster_dns=("10.96.0.10",), host_resolver=lambda: HOST)


def pod(**spec: Any) -> Pod:
    """A pod with one busybox container, unless `containers` says otherwise."""
    containers = spec.pop("containers", [{"name": "app", "image": BUSYBOX}])
    metadata = {"name": "web", "namespace": "shop", "uid": "0000-1111"}
    return msgspec.convert({"metadata": metadata, "spec": {"containers": containers, **spec}}, Pod)


def made(pod: Pod, *, env: list[str] | None = None, mounts: tuple[Mount, ...] = (), user: str = "", **more: Any) -> Any:
    """The body of the first container."""
    container = pod.spec.containers[0]
    return container_body(
        pod,
        container,
        node=NODE,
        kind=Kind.APP,
        sandbox_id=more.pop("sandbox_id", "SANDBOX"),
        attempt=2,
        backoff=10.0,
        image=Image("sha256:1", (BUSYBOX,), 1, user=user),
        env=env or [],
        mounts=mounts,
        spec_hash=spec_hash(container),
        settings=more.pop("settings", SETTINGS),
    )


def sandbox(pod: Pod, *, mounts: tuple[Mount, ...] = (), settings: SandboxSettings = SETTINGS) -> Any:
    return sandbox_body(pod, node=NODE, attempt=1, image=IMAGE, mounts=mounts, settings=settings)


def one(**container: Any) -> Pod:
    """A pod of one container with these fields."""
    return pod(containers=[{"name": "app", "image": BUSYBOX, **container}])


# -- pure: sandbox ---------------------------------------------------------------------------------------------


def test_labels_of_a_sandbox() -> None:
    assert sandbox(pod(terminationGracePeriodSeconds=5))["Labels"] == {
        observed.OWNER: NODE,
        observed.KIND: "sandbox",
        observed.POD_UID: "0000-1111",
        observed.POD_NAME: "web",
        observed.POD_NAMESPACE: "shop",
        observed.CONTAINER_NAME: "POD",
        observed.ATTEMPT: "1",
        observed.GRACE: "5",
    }


def test_host_ports_are_published_of_containers_and_sidecars_only() -> None:
    given = pod(
        containers=[
            {
                "name": "app",
                "ports": [
                    {"containerPort": 80, "hostPort": 8080},
                    {"containerPort": 53, "hostPort": 5353, "protocol": "UDP", "hostIP": "127.0.0.1"},
                    {"containerPort": 81},
                ],
            }
        ],
        initContainers=[
            {"name": "setup", "ports": [{"containerPort": 1, "hostPort": 1}]},
            {"name": "proxy", "restartPolicy": "Always", "ports": [{"containerPort": 80, "hostPort": 9090}]},
        ],
    )
    body = sandbox(given)
    assert body["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostIp": "", "HostPort": "9090"}, {"HostIp": "", "HostPort": "8080"}],
        "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "5353"}],
    }
    assert body["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}}
    networked = sandbox(msgspec.structs.replace(given, spec=msgspec.structs.replace(given.spec, host_network=True)))
    assert "PortBindings" not in networked["HostConfig"]
    assert networked["HostConfig"]["NetworkMode"] == "host"
    assert "Hostname" not in networked


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ({}, "web"),
        ({"hostname": "db"}, "db"),
        ({"hostname": "db", "subdomain": "sub"}, "db"),
        ({"hostname": "db", "subdomain": "sub", "setHostnameAsFQDN": True}, "db.sub.shop.svc.cluster.local"),
        ({"hostname": "x" * 62 + "-y"}, "x" * 62),
        (
            {"hostname": "db", "subdomain": "s", "setHostnameAsFQDN": True, "hostnameOverride": "a.b.example"},
            "a.b.example",
        ),
    ],
)
def test_hostnames(spec: dict[str, Any], name: str) -> None:
    assert hostname(pod(**spec), cluster_domain="cluster.local") == name


def test_a_full_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(InputError, match="64 characters is the max"):
        hostname(pod(hostname="x" * 60, subdomain="sub", setHostnameAsFQDN=True), cluster_domain="cluster.local")


CLUSTER = Resolver(
    ("10.96.0.10",), ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"), ("ndots:5",)
)


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({}, CLUSTER),
        ({"hostNetwork": True}, Resolver()),
        ({"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}, CLUSTER),
        ({"dnsPolicy": "Default"}, Resolver()),
        ({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.7"]}}, Resolver(("192.0.2.7",))),
        (
            {"dnsPolicy": "Default", "dnsConfig": {"nameservers": ["192.0.2.7"]}},
            Resolver(("192.0.2.1", "192.0.2.7")),
        ),
        (
            {"dnsPolicy": "Default", "dnsConfig": {"options": [{"name": "timeout", "value": "3"}, {"name": "debug"}]}},
            Resolver((), (), ("timeout:3", "debug")),
        ),
        (
            {"dnsConfig": {"searches": ["lan", "more"], "nameservers": ["1.1.1.1", "2.2.2.2", "3.3.3.3"]}},
            Resolver(
                ("10.96.0.10", "1.1.1.1", "2.2.2.2"),
                ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan", "more"),
                ("ndots:5",),
            ),
        ),
    ],
)
def test_name_servers(spec: dict[str, Any], wanted: Resolver) -> None:
    assert resolver(pod(**spec), HOST, cluster_dns=["10.96.0.10"], cluster_domain="cluster.local") == wanted


def test_without_servers_of_the_cluster_the_host_s_are_left_to_the_engine() -> None:
    assert resolver(pod(), HOST, cluster_dns=[], cluster_domain="cluster.local") == Resolver()


def test_a_resolv_conf_is_read_without_its_stub() -> None:
    text = "# x\nnameserver 127.0.0.53\nnameserver 192.0.2.9\nnameserver rubbish\nsearch a b\noptions edns0 trust-ad\n"
    assert read_resolv(text) == Resolver(("192.0.2.9",), ("a", "b"), ("edns0", "trust-ad"))
    assert read_resolv("") == Resolver()


# -- pure: containers ------------------------------------------------------------------------------------------


def test_command_and_args_have_variables_replaced_and_keep_the_image_s_where_absent() -> None:
    body = made(one(command=["run", "$(A)-$(B)"], args=["$$(A)"]), env=["A=1"])
    assert (body["Entrypoint"], body["Cmd"]) == (["run", "1-$(B)"], ["$(A)"])
    bare = made(one())
    assert "Entrypoint" not in bare
    assert "Cmd" not in bare


def test_labels_of_a_container() -> None:
    labels = made(one())["Labels"]
    assert labels[observed.KIND] == "app"
    assert labels[observed.SANDBOX] == "SANDBOX"
    assert (labels[observed.ATTEMPT], labels[observed.BACKOFF]) == ("2", "10")
    assert labels[observed.SPEC_HASH] == spec_hash(one(command=["other"]).spec.containers[0])
    assert labels[observed.SPEC_HASH] != spec_hash(one(image="bb:2").spec.containers[0])


def test_resources_become_limits() -> None:
    host = made(one(resources={"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}))[
        "HostConfig"
    ]
    assert (host["Memory"], host["MemorySwap"]) == (64 << 20, 64 << 20)
    assert (host["CpuPeriod"], host["CpuQuota"], host["CpuShares"]) == (100_000, 150_000, 256)
    free = made(one())["HostConfig"]
    assert not {"Memory", "MemorySwap", "CpuQuota"} & free.keys()
    assert free["OomScoreAdj"] == 1000


@pytest.mark.parametrize(
    ("own", "whole", "image", "wanted"),
    [
        ({}, {}, "", ""),
        ({}, {"runAsUser": 7}, "app", "7"),
        ({"runAsUser": 8}, {"runAsUser": 7, "runAsGroup": 9}, "app", "8:9"),
        ({"runAsGroup": 5}, {}, "", "0:5"),
        ({"runAsGroup": 5}, {}, "app:users", "app:5"),
    ],
)
def test_users(own: dict[str, Any], whole: dict[str, Any], image: str, wanted: str) -> None:
    given = pod(containers=[{"name": "app", "image": BUSYBOX, "securityContext": own}], securityContext=whole)
    assert made(given, user=image)["User"] == wanted


def test_security_context(tmp_path: Path) -> None:
    (tmp_path / "audit.json").write_text('{"defaultAction": "SCMP_ACT_LOG"}')
    settings = SandboxSettings(seccomp_profiles=tmp_path, host_enforces_apparmor=lambda: True)
    given = pod(
        containers=[
            {
                "name": "app",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
                    "seccompProfile": {"type": "Localhost", "localhostProfile": "audit.json"},
                    "appArmorProfile": {"type": "Localhost", "localhostProfile": "mine"},
                    "seLinuxOptions": {"level": "s0:c1"},
                    "procMount": "Unmasked",
                },
            }
        ],
        securityContext={"supplementalGroups": [20, 5], "fsGroup": 20, "seccompProfile": {"type": "Unconfined"}},
    )
    host = made(given, settings=settings)["HostConfig"]
    assert host["SecurityOpt"] == [
        "no-new-privileges",
        'seccomp={"defaultAction": "SCMP_ACT_LOG"}',
        "apparmor=mine",
        "label=level:s0:c1",
    ]
    assert (host["CapAdd"], host["CapDrop"], host["ReadonlyRootfs"]) == (["NET_ADMIN"], ["ALL"], True)
    assert (host["MaskedPaths"], host["ReadonlyPaths"]) == ([], [])
    assert host["GroupAdd"] == ["20", "5"]


@pytest.mark.parametrize("type", ["RuntimeDefault", "Localhost", "Unconfined"])
def test_a_profile_that_nobody_would_enforce_is_no_protection(type: str) -> None:
    """The engine leaves it away without a word where the kernel has no AppArmor."""
    given = pod(securityContext={"appArmorProfile": {"type": type, "localhostProfile": "mine"}})
    off = SandboxSettings(host_enforces_apparmor=lambda: False)
    if type == "Unconfined":
        assert made(given, settings=off)["HostConfig"]["SecurityOpt"] == ["apparmor=unconfined"]
        return
    with pytest.raises(InputError, match="Cannot enforce AppArmor: AppArmor is not enabled on the host"):
        made(given, settings=off)


@pytest.mark.parametrize("name", ["../etc/passwd", "/etc/passwd", "", "missing.json", "rubbish.json"])
def test_seccomp_profiles_that_cannot_be_used_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "rubbish.json").write_text("[1]")
    given = one(securityContext={"seccompProfile": {"type": "Localhost", "localhostProfile": name}})
    with pytest.raises(InputError) as refused:
        made(given, settings=SandboxSettings(seccomp_profiles=tmp_path))
    assert refused.value.field == "seccompProfile.localhostProfile"


def test_mounts_become_what_the_engine_calls_them() -> None:
    mounts = (
        Mount("/srv/a", "/a", True, "HostToContainer"),
        Mount("/srv/new", "/b", propagation="Bidirectional", create=True),
        Mount("vol", "/c", volume=True),
        Mount("/dev/pts/3", "/dev/ttyS9", device="/dev/pts/3"),
        Mount("/dev/null", "/dev/ro", True, device="/dev/null"),
    )
    host = made(one(), mounts=mounts)["HostConfig"]
    assert host["Mounts"] == [
        {
            "Type": "bind",
            "BindOptions": {"Propagation": "rslave"},
            "Source": "/srv/a",
            "Target": "/a",
            "ReadOnly": True,
        },
        {"Type": "volume", "VolumeOptions": {"NoCopy": True}, "Source": "vol", "Target": "/c", "ReadOnly": False},
        {"Type": "bind", "Source": "/dev/pts/3", "Target": "/dev/ttyS9", "ReadOnly": False},
        {"Type": "bind", "Source": "/dev/null", "Target": "/dev/ro", "ReadOnly": True},
    ]
    assert host["Binds"] == ["/srv/new:/b:rw,rshared"]
    assert [(device["PathInContainer"], device["CgroupPermissions"]) for device in host["Devices"]] == [
        ("/dev/ttyS9", "rwm"),
        ("/dev/ro", "r"),
    ]
    with pytest.raises(InputError, match="a:b"):
        made(one(), mounts=(Mount("/srv/a:b", "/a", create=True),))


def test_namespaces_of_the_host() -> None:
    given = pod(hostNetwork=True, hostPID=True, hostIPC=True)
    body, holder = made(given)["HostConfig"], sandbox(given)["HostConfig"]
    assert (body["PidMode"], body["IpcMode"], body["UTSMode"]) == ("host", "host", "host")
    assert (holder["NetworkMode"], holder["PidMode"], holder["IpcMode"]) == ("host", "host", "host")
    assert body["NetworkMode"] == "container:SANDBOX"
    assert made(pod(shareProcessNamespace=True))["HostConfig"]["PidMode"] == "container:SANDBOX"
    assert made(pod())["HostConfig"]["PidMode"] == ""


# -- on a real engine ------------------------------------------------------------------------------------------


class Pods:
    """Starts pods on the engine as a worker would."""

    def __init__(self, engine: DockerEngine) -> None:
        self.engine = engine
        self._count = 0

    async def start(self, given: Pod, *, mounts: tuple[Mount, ...] = (), **more: Any) -> tuple[str, str]:
        """Ids of the sandbox and of the container."""
        self._count += 1
        settings = more.pop("settings", SETTINGS)
        body = sandbox(given, settings=settings)
        holder = await self.engine.create(body, name=f"POD{self._count}")
        await self.engine.start(holder)
        body = made(given, mounts=mounts, sandbox_id=holder, settings=settings, **more)
        id = await self.engine.create(body, name=f"app{self._count}")
        await self.engine.start(id)
        return holder, id

    async def said(self, id: str, *command: str) -> str:
        """Output of a command in a running container."""
        code, output = await self.engine.run(id, command, timeout=10)
        assert code == 0, output
        return output.decode().strip()


@pytest.fixture
async def pods(engine: DockerEngine) -> Pods:
    if await engine.image(IMAGE) is None:
        await engine.load(archive())
    return Pods(engine)


SLEEP = {"name": "app", "image": BUSYBOX, "command": ["sleep", "1000"]}


async def test_a_pod_shares_network_ipc_and_hostname_and_sees_its_name_servers(pods: Pods, dockerd: Dockerd) -> None:
    given = pod(containers=[SLEEP], hostname="db")
    holder, id = await pods.start(given)
    seen = await pods.engine.inspect(holder)
    assert seen is not None
    assert (seen.kind, seen.name) == (Kind.SANDBOX, "")
    assert seen.ip.startswith("10.")
    assert seen.ip in await pods.said(id, "ip", "address")
    assert await pods.said(id, "hostname") == "db"
    resolv = await pods.said(id, "cat", "/etc/resolv.conf")
    assert "nameserver 10.96.0.10" in resolv
    assert "search shop.svc.cluster.local svc.cluster.local cluster.local lan" in resolv
    inside = await dockerd.call("inspect_container", id)
    own = Path(f"/proc/{inside['State']['Pid']}/ns/ipc").readlink()
    assert own == Path(f"/proc/{seen.pid}/ns/ipc").readlink()


async def test_limits_and_users_hold_inside(pods: Pods) -> None:
    container = {
        **SLEEP,
        "resources": {"limits": {"cpu": "500m", "memory": "32Mi"}},
        "securityContext": {
            "runAsUser": 1000,
            "runAsGroup": 20,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    _, id = await pods.start(pod(containers=[container], securityContext={"fsGroup": 77}))
    assert await pods.said(id, "id") == "uid=1000(app) gid=20(dialout) groups=20(dialout),77"
    status = await pods.said(id, "cat", "/proc/self/status")
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status
    code, output = await pods.engine.run(id, ["touch", "/x"], timeout=10)
    assert (code, b"Read-only" in output) == (1, True)


async def test_a_privileged_container_can_be_looked_into(pods: Pods) -> None:
    _, id = await pods.start(pod(containers=[{**SLEEP, "securityContext": {"privileged": True}}]))
    assert await pods.said(id, "stat", "-c", "%F", "/dev/full") == "character special file"


async def test_processes_are_shared_and_orphans_collected_by_the_sandbox(pods: Pods) -> None:
    _, id = await pods.start(pod(containers=[SLEEP], shareProcessNamespace=True))
    assert "/pause" in await pods.said(id, "cat", "/proc/1/cmdline")
    await pods.said(id, "sh", "-c", "(sleep 0.9 & sleep 0.2 & sleep 0.1 &) > /dev/null 2>&1")
    assert "sleep 0.9" in await pods.said(id, "ps")
    async with asyncio.timeout(10):
        while "[sleep]" in (processes := await pods.said(id, "ps")) or "sleep 0" in processes:
            await asyncio.sleep(0.05)


async def test_the_sandbox_ends_at_once_with_0(pods: Pods) -> None:
    holder, _ = await pods.start(pod(containers=[SLEEP]))
    before = asyncio.get_running_loop().time()
    await pods.engine.stop(holder, grace=30)
    assert asyncio.get_running_loop().time() - before < 3
    seen = await pods.engine.inspect(holder)
    assert seen is not None
    assert seen.exit_code == 0


async def test_host_ports_reach_the_container(pods: Pods, dockerd: Dockerd) -> None:
    web = {"name": "app", "image": BUSYBOX, "command": ["httpd", "-f", "-p", "80"]}
    await pods.start(pod(containers=[{**web, "ports": [{"containerPort": 80, "hostPort": 8081}]}]))
    reader, writer = await asyncio.open_connection(dockerd.address, 8081)
    writer.write(b"GET /nothing HTTP/1.0\r\n\r\n")
    assert b" 404 " in await reader.readline()
    writer.close()
    await writer.wait_closed()


async def test_binds_and_missing_directories(pods: Pods, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("hello")
    mounts = (
        Mount(str(tmp_path / "there"), "/in/file", True),
        Mount(str(tmp_path / "made"), "/in/made", create=True),
    )
    _, id = await pods.start(pod(containers=[SLEEP]), mounts=mounts)
    assert await pods.said(id, "cat", "/in/file") == "hello"
    assert (tmp_path / "made").is_dir()
    with pytest.raises(EngineRefused, match="bind source path does not exist"):
        await pods.start(pod(containers=[SLEEP]), mounts=(Mount(str(tmp_path / "gone"), "/gone"),))


async def test_serial_lines_are_used_with_the_rights_that_were_given(pods: Pods) -> None:
    foreign = next(name for name in ("/dev/tty60", "/dev/loop-control", "/dev/ttyS0") if os.path.exists(name))
    line, end = os.openpty()
    name = os.ttyname(end)
    mounts = (Mount(name, "/dev/ttyMETER", device=name), Mount(foreign, "/srv/read", True, device=foreign))
    try:
        _, id = await pods.start(pod(containers=[SLEEP]), mounts=mounts[:1])
        await pods.said(id, "sh", "-c", "echo reading > /dev/ttyMETER")
        assert os.read(line, 100) == b"reading\r\n"
        _, id = await pods.start(pod(containers=[SLEEP]), mounts=mounts[1:])
        assert await pods.said(id, "sh", "-c", ": < /srv/read; echo opened") == "opened"
        code, output = await pods.engine.run(id, ["sh", "-c", ": > /srv/read"], timeout=10)
        assert (code, b"not permitted" in output) == (1, True)
    finally:
        os.close(line)
        os.close(end)


async def test_host_network_and_pid(pods: Pods) -> None:
    _, id = await pods.start(pod(containers=[SLEEP], hostNetwork=True, hostPID=True))
    assert "up0" in await pods.said(id, "ip", "link")
    assert int(await pods.said(id, "sh", "-c", "echo $$")) > 100


async def test_sysctls_reach_the_pod(pods: Pods) -> None:
    sysctls = [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "99"}]
    _, id = await pods.start(pod(containers=[SLEEP], securityContext={"sysctls": sysctls}))
    assert await pods.said(id, "cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start") == "99"


async def test_image_health_checks_are_off_and_logs_are_rotated(pods: Pods, dockerd: Dockerd) -> None:
    _, id = await pods.start(pod(containers=[SLEEP]), settings=SandboxSettings(log_max_mb=4, log_files=2))
    seen = await dockerd.call("inspect_container", id)
    assert seen["Config"]["Healthcheck"]["Test"] == ["NONE"]
    assert seen["HostConfig"]["LogConfig"]["Config"] == {"max-size": "4m", "max-file": "2"}
