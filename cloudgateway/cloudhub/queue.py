"""What waits for one node and what it has not acknowledged yet (reference 2.7-2.9). Pure: time is an argument.

Objects are keyed by UID and the newest wins; a peer that is not ours gets them one at a time, five sends five
seconds apart, as upstream; ours gets a window of them. An object that the peer refuses or never acknowledges waits
by itself with growing pauses, the others go on. What is waiting is bounded in number and bytes, for each node and
for all together (`QueueBudget`); a message costs its own length and about 1 KB. What did not fit is asked for again
when there is room (`take_resync`).
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from cloudgateway.cloudhub.delivery import Delivery, Kind, Subject

REFUSAL_PAUSE = 1.0
SILENCE_PAUSE = 10.0
LONGEST_PAUSE = 300.0


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """`window` unacknowledged messages and `window_bytes` at most in flight; `ack_timeout` seconds per send."""

    window: int
    window_bytes: int
    ack_timeout: float
    sends: int = 5
    entries: int = 4096
    size: int = 32 * 1024 * 1024


UPSTREAM = QueueLimits(window=1, window_bytes=2**62, ack_timeout=5.0)
"""What an unmodified edgecore expects (reference 2.8)."""
OURS = QueueLimits(window=32, window_bytes=512 * 1024, ack_timeout=20.0)
"""Our own edge: it keeps every message it read, and it is the one that says when it is behind."""


class Outcome(Enum):
    """What became of a message that was pushed."""

    QUEUED = "queued"
    REPLACED = "replaced"
    STALE = "stale"
    KNOWN = "known"
    DELETED = "deleted"
    REFUSED = "refused"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Record:
    """What an ObjectSync record must say now; `version` None means that there must be none."""

    subject: Subject
    version: int | None


@dataclass(slots=True)
class _Entry:
    """One message. `due` is when it counts as lost."""

    msg_id: str
    payload: bytes
    subject: Subject
    version: int
    deletes: bool
    sends: int = 0
    due: float = 0.0


@dataclass(slots=True)
class _Slot:
    """One object (or one reply): the newest message not sent yet, and the one in flight."""

    key: str
    reply: bool
    waiting: _Entry | None = None
    flying: _Entry | None = None
    failures: int = 0
    not_before: float = 0.0
    ready: bool = False


@dataclass(slots=True)
class QueueCounters:
    """Counts that several queues may share."""

    sent: int = 0
    resent: int = 0
    acknowledged: int = 0
    refused_by_peer: int = 0
    given_up: int = 0


@dataclass(slots=True)
class QueueBudget:
    """Bytes that all queues of a gateway may hold together; two thousand full ones would be 64 GB."""

    limit: int
    used: int = 0

    @property
    def full(self) -> bool:
        return self.used >= self.limit


class NodeQueue:
    """The downstream state of one session."""

    def __init__(
        self,
        limits: QueueLimits,
        versions: Mapping[str, int],
        counters: QueueCounters | None = None,
        *,
        budget: QueueBudget | None = None,
    ) -> None:
        """`versions` are the acknowledged versions by UID, from the node's ObjectSync records."""
        self._limits = limits
        self._versions = dict(versions)
        self._slots: dict[str, _Slot] = {}
        self._ready: deque[str] = deque()
        self._ready_replies: deque[str] = deque()
        self._once: deque[bytes] = deque()
        self._flying: dict[str, _Slot] = {}
        self._flying_bytes = 0
        self._paused: set[str] = set()
        self._bytes = 0
        self._short = False
        self.counters = counters or QueueCounters()
        self._budget = budget or QueueBudget(limit=2**62)

    def __len__(self) -> int:
        """Messages waiting or in flight."""
        return len(self._once) + sum(
            (slot.waiting is not None) + (slot.flying is not None) for slot in self._slots.values()
        )

    @property
    def size(self) -> int:
        """Bytes of the payloads waiting or in flight."""
        return self._bytes

    @property
    def in_flight(self) -> int:
        """Messages sent and not acknowledged."""
        return len(self._flying)

    def push(self, delivery: Delivery, *, msg_id: str, payload: bytes, now: float) -> tuple[Outcome, Record | None]:
        """Take a message (`payload` is its text on the wire), or say why not; the record to write, if any."""
        if delivery.kind is Kind.REFUSED or (delivery.kind is not Kind.ONCE and delivery.subject is None):
            return Outcome.REFUSED, None
        if delivery.kind is Kind.ONCE or delivery.subject is None:
            if not self._fits(payload):
                self._short = True
                return Outcome.FULL, None
            self._once.append(payload)
            self._account(len(payload))
            return Outcome.QUEUED, None
        subject = delivery.subject
        entry = _Entry(msg_id, payload, subject, delivery.version, delivery.deletes)
        if delivery.kind is Kind.REPLY:
            if not self._fits(payload):
                return Outcome.FULL, None
            self._wait(_Slot(f"reply {msg_id}", reply=True), entry)
            return Outcome.QUEUED, None
        return self._push_object(entry, now)

    def _push_object(self, entry: _Entry, now: float) -> tuple[Outcome, Record | None]:
        uid = entry.subject.uid
        slot = self._slots.get(uid)
        stored = None if slot is None else slot.waiting or slot.flying
        record = None
        if stored is not None:
            if stored.deletes:
                return Outcome.DELETED, None
            if not entry.deletes and entry.version <= stored.version:
                return Outcome.STALE, None
        elif not entry.deletes:
            known = self._versions.get(uid)
            # Version 0: being deleted and without a version, always sent (reference 2.7).
            if known is not None and 0 < entry.version <= known:
                return Outcome.KNOWN, None
            if known is None:
                record = Record(entry.subject, 0)
        replaced = None if slot is None else slot.waiting
        if not self._fits(entry.payload, in_place_of=replaced):
            self._short = True
            return Outcome.FULL, None
        if record is not None:
            self._versions[uid] = 0
        if slot is None:
            slot = _Slot(uid, reply=False)
        elif slot.failures:  # a new version may be what cures it: soon, but not at once
            slot.failures = 0
            slot.not_before = min(slot.not_before, now + REFUSAL_PAUSE)
        self._wait(slot, entry)
        return (Outcome.QUEUED if replaced is None else Outcome.REPLACED), record

    def next_payload(self, now: float) -> bytes | None:
        """The next message to put on the wire now; None when there is none or the window is full."""
        if self._once:
            payload = self._once.popleft()
            self._account(-len(payload))
            self.counters.sent += 1
            return payload
        for line in (self._ready_replies, self._ready):
            while line:
                slot = self._slots.get(line[0])
                if slot is None or slot.waiting is None or slot.flying is not None or slot.key in self._paused:
                    line.popleft()
                    if slot is not None:
                        slot.ready = False
                    continue
                if not self._window_has_room(slot.waiting):
                    return None
                line.popleft()
                slot.ready = False
                return self._fly(slot, slot.waiting, now)
        return None

    def acknowledge(self, msg_id: str) -> Record | None:
        """The peer has it; the record to write, if any. An unknown id is nothing."""
        slot = self._flying.get(msg_id)
        entry = None if slot is None else slot.flying
        if slot is None or entry is None:
            return None
        self._land(slot)
        self.counters.acknowledged += 1
        slot.failures = 0
        uid = entry.subject.uid
        if entry.deletes:
            self._versions.pop(uid, None)
            self._settle(slot)
            return Record(entry.subject, None)
        self._settle(slot)
        known = self._versions.get(uid)
        if known is not None and entry.version <= known:
            return None
        self._versions[uid] = entry.version
        return Record(entry.subject, entry.version)

    def refuse(self, msg_id: str, now: float) -> bool:
        """The peer answered `error`: this object waits, the others go on. Whether the id was known."""
        slot = self._flying.get(msg_id)
        if slot is None or slot.flying is None:
            return False
        self.counters.refused_by_peer += 1
        self._pause(slot, REFUSAL_PAUSE, now)
        return True

    def expire(self, now: float) -> None:
        """Act on what was not acknowledged in time, and on pauses that have ended."""
        for slot in [slot for slot in self._flying.values() if slot.flying is not None and slot.flying.due <= now]:
            entry = slot.flying
            if entry is None:
                continue
            if entry.sends >= self._limits.sends:
                self.counters.given_up += 1
                self._pause(slot, SILENCE_PAUSE, now)
                continue
            self._land(slot)
            if slot.waiting is None:  # a newer version takes its place, with an id of its own
                slot.waiting = entry
                self._account(len(entry.payload))
            self._make_ready(slot, first=True)
        for key in [key for key in self._paused if self._slots[key].not_before <= now]:
            self._paused.discard(key)
            self._make_ready(self._slots[key])

    def postpone(self, now: float) -> None:
        """The line was stuck, not the peer: everything in flight gets its full time again."""
        for slot in self._flying.values():
            if slot.flying is not None:
                slot.flying.due = now + self._limits.ack_timeout

    @property
    def idle(self) -> bool:
        """Whether `expire` has nothing to look at."""
        return not self._flying and not self._paused

    def take_resync(self) -> bool:
        """Whether messages were turned away for lack of room and there is room again. True once."""
        if (
            not self._short
            or self._budget.full
            or len(self) > self._limits.entries // 2
            or self._bytes > self._limits.size // 2
        ):
            return False
        self._short = False
        return True

    def release(self) -> None:
        """The session is over: what waited costs nothing any more."""
        self._budget.used -= self._bytes
        self._budget = QueueBudget(limit=0)

    def _account(self, more: int) -> None:
        self._bytes += more
        self._budget.used += more

    def _fits(self, payload: bytes, *, in_place_of: _Entry | None = None) -> bool:
        if in_place_of is None:
            room = len(self._slots) + len(self._once) < self._limits.entries
            more = len(payload)
        else:
            room = True
            more = len(payload) - len(in_place_of.payload)
        if not self._bytes:
            return room  # one message always passes, however large and however full the others are
        return room and self._bytes + more <= self._limits.size and self._budget.used + more <= self._budget.limit

    def _window_has_room(self, entry: _Entry) -> bool:
        if not self._flying:
            return True
        return (
            len(self._flying) < self._limits.window
            and self._flying_bytes + len(entry.payload) <= self._limits.window_bytes
        )

    def _wait(self, slot: _Slot, entry: _Entry) -> None:
        if slot.waiting is not None:
            self._account(-len(slot.waiting.payload))
        slot.waiting = entry
        self._account(len(entry.payload))
        self._slots[slot.key] = slot
        if slot.flying is None and slot.key not in self._paused:
            self._make_ready(slot)

    def _make_ready(self, slot: _Slot, *, first: bool = False) -> None:
        if slot.ready:
            return
        slot.ready = True
        line = self._ready_replies if slot.reply else self._ready
        if first:
            line.appendleft(slot.key)
        else:
            line.append(slot.key)

    def _fly(self, slot: _Slot, entry: _Entry, now: float) -> bytes:
        slot.waiting = None
        slot.flying = entry
        entry.sends += 1
        entry.due = now + self._limits.ack_timeout
        self._flying[entry.msg_id] = slot
        self._flying_bytes += len(entry.payload)
        self.counters.sent += 1
        if entry.sends > 1:
            self.counters.resent += 1
        return entry.payload

    def _land(self, slot: _Slot) -> None:
        """Take the slot's message out of the air."""
        entry = slot.flying
        if entry is None:
            return
        slot.flying = None
        del self._flying[entry.msg_id]
        self._flying_bytes -= len(entry.payload)
        self._account(-len(entry.payload))

    def _settle(self, slot: _Slot) -> None:
        """After an acknowledgement: the newer version is next, or the slot is done."""
        if slot.waiting is None:
            del self._slots[slot.key]
        else:
            self._make_ready(slot)

    def _pause(self, slot: _Slot, initial: float, now: float) -> None:
        entry = slot.flying
        self._land(slot)
        if slot.reply or entry is None:
            del self._slots[slot.key]  # who asked has stopped waiting
            return
        if slot.waiting is None:
            entry.sends = 0
            slot.waiting = entry
            self._account(len(entry.payload))
        slot.not_before = now + min(LONGEST_PAUSE, initial * 2.0**slot.failures)
        slot.failures = min(slot.failures + 1, 16)
        self._paused.add(slot.key)
