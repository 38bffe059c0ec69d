"""Pods that an API server refuses, one fault each."""

from typing import Any

Object = dict[str, Any]


def _container(**more: Any) -> Object:
    return {"containers": [{"name": "a", "image": "i:1", **more}]}


def _port(**more: Any) -> Object:
    return _container(ports=[more])


def _probe(kind: str = "livenessProbe", **more: Any) -> Object:
    return _container(**{kind: more})


def _env(**more: Any) -> Object:
    return _container(env=[{"name": "E", **more}])


def _mount(**more: Any) -> Object:
    spec = _container(volumeMounts=[{"name": "v", "mountPath": "/v", **more}])
    return {**spec, "volumes": [{"name": "v", "emptyDir": {}}]}


def _volume(**source: Any) -> Object:
    return {**_container(), "volumes": [{"name": "v", **source}]}


def _affinity(**expression: Any) -> Object:
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    return {**_container(), "affinity": affinity}


def _resources(**more: Any) -> Object:
    return _container(resources=more)


def _with(**more: Any) -> Object:
    return {**_container(), **more}


_HTTP = {"path": "/", "port": 80}
_ITEM = {"key": "k", "path": "p"}

SPECS: dict[str, Object] = {
    "restartPolicy": _with(restartPolicy="Sometimes"),
    "deadline": _with(activeDeadlineSeconds=0),
    "hostname": _with(hostname="A_b"),
    "subdomain": _with(subdomain="a.b"),
    "nodeName": _with(nodeName="A"),
    "alias": _with(hostAliases=[{"ip": "nowhere", "hostnames": ["a"]}]),
    "alias name": _with(hostAliases=[{"ip": "10.0.0.1", "hostnames": ["A_"]}]),
    "dns policy": _with(dnsPolicy="Mine"),
    "dns none": _with(dnsPolicy="None"),
    "dns none empty": _with(dnsPolicy="None", dnsConfig={"searches": ["a.b"]}),
    "dns server": _with(dnsConfig={"nameservers": ["x"]}),
    "dns servers": _with(dnsConfig={"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]}),
    "share and host": _with(shareProcessNamespace=True, hostPID=True),
    "group": _with(securityContext={"fsGroup": -1}),
    "groups": _with(securityContext={"supplementalGroups": [-1]}),
    "sysctl": _with(securityContext={"sysctls": [{"name": "a.b", "value": "1"}, {"name": "a.b", "value": "2"}]}),
    "selector": _with(nodeSelector={"a b": "c"}),
    "selector value": _with(nodeSelector={"a": "c d"}),
    "toleration operator": _with(tolerations=[{"operator": "Equal"}]),
    "toleration word": _with(tolerations=[{"key": "k", "operator": "Like"}]),
    "toleration value": _with(tolerations=[{"key": "k", "operator": "Exists", "value": "v"}]),
    "toleration effect": _with(tolerations=[{"key": "k", "effect": "Never"}]),
    "toleration seconds": _with(tolerations=[{"key": "k", "effect": "NoSchedule", "tolerationSeconds": 1}]),
    "affinity operator": _affinity(key="k", operator="Near", values=["a"]),
    "affinity values": _affinity(key="k", operator="In"),
    "affinity extra values": _affinity(key="k", operator="Exists", values=["a"]),
    "affinity single": _affinity(key="k", operator="Gt", values=["1", "2"]),
    "affinity key": _affinity(key="a b", operator="Exists"),
    "affinity none": _with(
        affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}
    ),
    "no containers": {},
    "no name": {"containers": [{"image": "i"}]},
    "bad name": {"containers": [{"name": "A", "image": "i"}]},
    "same name": {"containers": [{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]},
    "same name in init": _with(initContainers=[{"name": "a", "image": "i"}]),
    "no image": {"containers": [{"name": "a"}]},
    "image space": {"containers": [{"name": "a", "image": " i"}]},
    "pull policy": _container(imagePullPolicy="Maybe"),
    "message policy": _container(terminationMessagePolicy="Shout"),
    "port": _port(containerPort=70000),
    "port missing": _port(hostPort=80),
    "host port": _port(containerPort=80, hostPort=70000),
    "port protocol": _port(containerPort=80, protocol="ICMP"),
    "port name": _port(containerPort=80, name="Web"),
    "port name long": _port(containerPort=80, name="a-very-long-name-of-a-port"),
    "port names": _container(ports=[{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}]),
    "host ports": _container(ports=[{"containerPort": 80, "hostPort": 8}, {"containerPort": 81, "hostPort": 8}]),
    "host network port": {**_port(containerPort=80, hostPort=81), "hostNetwork": True},
    "env without name": _container(env=[{"value": "x"}]),
    "env value twice": _env(value="x", valueFrom={"fieldRef": {"fieldPath": "metadata.name"}}),
    "env empty source": _env(valueFrom={}),
    "env two sources": _env(
        valueFrom={"fieldRef": {"fieldPath": "metadata.name"}, "secretKeyRef": {"name": "s", "key": "k"}}
    ),
    "env field": _env(valueFrom={"fieldRef": {"fieldPath": "spec.color"}}),
    "env whole labels": _env(valueFrom={"fieldRef": {"fieldPath": "metadata.labels"}}),
    "env resource": _env(valueFrom={"resourceFieldRef": {"resource": "limits.color"}}),
    "env key": _env(valueFrom={"configMapKeyRef": {"name": "c"}}),
    "env from": _container(envFrom=[{"configMapRef": {}}]),
    "env from none": _container(envFrom=[{}]),
    "env from both": _container(envFrom=[{"configMapRef": {"name": "a"}, "secretRef": {"name": "b"}}]),
    "more than the limit": _resources(limits={"cpu": "1"}, requests={"cpu": "2"}),
    "negative": _resources(limits={"cpu": "-1"}),
    "unknown resource": _resources(limits={"speed": "1"}),
    "probe empty": _probe(periodSeconds=1),
    "probe two": _probe(httpGet=_HTTP, exec={"command": ["a"]}),
    "probe threshold": _probe(httpGet=_HTTP, successThreshold=2),
    "probe negative": _probe(httpGet=_HTTP, initialDelaySeconds=-1),
    "probe port": _probe(httpGet={"path": "/", "port": 0}),
    "probe port name": _probe(httpGet={"path": "/", "port": "Web_"}),
    "probe scheme": _probe(httpGet={**_HTTP, "scheme": "ftp"}),
    "probe header": _probe(httpGet={**_HTTP, "httpHeaders": [{"name": "a b", "value": "c"}]}),
    "probe command": _probe(exec={}),
    "hook empty": _container(lifecycle={"preStop": {}}),
    "hook command": _container(lifecycle={"postStart": {"exec": {"command": []}}}),
    "privileged": _container(securityContext={"privileged": True, "allowPrivilegeEscalation": False}),
    "user": _container(securityContext={"runAsUser": -1}),
    "proc mount": _container(securityContext={"procMount": "All"}),
    "volume without name": {**_container(), "volumes": [{"emptyDir": {}}]},
    "volume name": {**_container(), "volumes": [{"name": "A", "emptyDir": {}}]},
    "volumes": {**_container(), "volumes": [{"name": "v", "emptyDir": {}}, {"name": "v", "emptyDir": {}}]},
    "volume of two kinds": _volume(emptyDir={}, configMap={"name": "c"}),
    "host path": _volume(hostPath={"path": ""}),
    "host path back": _volume(hostPath={"path": "/a/../b"}),
    "host path type": _volume(hostPath={"path": "/a", "type": "Hole"}),
    "config map": _volume(configMap={}),
    "secret": _volume(secret={}),
    "mode": _volume(configMap={"name": "c", "defaultMode": 4096}),
    "item without key": _volume(configMap={"name": "c", "items": [{"path": "p"}]}),
    "item without path": _volume(secret={"secretName": "c", "items": [{"key": "k"}]}),
    "item back": _volume(configMap={"name": "c", "items": [{"key": "k", "path": "../p"}]}),
    "item absolute": _volume(configMap={"name": "c", "items": [{"key": "k", "path": "/p"}]}),
    "item mode": _volume(configMap={"name": "c", "items": [{**_ITEM, "mode": -1}]}),
    "downward": _volume(downwardAPI={"items": [{"path": "p"}]}),
    "downward field": _volume(downwardAPI={"items": [{"path": "p", "fieldRef": {"fieldPath": "spec.nodeName"}}]}),
    "downward resource": _volume(
        downwardAPI={"items": [{"path": "p", "resourceFieldRef": {"resource": "limits.cpu"}}]}
    ),
    "projected token": _volume(
        projected={"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 10}}]}
    ),
    "projected token path": _volume(projected={"sources": [{"serviceAccountToken": {"expirationSeconds": 3600}}]}),
    "projected map": _volume(projected={"sources": [{"configMap": {}}]}),
    "projected two": _volume(projected={"sources": [{"configMap": {"name": "a"}, "secret": {"name": "b"}}]}),
    "mount of nothing": _mount(name="w"),
    "mount without path": _mount(mountPath=""),
    "mount absolute subpath": _mount(subPath="/a"),
    "mount back": _mount(subPath="a/../b"),
    "mount expression back": _mount(subPathExpr="../$(E)"),
    "mount both": _mount(subPath="a", subPathExpr="$(E)"),
    "mount propagation": _mount(mountPropagation="Sideways"),
    "mount bidirectional": _mount(mountPropagation="Bidirectional"),
    "mounts": {
        **_container(volumeMounts=[{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/v"}]),
        "volumes": [{"name": "v", "emptyDir": {}}],
    },
    "seccomp": _with(securityContext={"seccompProfile": {"type": "Odd"}}),
    "seccomp local": _with(securityContext={"seccompProfile": {"type": "Localhost"}}),
    "seccomp back": _container(securityContext={"seccompProfile": {"type": "Localhost", "localhostProfile": "../x"}}),
}
