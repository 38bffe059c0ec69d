"""The per-node queue: the rules of reference 2.7-2.9 by example, and against a model by hypothesis."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cloudgateway.cloudhub.delivery import Delivery, Kind, Subject
from cloudgateway.cloudhub.queue import OURS, UPSTREAM, NodeQueue, Outcome, QueueBudget, QueueLimits, Record


def subject(uid: str) -> Subject:
    return Subject(uid, "default", "v1", "ConfigMap", f"name-of-{uid}")


def version(uid: str, number: int) -> Delivery:
    return Delivery(Kind.OBJECT, subject(uid), number)


def deletion(uid: str, number: int = 0) -> Delivery:
    return Delivery(Kind.OBJECT, subject(uid), number, deletes=True)


ONCE = Delivery(Kind.ONCE)


class Driver:
    """A queue with a clock; payload and message id are the same text."""

    def __init__(self, limits: QueueLimits = UPSTREAM, *, budget: QueueBudget | None = None, **versions: int) -> None:
        self.queue = NodeQueue(limits, versions, budget=budget)
        self.now = 100.0

    def push(self, delivery: Delivery, msg_id: str) -> tuple[Outcome, Record | None]:
        return self.queue.push(delivery, msg_id=msg_id, payload=msg_id.encode(), now=self.now)

    def sent(self) -> list[str]:
        out = []
        while (payload := self.queue.next_payload(self.now)) is not None:
            out.append(payload.decode())
        return out

    def after(self, seconds: float) -> list[str]:
        self.now += seconds
        self.queue.expire(self.now)
        return self.sent()


def test_a_foreign_peer_gets_objects_one_at_a_time_and_messages_without_ack_at_once() -> None:
    hub = Driver()
    hub.push(version("a", 1), "a1")
    hub.push(version("b", 1), "b1")
    hub.push(ONCE, "x")
    assert hub.sent() == ["x", "a1"]
    hub.push(ONCE, "y")
    assert hub.sent() == ["y"]
    assert hub.queue.acknowledge("a1") == Record(subject("a"), 1)
    assert hub.sent() == ["b1"]


def test_ours_gets_a_window() -> None:
    hub = Driver(OURS)
    for number in range(40):
        hub.push(version(f"u{number}", 1), f"m{number}")
    assert hub.sent() == [f"m{number}" for number in range(32)]
    hub.queue.acknowledge("m5")
    assert hub.sent() == ["m32"]


def test_the_window_is_bounded_in_bytes_too() -> None:
    hub = Driver(QueueLimits(window=32, window_bytes=5, ack_timeout=5.0))
    for name in ("aaaa", "bbbb", "cccccccc"):
        hub.push(version(name, 1), name)
    assert hub.sent() == ["aaaa"]
    hub.queue.acknowledge("aaaa")
    assert hub.sent() == ["bbbb"]
    hub.queue.acknowledge("bbbb")
    assert hub.sent() == ["cccccccc"], "one message larger than the window goes alone"


def test_five_sends_five_seconds_apart_then_the_next_object() -> None:
    hub = Driver()
    hub.push(version("a", 1), "a1")
    hub.push(version("b", 1), "b1")
    assert hub.sent() == ["a1"]
    for _ in range(4):
        assert hub.after(4.9) == []
        assert hub.after(0.1) == ["a1"]
    assert hub.after(5.0) == ["b1"]
    assert hub.queue.acknowledge("b1") == Record(subject("b"), 1)
    assert hub.after(10.0) == ["a1"], "after a pause it is tried again"


def test_a_newer_version_replaces_the_one_that_waits_and_follows_the_one_in_flight() -> None:
    hub = Driver()
    hub.push(version("a", 1), "a1")
    assert hub.sent() == ["a1"]
    assert hub.push(version("a", 2), "a2") == (Outcome.QUEUED, None)
    assert hub.push(version("a", 3), "a3") == (Outcome.REPLACED, None)
    assert hub.push(version("a", 3), "again") == (Outcome.STALE, None)
    assert hub.push(version("a", 2), "older") == (Outcome.STALE, None)
    assert hub.sent() == []
    assert hub.queue.acknowledge("a1") == Record(subject("a"), 1)
    assert hub.sent() == ["a3"]
    assert hub.queue.acknowledge("a3") == Record(subject("a"), 3)
    assert len(hub.queue) == 0
    assert hub.queue.size == 0


def test_a_resend_carries_the_newer_version() -> None:
    hub = Driver()
    hub.push(version("a", 1), "a1")
    hub.sent()
    hub.push(version("a", 2), "a2")
    assert hub.after(5.0) == ["a2"]
    assert hub.queue.acknowledge("a1") is None, "nobody waits for the old one any more"
    assert hub.queue.acknowledge("a2") == Record(subject("a"), 2)


def test_records_filter_what_the_node_has() -> None:
    hub = Driver(a=7)
    assert hub.push(version("a", 7), "a7") == (Outcome.KNOWN, None)
    assert hub.push(version("a", 6), "a6") == (Outcome.KNOWN, None)
    assert hub.push(version("a", 8), "a8") == (Outcome.QUEUED, None)
    assert hub.push(version("b", 1), "b1") == (Outcome.QUEUED, Record(subject("b"), 0))
    assert hub.sent() == ["a8"]
    hub.queue.acknowledge("a8")
    assert hub.push(version("a", 8), "a8") == (Outcome.KNOWN, None)


def test_versions_are_compared_as_numbers() -> None:
    hub = Driver(a=9)
    assert hub.push(version("a", 10), "a10")[0] is Outcome.QUEUED
    assert hub.push(version("b", 2**64 - 1), "b")[0] is Outcome.QUEUED


def test_a_delete_wins_and_ends_the_record() -> None:
    hub = Driver(a=3)
    hub.push(version("a", 4), "a4")
    assert hub.push(deletion("a"), "ad")[0] is Outcome.REPLACED
    assert hub.push(version("a", 9), "a9")[0] is Outcome.DELETED
    assert hub.sent() == ["ad"]
    assert hub.queue.acknowledge("ad") == Record(subject("a"), None)
    assert hub.push(version("a", 9), "a9") == (Outcome.QUEUED, Record(subject("a"), 0))


def test_a_refused_object_waits_alone_and_longer_each_time() -> None:
    hub = Driver()
    hub.push(version("a", 1), "a1")
    hub.push(version("b", 1), "b1")
    assert hub.sent() == ["a1"]
    assert hub.queue.refuse("a1", hub.now)
    assert hub.sent() == ["b1"]
    hub.queue.acknowledge("b1")
    assert hub.after(1.0) == ["a1"]
    hub.queue.refuse("a1", hub.now)
    assert hub.after(1.9) == []
    assert hub.after(0.1) == ["a1"]
    hub.queue.refuse("a1", hub.now)
    hub.push(version("a", 2), "a2")
    assert hub.after(1.0) == ["a2"], "a new version is tried soon"
    assert not hub.queue.refuse("unknown", hub.now)


def test_replies_overtake_objects_are_never_merged_and_given_up_in_the_end() -> None:
    hub = Driver()
    reply = Delivery(Kind.REPLY, subject("a"), 5)
    hub.push(version("b", 1), "b1")
    hub.push(reply, "r1")
    hub.push(reply, "r2")
    assert hub.sent() == ["r1"]
    assert hub.queue.acknowledge("r1") == Record(subject("a"), 5)
    assert hub.sent() == ["r2"]
    sends = ["r2"]
    while "b1" not in sends:
        sends += hub.after(5.0)
    assert sends == ["r2"] * 5 + ["b1"]
    hub.queue.acknowledge("b1")
    assert len(hub.queue) == 0


def test_a_stuck_line_is_not_the_peers_silence() -> None:
    hub = Driver()
    hub.push(version("a", 1), "a1")
    hub.sent()
    hub.now += 60.0
    hub.queue.postpone(hub.now)
    assert hub.after(4.0) == []
    assert hub.after(1.0) == ["a1"]


def test_what_does_not_fit_is_asked_for_again_when_there_is_room() -> None:
    hub = Driver(QueueLimits(window=1, window_bytes=99, ack_timeout=5.0, entries=2, size=1000))
    for name in ("a", "b", "c"):
        outcome, record = hub.push(version(name, 1), name)
    assert (outcome, record) == (Outcome.FULL, None)
    assert not hub.queue.take_resync()
    for name in ("a", "b"):
        assert hub.sent() == [name]
        hub.queue.acknowledge(name)
    assert hub.queue.take_resync()
    assert not hub.queue.take_resync()


def test_bytes_are_bounded_but_one_large_message_passes() -> None:
    hub = Driver(QueueLimits(window=1, window_bytes=10, ack_timeout=5.0, entries=9, size=10))
    assert hub.push(version("a", 1), "a" * 50)[0] is Outcome.QUEUED
    assert hub.push(ONCE, "b")[0] is Outcome.FULL
    assert hub.push(version("a", 2), "a" * 60)[0] is Outcome.FULL
    assert hub.push(version("a", 2), "aa")[0] is Outcome.REPLACED


def test_a_message_without_acknowledgement_that_does_not_fit_is_not_forgotten() -> None:
    hub = Driver(QueueLimits(window=1, window_bytes=99, ack_timeout=5.0, entries=2, size=4))
    assert hub.push(ONCE, "abc")[0] is Outcome.QUEUED
    assert hub.push(ONCE, "de")[0] is Outcome.FULL
    assert hub.sent() == ["abc"]
    assert hub.queue.take_resync()


def test_all_queues_together_are_bounded() -> None:
    budget = QueueBudget(limit=10)
    one, other = Driver(budget=budget), Driver(budget=budget)
    assert one.push(version("a", 1), "a" * 6)[0] is Outcome.QUEUED
    assert other.push(version("a", 1), "a" * 4)[0] is Outcome.QUEUED
    assert budget.full
    assert other.push(version("b", 1), "b")[0] is Outcome.FULL
    assert not other.queue.take_resync(), "not while there is no room"
    third = Driver(budget=budget)
    assert third.push(version("c", 1), "c")[0] is Outcome.QUEUED, "one message always passes"
    one.queue.release()
    assert budget.used == 5
    assert other.queue.take_resync()
    assert other.push(version("b", 1), "b")[0] is Outcome.QUEUED
    for hub in (other, third):
        while sent := hub.sent():
            hub.queue.acknowledge(sent[0])
    assert budget.used == 0


class AnyOrder(RuleBasedStateMachine):
    """Pushes, acknowledgements, refusals, silence in any order; the peer keeps what it acknowledged."""

    limits = UPSTREAM
    uids = st.sampled_from(["a", "b", "c"])

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(self.limits)
        self.newest: dict[str, int] = {}
        self.ids: dict[str, tuple[str, int]] = {}
        self.unanswered: list[str] = []
        self.peer: dict[str, int] = {}
        self.recorded: dict[str, int | None] = {}
        self.counter = 0

    @rule(uid=uids, step=st.integers(-1, 3))
    def push(self, uid: str, step: int) -> None:
        self.counter += 1
        number = max(1, self.newest.get(uid, 0) + step)
        msg_id = f"m{self.counter}"
        self.ids[msg_id] = (uid, number)
        outcome, record = self.driver.push(version(uid, number), msg_id)
        if outcome in (Outcome.QUEUED, Outcome.REPLACED):
            assert number > self.newest.get(uid, 0)
            self.newest[uid] = number
        else:
            assert number <= self.newest.get(uid, 0)
        self.note(record)

    @rule()
    def send(self) -> None:
        self.unanswered += self.driver.sent()

    @precondition(lambda self: self.unanswered)
    @rule(which=st.integers(0, 99), refuse=st.booleans())
    def answer(self, which: int, refuse: bool) -> None:
        msg_id = self.unanswered.pop(which % len(self.unanswered))
        uid, number = self.ids[msg_id]
        if refuse:
            self.driver.queue.refuse(msg_id, self.driver.now)
            return
        self.peer[uid] = max(self.peer.get(uid, 0), number)
        self.note(self.driver.queue.acknowledge(msg_id))

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 30.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.unanswered += self.driver.after(seconds)

    def note(self, record: Record | None) -> None:
        if record is not None:
            before = self.recorded.get(record.subject.uid)
            assert record.version is not None
            assert before is None or record.version > before, "records never go back"
            self.recorded[record.subject.uid] = record.version

    @invariant()
    def bounded_and_true(self) -> None:
        queue = self.driver.queue
        assert queue.in_flight <= self.limits.window
        assert queue.size == sum(
            len(entry.payload)
            for slot in queue._slots.values()
            for entry in (slot.waiting, slot.flying)
            if entry is not None
        )
        assert queue._flying_bytes == sum(
            len(slot.flying.payload) for slot in queue._flying.values() if slot.flying is not None
        )
        for uid, number in self.recorded.items():
            assert number is not None
            assert number <= self.peer.get(uid, 0), "recorded means acknowledged"

    def teardown(self) -> None:
        for _ in range(50):  # a peer that acknowledges everything ends with the newest of everything
            for msg_id in self.driver.after(301.0):
                uid, number = self.ids[msg_id]
                self.peer[uid] = max(self.peer.get(uid, 0), number)
                self.note(self.driver.queue.acknowledge(msg_id))
        assert {uid: number for uid, number in self.peer.items() if number} == self.newest
        assert {uid: number for uid, number in self.recorded.items() if number} == self.newest
        assert len(self.driver.queue) == 0
        assert self.driver.queue.size == 0


class AnyOrderOurs(AnyOrder):
    limits = QueueLimits(window=2, window_bytes=6, ack_timeout=5.0)


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrderOurs = AnyOrderOurs.TestCase
TestAnyOrderOurs.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
