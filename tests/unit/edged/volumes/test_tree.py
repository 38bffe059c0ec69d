"""Removing and measuring what containers left."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from edgeappliance.edged.volumes.tree import measure, remove_tree


def deep(directory: Path, levels: int) -> None:
    """A chain of directories longer than any path may be, with a file at its end."""
    descriptor = os.open(directory, os.O_DIRECTORY)
    for level in range(levels):
        os.mkdir("d" * 50, dir_fd=descriptor)
        if level % 100 == 0:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
        below = os.open("d" * 50, os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


def test_depth_and_breadth_do_not_matter(tmp_path: Path) -> None:
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    deep(doomed, 3000)
    for number in range(2500):
        (doomed / f"file{number}").touch()
    (doomed / ".removed-1-00").mkdir()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 8, limits[1]))
    try:
        assert measure(doomed).inodes > 2500
        remove_tree(doomed)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not doomed.exists()
    remove_tree(doomed)


def test_links_are_removed_and_not_what_they_lead_to(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("here")
    doomed = tmp_path / "doomed"
    (doomed / "sub").mkdir(parents=True)
    (doomed / "sub" / "link").symlink_to(kept)
    (doomed / "absolute").symlink_to("/")
    os.mkfifo(doomed / "pipe")
    assert measure(doomed).inodes == 5
    remove_tree(doomed)
    assert (kept / "file").read_text() == "here"
    doomed.symlink_to(kept)
    remove_tree(doomed)
    assert (kept / "file").read_text() == "here"


def test_what_is_mounted_below_is_not_emptied(tmp_path: Path) -> None:
    kept, doomed = tmp_path / "kept", tmp_path / "doomed"
    kept.mkdir()
    (kept / "file").write_text("here")
    (doomed / "sub" / "mount").mkdir(parents=True)
    code = (
        "import pathlib, sys\n"
        "from edgeappliance.edged.volumes.tree import remove_tree\n"
        "try:\n    remove_tree(pathlib.Path(sys.argv[1]))\n"
        "except OSError as error:\n    print(error.strerror)\n"
    )
    script = 'mount --bind "$1" "$2" && exec "$3" -c "$4" "$5"'
    run = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", kept, doomed / "sub" / "mount", sys.executable, code, doomed],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "Device or resource busy\n"
    assert (kept / "file").read_text() == "here"
    remove_tree(doomed)
    assert not doomed.exists()


def test_hard_links_and_gaps_count_what_they_take(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"x" * 1_000_000)
    os.link(tmp_path / "one", tmp_path / "two")
    with (tmp_path / "gap").open("wb") as file:
        file.truncate(1 << 40)
    assert 1_000_000 <= measure(tmp_path).bytes < 1_100_000
    assert measure(tmp_path / "none").bytes == 0


def test_a_file_that_cannot_go_is_told(tmp_path: Path) -> None:
    file = tmp_path / "doomed" / "file"
    file.parent.mkdir()
    file.touch()
    if subprocess.run(["chattr", "+i", file], check=False, capture_output=True).returncode:
        pytest.fail("chattr does not work on this file system")
    try:
        with pytest.raises(PermissionError):
            remove_tree(file.parent)
    finally:
        subprocess.run(["chattr", "-i", file], check=True)
    remove_tree(file.parent)
