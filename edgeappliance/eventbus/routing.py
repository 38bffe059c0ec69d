"""Where a message that the broker delivered goes (KubeEdge reference 4.1). Pure."""

from collections.abc import Callable, Iterable
from enum import Flag, auto
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

TWIN_FILTERS = (
    "$hw/events/device/+/+/state/update",
    "$hw/events/device/+/+/twin/+",
    "$hw/events/node/+/membership/get",
)
"""Subscribed always: what the twin answers."""

UPLOAD_FILTERS = ("$hw/events/upload/#", "SYS/dis/upload_records", "+/user/#")
"""Subscribed always: what apps send to the cloud."""

MAX_CACHED = 4096
"""Topics whose way is remembered."""

MAX_TOPIC = 65_535
"""Bytes of a topic (MQTT 3.1.1, 1.5.3)."""

Callback = Callable[[str, bytes], None]


def filter_refused(topic_filter: str) -> str:
    """Why this is no topic filter of MQTT 3.1.1 (section 4.7), empty when it is one."""
    if not topic_filter or len(topic_filter.encode()) > MAX_TOPIC:
        return "a topic filter has 1 to 65535 bytes"
    if "\0" in topic_filter:
        return "a topic filter has no NUL"
    levels = topic_filter.split("/")
    for position, level in enumerate(levels):
        if ("#" in level or "+" in level) and len(level) > 1:
            return "a wildcard must stand alone in its level"
        if level == "#" and position != len(levels) - 1:
            return "# must be the last level"
    return ""


def topic_refused(topic: str) -> str:
    """Why nothing can be published on this topic, empty when it can."""
    if not topic or len(topic.encode()) > MAX_TOPIC:
        return "a topic has 1 to 65535 bytes"
    if any(char in topic for char in "+#\0"):
        return "a topic has no wildcard and no NUL"
    return ""


class _Node(Generic[T]):
    __slots__ = ("below", "values")

    def __init__(self) -> None:
        self.below: dict[str, _Node[T]] = {}
        self.values: list[T] = []


class TopicTree(Generic[T]):
    """Values by topic filter; finds those whose filter matches a topic."""

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()

    def add(self, topic_filter: str, value: T) -> None:
        """Keep `value` under the filter; the same filter may hold several."""
        node = self._root
        for level in topic_filter.split("/"):
            node = node.below.setdefault(level, _Node())
        node.values.append(value)

    def match(self, topic: str) -> list[T]:
        """The values of all filters that match; wildcards at the first level do not match topics with `$`."""
        found: list[T] = []
        levels = topic.split("/")
        self._collect(self._root, levels, 0, found)
        return found

    def _collect(self, node: _Node[T], levels: list[str], position: int, found: list[T]) -> None:
        wild = position > 0 or not levels[0].startswith("$")
        rest = node.below.get("#")
        if rest is not None and wild:
            found.extend(rest.values)
        if position == len(levels):
            found.extend(node.values)
            return
        exact = node.below.get(levels[position])
        if exact is not None:
            self._collect(exact, levels, position + 1, found)
        single = node.below.get("+")
        if single is not None and wild:
            self._collect(single, levels, position + 1, found)


class Way(Flag):
    """Who else gets a message besides subscriptions inside the process."""

    NONE = 0
    TWIN = auto()
    UPLOAD = auto()


class Destination(NamedTuple):
    """The way of one topic."""

    way: Way
    callbacks: tuple[Callback, ...]


class Router:
    """Knows every subscription of this node and routes by topic.

    Topics of devices and nodes belong to the twin alone; anything else that an upload filter or a rule of the cloud
    matches is uploaded. Subscriptions inside the process get what they match, whatever it is.
    """

    def __init__(self) -> None:
        self._twin: TopicTree[None] = TopicTree()
        self._upload: TopicTree[None] = TopicTree()
        self._own: TopicTree[Callback] = TopicTree()
        self._own_filters: dict[str, None] = {}
        self._rules: set[str] = set()
        self._cache: dict[str, Destination] = {}
        for topic_filter in TWIN_FILTERS:
            self._twin.add(topic_filter, None)
        self._rebuild_uploads()

    def filters(self) -> list[str]:
        """Everything to be subscribed at the broker, each once."""
        return list(dict.fromkeys([*TWIN_FILTERS, *UPLOAD_FILTERS, *sorted(self._rules), *self._own_filters]))

    def subscribe(self, topic_filter: str, callback: Callback) -> bool:
        """A subscription of this process; True when the broker does not have it yet. Raises ValueError."""
        reason = filter_refused(topic_filter)
        if reason:
            raise ValueError(f"{topic_filter!r}: {reason}")
        known = topic_filter in self.filters()
        self._own.add(topic_filter, callback)
        self._own_filters[topic_filter] = None
        self._cache.clear()
        return not known

    def set_rules(self, topics: Iterable[str]) -> None:
        """The topics that rules of the cloud subscribed to."""
        self._rules = set(topics)
        self._rebuild_uploads()

    def add_rule(self, topic: str) -> bool:
        """A rule subscribes; True when the broker does not have the filter yet."""
        known = topic in self.filters()
        self._rules.add(topic)
        self._rebuild_uploads()
        return not known

    def remove_rule(self, topic: str) -> bool:
        """A rule unsubscribes; True when nobody else here wants the filter."""
        self._rules.discard(topic)
        self._rebuild_uploads()
        return topic not in self.filters()

    def route(self, topic: str) -> Destination:
        """The way of a topic."""
        destination = self._cache.get(topic)
        if destination is None:
            destination = self._find(topic)
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[topic] = destination
        return destination

    def _find(self, topic: str) -> Destination:
        way = Way.NONE
        if topic.startswith(("$hw/events/device/", "$hw/events/node/")):
            if self._twin.match(topic):
                way = Way.TWIN
        elif self._upload.match(topic):
            way = Way.UPLOAD
        return Destination(way, tuple(self._own.match(topic)))

    def _rebuild_uploads(self) -> None:
        self._upload = TopicTree()
        for topic_filter in (*UPLOAD_FILTERS, *self._rules):
            self._upload.add(topic_filter, None)
        self._cache.clear()
