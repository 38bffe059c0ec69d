"""A directory whose files all change at once, laid out as Kubernetes documents it for config maps.

`..data` is a link to the folder with the present files; every top name of the volume is a link through it. One rename
of `..data` exchanges everything, and who has a file open keeps the old one. Blocking.
"""

import os
import shutil
import stat
import tempfile
from pathlib import Path

from edgeappliance.edged.volumes.payload import File, Payload

DATA = "..data"
_DATA_NEW = "..data_tmp"
_FOLDER_MODE = 0o755


def write_all(directory: Path, files: Payload, *, group: int | None = None) -> bool:
    """Make the files of `directory` exactly these. False when they were; the old ones stay when this raises OSError.

    group: who owns the files besides root. Nothing is forced to the disk: after a power cut what is there is compared
    and made again.
    """
    _make_folder(directory, group)
    present = _present(directory)
    if present is not None and _holds(present, files, group):
        _link_names(directory, files)
        return False
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=directory))
    try:
        _fill(fresh, files, group)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    new_link = directory / _DATA_NEW
    _clear(new_link)
    new_link.symlink_to(fresh.name)
    if not (directory / DATA).is_symlink():
        _clear(directory / DATA)
    os.replace(new_link, directory / DATA)
    _link_names(directory, files)
    _sweep(directory, fresh.name)
    return True


def is_filled(directory: Path) -> bool:
    """Whether it was ever written to its end."""
    present = _present(directory)
    return present is not None and present.is_dir()


def _present(directory: Path) -> Path | None:
    try:
        name = os.readlink(directory / DATA)
    except OSError:
        return None
    # Only ever a folder beside it: anything else is damage and is replaced.
    return directory / name if name.startswith("..") and "/" not in name and name != ".." else None


def _holds(folder: Path, files: Payload, group: int | None) -> bool:
    found = 0
    try:
        for parent, _, names in os.walk(folder, onerror=_raise):
            for name in names:
                path = Path(parent, name)
                wanted = files.get(str(path.relative_to(folder)))
                if wanted is None or not _same(path, wanted, group):
                    return False
                found += 1
    except OSError:
        return False
    return found == len(files)


def _raise(error: OSError) -> None:
    raise error


def _same(path: Path, wanted: File, group: int | None) -> bool:
    status = path.lstat()
    return (
        stat.S_ISREG(status.st_mode)
        and stat.S_IMODE(status.st_mode) == wanted.mode
        and status.st_uid == (wanted.uid if wanted.uid is not None else os.geteuid())
        and (group is None or status.st_gid == group)
        and status.st_size == len(wanted.data)
        and path.read_bytes() == wanted.data
    )


def _fill(folder: Path, files: Payload, group: int | None) -> None:
    _make_folder(folder, group)
    for path, file in files.items():
        parts = path.split("/")
        for end in range(1, len(parts)):
            _make_folder(folder.joinpath(*parts[:end]), group)
        descriptor = os.open(folder / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as target:
            target.write(file.data)
            target.flush()
            if file.uid is not None or group is not None:
                os.fchown(descriptor, -1 if file.uid is None else file.uid, -1 if group is None else group)
            os.fchmod(descriptor, file.mode)  # after chown, which clears bits; whatever the umask says


def _make_folder(folder: Path, group: int | None) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    mode = _FOLDER_MODE
    if group is not None:
        mode |= stat.S_ISGID
        if folder.stat().st_gid != group:
            os.chown(folder, -1, group)
    if stat.S_IMODE(folder.stat().st_mode) != mode:
        folder.chmod(mode)


def _link_names(directory: Path, files: Payload) -> None:
    """Links of the names that users see; those of files that are gone are removed."""
    tops = {path.partition("/")[0] for path in files}
    for top in tops:
        link, target = directory / top, f"{DATA}/{top}"
        if link.is_symlink() and os.readlink(link) == target:
            continue
        _clear(link)
        link.symlink_to(target)
    for name in os.listdir(directory):
        if not name.startswith("..") and name not in tops:
            _clear(directory / name)


def _clear(path: Path) -> None:
    """Make room for a link, whatever damage has put there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sweep(directory: Path, keep: str) -> None:
    """Remove former contents, also those of a run that was killed half-way."""
    for name in os.listdir(directory):
        if name.startswith("..") and name not in (keep, DATA):
            shutil.rmtree(directory / name, ignore_errors=True)
