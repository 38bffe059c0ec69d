"""`host[:port]`, and what edgecore.toml says of itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.config.endpoint import Endpoint, endpoint, endpoint_error
from edgeappliance.config.settings import EdgeSettings, default_node_name
from edgeappliance.kernel import settings
from edgeappliance.kernel.errors import OperatorError
from edgeappliance.kernel.settings import SettingsError
from edgeappliance.kubeapi.names import subdomain_error


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("gateway.example.org", "gateway.example.org", 10000),
        (" gateway:1 ", "gateway", 1),
        ("127.0.0.1:65535", "127.0.0.1", 65535),
        ("[::1]", "::1", 10000),
        ("[fe80::1]:443", "fe80::1", 443),
        ("::1", "::1", 10000),
        ("my_box.local.", "my_box.local.", 10000),
    ],
)
def test_what_people_write(text: str, host: str, port: int) -> None:
    assert endpoint(text, default_port=10000, key="--cloud") == Endpoint(host, port)


@pytest.mark.parametrize(
    "text",
    [
        "", ":1", "a:", "a:0", "a:65536", "a:x", "a:1:2", "[::1", "[::1]x", "[::1]:", "https://a", "a/b", "u@a", "a b",
        "foo..bar", "-a", "a-", "x" * 64, "x." * 130, "a:1000000", "a:٣", "\u202ea",
    ],
)  # fmt: skip
def test_what_no_resolver_takes_is_refused_with_the_key(text: str) -> None:
    with pytest.raises(OperatorError, match=r"^--cloud: "):
        endpoint(text, default_port=10000, key="--cloud")


@given(st.text(max_size=40))
def test_any_text_is_an_endpoint_or_has_a_reason(text: str) -> None:
    if endpoint_error(text):
        with pytest.raises(OperatorError):
            endpoint(text, default_port=1, key="k")
    else:
        assert 0 < endpoint(text, default_port=1, key="k").port < 65536


def test_an_endpoint_reads_back() -> None:
    for place in (Endpoint("a", 1), Endpoint("::1", 2)):
        assert endpoint(str(place), default_port=9, key="k") == place


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[cloud]\nhub = "a b"', "cloud.hub"),
        ('[cloud]\nenroll = "a:0"', "cloud.enroll"),
        ('[cloud]\ntoken_file = "/x"', "cloud.token_file"),
        ("[cloud]\nmessages_per_second = inf", "cloud.messages_per_second"),
        ('[node]\nname = "a..b"', "node.name"),
        (f'[node]\nname = "{"a" * 254}"', "node.name"),
        ('[node.labels]\n"bad key!" = "x"', "node.labels.bad key!"),
        ('[node.labels]\nok = "x y"', "node.labels.ok"),
        ('state_dir = "relative"', "state_dir"),
        ('runtime_dir = ""', "runtime_dir"),
        (f'runtime_dir = "/{"r" * 100}"', "runtime_dir"),
        ("[mqtt]\nport = 0", "mqtt.port"),
        ('[mqtt]\nmode = "external"\nhost = ""', "mqtt.host"),
        ('[mqtt]\nmode = "external"\npassword_file = "/x"', "mqtt.user"),
        ('[mqtt.tls]\ncert_file = "/x"', "mqtt.tls.ca_file"),
        ('[mqtt.tls]\nca_file = "/x"\nkey_file = "/x"', "mqtt.tls.cert_file"),
        ('[mqtt.pods]\naddress = "0.0.0.0"', "mqtt.pods.user"),
        ('[mqtt.pods]\naddress = "::"\nuser = "a:b"\npassword_file = "/x"', "mqtt.pods.user"),
        ('[mqtt]\nport = 1884\npods = {address = "::", user = "u", password_file = "/x"}', "mqtt.pods.port"),
        ('[mqtt]\nmode = "external"\npods = {address = "::", user = "u", password_file = "/x"}', "mqtt.pods.address"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_with_its_key(text: str, key: str) -> None:
    with pytest.raises(SettingsError) as refused:
        settings.loads(EdgeSettings, text, source="edgecore.toml")
    assert [problem.key for problem in refused.value.problems] == [key]


@pytest.mark.parametrize(
    "name", ["MyBox.Example.ORG", "box_7", "-", "..", "a" * 300, "a" * 252 + ".bc", "ünï.box", "a..b"]
)
def test_every_host_name_gives_a_node_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: name)
    assert subdomain_error(default_node_name()) == ""
