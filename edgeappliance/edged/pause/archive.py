"""The sandbox's image as `docker load` takes it: made here from the program, so no registry is needed."""

import hashlib
import importlib.resources
import io
import json
import platform
import sys
import tarfile

from edgeappliance.kernel.errors import OperatorError

IMAGE = "edgeappliance/pause:1"
"""The number is that of the program: raise it with every change, so that boxes load the new one."""

ARCHITECTURES = ("amd64", "arm64", "arm")
"""As in GOARCH, which the engine uses."""

_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def architecture() -> str:
    """Of this machine's programs: a 64-bit kernel may carry a 32-bit system. "" when there is no program for it."""
    machine = platform.machine().lower()
    if sys.maxsize < 2**32 and (machine.startswith("arm") or machine == "aarch64"):
        return "arm"
    return _MACHINES.get(machine, "arm" if machine.startswith("arm") else "")


def program(wanted: str) -> bytes:
    """The linked program. Raises OperatorError when it has not been built."""
    if wanted not in ARCHITECTURES:
        raise OperatorError(
            f"pods cannot run on this architecture ({wanted or platform.machine()})",
            next_step=f"use one of {', '.join(ARCHITECTURES)}, or set edged.enable to false",
        )
    try:
        return (importlib.resources.files(__package__) / "bin" / f"pause-{wanted}").read_bytes()
    except OSError:
        raise OperatorError(f"the sandbox's program for {wanted} is missing", next_step="run build/pause") from None


def archive(wanted: str = "") -> bytes:
    """A tar for `docker load` with IMAGE for one of ARCHITECTURES, this machine's by default.

    The same bytes for the same program, always. Raises OperatorError.
    """
    wanted = wanted or architecture()
    layer = _tar({"pause": (program(wanted), 0o755)})
    digest = hashlib.sha256(layer).hexdigest()
    config = _json(
        {
            "architecture": wanted,
            **({"variant": "v6"} if wanted == "arm" else {}),
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": {"Entrypoint": ["/pause"], "WorkingDir": "/", "User": "65534:65534"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created": "2026-01-01T00:00:00Z", "created_by": "edgeappliance"}],
        }
    )
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [IMAGE], "Layers": [f"{digest}.tar"]}]
    return _tar({name: (config, 0o644), f"{digest}.tar": (layer, 0o644), "manifest.json": (_json(manifest), 0o644)})


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _tar(files: dict[str, tuple[bytes, int]]) -> bytes:
    """Files of root, without times: name -> content and mode."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return output.getvalue()
