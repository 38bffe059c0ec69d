"""Routing by topic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeappliance.eventbus.routing import MAX_CACHED, Router, TopicTree, Way, filter_refused, topic_refused


def one_by_one(topic_filter: str, topic: str) -> bool:
    """MQTT 3.1.1 section 4.7, level by level."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    for position, level in enumerate(wanted):
        if level == "#":
            return True
        if position >= len(levels) or level not in ("+", levels[position]):
            return False
    return len(wanted) == len(levels)


level = st.sampled_from(["a", "b", "", "$x", "user"])


@given(
    filters=st.lists(
        st.tuples(st.lists(level | st.just("+"), min_size=1, max_size=4), st.booleans()).map(
            lambda item: "/".join([*item[0], "#"] if item[1] else item[0])
        ),
        max_size=8,
    ),
    topic=st.lists(level, min_size=1, max_size=4).map("/".join),
)
def test_tree_matches_what_the_standard_says(filters: list[str], topic: str):
    tree: TopicTree[str] = TopicTree()
    for item in filters:
        tree.add(item, item)
    assert sorted(tree.match(topic)) == sorted(item for item in filters if one_by_one(item, topic))


@pytest.mark.parametrize(
    ("topic", "way"),
    [
        ("$hw/events/device/default/d1/twin/update", Way.TWIN),
        ("$hw/events/device/default/d1/twin/get", Way.TWIN),
        ("$hw/events/device/default/d1/state/update", Way.TWIN),
        ("$hw/events/device/default/d1/twin/update/result", Way.NONE),
        ("$hw/events/device/d1/twin/update", Way.NONE),
        ("$hw/events/node/edge-1/membership/get", Way.TWIN),
        ("$hw/events/node/edge-1/membership/updated", Way.NONE),
        ("$hw/events/upload/abc", Way.UPLOAD),
        ("SYS/dis/upload_records", Way.UPLOAD),
        ("default/user/x/y", Way.UPLOAD),
        ("default/up", Way.NONE),
    ],
)
def test_ways(topic: str, way: Way):
    assert Router().route(topic).way is way


def test_rules_add_and_remove_uploads():
    router = Router()
    assert router.add_rule("default/up")
    assert not router.add_rule("default/up")
    assert router.route("default/up").way is Way.UPLOAD
    assert "default/up" in router.filters()
    assert router.add_rule("+/user/#") is False
    assert router.remove_rule("+/user/#") is False
    assert router.remove_rule("default/up")
    assert router.route("default/up").way is Way.NONE


def test_own_subscriptions_share_filters():
    router, seen = Router(), []
    assert router.subscribe("a/+", lambda topic, _: seen.append(topic))
    assert not router.subscribe("a/+", lambda topic, _: seen.append(topic.upper()))
    assert not router.subscribe("+/user/#", lambda topic, _: seen.append("third"))
    for callback in router.route("a/b").callbacks:
        callback("a/b", b"")
    assert seen == ["a/b", "A/B"]
    assert router.route("x/user/y").way is Way.UPLOAD
    assert len(router.route("x/user/y").callbacks) == 1
    with pytest.raises(ValueError, match="last level"):
        router.subscribe("a/#/b", print)


def test_the_cache_is_bounded():
    router = Router()
    for number in range(MAX_CACHED + 10):
        router.route(f"t/{number}")
    assert len(router._cache) <= MAX_CACHED


def test_what_is_no_filter_and_no_topic():
    for good in ("#", "+", "a/+/b", "a/#", "/", "$hw/#"):
        assert filter_refused(good) == ""
    for bad in ("", "a#", "a+/b", "#/a", "a\0b", "x" * 65536):
        assert filter_refused(bad)
    assert topic_refused("a/b") == ""
    for bad in ("", "a/+", "#", "a\0", "x" * 65536):
        assert topic_refused(bad)
