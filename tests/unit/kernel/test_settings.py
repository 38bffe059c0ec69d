"""Settings report everything wrong at once, with the path of the key."""

import itertools
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, Struct, field

from edgeappliance.config.settings import EdgeSettings
from edgeappliance.kernel import settings
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.settings import SettingsError


class Port(Struct, frozen=True):
    number: Annotated[int, Meta(ge=1, le=65535, description="Number.")] = 80
    kind: Annotated[Literal["tcp", "udp"], Meta(description="Kind.")] = "tcp"

    def problems(self):
        if self.kind == "udp" and self.number == 80:
            yield "number", "80 is not for udp"


class Example(Struct, frozen=True):
    name: Annotated[str, Meta(description="Name.")] = "x"
    port: Annotated[Port, Meta(description="Port.")] = Port()
    ports: Annotated[list[Port], Meta(description="More.")] = field(default_factory=list)


def problems(text: str) -> dict[str, str]:
    with pytest.raises(SettingsError) as caught:
        settings.loads(Example, text, source="f.toml")
    assert "f.toml" in str(caught.value)
    return {problem.key: problem.message for problem in caught.value.problems}


def test_all_problems_come_at_once_with_their_paths() -> None:
    found = problems('nam = "y"\n[port]\nnumber = 0\nkind = "sctp"\n[[ports]]\nkind = "udp"\n[[ports]]\nnumer = 1\n')
    assert found["nam"] == "unknown key; did you mean name?"
    assert "0" in found["port.number"]
    assert "sctp" in found["port.kind"]
    assert found["ports[0].number"] == "80 is not for udp"
    assert "did you mean number" in found["ports[1].numer"]
    assert len(found) == 5


def test_what_is_not_toml_is_said_with_its_line() -> None:
    assert "line 2" in problems('name = "x"\nport = = 3')[""]


def test_a_missing_file_names_itself(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="absent.toml"):
        settings.load(Example, tmp_path / "absent.toml")


def test_the_documentation_is_a_valid_file_of_the_defaults() -> None:
    text = settings.describe(EdgeSettings)
    assert settings.loads(EdgeSettings, text, source="doc") == EdgeSettings()
    uncommented = "\n".join(
        line.removeprefix("# ") if line.startswith("# ") and " = " in line.split('"')[0] else line
        for line in text.splitlines()
    )
    assert settings.loads(EdgeSettings, uncommented, source="doc") == EdgeSettings()


def test_every_key_of_edgecore_is_documented() -> None:
    lines = settings.describe(EdgeSettings).splitlines()
    assert max(map(len, lines)) <= 100
    for before, line in itertools.pairwise(lines):
        if line.startswith(("# ", "[")) and " = " in line:
            assert before.startswith("# "), line


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "port", "ports", "z"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["name", "port", "ports", "number", "q"]), json_like))
def test_any_values_give_settings_or_named_problems(values: dict) -> None:
    try:
        result = settings.convert(Example, values, source="s")
    except SettingsError as error:
        assert error.problems
    else:
        assert isinstance(result, Example)


def test_written_toml_reads_back(tmp_path: Path) -> None:
    values = {"a": 1, "t": {"b": 'x\n"y"', "c": [1, 2]}}
    settings.write(tmp_path / "f.toml", values)
    assert tomllib.loads((tmp_path / "f.toml").read_text()) == values
