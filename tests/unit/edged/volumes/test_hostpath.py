"""hostPath: what its type checks, and devices."""

import os
import pty
import socket
import tempfile
from pathlib import Path

import pytest

from edgeappliance.edged.pods.spec import HostPath
from edgeappliance.edged.volumes.hostpath import HostPathError, HostSource, host_source


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_text("x")
    return tmp_path


def test_every_type_takes_what_it_names(place: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{short}/socket")
        for path, type in [
            (place / "directory", "Directory"),
            (place / "directory", "DirectoryOrCreate"),
            (place / "file", "File"),
            (place / "file", "FileOrCreate"),
            (Path(short, "socket"), "Socket"),
            (place / "file", ""),
            (place / "directory", ""),
        ]:
            assert host_source(HostPath(path=str(path), type=type)) == HostSource(str(path))
    assert host_source(HostPath(path="/dev/null", type="CharDevice")) == HostSource("/dev/null", device="/dev/null")


@pytest.mark.parametrize(
    ("name", "type", "words"),
    [
        ("file", "Directory", "is not a directory"),
        ("file", "DirectoryOrCreate", "is not a directory"),
        ("directory", "File", "is not a file"),
        ("directory", "FileOrCreate", "is not a file"),
        ("file", "Socket", "is not a socket file"),
        ("file", "CharDevice", "is not a character device"),
        ("file", "BlockDevice", "is not a block device"),
        ("none", "Directory", "is not a directory"),
        ("none", "File", "is not a file"),
        ("none", "Socket", "is not a socket file"),
        ("none", "CharDevice", "is not a character device"),
        ("none/none", "FileOrCreate", "No such file or directory"),
    ],
)
def test_everything_else_is_refused_in_the_kubelets_words(place: Path, name: str, type: str, words: str) -> None:
    with pytest.raises(HostPathError) as caught:
        host_source(HostPath(path=str(place / name), type=type))
    assert str(caught.value).startswith(f"hostPath type check failed: {place / name}")
    assert words in str(caught.value)
    assert not (place / "none").exists()


def test_what_is_created(place: Path) -> None:
    for type in ("", "DirectoryOrCreate"):
        assert host_source(HostPath(path=str(place / "new"), type=type)) == HostSource(str(place / "new"), create=True)
    assert not (place / "new").exists()  # the engine's work
    assert host_source(HostPath(path=str(place / "made"), type="FileOrCreate")) == HostSource(str(place / "made"))
    assert (place / "made").read_bytes() == b""
    assert (place / "made").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("path", ["relative", "", "/a/../etc", "/a/..", "/a\0b"])
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(HostPathError, match="path: must"):
        host_source(HostPath(path=path))


def test_a_colon_is_no_way_into_the_engines_options(place: Path) -> None:
    (place / "a:rw").mkdir()
    assert host_source(HostPath(path=str(place / "a:rw"))) == HostSource(str(place / "a:rw"))
    with pytest.raises(HostPathError, match="colon"):
        host_source(HostPath(path=str(place / "b:/etc:rw")))
    with pytest.raises(HostPathError, match="invalid hostPath type: Magic"):
        host_source(HostPath(path=str(place), type="Magic"))


def test_a_device_is_permitted_only_where_both_its_names_are_in_dev(place: Path) -> None:
    master, slave = pty.openpty()
    try:
        node = os.ttyname(slave)
        assert host_source(HostPath(path=node, type="CharDevice")).device == node
        # A container that can write `place` could have made either of these.
        (place / "link").symlink_to(node)
        assert host_source(HostPath(path=str(place / "link"))).device == ""
        os.mknod(place / "made", 0o600 | 0o020000, os.stat(node).st_rdev)
        assert host_source(HostPath(path=str(place / "made"), type="CharDevice")).device == ""
        by_id = Path("/dev/edgeappliance-test-link")
        by_id.symlink_to(node)
        try:
            assert host_source(HostPath(path=str(by_id))) == HostSource(str(by_id), device=node)
        finally:
            by_id.unlink()
    finally:
        os.close(master)
        os.close(slave)
