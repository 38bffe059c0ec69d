"""Where a node's status leads to."""

import pytest

from cloudgateway.cloudstream.access import Attributes, attributes, subject_of
from cloudgateway.cloudstream.endpoint import Endpoint, redirected

HERE = Endpoint("192.0.2.1", 10003)


def test_a_report_keeps_everything_but_address_and_port() -> None:
    status = {
        "addresses": [
            {"type": "InternalIP", "address": "10.0.0.7"},
            {"type": "Hostname", "address": "edge-1"},
            {"type": "InternalIP", "address": "fd00::7"},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10350}},
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    changed = redirected(status, HERE)
    assert changed["addresses"] == [
        {"type": "InternalIP", "address": "192.0.2.1"},
        {"type": "Hostname", "address": "edge-1"},
    ]
    assert changed["daemonEndpoints"] == {"kubeletEndpoint": {"Port": 10003}}
    assert changed["conditions"] == status["conditions"]
    assert status["addresses"][0]["address"] == "10.0.0.7", "the report itself is left alone"
    assert HERE.named_by({"status": changed})
    assert not HERE.named_by({"status": status})


def test_a_patch_that_says_nothing_of_them_says_nothing_still() -> None:
    assert redirected({"conditions": []}, HERE) == {"conditions": []}
    assert redirected({"addresses": None, "daemonEndpoints": None}, HERE) == {
        "addresses": None, "daemonEndpoints": None,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "192.0.2.1", ":1", "a:0", "a:70000", "a:-1", "a:x", "a:١"])
def test_strange_annotations_name_nobody(text: str) -> None:
    assert Endpoint.parse(text) is None


def test_an_annotation_is_read_as_it_is_written() -> None:
    for endpoint in (HERE, Endpoint("fd00::1", 10003)):
        assert Endpoint.parse(str(endpoint)) == endpoint


def test_what_is_asked_for_as_a_kubelet_sees_it() -> None:
    assert attributes("GET", "/containerLogs/a/b/c", "n") == Attributes("get", "proxy", "n")
    assert attributes("POST", "/exec/a/b/c", "n") == Attributes("create", "proxy", "n")
    assert attributes("GET", "/stats/summary", "n") == Attributes("get", "stats", "n")
    assert attributes("GET", "/metrics/cadvisor", "n") == Attributes("get", "metrics", "n")


def test_subject_of_a_certificate() -> None:
    found = subject_of(
        {"subject": ((("organizationName", "a"),), (("organizationName", "b"),), (("commonName", "u"),))}
    )
    assert found is not None
    assert (found.name, found.groups) == ("u", ("a", "b"))
    assert subject_of(None) is None
    assert subject_of({}) is None
    assert subject_of({"subject": ((("commonName", "u"),), (("commonName", "v"),))}) is None
