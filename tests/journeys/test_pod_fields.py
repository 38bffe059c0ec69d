"""What a pod's fields make of its processes: environment, identity, rights, limits, network, names."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgeappliance.edged.engine.security import host_enforces_apparmor
from tests.support.docker_fixtures import BUSYBOX
from tests.support.dockerd import Dockerd
from tests.support.pods import SLEEPS, Object, container, pod, shell, state
from tests.support.podsite import PodSite, pod_site
from tests.support.stand import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


@pytest.fixture
async def site(dockerd: Dockerd) -> AsyncIterator[PodSite]:
    async with pod_site(dockerd) as stand:
        yield stand


def field(path: str) -> Object:
    return {"fieldRef": {"fieldPath": path}}


def amount(resource: str, divisor: str = "0", **more: str) -> Object:
    return {"resourceFieldRef": {"resource": resource, "divisor": divisor, **more}}


def variables(**sources: Any) -> list[Object]:
    return [
        {"name": name, "value": source} if isinstance(source, str) else {"name": name, "valueFrom": source}
        for name, source in sources.items()
    ]


async def test_environment_and_command(site: PodSite) -> None:
    """Every source of a variable, and `$(NAME)` in values, command and arguments."""
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "settings"},
        "data": {"rate": "5", "mode.of-work": "fast"},
        "binaryData": {"blob": "/wA="},
    }
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "key"},
        "stringData": {"password": "h u$s$h", "rate": "9"},
    }
    env = variables(
        FIRST="one",
        SECOND="$(FIRST)-two $(LATER) $$(FIRST) $(rate)",
        LATER="late",
        OWN=field("metadata.name"),
        SPACE=field("metadata.namespace"),
        UID=field("metadata.uid"),
        LABEL=field("metadata.labels['app']"),
        NOTE=field("metadata.annotations['example.org/note']"),
        NODE=field("spec.nodeName"),
        ACCOUNT=field("spec.serviceAccountName"),
        HOST=field("status.hostIP"),
        HOSTS=field("status.hostIPs"),
        IP=field("status.podIP"),
        IPS=field("status.podIPs"),
        CPU=amount("limits.cpu"),
        MILLI=amount("requests.cpu", "1m"),
        MEMORY=amount("limits.memory", "1Mi"),
        OTHER=amount("limits.memory", "1Ki", containerName="side"),
        UNSET=amount("limits.cpu", containerName="side"),
        PASSWORD={"secretKeyRef": {"name": "key", "key": "password"}},
        MAYBE={"configMapKeyRef": {"name": "settings", "key": "absent", "optional": True}},
        NEVER={"secretKeyRef": {"name": "nothing", "key": "absent", "optional": True}},
        PATH="/bin:/extra",
    )
    sources = [
        {"configMapRef": {"name": "settings"}},
        {"prefix": "KEY_", "secretRef": {"name": "key"}},
        {"prefix": "no_", "configMapRef": {"name": "nothing", "optional": True}},
    ]
    main = container(
        "main",
        *("sh", "-c", 'echo "ARGS $0|$1|$2"; pwd; exec sleep 1000'),
        args=["$(FIRST)", "$$(FIRST) $(NOBODY)", "$(PASSWORD)"],
        env=env,
        envFrom=sources,
        workingDir="/srv/deep",
        resources={"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}},
    )
    side = shell(SLEEPS, "side", resources={"limits": {"memory": "32Mi"}})
    wanted = pod("env", main, side)
    wanted["metadata"] |= {"labels": {"app": "scale"}, "annotations": {"example.org/note": 'says "hi"\n'}}
    await site.apply(config, secret, wanted)
    (obj,) = await site.ready("env")
    out = await site.log("env")
    # Not from the shell, which keeps no variable whose name it cannot spell.
    seen = dict(line.split("=", 1) for line in (await site.run("env", "env")).splitlines() if "=" in line)
    status = obj["status"]
    assert seen["FIRST"] == "one"
    assert seen["SECOND"] == "one-two $(LATER) $(FIRST) 5"
    assert (seen["OWN"], seen["SPACE"], seen["UID"]) == ("env", "default", obj["metadata"]["uid"])
    assert (seen["LABEL"], seen["NOTE"], seen["NODE"]) == ("scale", 'says "hi"', site.node)
    assert (seen["HOST"], seen["HOSTS"]) == (status["hostIP"], status["hostIP"])
    assert (seen["IP"], seen["IPS"]) == (status["podIP"], status["podIP"])
    assert (seen["CPU"], seen["MILLI"], seen["MEMORY"], seen["OTHER"]) == ("2", "250", "64", "32768")
    assert seen["ACCOUNT"] == obj["spec"]["serviceAccountName"] == "default"
    node = await site.get("node", site.node)
    assert seen["UNSET"] == node["status"]["allocatable"]["cpu"]
    assert seen["PASSWORD"] == "h u$s$h"
    assert (seen["rate"], seen["mode.of-work"], seen["KEY_rate"]) == ("5", "fast", "9")
    assert seen["PATH"] == "/bin:/extra"
    assert seen["HOSTNAME"] == "env"
    assert not {"MAYBE", "NEVER", "blob"} & seen.keys()
    assert "ARGS one|$(FIRST) $(NOBODY)|h u$s$h" in out
    assert out.splitlines()[-1] == "/srv/deep"


def status_of(text: str) -> dict[str, str]:
    """/proc/self/status as a mapping."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


SHOW = "cat /proc/self/status; id; " + SLEEPS
CHOWN, NET_ADMIN, SYS_TIME = 1 << 0, 1 << 12, 1 << 25
DEFAULT_CAPABILITIES = 0x00000000A80425FB


async def test_identity_and_rights(site: PodSite, dockerd: Dockerd) -> None:
    """What securityContext gives and takes, as the kernel tells it."""
    profiles = Path(site.edge_settings["state_dir"]) / "seccomp" / "profiles"
    profiles.mkdir(parents=True)
    refuse = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    }
    (profiles / "no-mkdir.json").write_text(json.dumps(refuse))

    def secured(name: str, script: str = SHOW, **context: Any) -> Object:
        return shell(script, name, securityContext=context)

    whole = {"runAsUser": 1000, "runAsGroup": 20, "fsGroup": 3000, "supplementalGroups": [4000, 4001]}
    writes = "touch /x 2>&1; touch /dev/shm/x && echo shm; " + SHOW
    makes = "mkdir /tmp/x 2>&1; " + SHOW
    containers = [
        shell(SHOW, "pods"),
        secured("own", runAsUser=7, runAsGroup=8),
        secured("root", runAsUser=0),
        secured("nonew", allowPrivilegeEscalation=False),
        secured("caps", runAsUser=0, capabilities={"add": ["NET_ADMIN"], "drop": ["CHOWN"]}),
        secured("none", runAsUser=0, capabilities={"drop": ["ALL"]}),
        secured("only", runAsUser=0, capabilities={"drop": ["ALL"], "add": ["SYS_TIME"]}),
        secured("readonly", writes, runAsUser=0, readOnlyRootFilesystem=True),
        secured("free", seccompProfile={"type": "Unconfined"}),
        secured("local", makes, seccompProfile={"type": "Localhost", "localhostProfile": "profiles/no-mkdir.json"}),
        secured("unmasked", "wc -c </proc/timer_list; " + SHOW, runAsUser=0, procMount="Unmasked"),
    ]
    strict = {"runAsNonRoot": True}
    away = {"seccompProfile": {"type": "Localhost", "localhostProfile": "../../edge.db"}}
    missing = {"seccompProfile": {"type": "Localhost", "localhostProfile": "none.json"}}
    await dockerd.image("named:1", changes=['CMD ["sh"]', "USER app"])
    await site.apply(
        pod("rights", *containers, securityContext=whole),
        pod("mighty", secured("main", "ls /dev; " + SHOW, privileged=True)),
        pod("image-user", container(image="named:1", command=["sh", "-c", SHOW])),
        pod("must-not", shell(SLEEPS), securityContext=strict),
        pod("unknown", container(image="named:1"), securityContext=strict),
        pod("zero", shell(SLEEPS), securityContext={**strict, "runAsUser": 0}),
        pod("missing", shell(SLEEPS), securityContext=missing),
        pod("armoured", shell(SLEEPS), securityContext={"appArmorProfile": {"type": "RuntimeDefault"}}),
    )
    await site.ready("rights", "mighty", "image-user")
    out = {item["name"]: await site.log("rights", item["name"]) for item in containers}
    seen = {name: status_of(text) for name, text in out.items()}

    def capabilities(name: str, kind: str = "CapEff") -> int:
        return int(seen[name][kind], 16)

    assert (seen["pods"]["Uid"].split()[0], seen["pods"]["Gid"].split()[0]) == ("1000", "20")
    assert set(seen["pods"]["Groups"].split()) >= {"3000", "4000", "4001"}
    assert (seen["own"]["Uid"].split()[0], seen["own"]["Gid"].split()[0]) == ("7", "8")
    assert set(seen["own"]["Groups"].split()) >= {"3000", "4000", "4001"}
    assert seen["root"]["Uid"].split()[0] == "0"
    assert capabilities("root", "CapBnd") == DEFAULT_CAPABILITIES
    assert capabilities("pods") == 0
    assert (seen["pods"]["NoNewPrivs"], seen["nonew"]["NoNewPrivs"]) == ("0", "1")
    assert capabilities("caps") == DEFAULT_CAPABILITIES & ~CHOWN | NET_ADMIN
    assert (capabilities("none"), capabilities("none", "CapBnd")) == (0, 0)
    assert capabilities("only") == SYS_TIME
    assert "touch: /x: Read-only file system" in out["readonly"]
    assert "shm" in out["readonly"].splitlines()
    assert (seen["pods"]["Seccomp"], seen["free"]["Seccomp"], seen["local"]["Seccomp"]) == ("2", "0", "2")
    assert "can't create directory '/tmp/x'" in out["local"]
    assert int(out["unmasked"].split()[0]) > 0
    mighty = await site.log("mighty")
    assert int(status_of(mighty)["CapEff"], 16) & SYS_TIME
    assert len(mighty.partition("Name:")[0].split()) > 20, "all devices of the host"
    assert status_of(await site.log("image-user"))["Uid"].split()[0] == "1000"

    for name, words in (
        ("must-not", "container has runAsNonRoot and image will run as root"),
        ("unknown", "container has runAsNonRoot and image has non-numeric user (app), cannot verify user is non-root"),
        ("zero", "container's runAsUser breaks non-root policy"),
        ("missing", "cannot load seccomp profile"),
        *([] if host_enforces_apparmor() else [("armoured", "AppArmor is not enabled on the host")]),
    ):
        obj = await site.until(name, lambda obj: state(obj)[1].get("message"), "a reason to wait")
        word, details = state(obj)
        assert (word, details["reason"]) == ("waiting", "CreateContainerConfigError"), details
        assert words in details["message"]
    refused = await site.kubectl("apply", "-f", "-", stdin=json.dumps(pod("away", securityContext=away)), check=False)
    assert refused == "", "a profile outside of the folder"


def cgroup(pid: int, controller: str, file: str) -> str:
    """A cgroup file of a process, v1 or v2."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return Path(f"/sys/fs/cgroup/{controller}{path}/{file}").read_text().strip()
    raise AssertionError(f"no {controller} of {pid}")


async def test_limits_and_shared_namespaces(site: PodSite, dockerd: Dockerd) -> None:
    """cgroup files, OOM scores and QoS; whose processes, IPC and network a container sees."""
    small = {"cpu": "500m", "memory": "32Mi"}
    eats = "x=a; while true; do x=$x$x; done"
    host: Object = {"hostNetwork": True, "hostPID": True, "hostIPC": True}
    sysctls = [{"name": "net.ipv4.ip_local_port_range", "value": "40000 41000"}]
    await site.apply(
        pod("guaranteed", shell(SLEEPS, resources={"limits": small})),
        pod("burst", shell(SLEEPS, resources={"requests": {"cpu": "250m", "memory": "64Mi"}, "limits": {"cpu": "2"}})),
        pod("effort"),
        pod("hungry", shell(eats, resources={"limits": {"memory": "16Mi"}}), restartPolicy="Never"),
        pod("hosts", **host, hostAliases=[{"ip": "192.0.2.7", "hostnames": ["plc"]}]),
        pod("shared", shell(SLEEPS), shell("exec sleep 4711", "side"), shareProcessNamespace=True),
        pod("apart", shell(SLEEPS), shell("exec sleep 4712", "side")),
        pod("tuned", securityContext={"sysctls": sysctls}),
        pod("unsafe", securityContext={"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]}),
        pod("dozens", shell(SLEEPS, ports=[{"containerPort": 80, "hostPort": 7080, "protocol": "UDP"}])),
    )
    await site.ready("guaranteed", "burst", "effort", "hosts", "shared", "apart", "tuned", "dozens")

    async def inspect(name: str, which: str = "main") -> Any:
        obj = await site.get("pod", name)
        ids = {item["name"]: item["containerID"] for item in obj["status"]["containerStatuses"]}
        return obj, await dockerd.call("inspect_container", ids[which].removeprefix("docker://"))

    expected = {
        "guaranteed": ("Guaranteed", "512", "50000", 32 << 20),
        "burst": ("Burstable", "256", "200000", None),
        "effort": ("BestEffort", "2", "-1", None),
    }
    for name, (qos, shares, quota, memory) in expected.items():
        obj, found = await inspect(name)
        pid = found["State"]["Pid"]
        assert obj["status"]["qosClass"] == qos
        assert cgroup(pid, "cpu", "cpu.shares") == shares
        assert cgroup(pid, "cpu", "cpu.cfs_quota_us") == quota
        limit = int(cgroup(pid, "memory", "memory.limit_in_bytes"))
        assert limit == memory if memory else limit > 1 << 40
        score = int(Path(f"/proc/{pid}/oom_score_adj").read_text())
        assert {"guaranteed": score <= 0, "burst": 2 <= score < 1000, "effort": score == 1000}[name], score

    obj = await site.ended("hungry")
    assert state(obj)[1]["reason"] == "OOMKilled"
    assert state(obj)[1]["exitCode"] == 137

    _, found = await inspect("hosts")
    assert await site.sh("hosts", "ps | grep -c [d]ockerd") != "0", "hostPID"
    interfaces = await site.sh("hosts", "ls /sys/class/net")
    assert "docker0" in interfaces.split(), "hostNetwork"
    assert "192.0.2.7\tplc" in await site.run("hosts", "cat", "/etc/hosts")
    assert (await site.run("hosts", "cat", "/etc/hosts")).startswith("# Kubernetes-managed hosts file (host network).")
    ipc = await asyncio.to_thread(Path(f"/proc/{found['State']['Pid']}/ns/ipc").readlink)
    assert ipc == Path("/proc/self/ns/ipc").readlink(), "hostIPC"
    obj = await site.get("pod", "hosts")
    assert obj["status"]["podIP"] == obj["status"]["hostIP"]

    assert "sleep 4711" in await site.run("shared", "ps")
    assert "pause" in (await site.run("shared", "ps")).splitlines()[1]
    assert "sleep 4712" not in await site.run("apart", "ps")
    assert (await site.sh("apart", "echo from-main >/dev/shm/x")) == ""
    assert (await site.sh("apart", "cat /dev/shm/x", "side")) == "from-main", "IPC is the pod's"

    assert (await site.run("tuned", "cat", "/proc/sys/net/ipv4/ip_local_port_range")).split() == ["40000", "41000"]
    obj = await site.ended("unsafe")
    assert (obj["status"]["phase"], obj["status"]["reason"]) == ("Failed", "SysctlForbidden")
    await site.told("unsafe", "Warning", "SysctlForbidden", 'forbidden sysctl: "net.core.somaxconn" not allowlisted')


async def fetch(host: str, port: int, timeout: float = 3) -> str:
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET /name HTTP/1.0\r\n\r\n")
            body = (await reader.read()).rpartition(b"\r\n\r\n")[2].decode().strip()
            writer.close()
            return body
    except (OSError, TimeoutError) as error:
        return type(error).__name__


def web(name: str = "main", **fields: Any) -> Object:
    return shell("mkdir -p /www; hostname >/www/name; exec httpd -f -p 8080 -h /www", name, **fields)


def resolv(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.split()
        if words and words[0] in ("nameserver", "search", "options"):
            found.setdefault(words[0], []).extend(words[1:])
    return found


async def test_names_ports_and_name_servers(site: PodSite, dockerd: Dockerd) -> None:
    """hostname, /etc/hosts, resolv.conf; ports on the host, whose they are, and who comes too late."""
    site.edge_settings["edged"]["cluster_dns"] = ["192.0.2.10"]
    site.write_settings()
    await site.edge.stop()
    await site.start_edge()
    ports = [
        {"containerPort": 8080, "hostPort": 7001, "name": "web"},
        {"containerPort": 8080, "hostPort": 7002, "hostIP": dockerd.address},
        {"containerPort": 8080, "hostPort": 7003, "hostIP": "127.0.0.1"},
    ]
    late = [{"containerPort": 8080, "hostPort": 7001}]
    none = {
        "nameservers": ["192.0.2.53", "192.0.2.54"],
        "searches": ["plant.example"],
        "options": [{"name": "ndots", "value": "2"}, {"name": "rotate"}],
    }
    aliases = [{"ip": "192.0.2.9", "hostnames": ["plc", "plc.plant.example"]}]
    long = "a-name-that-is-much-longer-than-sixty-three-characters.which-linux-does-not-admit"
    await site.apply(
        pod("web", web(ports=ports), hostname="scale", subdomain="line", hostAliases=aliases),
        pod("fqdn", hostname="scale", subdomain="line", setHostnameAsFQDN=True),
        pod(long),
        pod("dns-none", dnsPolicy="None", dnsConfig=none),
        pod("dns-default", dnsPolicy="Default"),
        pod("dns-first", dnsConfig={"searches": ["plant.example"], "options": [{"name": "ndots", "value": "3"}]}),
        pod("dns-host", hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet"),
        pod("dns-host-first", hostNetwork=True),
    )
    obj, *_ = await site.ready(
        "web", "fqdn", long, "dns-none", "dns-default", "dns-first", "dns-host", "dns-host-first"
    )
    assert await fetch(obj["status"]["podIP"], 8080) == "scale"
    assert await fetch(dockerd.address, 7001) == "scale"
    assert await fetch(dockerd.address, 7002) == "scale"
    assert await fetch(dockerd.address, 7003) == "ConnectionRefusedError"
    hosts = await site.run("web", "cat", "/etc/hosts")
    assert hosts.startswith("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n")
    assert f"{obj['status']['podIP']}\tscale.line.default.svc.cluster.local\tscale\n" in hosts
    assert hosts.endswith("# Entries added by HostAliases.\n192.0.2.9\tplc\tplc.plant.example")
    assert await site.sh("web", "hostname; hostname -f") == "scale\nscale.line.default.svc.cluster.local"
    assert await site.run("fqdn", "hostname") == "scale.line.default.svc.cluster.local"
    assert await site.run(long, "hostname") == long[:63].rstrip("-.")

    own = ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]
    found = {name: resolv(await site.run(name, "cat", "/etc/resolv.conf")) for name in (
        "dns-none", "dns-default", "dns-first", "dns-host", "dns-host-first"
    )}  # fmt: skip
    assert found["dns-none"] == {
        "nameserver": ["192.0.2.53", "192.0.2.54"],
        "search": ["plant.example"],
        "options": ["ndots:2", "rotate"],
    }
    assert found["dns-first"]["nameserver"] == ["192.0.2.10"]
    assert found["dns-first"]["search"][:3] == own
    assert found["dns-first"]["search"][-1] == "plant.example"
    assert found["dns-first"]["options"] == ["ndots:3"]
    assert found["dns-host"]["nameserver"] == ["192.0.2.10"]
    assert found["dns-host"]["search"][:3] == own
    host = resolv(Path("/etc/resolv.conf").read_text())
    for name in ("dns-default", "dns-host-first"):
        assert found[name]["nameserver"] == host["nameserver"], name

    await site.apply(pod("late", web(ports=late)))
    obj = await site.ended("late")
    assert obj["status"]["reason"] == "NodePorts"
    message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
    assert obj["status"]["message"] == f"Pod was rejected: {message}"
    await site.told("late", "Warning", "NodePorts", message)

    # A port that something else on the box holds: the sandbox waits for it, and says so.
    holder = await dockerd.call(
        "create_container", BUSYBOX, ["httpd", "-f", "-p", "7100"],
        host_config={"NetworkMode": "host"}, name="of-a-person",
    )  # fmt: skip
    await dockerd.call("start", holder["Id"])
    await site.apply(pod("patient", web(ports=[{"containerPort": 8080, "hostPort": 7100}])))
    obj = await site.until("patient", lambda obj: state(obj)[0] == "waiting", "waiting")

    async def says() -> str:
        return " ".join(message for _, reason, message in await site.events("patient") if reason.startswith("Failed"))

    assert "address already in use" in await eventually(says, what="why")
    await dockerd.call("remove_container", holder["Id"], force=True)
    await site.ready("patient")
