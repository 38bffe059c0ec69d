"""Name servers of a pod (Kubernetes, "DNS for Services and Pods"), as values for the engine."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgeappliance.edged.pods.spec import Pod

MAX_SERVERS = 3
MAX_SEARCHES = 32
MAX_FILE = 64 * 1024

_FILES = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))
"""systemd-resolved's own list of the real servers first: /etc/resolv.conf then names only its stub on loopback."""


@dataclass(frozen=True, slots=True)
class Resolver:
    """The content of a resolv.conf. An empty part is left to the engine, which takes the host's."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def read_resolv(text: str) -> Resolver:
    """Of a resolv.conf (resolv.conf(5)); servers on loopback are left out: a pod has another loopback."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0][0] in "#;":
            continue
        if words[0] == "nameserver" and _reachable(words[1]):
            servers.append(words[1])
        elif words[0] in ("search", "domain"):
            searches = words[1:]
        elif words[0] == "options":
            options += words[1:]
    return Resolver(tuple(servers), tuple(searches), tuple(options))


def host_resolver() -> Resolver:
    """The host's, as it is now; an empty one when it has none."""
    for path in _FILES:
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                return read_resolv(file.read(MAX_FILE))
        except OSError:
            continue
    return Resolver()


def resolver(pod: Pod, host: Resolver, *, cluster_dns: Iterable[str], cluster_domain: str) -> Resolver:
    """What the pod's dnsPolicy and dnsConfig ask for.

    Without servers for the cluster, ClusterFirst is Default (as a kubelet does that has none).
    """
    spec, config = pod.spec, pod.spec.dns_config
    cluster = tuple(cluster_dns)
    policy = spec.dns_policy
    if policy == "ClusterFirst" and spec.host_network:
        policy = "Default"
    if policy in ("ClusterFirst", "ClusterFirstWithHostNet") and cluster:
        domain = cluster_domain
        own = (f"{pod.metadata.namespace}.svc.{domain}", f"svc.{domain}", domain) if domain else ()
        base = Resolver(cluster, (*own, *host.searches), ("ndots:5",))
    elif policy == "None":
        base = Resolver()
    elif config.nameservers or config.searches or config.options:
        # The engine takes the host's only where nothing is given, so what is added is added to all of it.
        base = Resolver(
            host.servers if config.nameservers else (),
            host.searches if config.searches else (),
            host.options if config.options else (),
        )
    else:
        return Resolver()
    options = {option.partition(":")[0]: option for option in base.options}
    for option in config.options:
        options[option.name] = option.name if option.value is None else f"{option.name}:{option.value}"
    return Resolver(
        _merged(base.servers, config.nameservers)[:MAX_SERVERS],
        _merged(base.searches, config.searches)[:MAX_SEARCHES],
        tuple(options.values()),
    )


def _merged(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _reachable(server: str) -> bool:
    try:
        return not ipaddress.ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return False
