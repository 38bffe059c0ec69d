"""A pod as the API describes it, the parts that this node acts upon (Kubernetes API reference, core/v1 Pod).

Every attribute is the API's field in snake case; absent fields have the API's defaults. Quantities stay texts
(`resources.py` reads them), times stay RFC 3339 texts.
"""

import hashlib
from typing import Any

import msgspec

IntOrText = int | str
Quantity = str | int | float


class Kube(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """Root of the API's structures: camelCase on the wire."""


class KeyToPath(Kube, frozen=True):
    key: str
    path: str
    mode: int | None = None


class FieldRef(Kube, frozen=True):
    field_path: str
    api_version: str = "v1"


class ResourceFieldRef(Kube, frozen=True):
    resource: str
    container_name: str = ""
    divisor: Quantity = "0"


class KeyRef(Kube, frozen=True):
    """configMapKeyRef and secretKeyRef."""

    name: str = ""
    key: str = ""
    optional: bool = False


class EnvSource(Kube, frozen=True):
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    config_map_key_ref: KeyRef | None = None
    secret_key_ref: KeyRef | None = None


class EnvVar(Kube, frozen=True):
    name: str
    value: str = ""
    value_from: EnvSource | None = None


class ObjectRef(Kube, frozen=True):
    name: str = ""
    optional: bool = False


class EnvFrom(Kube, frozen=True):
    prefix: str = ""
    config_map_ref: ObjectRef | None = None
    secret_ref: ObjectRef | None = None


class Port(Kube, frozen=True):
    container_port: int
    name: str = ""
    host_port: int = 0
    host_ip: str = msgspec.field(default="", name="hostIP")
    protocol: str = "TCP"


class Resources(Kube, frozen=True):
    limits: dict[str, Quantity] = {}
    requests: dict[str, Quantity] = {}


class VolumeMount(Kube, frozen=True):
    name: str
    mount_path: str
    read_only: bool = False
    sub_path: str = ""
    sub_path_expr: str = ""
    mount_propagation: str = "None"


class HttpHeader(Kube, frozen=True):
    name: str
    value: str = ""


class HttpGet(Kube, frozen=True):
    port: IntOrText
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    http_headers: list[HttpHeader] = []


class TcpSocket(Kube, frozen=True):
    port: IntOrText
    host: str = ""


class Exec(Kube, frozen=True):
    command: list[str] = []


class Grpc(Kube, frozen=True):
    port: int
    service: str = ""


class Sleep(Kube, frozen=True):
    seconds: int


class Probe(Kube, frozen=True):
    exec: Exec | None = None
    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    grpc: Grpc | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class LifecycleHandler(Kube, frozen=True):
    exec: Exec | None = None
    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    sleep: Sleep | None = None


class Lifecycle(Kube, frozen=True):
    post_start: LifecycleHandler | None = None
    pre_stop: LifecycleHandler | None = None
    stop_signal: str = ""


class Capabilities(Kube, frozen=True):
    add: list[str] = []
    drop: list[str] = []


class SeccompProfile(Kube, frozen=True):
    """type: RuntimeDefault, Unconfined or Localhost."""

    type: str
    localhost_profile: str = ""


class AppArmorProfile(Kube, frozen=True):
    type: str
    localhost_profile: str = ""


class SeLinuxOptions(Kube, frozen=True):
    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


class ContainerSecurity(Kube, frozen=True):
    """securityContext of a container. None: the pod's, else the image's."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    privileged: bool = False
    read_only_root_filesystem: bool = False
    allow_privilege_escalation: bool | None = None
    capabilities: Capabilities = Capabilities()
    seccomp_profile: SeccompProfile | None = None
    app_armor_profile: AppArmorProfile | None = None
    se_linux_options: SeLinuxOptions | None = None
    proc_mount: str = "Default"


class Sysctl(Kube, frozen=True):
    name: str
    value: str


class PodSecurity(Kube, frozen=True):
    """securityContext of a pod."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    supplemental_groups: list[int] = []
    fs_group: int | None = None
    fs_group_change_policy: str = "Always"
    seccomp_profile: SeccompProfile | None = None
    app_armor_profile: AppArmorProfile | None = None
    se_linux_options: SeLinuxOptions | None = None
    sysctls: list[Sysctl] = []


class ExitCodes(Kube, frozen=True):
    """operator: In or NotIn."""

    operator: str
    values: list[int] = []


class RestartRule(Kube, frozen=True):
    """Of restartPolicyRules. action: Restart is the only one that there is."""

    action: str
    exit_codes: ExitCodes | None = None


class Container(Kube, frozen=True):
    """A container, an init container, or (an init container with restartPolicy Always) a sidecar."""

    name: str
    image: str = ""
    command: list[str] = []
    args: list[str] = []
    working_dir: str = ""
    env: list[EnvVar] = []
    env_from: list[EnvFrom] = []
    ports: list[Port] = []
    resources: Resources = Resources()
    volume_mounts: list[VolumeMount] = []
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle = Lifecycle()
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: str = "File"
    image_pull_policy: str = ""
    restart_policy: str = ""
    restart_policy_rules: list[RestartRule] = []
    security_context: ContainerSecurity = ContainerSecurity()
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False

    @property
    def is_sidecar(self) -> bool:
        return self.restart_policy == "Always"


def spec_hash(container: Container) -> str:
    """Of what may change while a pod lives, and makes its container start anew: the image."""
    return hashlib.sha256(container.image.encode()).hexdigest()[:16]


class EmptyDir(Kube, frozen=True):
    """medium: "" (disk) or Memory."""

    medium: str = ""
    size_limit: Quantity | None = None


class HostPath(Kube, frozen=True):
    """type: "", DirectoryOrCreate, Directory, FileOrCreate, File, Socket, CharDevice, BlockDevice."""

    path: str
    type: str = ""


class ConfigMapVolume(Kube, frozen=True):
    name: str = ""
    items: list[KeyToPath] = []
    default_mode: int = 0o644
    optional: bool = False


class SecretVolume(Kube, frozen=True):
    secret_name: str = ""
    items: list[KeyToPath] = []
    default_mode: int = 0o644
    optional: bool = False


class DownwardFile(Kube, frozen=True):
    path: str
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    mode: int | None = None


class DownwardVolume(Kube, frozen=True):
    items: list[DownwardFile] = []
    default_mode: int = 0o644


class SecretProjection(Kube, frozen=True):
    name: str = ""
    items: list[KeyToPath] = []
    optional: bool = False


class ConfigMapProjection(SecretProjection, frozen=True):
    pass


class DownwardProjection(Kube, frozen=True):
    items: list[DownwardFile] = []


class TokenProjection(Kube, frozen=True):
    path: str
    audience: str = ""
    expiration_seconds: int = 3600


class Projection(Kube, frozen=True):
    secret: SecretProjection | None = None
    config_map: ConfigMapProjection | None = None
    downward_api: DownwardProjection | None = msgspec.field(default=None, name="downwardAPI")
    service_account_token: TokenProjection | None = None


class ProjectedVolume(Kube, frozen=True):
    sources: list[Projection] = []
    default_mode: int = 0o644


class Volume(Kube, frozen=True):
    """One of the sources is set; `reading.unsupported` names kinds that are not among these."""

    name: str
    empty_dir: EmptyDir | None = None
    host_path: HostPath | None = None
    config_map: ConfigMapVolume | None = None
    secret: SecretVolume | None = None
    downward_api: DownwardVolume | None = msgspec.field(default=None, name="downwardAPI")
    projected: ProjectedVolume | None = None


class HostAlias(Kube, frozen=True):
    ip: str
    hostnames: list[str] = []


class DnsOption(Kube, frozen=True):
    name: str
    value: str | None = None


class DnsConfig(Kube, frozen=True):
    nameservers: list[str] = []
    searches: list[str] = []
    options: list[DnsOption] = []


class Toleration(Kube, frozen=True):
    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class ReadinessGate(Kube, frozen=True):
    condition_type: str


class NodeRequirement(Kube, frozen=True):
    """operator: In, NotIn, Exists, DoesNotExist, Gt, Lt."""

    key: str
    operator: str
    values: list[str] = []


class NodeTerm(Kube, frozen=True):
    match_expressions: list[NodeRequirement] = []
    match_fields: list[NodeRequirement] = []


class NodeTerms(Kube, frozen=True):
    node_selector_terms: list[NodeTerm] = []


class NodeAffinity(Kube, frozen=True):
    """The preferred terms are the scheduler's."""

    required: NodeTerms | None = msgspec.field(default=None, name="requiredDuringSchedulingIgnoredDuringExecution")


class Affinity(Kube, frozen=True):
    """Affinity between pods is the scheduler's."""

    node_affinity: NodeAffinity = NodeAffinity()


class PodOs(Kube, frozen=True):
    name: str


class PodSpec(Kube, frozen=True):
    containers: list[Container]
    init_containers: list[Container] = []
    volumes: list[Volume] = []
    restart_policy: str = "Always"
    node_name: str = ""
    node_selector: dict[str, str] = {}
    affinity: Affinity = Affinity()
    os: PodOs | None = None
    host_network: bool = False
    host_pid: bool = msgspec.field(default=False, name="hostPID")
    host_ipc: bool = msgspec.field(default=False, name="hostIPC")
    share_process_namespace: bool = False
    hostname: str = ""
    hostname_override: str = ""
    subdomain: str = ""
    set_hostname_as_fqdn: bool = msgspec.field(default=False, name="setHostnameAsFQDN")
    host_aliases: list[HostAlias] = []
    dns_policy: str = "ClusterFirst"
    dns_config: DnsConfig = DnsConfig()
    security_context: PodSecurity = PodSecurity()
    image_pull_secrets: list[ObjectRef] = []
    service_account_name: str = ""
    termination_grace_period_seconds: int = 30
    active_deadline_seconds: int | None = None
    priority: int = 0
    priority_class_name: str = ""
    readiness_gates: list[ReadinessGate] = []
    tolerations: list[Toleration] = []


class Metadata(Kube, frozen=True):
    name: str
    namespace: str = "default"
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None


class Pod(Kube, frozen=True):
    """`status` is the API's own, untyped: only what another writer put there is looked at (readiness gates)."""

    metadata: Metadata
    spec: PodSpec
    status: dict[str, Any] = {}

    @property
    def uid(self) -> str:
        return self.metadata.uid

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    def containers(self) -> tuple[Container, ...]:
        """Init containers in order, then the others."""
        return (*self.spec.init_containers, *self.spec.containers)
