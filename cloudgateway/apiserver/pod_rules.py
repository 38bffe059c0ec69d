"""What must be there in a pod, and what may change of one (core/v1 PodSpec), in upstream's words."""

import copy
import ipaddress
from typing import Any

from cloudgateway.apiserver.affinity import OPERATORS
from cloudgateway.apiserver.container_rules import check_containers, check_seccomp
from cloudgateway.apiserver.fields import Fields
from cloudgateway.apiserver.pods import default
from cloudgateway.apiserver.volume_rules import check_volumes
from edgeappliance.kubeapi.errors import Cause
from edgeappliance.kubeapi.names import label_error, label_key_error, label_value_error, subdomain_error

Object = dict[str, Any]

RESTART_POLICIES = ("Always", "Never", "OnFailure")
DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
EFFECTS = ("NoExecute", "NoSchedule", "PreferNoSchedule")
_CHANGEABLE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "and `spec.nodeName` while it is empty"
)


def causes(value: Object, old: Object | None) -> list[Cause]:
    """What is wrong with a pod, or with the change of one."""
    spec, found = value.get("spec") or {}, Fields()
    if old is not None:
        if spec == old.get("spec"):
            return []  # a status of a pod that older rules let in is taken all the same
        old = copy.deepcopy(old)
        default(old)  # what is filled in now and was not then is no change of the client's
    if not spec.get("containers"):
        found.required("spec.containers")
    check_volumes(spec, found)
    check_containers(spec, found)
    _pod(spec, found)
    _dns(spec, found)
    _placement(spec, found)
    if old is not None:
        _change(spec, old.get("spec") or {}, found)
    return found.causes


def _pod(spec: Object, found: Fields) -> None:
    found.one_of("spec.restartPolicy", spec.get("restartPolicy"), RESTART_POLICIES)
    found.between("spec.activeDeadlineSeconds", spec.get("activeDeadlineSeconds"), 1, 2**31 - 1)
    for key in ("hostname", "subdomain"):
        if spec.get(key):
            found.checked(f"spec.{key}", spec[key], label_error(spec[key]))
    for key in ("nodeName", "serviceAccountName"):
        if spec.get(key):
            found.checked(f"spec.{key}", spec[key], subdomain_error(spec[key]))
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        path = f"spec.hostAliases[{index}]"
        _address(alias.get("ip") or "", f"{path}.ip", found)
        for name in alias.get("hostnames") or ():
            found.checked(f"{path}.hostnames", name, subdomain_error(name))
    _security(spec, found)


def _security(spec: Object, found: Fields) -> None:
    context = spec.get("securityContext") or {}
    for key in ("runAsUser", "runAsGroup", "fsGroup"):
        found.between(f"spec.securityContext.{key}", context.get(key), 0, 2**31 - 1)
    for index, group in enumerate(context.get("supplementalGroups") or ()):
        found.between(f"spec.securityContext.supplementalGroups[{index}]", group, 0, 2**31 - 1)
    found.one_of(
        "spec.securityContext.fsGroupChangePolicy", context.get("fsGroupChangePolicy"), ("Always", "OnRootMismatch")
    )
    names: set[str] = set()
    for index, sysctl in enumerate(context.get("sysctls") or ()):
        name = sysctl.get("name") or ""
        path = f"spec.securityContext.sysctls[{index}].name"
        if not name:
            found.required(path)
        elif name in names:
            found.duplicate(path, name)
        names.add(name)
    check_seccomp(context, "spec.securityContext", found)
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        text = "ShareProcessNamespace and HostPID cannot both be enabled"
        found.invalid("spec.securityContext.shareProcessNamespace", True, text)


def _dns(spec: Object, found: Fields) -> None:
    policy = spec.get("dnsPolicy")
    found.one_of("spec.dnsPolicy", policy, DNS_POLICIES)
    config = spec.get("dnsConfig")
    if policy == "None" and config is None:
        found.required("spec.dnsConfig", "must provide `dnsConfig` when `dnsPolicy` is None")
    if config is None:
        return
    servers = config.get("nameservers") or ()
    if policy == "None" and not servers:
        text = "must provide at least one DNS nameserver when `dnsPolicy` is None"
        found.required("spec.dnsConfig.nameservers", text)
    if len(servers) > 3:
        found.invalid("spec.dnsConfig.nameservers", list(servers), "must not have more than 3 nameservers")
    for index, server in enumerate(servers):
        _address(server, f"spec.dnsConfig.nameservers[{index}]", found)
    for index, option in enumerate(config.get("options") or ()):
        if not option.get("name"):
            found.required(f"spec.dnsConfig.options[{index}]", "must not be empty")


def _address(text: str, path: str, found: Fields) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        found.invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")


def _placement(spec: Object, found: Fields) -> None:
    for key, text in (spec.get("nodeSelector") or {}).items():
        found.checked("spec.nodeSelector", key, label_key_error(key))
        found.checked("spec.nodeSelector", text, label_value_error(text))
    for index, toleration in enumerate(spec.get("tolerations") or ()):
        _toleration(toleration, f"spec.tolerations[{index}]", found)
    for index, gate in enumerate(spec.get("schedulingGates") or ()):
        found.checked(f"spec.schedulingGates[{index}]", gate.get("name", ""), label_key_error(gate.get("name") or ""))
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    path = "spec.affinity.nodeAffinity"
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is not None:
        where = f"{path}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
        if not required.get("nodeSelectorTerms"):
            found.required(where, "must have at least one node selector term")
        for index, term in enumerate(required.get("nodeSelectorTerms") or ()):
            _term(term, f"{where}[{index}]", found)
    for index, item in enumerate(affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or ()):
        where = f"{path}.preferredDuringSchedulingIgnoredDuringExecution[{index}]"
        if not 1 <= item.get("weight", 0) <= 100:
            found.invalid(f"{where}.weight", item.get("weight", 0), "must be in the range 1-100")
        _term(item.get("preference") or {}, f"{where}.preference", found)


def _term(term: Object, path: str, found: Fields) -> None:
    for index, one in enumerate(term.get("matchExpressions") or ()):
        where = f"{path}.matchExpressions[{index}]"
        operator, values = one.get("operator") or "", one.get("values") or ()
        if operator not in OPERATORS:
            found.invalid(f"{where}.operator", operator, "not a valid selector operator")
        elif operator in ("In", "NotIn") and not values:
            found.required(f"{where}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist") and values:
            found.forbidden(f"{where}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
        elif operator in ("Gt", "Lt") and len(values) != 1:
            found.required(f"{where}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'")
        found.checked(f"{where}.key", one.get("key", ""), label_key_error(one.get("key") or ""))
    for index, one in enumerate(term.get("matchFields") or ()):
        where = f"{path}.matchFields[{index}]"
        if one.get("operator") not in ("In", "NotIn"):
            found.invalid(f"{where}.operator", one.get("operator", ""), "not a valid selector operator")
        elif len(one.get("values") or ()) != 1:
            text = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
            found.required(f"{where}.values", text)
        if one.get("key") != "metadata.name":
            found.invalid(f"{where}.key", one.get("key", ""), "not a valid field selector key")


def _toleration(toleration: Object, path: str, found: Fields) -> None:
    key, operator = toleration.get("key") or "", toleration.get("operator") or "Equal"
    effect, value = toleration.get("effect") or "", toleration.get("value") or ""
    if key:
        found.checked(f"{path}.key", key, label_key_error(key))
    elif operator != "Exists":
        text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        found.invalid(f"{path}.operator", operator, text)
    if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
        found.invalid(f"{path}.effect", effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
    if operator == "Exists" and value:
        found.invalid(f"{path}.operator", toleration, "value must be empty when `operator` is 'Exists'")
    elif operator == "Equal":
        found.checked(f"{path}.operator", value, label_value_error(value))
    found.one_of(f"{path}.operator", operator, ("Equal", "Exists"))
    if effect:
        found.one_of(f"{path}.effect", effect, EFFECTS)


# What may change.


def _change(spec: Object, old: Object, found: Fields) -> None:
    if len(spec.get("containers") or ()) != len(old.get("containers") or ()):
        found.forbidden("spec.containers", "pod updates may not add or remove containers")
        return
    before, after = old.get("activeDeadlineSeconds"), spec.get("activeDeadlineSeconds")
    path = "spec.activeDeadlineSeconds"
    if before is not None and after is None:
        found.invalid(path, None, "must not update from a positive integer to nil value")
    elif before is not None and after is not None and after > before:
        found.invalid(path, after, f"must be less than or equal to previous value of {before}")
    tolerated = spec.get("tolerations") or []
    kept = all(any(_same_toleration(one, other) for other in tolerated) for one in old.get("tolerations") or ())
    gates = old.get("schedulingGates") or []
    ungated = all(gate in gates for gate in spec.get("schedulingGates") or ())
    if _fixed(spec, old) != _fixed(old, old) or not kept:
        found.forbidden("spec", _CHANGEABLE)
    elif not ungated:
        found.forbidden("spec.schedulingGates", "only deletion is allowed, but found new scheduling gate")


def _same_toleration(old: Object, new: Object) -> bool:
    """Whether one is the other, perhaps with another tolerationSeconds."""
    return {**old, "tolerationSeconds": None} == {**new, "tolerationSeconds": None}


def _fixed(spec: Object, old: Object) -> Object:
    """The part of a spec that may not change."""
    fixed = dict(spec)
    for key in ("activeDeadlineSeconds", "tolerations", "schedulingGates"):
        fixed.pop(key, None)
    if not old.get("nodeName"):
        fixed.pop("nodeName", None)  # a person may place a pod that waits: it is written once
    for section in ("containers", "initContainers"):
        if section in fixed:
            fixed[section] = [
                {key: item for key, item in container.items() if key != "image"} for container in fixed[section]
            ]
    return fixed
