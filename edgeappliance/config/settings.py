"""Every key of edgecore.toml.

The text of a key is its documentation: `edgecore config show` prints a file made from this module.
"""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from edgeappliance.config.endpoint import endpoint_error
from edgeappliance.kubeapi.names import NAME_LIMIT, label_key_error, label_value_error, subdomain_error

DEFAULT_FILE = Path("/etc/edgeappliance/edgecore.toml")

MAX_SOCKET_PATH = 107
"""Bytes of the path of a Unix socket (sun_path, less its NUL)."""


Port = Annotated[int, Meta(ge=1, le=65535)]
PortOrAny = Annotated[int, Meta(ge=0, le=65535)]
Seconds = Annotated[float, Meta(gt=0, le=86400)]


def default_node_name() -> str:
    """The host name as a Kubernetes node name."""
    parts = re.sub(r"[^-a-z0-9.]", "-", socket.gethostname().lower()).split(".")
    name = ".".join(part for part in (part.strip("-") for part in parts) if part)
    return name[:NAME_LIMIT].strip("-.") or "edge"


class Node(Struct, frozen=True):
    """[node]"""

    name: Annotated[
        str, Meta(description="Name of this node in Kubernetes. Empty: the name it joined with, else the host name.")
    ] = ""
    labels: Annotated[dict[str, str], Meta(description="Labels given to the Node when it is registered.")] = field(
        default_factory=dict
    )
    enable: Annotated[bool, Meta(description="Register this box as a Node and report its status and lease.")] = True

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.name and (error := subdomain_error(self.name)):
            yield "name", f"{self.name!r} {error}"
        for key, value in self.labels.items():
            if error := label_key_error(key) or label_value_error(value):
                yield f"labels.{key}", error


class Cloud(Struct, frozen=True):
    """[cloud]"""

    hub: Annotated[
        str, Meta(description="host:port of the gateway's websocket. Empty: what `edgecore join` was told.")
    ] = ""
    enroll: Annotated[
        str, Meta(description="host:port of the gateway's enrolment server. Empty: what `edgecore join` was told.")
    ] = ""
    token_file: Annotated[
        str,
        Meta(
            description="File with a join token, for images that join by themselves: used while there is no "
            "certificate, removed after that. Needs hub."
        ),
    ] = ""
    project: Annotated[str, Meta(description="Project id in the URL of the link; KubeEdge's default.")] = (
        "e632aba927ea4ac2b575ec1603d56f10"
    )
    heartbeat: Annotated[
        float,
        Meta(gt=0, le=25, description="Seconds between keepalive messages; a cloud gives a node up after 30."),
    ] = 15.0
    messages_per_second: Annotated[
        float,
        Meta(
            gt=0, le=1e6, description="Cap on messages per second towards a KubeEdge cloud; our own gateway has none."
        ),
    ] = 30.0
    message_burst: Annotated[int, Meta(ge=1, description="Burst above that cap.")] = 60
    rotate_certificates: Annotated[bool, Meta(description="Renew the client certificate at 70-90 % of its life.")] = (
        True
    )

    def problems(self) -> Iterator[tuple[str, str]]:
        for key in ("hub", "enroll"):
            if (text := getattr(self, key)) and (error := endpoint_error(text)):
                yield key, error
        if self.token_file and not self.hub:
            yield "token_file", "needs hub, which says where to join"


class MqttListener(Struct, frozen=True):
    """[mqtt.pods]"""

    address: Annotated[
        str, Meta(description="Address of a second listener, for pods and other hosts. Empty: none.")
    ] = ""
    port: Annotated[Port, Meta(description="Port of the second listener.")] = 1884
    user: Annotated[str, Meta(description="User that the second listener asks for.")] = ""
    password_file: Annotated[str, Meta(description="File that holds that user's password.")] = ""
    acl_file: Annotated[
        str, Meta(description="mosquitto ACL file for the second listener. Empty: that user may use every topic.")
    ] = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.address and not (self.user and self.password_file):
            yield "user", "a listener beyond loopback needs user and password_file"
        if not self.user.isprintable() or ":" in self.user:
            yield "user", "may not hold ':' or control characters"


class MqttTls(Struct, frozen=True):
    """[mqtt.tls]"""

    ca_file: Annotated[str, Meta(description="CA that signed the external broker's certificate. Empty: no TLS.")] = ""
    cert_file: Annotated[str, Meta(description="Client certificate, when the broker asks for one.")] = ""
    key_file: Annotated[str, Meta(description="Key of the client certificate.")] = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        if (self.cert_file or self.key_file) and not self.ca_file:
            yield "ca_file", "is needed for TLS; without it cert_file and key_file would not be used"
        if self.key_file and not self.cert_file:
            yield "cert_file", "is needed beside key_file"


class Mqtt(Struct, frozen=True):
    """[mqtt]"""

    mode: Annotated[
        Literal["internal", "external"],
        Meta(description="internal: edgecore runs its own mosquitto. external: it connects to the broker below."),
    ] = "internal"
    host: Annotated[str, Meta(description="Host of the external broker.")] = "127.0.0.1"
    port: Annotated[
        Port, Meta(description="Port of the broker; in mode internal it is bound to 127.0.0.1, anonymous.")
    ] = 1883
    user: Annotated[str, Meta(description="User at the external broker.")] = ""
    password_file: Annotated[str, Meta(description="File that holds the password at the external broker.")] = ""
    mosquitto: Annotated[str, Meta(description="The mosquitto program of mode internal.")] = "mosquitto"
    tls: Annotated[MqttTls, Meta(description="TLS towards the external broker.")] = MqttTls()
    pods: Annotated[MqttListener, Meta(description="A second listener of the internal broker.")] = MqttListener()

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.mode == "external":
            if not self.host:
                yield "host", "is needed for mode external"
            if self.password_file and not self.user:
                yield "user", "is needed beside password_file: MQTT sends no password without a user"
            if self.pods.address:
                yield "pods.address", "an external broker has its own listeners; only mode internal adds this one"
        elif self.pods.address and self.pods.port == self.port:
            yield "pods.port", f"is that of the first listener, mqtt.port = {self.port}"


class Twin(Struct, frozen=True):
    """[twin]"""

    strict: Annotated[
        bool, Meta(description="Accept only KubeEdge's narrow character set in values, at most 512 characters.")
    ] = False
    commit_interval: Annotated[
        Seconds, Meta(description="Seconds between commits of reported values. A power cut costs at most that.")
    ] = 10.0


class Mappers(Struct, frozen=True):
    """[mappers]"""

    directory: Annotated[
        str, Meta(description="Folder of local device files (*.toml), used beside the Devices of the cloud.")
    ] = "/etc/edgeappliance/mappers.d"
    modbus: Annotated[bool, Meta(description="Run the Modbus mapper.")] = True


class Edged(Struct, frozen=True):
    """[edged]"""

    enable: Annotated[bool, Meta(description="Run pods on this box's Docker Engine.")] = True
    docker: Annotated[str, Meta(description="Socket of the Docker Engine.")] = "/run/docker.sock"
    max_pods: Annotated[int, Meta(ge=1, le=1000, description="How many pods may run here.")] = 110
    network: Annotated[str, Meta(description="Docker network of pods without hostNetwork.")] = "bridge"
    cluster_dns: Annotated[
        list[str], Meta(description="Name servers for pods with dnsPolicy ClusterFirst. Empty: they get the box's own.")
    ] = field(default_factory=list)
    cluster_domain: Annotated[str, Meta(description="Search domain for those.")] = "cluster.local"
    manifests: Annotated[str, Meta(description="Folder of static pods (*.yaml, *.json).")] = (
        "/etc/edgeappliance/manifests"
    )
    kubelet_port: Annotated[
        PortOrAny,
        Meta(description="Port of the kubelet API on 127.0.0.1. 0: any free one; `edgecore status` names it."),
    ] = 10350
    kubelet_open: Annotated[
        bool,
        Meta(
            description="Let anybody who reaches 127.0.0.1, pods with hostNetwork among them, exec, attach and "
            "port-forward there, as KubeEdge does. Off: they need the bearer token in runtime_dir/kubelet.token."
        ),
    ] = False
    events: Annotated[bool, Meta(description="Report Kubernetes events.")] = True
    privileged: Annotated[bool, Meta(description="Admit privileged containers.")] = True
    log_max_mb: Annotated[int, Meta(ge=1, le=10240, description="MB after which a container's log is rotated.")] = 10
    log_files: Annotated[int, Meta(ge=1, le=100, description="Log files kept of a container.")] = 3
    image_gc_high: Annotated[
        int, Meta(ge=1, le=100, description="Percent of the engine's disk in use at which unused images are removed.")
    ] = 85
    image_gc_low: Annotated[int, Meta(ge=0, le=100, description="Percent down to which they are removed.")] = 80
    image_min_age: Annotated[
        float, Meta(ge=0, description="Seconds for which an unused image is kept, whatever the disk says.")
    ] = 120.0
    dead_containers: Annotated[
        int, Meta(ge=1, le=100, description="Ended attempts kept of each container, for its logs.")
    ] = 1
    evict_memory_mb: Annotated[int, Meta(ge=0, description="Evict pods below this many MB of free memory.")] = 100
    evict_disk_percent: Annotated[
        int, Meta(ge=0, le=99, description="Evict pods below this percentage of free disk, or of free inodes (half).")
    ] = 10

    def problems(self) -> Iterator[tuple[str, str]]:
        if not Path(self.docker).is_absolute():
            yield "docker", "must be the absolute path of a Unix socket"
        if self.image_gc_low >= self.image_gc_high:
            yield "image_gc_low", "must be less than image_gc_high"


class EdgeStream(Struct, frozen=True):
    """[edgestream]"""

    enable: Annotated[
        bool, Meta(description="Let kubectl logs, exec, attach, port-forward and top reach this box through the cloud.")
    ] = True
    server: Annotated[
        str, Meta(description="host:port of the gateway's tunnel. Empty: the host of cloud.hub, port 10004.")
    ] = ""

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.server and (error := endpoint_error(self.server)):
            yield "server", error


class Metrics(Struct, frozen=True):
    """[metrics]"""

    enable: Annotated[bool, Meta(description="Serve /metrics and /healthz on 127.0.0.1.")] = True
    port: Annotated[PortOrAny, Meta(description="Port of /metrics. 0: any free one; `edgecore status` names it.")] = (
        9152
    )


class Log(Struct, frozen=True):
    """[log]"""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Least level written.")] = "info"
    format: Annotated[
        Literal["text", "json"], Meta(description="text (with priorities under journald) or json lines.")
    ] = "text"


class EdgeSettings(Struct, frozen=True):
    """edgecore.toml"""

    state_dir: Annotated[str, Meta(description="Where certificates and databases live; must survive a reboot.")] = (
        "/var/lib/edgeappliance"
    )
    runtime_dir: Annotated[
        str, Meta(description="Where sockets and generated files live; may vanish with a reboot.")
    ] = "/run/edgeappliance"
    event_loop: Annotated[
        Literal["auto", "uvloop", "asyncio"], Meta(description="Event loop. auto: what benchmarks favour here.")
    ] = "auto"
    node: Annotated[Node, Meta(description="This box as a Kubernetes node.")] = Node()
    cloud: Annotated[Cloud, Meta(description="The link to the cloud.")] = Cloud()
    mqtt: Annotated[Mqtt, Meta(description="The MQTT broker for apps and mappers.")] = Mqtt()
    twin: Annotated[Twin, Meta(description="Device twins.")] = Twin()
    mappers: Annotated[Mappers, Meta(description="Device mappers.")] = Mappers()
    edged: Annotated[Edged, Meta(description="Pods.")] = Edged()
    edgestream: Annotated[EdgeStream, Meta(description="Logs and terminals of pods through the cloud.")] = EdgeStream()
    metrics: Annotated[Metrics, Meta(description="Prometheus metrics on loopback.")] = Metrics()
    log: Annotated[Log, Meta(description="Logging.")] = Log()

    @property
    def state_path(self) -> Path:
        return Path(self.state_dir)

    @property
    def identity_path(self) -> Path:
        """Where key and certificates lie."""
        return self.state_path / "pki"

    @property
    def runtime_path(self) -> Path:
        return Path(self.runtime_dir)

    @property
    def control_socket(self) -> Path:
        return self.runtime_path / "control.sock"

    @property
    def kubelet_socket(self) -> Path:
        return self.runtime_path / "kubelet.sock"

    def problems(self) -> Iterator[tuple[str, str]]:
        for key in ("state_dir", "runtime_dir"):
            if not Path(getattr(self, key)).is_absolute():
                yield key, "must be an absolute path: a service has no working directory to rely on"
        if len(str(self.control_socket).encode()) > MAX_SOCKET_PATH:
            yield "runtime_dir", f"is too long: the path of a socket in it may have {MAX_SOCKET_PATH} bytes"
