"""The session's decisions in virtual time."""

from edgeappliance.edgehub.session import (
    BURST,
    KEEPALIVE_INTERVAL,
    MAX_QUEUED,
    RATE,
    SILENCE_LIMIT,
    Session,
    TokenBucket,
)


def test_keepalive_at_once_and_each_fifteen_seconds() -> None:
    session = Session(limited=False, now=100.0)
    first = session.step(100.0)
    assert first.keepalive
    session.received()
    assert session.step(100.0).wake_in == KEEPALIVE_INTERVAL
    assert not session.step(114.9).keepalive
    assert session.step(115.0).keepalive


def test_silence_after_a_ping_is_a_dead_link() -> None:
    session = Session(limited=False, now=0.0)
    step = session.step(0.0)
    assert step.wake_in == SILENCE_LIMIT
    assert not session.step(9.9).dead
    assert session.step(10.0).dead


def test_any_byte_proves_life() -> None:
    session = Session(limited=False, now=0.0)
    session.step(0.0)
    session.received()
    assert not session.step(14.0).dead
    assert session.step(15.0).keepalive
    assert session.step(25.0).dead


def test_a_draining_transport_proves_life_on_a_slow_line() -> None:
    session = Session(limited=False, now=0.0)
    session.step(0.0, unsent=100_000)
    assert not session.step(9.0, unsent=50_000).dead
    assert not session.step(18.0, unsent=20_000).dead
    assert session.step(28.0, unsent=20_000).dead


def test_foreign_cloud_gets_a_burst_and_then_thirty_a_second() -> None:
    session = Session(limited=True, now=0.0)
    for number in range(200):
        assert session.offer(b"%d" % number)
    sent = list(session.step(0.0).frames)
    assert len(sent) == BURST
    now = 0.0
    while True:
        step = session.step(now)
        sent += step.frames
        if not session.queued:
            break
        now += max(step.wake_in, 1e-6)
    assert sent == [b"%d" % number for number in range(200)]
    assert abs(now - (200 - BURST) / RATE) < 0.1


def test_our_cloud_gets_everything_at_once() -> None:
    session = Session(limited=False, now=0.0)
    for number in range(500):
        session.offer(b"%d" % number)
    assert len(session.step(0.0).frames) == 500


def test_acknowledgements_overtake() -> None:
    session = Session(limited=False, now=0.0)
    session.offer(b"report")
    session.offer(b"ack", urgent=True)
    assert session.step(0.0).frames == (b"ack", b"report")


def test_full_queue_refuses() -> None:
    session = Session(limited=True, now=0.0)
    accepted = sum(session.offer(b"x") for _ in range(MAX_QUEUED + 10))
    assert accepted == MAX_QUEUED
    session.step(0.0)
    assert session.offer(b"x")


def test_nothing_is_drained_into_a_transport_that_is_full() -> None:
    session = Session(limited=False, now=0.0)
    session.offer(b"x")
    assert session.step(0.0, writable=False).frames == ()
    assert session.step(0.0, writable=True).frames == (b"x",)


def test_a_step_hands_over_a_portion_and_asks_to_come_back() -> None:
    session = Session(limited=False, now=0.0)
    session.step(0.0)
    session.received()
    for number in range(10):
        session.offer(b"%d" % number + b"x" * 99_999)
    first = session.step(1.0)
    assert len(first.frames) == 3
    assert first.wake_in == 0.0
    session.offer(b"ack", urgent=True)
    assert session.step(1.0).frames[0] == b"ack"
    rest = [session.step(1.0) for _ in range(4)]
    assert session.queued == 0
    assert rest[-1].wake_in > 1.0


def test_bucket_never_holds_more_than_its_burst() -> None:
    bucket = TokenBucket(rate=1.0, burst=2.0, now=0.0)
    assert [bucket.take(1000.0) for _ in range(3)] == [True, True, False]
    assert bucket.ready_in(1000.0) == 1.0
