"""securityContext of a pod and a container as the engine's options (Kubernetes, "Configure a Security Context")."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from edgeappliance.edged.engine.api import Image
from edgeappliance.edged.pods.spec import AppArmorProfile, Container, Pod, SeccompProfile
from edgeappliance.kernel.errors import InputError

_APPARMOR = Path("/sys/module/apparmor/parameters/enabled")

MAX_PROFILE = 1024 * 1024
"""Bytes of a seccomp profile."""


def user(pod: Pod, container: Container, image: Image) -> str:
    """`uid`, `uid:gid` or "" for what the image says; the container's word goes before the pod's."""
    own, whole = container.security_context, pod.spec.security_context
    uid = own.run_as_user if own.run_as_user is not None else whole.run_as_user
    gid = own.run_as_group if own.run_as_group is not None else whole.run_as_group
    if gid is None:
        return "" if uid is None else str(uid)
    name = str(uid) if uid is not None else image.user.partition(":")[0] or "0"
    return f"{name}:{gid}"


def check_user(pod: Pod, container: Container, image: Image) -> None:
    """runAsNonRoot, in a kubelet's words. Raises InputError."""
    own, whole = container.security_context, pod.spec.security_context
    strict = own.run_as_non_root if own.run_as_non_root is not None else whole.run_as_non_root
    if not strict:
        return
    where = f'(pod: "{pod.metadata.name}_{pod.metadata.namespace}({pod.uid})", container: {container.name})'
    user = own.run_as_user if own.run_as_user is not None else whole.run_as_user
    if user is not None:
        if user == 0:
            raise InputError(f"container's runAsUser breaks non-root policy {where}", field="")
        return
    name = image.user.partition(":")[0]
    if name in ("", "0", "root"):
        raise InputError(f"container has runAsNonRoot and image will run as root {where}", field="")
    if not name.isdecimal():
        raise InputError(
            f"container has runAsNonRoot and image has non-numeric user ({name}), "
            f"cannot verify user is non-root {where}",
            field="",
        )


def group_add(pod: Pod) -> list[str]:
    """The supplementary groups of every process of the pod: its own, and the one that owns its volumes."""
    whole = pod.spec.security_context
    groups = [*whole.supplemental_groups, *([] if whole.fs_group is None else [whole.fs_group])]
    return [str(group) for group in dict.fromkeys(groups)]


def host_enforces_apparmor() -> bool:
    """Whether this kernel has AppArmor, and it is on."""
    try:
        return _APPARMOR.read_bytes().startswith(b"Y")
    except OSError:
        return False


def security(pod: Pod, container: Container, *, profiles: Path, apparmor: bool) -> dict[str, Any]:
    """Privileged, capabilities, root file system and SecurityOpt of a HostConfig.

    profiles: folder of the Localhost seccomp profiles. apparmor: whether the kernel enforces its profiles. Raises
    InputError for a profile that cannot be read or would not be enforced.
    """
    own = container.security_context
    found: dict[str, Any] = {
        "Privileged": own.privileged,
        "ReadonlyRootfs": own.read_only_root_filesystem,
        "CapAdd": list(own.capabilities.add),
        "CapDrop": list(own.capabilities.drop),
        "SecurityOpt": _options(pod, container, profiles, apparmor),
    }
    if own.proc_mount == "Unmasked":
        found |= {"MaskedPaths": [], "ReadonlyPaths": []}
    return found


def _options(pod: Pod, container: Container, profiles: Path, apparmor: bool) -> list[str]:
    own, whole = container.security_context, pod.spec.security_context
    options: list[str] = []
    if own.allow_privilege_escalation is False and not own.privileged:
        options.append("no-new-privileges")
    if not own.privileged:
        options += _seccomp(own.seccomp_profile or whole.seccomp_profile, profiles)
        options += _apparmor(own.app_armor_profile or whole.app_armor_profile, enforced=apparmor)
    linux = own.se_linux_options or whole.se_linux_options
    if linux is not None:
        parts = {"user": linux.user, "role": linux.role, "type": linux.type, "level": linux.level}
        options += [f"label={name}:{value}" for name, value in parts.items() if value]
    return options


def _seccomp(profile: SeccompProfile | None, profiles: Path) -> list[str]:
    """Without a profile the engine's own applies (as with the kubelet's seccompDefault)."""
    if profile is None or profile.type == "RuntimeDefault":
        return []
    if profile.type == "Unconfined":
        return ["seccomp=unconfined"]
    if profile.type != "Localhost":
        raise InputError(f"unknown type {profile.type!r}", field="seccompProfile.type")
    return [f"seccomp={_read_profile(profiles, profile.localhost_profile)}"]


def _read_profile(profiles: Path, name: str) -> str:
    relative = PurePosixPath(name)
    if not name or relative.is_absolute() or ".." in relative.parts:
        raise InputError("must be a path below the folder of profiles", field="seccompProfile.localhostProfile")
    path = profiles / relative
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PROFILE + 1)
        document = json.loads(content) if len(content) <= MAX_PROFILE else None
    except OSError as error:
        raise InputError(
            f"cannot load seccomp profile {str(path)!r}: {error.strerror}", field="seccompProfile.localhostProfile"
        ) from None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise InputError(
            f"cannot load seccomp profile {str(path)!r}: it is not a JSON object",
            field="seccompProfile.localhostProfile",
        )
    return json.dumps(document)


def _apparmor(profile: AppArmorProfile | None, *, enforced: bool) -> list[str]:
    if profile is None:
        return []
    if profile.type == "Unconfined":
        return ["apparmor=unconfined"]
    if not enforced:
        # The engine would leave it away without a word.
        raise InputError("Cannot enforce AppArmor: AppArmor is not enabled on the host", field="")
    if profile.type == "RuntimeDefault":
        return []
    if not profile.localhost_profile:
        raise InputError("must be the name of a loaded profile", field="appArmorProfile.localhostProfile")
    return [f"apparmor={profile.localhost_profile}"]
