"""Paths that must not leave their volume."""

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeappliance.edged.volumes.beneath import MAX_DEPTH, Escape, open_beneath

SECRET = "not for containers"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A volume beside which there is something that must not be reached."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text(SECRET)
    volume = tmp_path / "volume"
    (volume / "a" / "b").mkdir(parents=True)
    (volume / "a" / "file").write_text("mine")
    return volume


def real(root: Path, path: str, make: int | None = None) -> str:
    """Where `path` leads, relative to the root; checks that the way agrees with the descriptor."""
    before = set(os.listdir("/proc/self/fd"))
    descriptor, way = open_beneath(root, path, make=make)
    try:
        found = os.readlink(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    assert set(os.listdir("/proc/self/fd")) == before
    assert found == os.path.normpath(os.path.join(os.path.realpath(root), way))
    return os.path.relpath(found, os.path.realpath(root))


def test_links_within_the_volume_are_walked(root: Path) -> None:
    (root / "..data").symlink_to("..one")
    (root / "..one").mkdir()
    (root / "..one" / "key").write_text("x")
    (root / "key").symlink_to("..data/key")
    (root / "a" / "b" / "up").symlink_to("../../a/./file")
    assert real(root, "key") == "..one/key"
    assert real(root, "a/b/up") == "a/file"
    assert real(root, "./a//b/") == "a/b"


@pytest.mark.parametrize(
    "target",
    ["/etc", "../outside", "a/../../outside", "a/b/../../../outside/file", "../volume/../outside", "/", ".."],
)
def test_no_link_leads_out(root: Path, target: str) -> None:
    (root / "link").symlink_to(target)
    before = set(os.listdir("/proc/self/fd"))
    for path in ("link", "link/file", "./link"):
        with pytest.raises((Escape, FileNotFoundError)):
            open_beneath(root, path)
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("path", "words"),
    [("../outside", "'..'"), ("a/../../outside", "'..'"), ("a/..", "'..'"), ("/etc", "relative"), ("a\0b", "NUL")],
)
def test_paths_that_nobody_may_write(root: Path, path: str, words: str) -> None:
    with pytest.raises(Escape, match=words):
        open_beneath(root, path, make=0o755)


def test_rings_and_depths_end(root: Path) -> None:
    (root / "ring").symlink_to("ring")
    with pytest.raises(Escape, match="too many links"):
        open_beneath(root, "ring")
    with pytest.raises(Escape, match="deeper"):
        open_beneath(root, "/".join(["d"] * (MAX_DEPTH + 1)), make=0o755)
    with pytest.raises(NotADirectoryError):
        open_beneath(root, "a/file/x", make=0o755)
    with pytest.raises(FileNotFoundError):
        open_beneath(root, "a/none")


def test_missing_directories_are_made_with_the_rights_asked_for(root: Path) -> None:
    (root / "a").chmod(0o2777)
    os.chown(root / "a", -1, 4711)
    (root / "later").symlink_to("a/new")
    assert real(root, "later/deep", make=0o770) == "a/new/deep"
    for path in (root / "a/new", root / "a/new/deep"):
        assert (path.stat().st_gid, path.stat().st_mode & 0o7777) == (4711, 0o2770)
    (root / "out").symlink_to("../outside/new")
    with pytest.raises(Escape):
        open_beneath(root, "out", make=0o777)
    assert not (root.parent / "outside" / "new").exists()


names = st.sampled_from(["a", "b", "c", "..", ".", ""])


@settings(max_examples=300, deadline=None)
@given(
    links=st.lists(st.tuples(st.lists(names, max_size=3), st.lists(names, min_size=1, max_size=6)), max_size=6),
    path=st.lists(names, min_size=1, max_size=6),
    make=st.booleans(),
)
def test_whatever_the_tree_nothing_outside_is_reached_or_made(
    tmp_path_factory: pytest.TempPathFactory, links: list[tuple[list[str], list[str]]], path: list[str], make: bool
) -> None:
    top = tmp_path_factory.mktemp("t")
    root = top / "volume"
    (root / "a" / "b").mkdir(parents=True)
    (top / "a").mkdir()
    for place, target in links:
        link = Path(os.path.normpath(root.joinpath(*place, "c")))
        inside = link.is_relative_to(root) and os.path.realpath(link.parent).startswith(str(root))
        if inside and link.parent.is_dir() and not os.path.lexists(link):
            link.symlink_to("/".join(target) or "a")
    before = {str(p) for p in top.rglob("*") if not p.is_relative_to(root)}
    try:
        found = real(root, "/".join(path), make=0o755 if make else None)
    except (Escape, OSError):
        pass
    else:
        assert not found.startswith("..")
    assert {str(p) for p in top.rglob("*") if not p.is_relative_to(root)} == before


def test_a_directory_exchanged_for_a_link_while_we_walk(root: Path) -> None:
    """Another container of the pod exchanges `a/b` for a link to the outside, again and again."""
    stop = threading.Event()
    (root / "evil").symlink_to("../outside")

    def exchange() -> None:
        while not stop.is_set():
            os.rename(root / "a", root / "kept")
            os.rename(root / "evil", root / "a")
            os.rename(root / "a", root / "evil")
            os.rename(root / "kept", root / "a")

    attacker = threading.Thread(target=exchange)
    attacker.start()
    outcomes = {"good": 0, "refused": 0}
    try:
        for _ in range(3000):
            try:
                descriptor, _ = open_beneath(root, "a/file")
            except (Escape, FileNotFoundError):
                outcomes["refused"] += 1
                continue
            with os.fdopen(os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)) as file:
                assert file.read() == "mine"
            os.close(descriptor)
            outcomes["good"] += 1
    finally:
        stop.set()
        attacker.join()
    assert outcomes["good"]
