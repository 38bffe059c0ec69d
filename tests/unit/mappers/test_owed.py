"""A unit that answers in order, late or never: no answer is ever taken for that to another request."""

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeappliance.mappers.modbus.owed import OwedAnswers, Verdict
from edgeappliance.mappers.modbus.pdu import Request, read_request, write_request
from edgeappliance.mappers.modbus.spaces import Space

REQUESTS = (
    st.builds(read_request, st.sampled_from([Space.HOLDING, Space.INPUT]), st.integers(0, 9), st.integers(1, 4))
    | st.builds(read_request, st.sampled_from([Space.COIL, Space.DISCRETE]), st.integers(0, 9), st.integers(1, 20))
    | st.builds(
        lambda start, value: write_request(Space.HOLDING, start, bytes([value, value] * 2), multiple=True),
        st.integers(0, 3),
        st.integers(0, 3),
    )
)
# What becomes of a request: is it answered at all, with an exception, and how many answers that wait are delivered
# before the master's time is over.
FATES = st.tuples(st.sampled_from(["answer", "answer", "exception", "lost"]), st.integers(0, 4))


def answer_to(request: Request, fate: str) -> bytes:
    if fate == "exception":
        return bytes([request.function | 0x80, 2])
    return request.head.ljust(request.size, b"\0")


class Master:
    """The transaction rule of the driver over a line that is a queue of (request number, answer)."""

    def __init__(self, fates: list[tuple[str, int]]) -> None:
        self.owed = OwedAnswers()
        self.line: deque[tuple[Request, bytes]] = deque()
        self.fates = deque(fates)
        self.now = 0.0

    def exchange(self, request: Request) -> None:
        for _ in range(3):
            if not self.owed.ambiguous(request, self.now):
                break
            if not self.transact(self.owed.probe(request)):
                return
        else:
            return
        self.transact(request)

    def transact(self, request: Request) -> bool:
        self.now += 0.05
        fate, deliveries = self.fates.popleft() if self.fates else ("answer", 4)
        if fate != "lost":
            self.line.append((request, answer_to(request, fate)))
        for _ in range(deliveries):
            if not self.line:
                break
            asked, reply = self.line.popleft()
            verdict = self.owed.judge(request, reply, self.now)
            if verdict is Verdict.ANSWER:
                # The same request again is the same question: its earlier answer is a true one.
                assert asked.pdu == request.pdu
                return True
            if verdict in (Verdict.AMBIGUOUS, Verdict.WRONG):
                break
        self.owed.owe(request, self.now)
        return False


@settings(max_examples=400)
@given(st.lists(REQUESTS, min_size=1, max_size=40), st.lists(FATES, max_size=60))
def test_no_answer_is_taken_for_another(requests: list[Request], fates: list[tuple[str, int]]) -> None:
    master = Master(fates)
    for request in requests:
        master.exchange(request)


def test_a_sound_line_needs_no_probes() -> None:
    owed = OwedAnswers()
    for start in range(20):
        request = read_request(Space.HOLDING, start, 2)
        assert not owed.ambiguous(request, start)
        assert owed.judge(request, answer_to(request, "answer"), start) is Verdict.ANSWER


def test_what_is_owed_is_forgotten_in_time() -> None:
    owed = OwedAnswers()
    owed.owe(read_request(Space.HOLDING, 0, 2), 100.0)
    other = read_request(Space.HOLDING, 4, 2)
    assert owed.ambiguous(other, 129.0)
    assert not owed.ambiguous(other, 131.0)


def test_a_value_that_is_polled_all_the_time_does_not_keep_another_one_from_being_read() -> None:
    """The unit answers no probe; one answer was lost. Which of its requests an answer belongs to stays open."""
    owed = OwedAnswers()
    often, other = read_request(Space.HOLDING, 0, 1), read_request(Space.HOLDING, 4, 1)
    owed.owe(often, 100.0)
    for second in range(101, 131):
        assert owed.judge(often, answer_to(often, "answer"), second) is Verdict.ANSWER
    assert not owed.ambiguous(other, 131.0)


def test_answers_of_a_queue_are_told_from_each_other_however_many_they_are() -> None:
    """A slave that works its queue off: 20 requests for other addresses, all answered after the last one."""
    master = Master([])
    for start in range(20):
        master.fates = deque([("answer", 0)] * 4)
        master.exchange(read_request(Space.HOLDING, start, 2))
        master.now += 1.0
    master.fates = deque()
    master.exchange(read_request(Space.HOLDING, 99, 2))
