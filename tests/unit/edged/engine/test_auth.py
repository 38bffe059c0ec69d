"""Which credentials are tried for an image."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.edged.engine.api import Credentials, PullFailed
from edgeappliance.edged.engine.auth import credentials_for, for_image, header, read_config, split
from edgeappliance.edged.engine.pull import parse
from edgeappliance.kernel.errors import InputError


def secret(document: Any, key: str = ".dockerconfigjson") -> dict[str, Any]:
    return {"data": {key: base64.b64encode(json.dumps(document).encode()).decode()}}


def auths(*addresses: str) -> dict[str, Any]:
    """A docker config JSON whose user names are the addresses."""
    return {"auths": {address: {"username": address, "password": "p"} for address in addresses}}


def tried(image: str, *addresses: str) -> list[str]:
    return [found.username for found in credentials_for(image, secret(auths(*addresses)))]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("busybox", ("docker.io", "library/busybox")),
        ("team/app:1", ("docker.io", "team/app")),
        ("index.docker.io/team/app", ("docker.io", "team/app")),
        ("localhost/app", ("localhost", "app")),
        ("reg.example.com:5000/a/b:tag@sha256:" + "0" * 64, ("reg.example.com:5000", "a/b")),
    ],
)
def test_an_image_name_has_a_registry_and_a_path(name: str, wanted: tuple[str, str]) -> None:
    assert split(name) == wanted


@pytest.mark.parametrize(
    ("image", "addresses", "wanted"),
    [
        ("busybox", ["https://index.docker.io/v1/"], ["https://index.docker.io/v1/"]),
        ("docker.io/team/app", ["docker.io"], ["docker.io"]),
        ("reg.io/a/b", ["reg.io", "reg.io/a", "reg.io/ab", "reg.io/a/b"], ["reg.io/a/b", "reg.io/a", "reg.io"]),
        ("reg.io:5000/a", ["reg.io", "reg.io:5000", "http://reg.io:5000/v2/"], ["reg.io:5000", "http://reg.io:5000/v2/"]),
        ("a.reg.io/x", ["*.reg.io", "reg.io", "*.io", "a.*.io"], ["*.reg.io", "a.*.io"]),
        ("reg.io/x", ["busybox"], []),
    ],
)  # fmt: skip
def test_the_longest_match_goes_first(image: str, addresses: list[str], wanted: list[str]) -> None:
    assert tried(image, *addresses) == wanted


def test_user_and_password_come_from_either_form() -> None:
    pair = base64.b64encode(b"joe:se:cret").decode()
    assert read_config(json.dumps({"auths": {"r": {"auth": pair}}}).encode()) == {"r": Credentials("joe", "se:cret")}
    legacy = credentials_for("r.io/x", secret({"r.io": {"username": "a", "password": "b"}}, ".dockercfg"))
    assert legacy == [Credentials("a", "b")]
    assert read_config(b'{"credsStore": "desktop"}') == {}


def test_the_same_credentials_are_tried_once() -> None:
    config = {"r.io": Credentials("a", "b")}
    assert for_image("r.io/x", [config, config]) == [Credentials("a", "b")]


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"no json", ".dockerconfigjson"),
        (b"[" * 100_000, ".dockerconfigjson"),
        (b'{"auths": []}', "auths"),
        (b'{"auths": {"r": 1}}', "auths.r"),
        (b'{"auths": {"r": {"auth": "%%"}}}', "auths.r.auth"),
        (b'{"auths": {"r": {"auth": "bm9jb2xvbg=="}}}', "auths.r.auth"),
        (b'{"auths": {"r": {"password": 7}}}', "auths.r.password"),
    ],
)
def test_what_cannot_be_read_is_named(content: bytes, field: str) -> None:
    with pytest.raises(InputError, match=field.replace(".", r"\.")) as refused:
        credentials_for("r/x", {"data": {".dockerconfigjson": base64.b64encode(content).decode()}})
    assert refused.value.field == "data[.dockerconfigjson]"


@pytest.mark.parametrize("given", [{}, {"data": None}, {"data": {"other": ""}}, {"data": {".dockerconfigjson": "%"}}])
def test_a_secret_that_is_no_docker_config(given: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        credentials_for("busybox", given)


@given(st.binary(max_size=200), st.text(max_size=60))
def test_rubbish_never_raises_anything_else(content: bytes, image: str) -> None:
    try:
        for_image(image, [read_config(content)])
        parse(image)
    except (InputError, PullFailed):
        pass


def test_the_header_of_the_engine() -> None:
    def content(credentials: Credentials, registry: str = "r.io") -> Any:
        return json.loads(base64.urlsafe_b64decode(header(credentials, registry)))

    assert content(Credentials("a", "b")) == {"username": "a", "password": "b", "serveraddress": "r.io"}
    assert content(Credentials("a", "b"), "docker.io")["serveraddress"] == "https://index.docker.io/v1/"
    assert content(Credentials("a", "", "token"))["identitytoken"] == "token"
    assert content(Credentials(registry_token="t")) == {"registrytoken": "t", "serveraddress": "r.io"}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("busybox", ("busybox", "latest")),
        ("r.io:5000/a/b:1.2-x", ("r.io:5000/a/b", "1.2-x")),
        ("a@sha256:" + "a" * 64, ("a", "sha256:" + "a" * 64)),
        ("[::1]:5000/a:1", ("[::1]:5000/a", "1")),
    ],
)
def test_references(name: str, wanted: tuple[str, str]) -> None:
    assert parse(name) == wanted


@pytest.mark.parametrize("name", ["", "case/UPPER", "a b", "a:", "a@sha256:12", "-x", "a:" + "t" * 200, "a\n", "a&b=c"])
def test_names_that_are_no_images(name: str) -> None:
    with pytest.raises(PullFailed) as refused:
        parse(name)
    assert refused.value.reason == "InvalidImageName"
