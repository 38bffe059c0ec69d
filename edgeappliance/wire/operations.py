"""The literal words of a route (reference 1.2, 2.1, 2.2)."""

from enum import StrEnum


class Operation(StrEnum):
    """route.operation."""

    INSERT = "insert"
    DELETE = "delete"
    QUERY = "query"
    UPDATE = "update"
    PATCH = "patch"
    UPLOAD = "upload"
    RESPONSE = "response"
    ERROR = "error"
    UNHOLD_UPGRADE = "unhold-upgrade"
    KEEPALIVE = "keepalive"
    CONNECT = "connect"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"
    MESSAGE = "message"
    PUBLISH = "publish"
    GET = "get"
    GET_RESULT = "get_result"
    START = "start"
    STOP = "stop"
    APPLICATION_RESPONSE = "applicationResponse"
    PING = "ping"
    PONG = "pong"
    CONFIG = "config"
    CREATE_VOLUME = "createvolume"
    DELETE_VOLUME = "deletevolume"
    PUBLISH_VOLUME = "controllerpublishvolume"
    UNPUBLISH_VOLUME = "controllerunpublishvolume"
    PREPULL = "prepull"
    UPGRADE = "upgrade"
    NODE_ACTION_STATUS = "UpdateNodeActionStatus"


class Group(StrEnum):
    """route.group as it occurs on the wire."""

    RESOURCE = "resource"
    FUNC = "func"
    USER = "user"
    TWIN = "twin"
    TASKMANAGER = "taskmanager"
    HUB = "hub"
    META = "meta"
    BUS = "bus"
    DYNAMIC_CONTROLLER = "dynamiccontroller"


class Source(StrEnum):
    """route.source as it occurs on the wire."""

    EDGECONTROLLER = "edgecontroller"
    DEVICECONTROLLER = "devicecontroller"
    SYNCCONTROLLER = "synccontroller"
    DYNAMICCONTROLLER = "dynamiccontroller"
    POLICYCONTROLLER = "policycontroller"
    CLOUDHUB = "cloudhub"
    CLOUDSTREAM = "cloudStream"
    ROUTER_EVENTBUS = "router_eventbus"
    ROUTER_SERVICEBUS = "router_servicebus"
    TASKMANAGER = "taskmanager"
    NODE_UPGRADE = "nodeupgradejobcontroller"
    WEBSOCKET = "websocket"
    EDGED = "edged"
    METAMANAGER = "metamanager"
    METASERVER = "metaserver"
    TWIN = "twin"
    BUS = "bus"
    SERVICEBUS = "servicebus"


class ResourceType(StrEnum):
    """The type segment of a resource name."""

    POD = "pod"
    POD_LIST = "podlist"
    POD_STATUS = "podstatus"
    POD_PATCH = "podpatch"
    EVENT = "event"
    CONFIGMAP = "configmap"
    SECRET = "secret"  # noqa: S105 - the Kubernetes kind, not a password
    SERVICE_ACCOUNT_TOKEN = "serviceaccounttoken"  # noqa: S105 - likewise
    SERVICE_ACCOUNT_ACCESS = "serviceaccountaccess"
    NODE = "node"
    NODE_STATUS = "nodestatus"
    NODE_PATCH = "nodepatch"
    LEASE = "lease"
    RULE = "rule"
    RULE_ENDPOINT = "ruleendpoint"
    RULE_STATUS = "rulestatus"
    CSR = "certificatesigningrequest"
    PERSISTENT_VOLUME = "persistentvolume"
    PERSISTENT_VOLUME_CLAIM = "persistentvolumeclaim"
    VOLUME_ATTACHMENT = "volumeattachment"
    VOLUME = "volume"
    DEVICE = "device"
    DEVICE_MODEL = "devicemodel"
    DEVICE_MAPPER = "devicemapper"
    MEMBERSHIP = "membership"
    TWIN = "twin"


KUBE_CA = "k8s/ca.crt"
"""The one resource that is not <namespace>/<type>/<name>: the cluster's CA as PEM text."""

OK = "OK"
"""Content of an acknowledgement."""
