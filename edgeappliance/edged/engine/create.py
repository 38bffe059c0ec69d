"""Bodies of POST /containers/create for a pod's sandbox and its containers (Engine API, "Create a container")."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeappliance.edged.engine.api import Image
from edgeappliance.edged.engine.dns import Resolver, host_resolver, resolver
from edgeappliance.edged.engine.security import group_add, host_enforces_apparmor, security, user
from edgeappliance.edged.pods import observed
from edgeappliance.edged.pods.environment import as_mapping, expand
from edgeappliance.edged.pods.observed import Kind
from edgeappliance.edged.pods.resources import CPU_PERIOD, cpu_quota, cpu_shares, memory_limit, oom_score_adj
from edgeappliance.edged.pods.spec import Container, Pod
from edgeappliance.kernel.errors import InputError

SANDBOX_SCORE = -998
"""oom_score_adj of a sandbox: without it the whole pod must be made anew."""
SANDBOX_SHARES = 2
NOBODY = "65534:65534"
MAX_HOSTNAME = 63
MAX_FQDN = 64

_PROPAGATION = {"None": "rprivate", "HostToContainer": "rslave", "Bidirectional": "rshared"}


@dataclass(frozen=True, slots=True)
class Mount:
    """Something that a container sees at `target`.

    source: a path on the host, or with `volume` the name of one of the engine's volumes. propagation: the engine's
    word or the API's (HostToContainer). device: the host's device node, which the container may then use.
    create: the engine makes the directory when it is missing.
    """

    source: str
    target: str
    read_only: bool = False
    propagation: str = ""
    volume: bool = False
    device: str = ""
    create: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """What all pods of this node share: `network` of the engine, name servers of the cluster, rotation of logs,
    `memory` of the machine in bytes, the folder of `Localhost` seccomp profiles."""

    network: str = "bridge"
    cluster_dns: tuple[str, ...] = ()
    cluster_domain: str = "cluster.local"
    log_max_mb: int = 10
    log_files: int = 3
    memory: int = 1 << 30
    seccomp_profiles: Path = Path("/var/lib/kubelet/seccomp")
    host_resolver: Callable[[], Resolver] = field(default=host_resolver)
    host_enforces_apparmor: Callable[[], bool] = field(default=host_enforces_apparmor)


def sandbox_body(
    pod: Pod, *, node: str, attempt: int, image: str, mounts: Sequence[Mount], settings: SandboxSettings
) -> dict[str, Any]:
    """Of the container that holds the pod's network, hostname, IPC and memory volumes. Raises InputError."""
    spec = pod.spec
    names = resolver(
        pod, settings.host_resolver(), cluster_dns=settings.cluster_dns, cluster_domain=settings.cluster_domain
    )
    host: dict[str, Any] = {
        "NetworkMode": "host" if spec.host_network else settings.network,
        "IpcMode": "host" if spec.host_ipc else "shareable",
        "PidMode": "host" if spec.host_pid else "",
        "Dns": list(names.servers),
        "DnsSearch": list(names.searches),
        "DnsOptions": list(names.options),
        "Sysctls": {sysctl.name.replace("/", "."): sysctl.value for sysctl in spec.security_context.sysctls},
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "none", "Config": {}},
        "CapDrop": ["ALL"],
        "ReadonlyRootfs": True,
        "SecurityOpt": ["no-new-privileges"],
        "OomScoreAdj": SANDBOX_SCORE,
        "CpuShares": SANDBOX_SHARES,
        "Init": False,
        **_mounted(mounts),
    }
    body: dict[str, Any] = {
        "Image": image,
        "User": NOBODY,
        "Labels": _labels(pod, node=node, kind=Kind.SANDBOX, name="POD", attempt=attempt),
        "HostConfig": host,
    }
    if spec.host_network:
        host["UTSMode"] = "host"
    else:
        body["Hostname"] = hostname(pod, cluster_domain=settings.cluster_domain)
        body["ExposedPorts"], host["PortBindings"] = _ports(pod)
    return body


def container_body(
    pod: Pod,
    container: Container,
    *,
    node: str,
    kind: Kind,
    sandbox_id: str,
    attempt: int,
    backoff: float,
    image: Image,
    env: list[str],
    mounts: Sequence[Mount],
    spec_hash: str,
    settings: SandboxSettings,
) -> dict[str, Any]:
    """Of a container of the pod. `env` is complete; `$(NAME)` in command and args is replaced from it.

    Raises InputError for what cannot be given to the engine.
    """
    labels = _labels(pod, node=node, kind=kind, name=container.name, attempt=attempt)
    labels[observed.SPEC_HASH] = spec_hash
    labels[observed.SANDBOX] = sandbox_id
    labels[observed.BACKOFF] = f"{backoff:g}"
    body: dict[str, Any] = {
        "Image": container.image or image.id,
        "User": user(pod, container, image),
        "Env": env,
        "Labels": labels,
        "OpenStdin": container.stdin,
        "StdinOnce": container.stdin_once,
        "Tty": container.tty,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _host(pod, container, sandbox_id=sandbox_id, mounts=mounts, settings=settings),
    }
    values = as_mapping(env) if container.command or container.args else {}
    if container.command:
        body["Entrypoint"] = [expand(word, values) for word in container.command]
    if container.args:
        body["Cmd"] = [expand(word, values) for word in container.args]
    if container.working_dir:
        body["WorkingDir"] = container.working_dir
    if container.lifecycle.stop_signal:
        body["StopSignal"] = container.lifecycle.stop_signal
    return body


def _host(
    pod: Pod, container: Container, *, sandbox_id: str, mounts: Sequence[Mount], settings: SandboxSettings
) -> dict[str, Any]:
    spec = pod.spec
    memory = memory_limit(container)
    host: dict[str, Any] = {
        "NetworkMode": f"container:{sandbox_id}",
        "IpcMode": "host" if spec.host_ipc else f"container:{sandbox_id}",
        "PidMode": _pid_mode(pod, sandbox_id),
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": f"{settings.log_max_mb}m", "max-file": str(settings.log_files)},
        },
        "GroupAdd": group_add(pod),
        "CpuShares": cpu_shares(container),
        "OomScoreAdj": oom_score_adj(pod, container, memory=settings.memory),
        "Init": False,
        **security(pod, container, profiles=settings.seccomp_profiles, apparmor=settings.host_enforces_apparmor()),
        **_mounted(mounts),
    }
    if memory:
        host["Memory"] = memory
        host["MemorySwap"] = memory  # both together: none
    if quota := cpu_quota(container):
        host["CpuPeriod"], host["CpuQuota"] = CPU_PERIOD, quota
    if spec.host_network:
        host["UTSMode"] = "host"
    return host


def _pid_mode(pod: Pod, sandbox_id: str) -> str:
    if pod.spec.host_pid:
        return "host"
    return f"container:{sandbox_id}" if pod.spec.share_process_namespace else ""


def _labels(pod: Pod, *, node: str, kind: Kind, name: str, attempt: int) -> dict[str, str]:
    return {
        observed.OWNER: node,
        observed.KIND: kind.value,
        observed.POD_UID: pod.uid,
        observed.POD_NAME: pod.metadata.name,
        observed.POD_NAMESPACE: pod.metadata.namespace,
        observed.CONTAINER_NAME: name,
        observed.ATTEMPT: str(attempt),
        observed.GRACE: str(pod.spec.termination_grace_period_seconds),
    }


def hostname(pod: Pod, *, cluster_domain: str) -> str:
    """The pod's hostname (Kubernetes, "Pod's hostname and subdomain fields"). Raises InputError."""
    if pod.spec.hostname_override:
        return pod.spec.hostname_override
    name = (pod.spec.hostname or pod.metadata.name)[:MAX_HOSTNAME].rstrip("-.")
    if not (pod.spec.set_hostname_as_fqdn and pod.spec.subdomain):
        return name
    whole = f"{name}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{cluster_domain}"
    if len(whole) > MAX_FQDN:
        raise InputError(
            f"Failed to construct FQDN from Pod hostname and cluster domain, FQDN {whole} is too long "
            f"({MAX_FQDN} characters is the max, {len(whole)} characters requested)",
            field="",
        )
    return whole


def _ports(pod: Pod) -> tuple[dict[str, Any], dict[str, Any]]:
    """ExposedPorts and PortBindings of the host ports of containers and sidecars."""
    exposed: dict[str, Any] = {}
    bound: dict[str, list[dict[str, str]]] = {}
    for container in (*(c for c in pod.spec.init_containers if c.is_sidecar), *pod.spec.containers):
        for port in container.ports:
            if not port.host_port:
                continue
            key = f"{port.container_port}/{port.protocol.lower()}"
            exposed[key] = {}
            binding = {"HostIp": port.host_ip, "HostPort": str(port.host_port)}
            if binding not in bound.setdefault(key, []):
                bound[key].append(binding)
    return exposed, bound


def _mounted(mounts: Sequence[Mount]) -> dict[str, Any]:
    """Mounts, Binds and Devices of a HostConfig."""
    entries: list[dict[str, Any]] = []
    binds: list[str] = []
    devices: list[dict[str, str]] = []
    for mount in mounts:
        propagation = _PROPAGATION.get(mount.propagation, mount.propagation)
        if mount.device:
            rights = "r" if mount.read_only else "rwm"
            devices.append({"PathOnHost": mount.device, "PathInContainer": mount.target, "CgroupPermissions": rights})
        if mount.volume:
            entry: dict[str, Any] = {"Type": "volume", "VolumeOptions": {"NoCopy": True}}
        elif mount.create:
            # Only this older form makes a missing directory with every engine; it cannot name a path with a colon.
            if ":" in mount.source or ":" in mount.target:
                raise InputError(f"a path with a colon cannot be created: {mount.source}", field="")
            options = ["ro" if mount.read_only else "rw", *([propagation] if propagation else [])]
            binds.append(f"{mount.source}:{mount.target}:{','.join(options)}")
            continue
        else:
            entry = {"Type": "bind"}
            if propagation:
                entry["BindOptions"] = {"Propagation": propagation}
        entries.append({**entry, "Source": mount.source, "Target": mount.target, "ReadOnly": mount.read_only})
    return {"Mounts": entries, "Binds": binds, "Devices": devices}
