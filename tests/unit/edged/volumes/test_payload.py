"""Files of volumes from keys of objects, and their exchange: properties."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeappliance.edged.pods.spec import KeyToPath
from edgeappliance.edged.volumes.atomic import write_all
from edgeappliance.edged.volumes.payload import (
    File,
    PayloadError,
    checked_path,
    config_map_data,
    merged,
    secret_data,
    select,
)

paths = st.text(alphabet="./ab\0\udcffä", max_size=12) | st.lists(
    st.sampled_from(["a", "b", "..", ".", "", "..data", "...", "..a"]), max_size=5
).map("/".join)


@given(paths)
def test_a_path_that_passes_stays_below_the_volume_and_hides_nothing(path: str) -> None:
    try:
        checked = checked_path(path)
    except PayloadError as error:
        assert str(error)
        return
    assert os.path.normpath(f"/volume/{path}") == f"/volume/{checked}"
    assert not checked.startswith("..")
    checked.encode()


values = st.recursive(st.none() | st.integers() | st.text(max_size=4), lambda inner: st.lists(inner, max_size=2))


@given(st.dictionaries(st.sampled_from(["data", "binaryData"]), values | st.dictionaries(st.text(max_size=3), values)))
def test_any_object_gives_bytes_or_an_error(obj: dict[str, object]) -> None:
    for read in (config_map_data, secret_data):
        try:
            found = read(obj)
        except PayloadError as error:
            assert str(error)
        else:
            assert all(isinstance(value, bytes) for value in found.values())


def test_optional_items_that_are_missing_are_left_out() -> None:
    items = [KeyToPath(key="a", path="x"), KeyToPath(key="none", path="y")]
    assert select({"a": b"1"}, items, mode=0o600, optional=True, kind="config") == {"x": File(b"1", 0o600)}


def test_of_two_sources_the_later_counts() -> None:
    assert merged([{"a": File(b"1")}, {"a": File(b"2")}])["a"].data == b"2"
    with pytest.raises(PayloadError, match="a is a file"):
        merged([{"a/b/c": File(b"1")}, {"a": File(b"2")}])


names = st.sampled_from(["a", "b", "c/d", "c/e/f", "g"])
contents = st.dictionaries(
    names, st.builds(File, st.binary(max_size=4), st.sampled_from([0o644, 0o600, 0o777])), max_size=5
)


@settings(max_examples=60, deadline=None)
@given(st.lists(contents, min_size=1, max_size=4))
def test_after_every_exchange_there_is_exactly_what_was_wanted(
    tmp_path_factory: pytest.TempPathFactory, states: list[dict[str, File]]
) -> None:
    directory = tmp_path_factory.mktemp("v") / "volume"
    before: dict[str, File] | None = None
    for state in states:
        assert write_all(directory, state) is (state != before)
        before = state
        found = {}
        for top in os.listdir(directory):
            if top.startswith(".."):
                continue
            for parent, _, files in os.walk(directory / top):
                found.update({os.path.relpath(Path(parent, name), directory): Path(parent, name) for name in files})
            if (directory / top).is_file():
                found[top] = directory / top
        assert {path: File(file.read_bytes(), file.stat().st_mode & 0o777) for path, file in found.items()} == state
        assert sum(name.startswith("..") for name in os.listdir(directory)) == 2
