"""Every key of cloudgateway.toml.

The text of a key is its documentation: `cloudgateway config show` prints a file made from this module.
"""

import ipaddress
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

DEFAULT_FILE = Path("/etc/edgeappliance/cloudgateway.toml")

_DNS_NAME = re.compile(r"[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?)*")

Port = Annotated[int, Meta(ge=0, le=65535)]


class CloudHubSettings(Struct, frozen=True):
    """[cloudhub]"""

    host: Annotated[str, Meta(description="Address to listen on for the edges' websockets.")] = "0.0.0.0"  # noqa: S104
    port: Annotated[Port, Meta(description="Port of the websockets; KubeEdge's is 10000. 0: any free one.")] = 10000
    node_limit: Annotated[int, Meta(ge=1, description="How many nodes may be connected to this gateway.")] = 2000
    keepalive: Annotated[
        float, Meta(ge=5, le=3600, description="Seconds without a keepalive after which a node counts as gone.")
    ] = 30.0
    queue_mb: Annotated[
        int,
        Meta(
            ge=16,
            le=1_000_000,
            description="MB of messages that may wait for all nodes together (for one node 4096 messages and 32 MB). "
            "What does not fit is sent when there is room again.",
        ),
    ] = 512
    authorize: Annotated[
        bool, Meta(description="Refuse what a node says about anything but itself. Off is upstream's default.")
    ] = True


class EnrolmentSettings(Struct, frozen=True):
    """[enrolment]"""

    host: Annotated[str, Meta(description="Address to listen on for joining edges.")] = "0.0.0.0"  # noqa: S104
    port: Annotated[Port, Meta(description="Port of enrolment; KubeEdge's is 10002. 0: any free one.")] = 10002
    addresses: Annotated[
        list[str],
        Meta(
            description="IP addresses under which edges reach this gateway; they go into its server certificate. "
            "Empty: the address of the default route. Loopback and the host name are always in."
        ),
    ] = field(default_factory=list)
    dns_names: Annotated[list[str], Meta(description="DNS names under which edges reach this gateway, likewise.")] = (
        field(default_factory=list)
    )
    certificate_days: Annotated[int, Meta(ge=1, le=36400, description="Life of a node certificate in days.")] = 365
    renewal_grace_days: Annotated[
        int,
        Meta(
            ge=0,
            le=36400,
            description="How long after its end a node certificate can still be renewed by proof of its key. "
            "A box that was off for longer must join again with a token.",
        ),
    ] = 90
    token_hours: Annotated[
        float, Meta(gt=0, le=87600, description="Life of a join token unless `token create --hours` says otherwise.")
    ] = 24.0

    def problems(self) -> Iterator[tuple[str, str]]:
        for address in self.addresses:
            try:
                ipaddress.ip_address(address)
            except ValueError:
                yield "addresses", f"{address!r} is no IP address; names belong in dns_names"
        for name in self.dns_names:
            if len(name) > 253 or not _DNS_NAME.fullmatch(name):
                yield "dns_names", f"{name!r} is no DNS name"


class KubernetesSettings(Struct, frozen=True):
    """[kubernetes]"""

    kubeconfig: Annotated[
        str,
        Meta(
            description="kubeconfig of the cluster. Empty: the pod's service account, else $KUBECONFIG, else "
            "~/.kube/config. Not used with an embedded API."
        ),
    ] = ""
    context: Annotated[str, Meta(description="Context of that kubeconfig. Empty: its current one.")] = ""
    install_crds: Annotated[bool, Meta(description="Install or update KubeEdge's custom resources at every start.")] = (
        False
    )


class EmbeddedSettings(Struct, frozen=True):
    """[embedded]"""

    directory: Annotated[
        str,
        Meta(
            description="Directory of the embedded Kubernetes API, for a site without a cluster. Empty: none. "
            "`cloudgateway run --embedded DIR` sets it too."
        ),
    ] = ""
    host: Annotated[str, Meta(description="Address on which kubectl reaches the embedded API.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port of the embedded API. 0: any free one.")] = 6443
    names: Annotated[list[str], Meta(description="Further names and addresses for the embedded API's certificate.")] = (
        field(default_factory=list)
    )


class CloudStreamSettings(Struct, frozen=True):
    """[cloudstream]"""

    enable: Annotated[bool, Meta(description="Serve kubectl logs, exec, attach, port-forward and top.")] = True
    host: Annotated[str, Meta(description="Address to listen on for the edges' tunnels.")] = "0.0.0.0"  # noqa: S104
    tunnel_port: Annotated[Port, Meta(description="Port of the tunnels; KubeEdge's is 10004. 0: any free one.")] = 10004
    stream_host: Annotated[
        str, Meta(description="Address to listen on for a cluster's API server (not with an embedded API).")
    ] = "0.0.0.0"  # noqa: S104
    stream_port: Annotated[
        Port, Meta(description="Port for a cluster's API server; KubeEdge's is 10003. 0: any free one.")
    ] = 10003
    address: Annotated[
        str,
        Meta(
            description="IP address under which the cluster's API server reaches this gateway: written into the status "
            "of the nodes whose tunnel ends here, so it must lead to this gateway and to no other. Empty: that of the "
            "default route."
        ),
    ] = ""
    client_ca_file: Annotated[
        str,
        Meta(
            description="CA that signed the API server's client certificate for kubelets. Empty: the cluster's own CA."
        ),
    ] = ""


class MetricsSettings(Struct, frozen=True):
    """[metrics]"""

    enable: Annotated[bool, Meta(description="Serve /metrics, /healthz and /readyz.")] = True
    host: Annotated[str, Meta(description="Address to serve them on.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="Port; KubeEdge's is 9091. 0: any free one.")] = 9091


class LogSettings(Struct, frozen=True):
    """[log]"""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Least level shown.")] = "info"
    format: Annotated[Literal["text", "json"], Meta(description="text for people and journald, json for machines.")] = (
        "text"
    )


class GatewaySettings(Struct, frozen=True):
    """cloudgateway.toml"""

    cloudhub: Annotated[CloudHubSettings, Meta(description="The link to the edges.")] = field(
        default_factory=CloudHubSettings
    )
    enrolment: Annotated[EnrolmentSettings, Meta(description="How edges join.")] = field(
        default_factory=EnrolmentSettings
    )
    kubernetes: Annotated[KubernetesSettings, Meta(description="The cluster.")] = field(
        default_factory=KubernetesSettings
    )
    embedded: Annotated[EmbeddedSettings, Meta(description="Or the API of a site without one.")] = field(
        default_factory=EmbeddedSettings
    )
    cloudstream: Annotated[
        CloudStreamSettings, Meta(description="Logs and terminals of pods, through the edges' tunnels.")
    ] = field(default_factory=CloudStreamSettings)
    metrics: Annotated[MetricsSettings, Meta(description="What it tells of itself.")] = field(
        default_factory=MetricsSettings
    )
    log: Annotated[LogSettings, Meta(description="Logging, on stderr.")] = field(default_factory=LogSettings)


def server_names(settings: EnrolmentSettings) -> list[str]:
    """Names and addresses for the server certificate: the operator's, or the default route's, and the host's own."""
    addresses = [str(ipaddress.ip_address(address)) for address in settings.addresses]
    own = [] if addresses else default_addresses()
    return list(dict.fromkeys([*addresses, *own, *settings.dns_names, socket.gethostname(), "127.0.0.1", "localhost"]))


def default_addresses() -> list[str]:
    """This host's address on its default route; empty without a network. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET: routed like any address, reached by nobody
        except OSError:
            return []
        return [str(probe.getsockname()[0])]
