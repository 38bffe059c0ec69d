"""Files that are replaced whole."""

import os
import stat
from pathlib import Path

import pytest

from edgeappliance.kernel import settings
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.files import make_directory, replace_file


def test_a_file_is_replaced_whole_and_leaves_no_traces(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    os.chmod(path, 0o644)
    (tmp_path / ".secret.new").write_bytes(b"left by a crash")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in tmp_path.iterdir()] == ["secret"]


def test_a_file_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("rename"), replace(a, b)))
    settings.write(tmp_path / "joined.toml", {"node": "edge-1"})
    assert order == ["fsync", "rename", "fsync"]
    assert stat.S_IMODE((tmp_path / "joined.toml").stat().st_mode) == 0o644


def test_settings_that_cannot_be_written_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="nowhere/joined.toml cannot be written"):
        settings.write(tmp_path / "nowhere" / "joined.toml", {})


def test_a_directory_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="set state_dir"):
        make_directory(tmp_path / "file" / "state", next_step="set state_dir")
