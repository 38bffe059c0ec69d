"""URLs, queries, Accept headers and selectors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.kubeapi.errors import StatusFailure
from edgeappliance.kubeapi.request import ApiRequest, Target, View, accepted_views, flag, number, parse_target
from edgeappliance.kubeapi.selectors import parse_fields, parse_labels


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/api/v1/pods", Target("", "v1", "pods")),
        ("/api/v1/namespaces/d/pods/p", Target("", "v1", "pods", "d", "p")),
        ("/api/v1/namespaces/d/pods/p/log", Target("", "v1", "pods", "d", "p", "log")),
        ("/api/v1/namespaces/d", Target("", "v1", "namespaces", "", "d")),
        ("/api/v1/namespaces/d/status", Target("", "v1", "namespaces", "", "d", "status")),
        ("/api/v1/namespaces/d/finalize", Target("", "v1", "namespaces", "", "d", "finalize")),
        ("/api/v1/nodes/n/status", Target("", "v1", "nodes", "", "n", "status")),
        ("/apis/g/v1/namespaces/d/things/t", Target("g", "v1", "things", "d", "t")),
        ("/apis/g/v1/things/", Target("g", "v1", "things")),
        ("/api", None),
        ("/api/v1", None),
        ("/apis/g/v1", None),
        ("/healthz", None),
        ("/api/v1/namespaces/d/pods/p/log/x", None),
        ("/api/v1/pods//log", None),
    ],
)
def test_urls(path: str, target: Target | None) -> None:
    assert parse_target(path) == target


@given(st.text(max_size=60))
def test_any_url_is_read_or_none(path: str) -> None:
    parse_target(path)
    ApiRequest.of("GET", path)


def test_request_targets_are_decoded() -> None:
    request = ApiRequest.of("GET", "/api/v1/pods?labelSelector=a%3Db%2Cc&watch")
    assert request.query == {"labelSelector": "a=b,c", "watch": ""}
    assert ApiRequest.of("GET", "/a%20b").path == "/a b"


def test_flags_and_numbers() -> None:
    assert flag({"watch": "true"}, "watch")
    assert flag({"watch": ""}, "watch")
    assert not flag({"watch": "0"}, "watch")
    assert not flag({}, "watch")
    assert number({"limit": "5"}, "limit", maximum=3) == 3
    for query in ({"watch": "yes"}, {"watch": "maybe"}):
        with pytest.raises(StatusFailure):
            flag(query, "watch")
    for text in ("-1", "x", "1e3", "9" * 30, "٣"):
        with pytest.raises(StatusFailure):
            number({"limit": text}, "limit", maximum=9)


def test_accept_headers() -> None:
    kubectl = (
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,"
        "application/json"
    )
    assert accepted_views(kubectl) == [View("Table", "v1"), View("Table", "v1beta1"), View()]
    assert accepted_views("application/vnd.kubernetes.protobuf,application/json") == [View()]
    assert accepted_views("") == accepted_views("*/*") == [View()]
    assert accepted_views("application/vnd.kubernetes.protobuf") == []


LABELS = {"app": "web", "tier": "front", "size": "10", "empty": ""}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier=front", True),
        ("app!=web", False),
        ("other!=x", True),
        ("app in (web, db)", True),
        ("app notin (web)", False),
        ("missing notin (a)", True),
        ("app", True),
        ("!app", False),
        ("! missing , app", True),
        ("size>9", True),
        ("size<9", False),
        ("missing>1", False),
        ("empty=", True),
        ("kubernetes.io/x!=y", True),
    ],
)
def test_label_selectors(selector: str, matches: bool) -> None:
    assert parse_labels(selector).matches(LABELS) is matches


@pytest.mark.parametrize(
    "selector", ["a=b=c", "a in b", "=b", "a,,b", "a,", "-a", "a=b c", "a>x", "a in (b", "a/b/c=d", "x" * 9000, "a=-b"]
)
def test_label_selectors_without_sense_are_refused(selector: str) -> None:
    with pytest.raises(StatusFailure) as failure:
        parse_labels(selector)
    assert failure.value.code == 400


@given(st.text("ab,=!<>()in ", max_size=30))
def test_any_label_selector_is_read_or_refused(text: str) -> None:
    try:
        parse_labels(text).matches(LABELS)
    except StatusFailure as failure:
        assert failure.code == 400


def test_field_selectors() -> None:
    fields = {"metadata.name": "x", "status.phase": "Running", "spec.nodeName": ""}
    assert parse_fields("metadata.name=x,status.phase!=Failed").matches(fields)
    assert parse_fields("spec.nodeName=").matches(fields)
    assert not parse_fields("status.phase==Failed").matches(fields)
    assert parse_fields(r"a=b\,c\=d").matches({"a": "b,c=d"})
    with pytest.raises(StatusFailure):
        parse_fields("metadata.name")
