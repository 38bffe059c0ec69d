"""Files that hold the old or the new content after a power cut, never a part."""

import os
from pathlib import Path

from edgeappliance.kernel.errors import OperatorError


def replace_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write `data` in place of the file, on the disk when this returns. Raises OSError and leaves the old one."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask says
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make a rename or a removal in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path, *, next_step: str) -> None:
    """The directory with its parents, mode 0750. Raises OperatorError with `next_step`."""
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(f"{directory}: {error.strerror}", next_step=next_step) from None
