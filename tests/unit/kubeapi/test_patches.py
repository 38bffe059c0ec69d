"""The three patch formats: the vectors of their RFCs, Kubernetes' documented examples, and properties."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.kubeapi.builtin_types import BuiltinTypes, component
from edgeappliance.kubeapi.errors import StatusFailure
from edgeappliance.kubeapi.patch.json import json_patch
from edgeappliance.kubeapi.patch.merge import merge_patch
from edgeappliance.kubeapi.patch.strategic import strategic_patch
from edgeappliance.kubeapi.schema import Schema


def merge_diff(before: Any, after: Any) -> Any:
    """The smallest merge patch that turns one object into another (after must hold no null in objects)."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        if key not in before:
            patch[key] = value
        elif before[key] != value or type(before[key]) is not type(value):
            patch[key] = merge_diff(before[key], value)
    return patch


# RFC 7386, appendix A: original, patch, result.
MERGE_VECTORS: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]

json_values = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
    max_leaves=12,
)
json_objects = st.dictionaries(st.text("abc", max_size=2), json_values, max_size=4)


@pytest.mark.parametrize(("original", "patch", "result"), MERGE_VECTORS)
def test_merge_patch_vectors(original: Any, patch: Any, result: Any) -> None:
    before = copy.deepcopy(original)
    assert merge_patch(original, patch) == result
    assert original == before


@given(json_objects, json_objects)
def test_a_merge_difference_leads_from_one_object_to_the_other(before: Any, after: Any) -> None:
    assert merge_patch(before, merge_diff(before, after)) == after


@given(json_objects, json_objects)
def test_a_merge_patch_applied_twice_changes_nothing_more(target: Any, patch: Any) -> None:
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once


# RFC 6902, appendix A: document, operations, result (None: must fail).
JSON_VECTORS: list[tuple[Any, list[dict[str, Any]], Any]] = [
    ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
    ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
    ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
    ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
    ({"baz": "qux"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo"}),
    (
        {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
        [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
        {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
    ),
    (
        {"foo": ["all", "grass", "cows", "eat"]},
        [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
        {"foo": ["all", "cows", "eat", "grass"]},
    ),
    (
        {"baz": "qux", "foo": ["a", 2, "c"]},
        [{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}],
        {"baz": "qux", "foo": ["a", 2, "c"]},
    ),
    ({"baz": "qux"}, [{"op": "test", "path": "/baz", "value": "bar"}], None),
    (
        {"foo": "bar"},
        [{"op": "add", "path": "/child", "value": {"grandchild": {}}}],
        {"foo": "bar", "child": {"grandchild": {}}},
    ),
    ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}], {"foo": "bar", "baz": "qux"}),
    ({"foo": "bar"}, [{"op": "add", "path": "/baz/bat", "value": "qux"}], None),
    ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
    ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": "10"}], None),
    ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}], {"foo": ["bar", ["abc", "def"]]}),
    ({"a": 1}, [{"op": "add", "path": "", "value": {"b": 2}}], {"b": 2}),
    ({"a": [1]}, [{"op": "copy", "from": "/a", "path": "/b"}, {"op": "remove", "path": "/a/0"}], {"a": [], "b": [1]}),
    ({"a": {"b": 1}}, [{"op": "move", "from": "/a", "path": "/a/b"}], None),
    ({"a": [1]}, [{"op": "remove", "path": "/a/01"}], None),
    ({"a": [1]}, [{"op": "replace", "path": "/a/1", "value": 1}], None),
    ({"a": 1}, [{"op": "replace", "path": "/b", "value": 1}], None),
    ({"a": True}, [{"op": "test", "path": "/a", "value": 1}], None),
    ({"a": 1}, [{"op": "nonsense", "path": "/a"}], None),
    ({"a": 1}, [{"op": "add", "path": "/b"}], None),
    ({"a": 1}, [{"op": "remove", "path": "a"}], None),
]


@pytest.mark.parametrize(("document", "operations", "result"), JSON_VECTORS)
def test_json_patch_vectors(document: Any, operations: Any, result: Any) -> None:
    before = copy.deepcopy(document)
    if result is None:
        with pytest.raises(StatusFailure) as failure:
            json_patch(document, operations)
        assert failure.value.code in (400, 422)
    else:
        assert json_patch(document, operations) == result
    assert document == before


@given(
    json_objects, st.lists(st.dictionaries(st.sampled_from(["op", "path", "from", "value"]), json_values), max_size=3)
)
def test_any_json_patch_gives_a_value_or_a_named_refusal(document: Any, operations: Any) -> None:
    try:
        json_patch(document, operations)
    except StatusFailure as failure:
        assert failure.message


@pytest.fixture(scope="module")
def types() -> BuiltinTypes:
    return BuiltinTypes()


@pytest.fixture
def pod(types: BuiltinTypes) -> Schema:
    schema = types.schema(component("", "v1", "Pod"))
    assert schema is not None
    return schema


@pytest.fixture
def node(types: BuiltinTypes) -> Schema:
    schema = types.schema(component("", "v1", "Node"))
    assert schema is not None
    return schema


def test_containers_merge_by_name(pod: Schema) -> None:
    target = {
        "spec": {"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}]}
    }
    patch = {"spec": {"containers": [{"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}, {"name": "c"}]}}
    assert strategic_patch(target, patch, pod) == {
        "spec": {
            "containers": [
                {"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}, {"name": "X", "value": "1"}]},
                {"name": "c"},
                {"name": "b"},
            ]
        }
    }


@pytest.mark.parametrize(
    ("path", "key", "first", "second"),
    [
        ("volumes", "name", "a", "b"),
        ("imagePullSecrets", "name", "a", "b"),
        ("hostAliases", "ip", "1.1.1.1", "2.2.2.2"),
        ("initContainers", "name", "a", "b"),
        ("topologySpreadConstraints", "topologyKey", "a", "b"),
    ],
)
def test_keyed_lists_of_pods(pod: Schema, path: str, key: str, first: str, second: str) -> None:
    result = strategic_patch({"spec": {path: [{key: first}]}}, {"spec": {path: [{key: second}]}}, pod)
    assert result == {"spec": {path: [{key: second}, {key: first}]}}  # what is new comes first, as upstream has it


@pytest.mark.parametrize("path", ["tolerations", "readinessGates"])
def test_atomic_lists_are_replaced(pod: Schema, path: str) -> None:
    result = strategic_patch({"spec": {path: [{"key": "a"}]}}, {"spec": {path: [{"key": "b"}]}}, pod)
    assert result == {"spec": {path: [{"key": "b"}]}}


def test_ports_merge_by_number_and_mounts_by_path(pod: Schema) -> None:
    target = {
        "spec": {"containers": [{"name": "a", "ports": [{"containerPort": 80}], "volumeMounts": [{"mountPath": "/a"}]}]}
    }
    patch = {
        "spec": {
            "containers": [
                {
                    "name": "a",
                    "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 81}],
                    "volumeMounts": [{"mountPath": "/b", "name": "v"}],
                }
            ]
        }
    }
    container = strategic_patch(target, patch, pod)["spec"]["containers"][0]
    assert container["ports"] == [{"containerPort": 80, "name": "http"}, {"containerPort": 81}]
    assert container["volumeMounts"] == [{"mountPath": "/b", "name": "v"}, {"mountPath": "/a"}]


def test_node_conditions_and_addresses_merge_by_type_and_taints_are_replaced(node: Schema) -> None:
    target = {
        "spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]},
        "status": {
            "conditions": [{"type": "Ready", "status": "True", "reason": "r"}],
            "addresses": [{"type": "Hostname", "address": "x"}],
        },
    }
    patch = {
        "spec": {"taints": [{"key": "b", "effect": "NoSchedule"}]},
        "status": {
            "conditions": [{"type": "Ready", "status": "False"}, {"type": "DiskPressure", "status": "False"}],
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        },
    }
    result = strategic_patch(target, patch, node)
    assert result["status"]["conditions"] == [
        {"type": "Ready", "status": "False", "reason": "r"},
        {"type": "DiskPressure", "status": "False"},
    ]
    assert [item["type"] for item in result["status"]["addresses"]] == ["InternalIP", "Hostname"]
    assert result["spec"]["taints"] == [{"key": "b", "effect": "NoSchedule"}]


def test_owner_references_merge_by_uid_and_finalizers_as_a_set(pod: Schema) -> None:
    target = {"metadata": {"ownerReferences": [{"uid": "1", "name": "a"}], "finalizers": ["x/a"]}}
    patch = {"metadata": {"ownerReferences": [{"uid": "2", "name": "b"}], "finalizers": ["x/a", "x/b"]}}
    result = strategic_patch(target, patch, pod)["metadata"]
    assert [owner["uid"] for owner in result["ownerReferences"]] == ["2", "1"]
    assert result["finalizers"] == ["x/a", "x/b"]


def test_directives(pod: Schema) -> None:
    target = {
        "metadata": {"finalizers": ["x/a", "x/b"], "labels": {"a": "1", "b": "2"}},
        "spec": {
            "containers": [{"name": "a"}, {"name": "b"}],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "securityContext": {"runAsUser": 1, "runAsGroup": 2},
        },
    }
    patch = {
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["x/a"], "labels": {"$patch": "replace", "c": "3"}},
        "spec": {
            "containers": [{"name": "a", "$patch": "delete"}],
            "volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}],
            "securityContext": {"$patch": "delete"},
        },
    }
    result = strategic_patch(target, patch, pod)
    assert result == {
        "metadata": {"finalizers": ["x/b"], "labels": {"c": "3"}},
        "spec": {"containers": [{"name": "b"}], "volumes": [{"name": "v", "hostPath": {"path": "/x"}}]},
    }
    replaced = strategic_patch(target, {"spec": {"containers": [{"$patch": "replace"}, {"name": "z"}]}}, pod)
    assert replaced["spec"]["containers"] == [{"name": "z"}]


def test_the_order_that_a_patch_asks_for(pod: Schema) -> None:
    target = {"spec": {"containers": [{"name": "a"}, {"name": "server"}, {"name": "b"}]}}
    patch = {
        "spec": {
            "$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}],
            "containers": [{"name": "c", "image": "i"}],
        }
    }
    names = [item["name"] for item in strategic_patch(target, patch, pod)["spec"]["containers"]]
    assert [name for name in names if name != "server"] == ["c", "b", "a"]
    assert set(names) == {"a", "b", "c", "server"}


@pytest.mark.parametrize(
    "patch",
    [
        {"$patch": "burn"},
        {"spec": {"containers": [{"image": "no key"}]}},
        {"spec": {"containers": ["text"]}},
        {"metadata": {"$deleteFromPrimitiveList/finalizers": "x"}},
        {"metadata": {"$setElementOrder/finalizers": "x"}},
        {"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "emptyDir": {}}]}},
    ],
)
def test_directives_without_sense_are_refused(pod: Schema, patch: dict[str, Any]) -> None:
    with pytest.raises(StatusFailure) as failure:
        strategic_patch({"spec": {"volumes": [{"name": "v"}]}}, patch, pod)
    assert failure.value.code == 400


names = st.lists(st.sampled_from("abcdef"), unique=True, max_size=5)


@given(names, names)
def test_a_strategic_patch_keeps_every_container_it_does_not_name(before: list[str], patched: list[str]) -> None:
    schema = BUILTIN_POD
    target = {"spec": {"containers": [{"name": name, "image": "old"} for name in before]}}
    patch = {"spec": {"containers": [{"name": name, "image": "new"} for name in patched]}}
    result = strategic_patch(target, patch, schema)["spec"]["containers"]
    assert {item["name"] for item in result} == {*before, *patched}
    assert all(item["image"] == ("new" if item["name"] in patched else "old") for item in result)
    assert strategic_patch({"spec": {"containers": result}}, patch, schema)["spec"]["containers"] == result


@given(names, names)
def test_without_a_shape_a_strategic_patch_is_a_merge_patch(before: list[str], after: list[str]) -> None:
    target = {"a": {name: 1 for name in before}}
    patch = {"a": {name: 2 for name in after}}
    assert strategic_patch(target, patch, None) == merge_patch(target, patch)


BUILTIN_POD = BuiltinTypes().schema(component("", "v1", "Pod"))


def test_an_empty_element_order_leaves_the_servers_order(pod: Schema) -> None:
    target = {"spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}}
    patch = {"spec": {"$setElementOrder/containers": [], "containers": [{"name": "b"}, {"name": "a", "image": "j"}]}}
    merged = strategic_patch(target, patch, pod)["spec"]["containers"]
    assert merged == [{"name": "a", "image": "j"}, {"name": "b", "image": "i"}]
