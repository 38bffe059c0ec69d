"""/etc/hosts of a pod's containers, as the kubelet writes it. Pure."""

from collections.abc import Sequence

from edgeappliance.edged.pods.spec import HostAlias, Pod

_HEADER = "# Kubernetes-managed hosts file.\n"
_HOST_HEADER = "# Kubernetes-managed hosts file (host network).\n"
_FIXED = (
    "127.0.0.1\tlocalhost\n"
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::0\tip6-localnet\n"
    "fe00::0\tip6-mcastprefix\n"
    "fe00::1\tip6-allnodes\n"
    "fe00::2\tip6-allrouters\n"
)


def hosts_file(pod: Pod, *, ip: str, cluster_domain: str) -> str:
    """For a pod with an address of its own."""
    name = pod.spec.hostname_override or (pod.spec.hostname or pod.metadata.name)[:63].rstrip("-.")
    if pod.spec.subdomain and not pod.spec.hostname_override:
        full = f"{name}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{cluster_domain}"
        own = f"{ip}\t{full}\t{name}\n"
    else:
        own = f"{ip}\t{name}\n"
    return _HEADER + _FIXED + own + _aliases(pod.spec.host_aliases)


def host_network_file(pod: Pod, *, host: str) -> str:
    """For a pod on the host's network: `host` is the text of the host's own file."""
    if host and not host.endswith("\n"):
        host += "\n"
    return _HOST_HEADER + host + _aliases(pod.spec.host_aliases)


def _aliases(aliases: Sequence[HostAlias]) -> str:
    if not aliases:
        return ""
    lines = "".join("\t".join(map(_word, (alias.ip, *alias.hostnames))) + "\n" for alias in aliases)
    return "\n# Entries added by HostAliases.\n" + lines


def _word(text: str) -> str:
    """One word of a line, whatever was in it: an alias must not make lines of its own."""
    return "".join(text.split())
