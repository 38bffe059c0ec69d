"""How long a container that ended waits before it is started again (Kubernetes: Pod lifecycle, restart policy)."""

INITIAL = 10.0
MAXIMUM = 300.0
RESET_AFTER = 600.0
"""Seconds that an attempt must have run for its end to count as the first one again."""


def next_wait(*, attempt: int, waited: float, ran: float) -> float:
    """Seconds from the end of an attempt to the start of the next.

    The first restart is immediate, then 10 s doubling up to 5 minutes. `attempt` counts from 0, `waited` is what
    this attempt waited itself, `ran` how long it ran.
    """
    if attempt <= 0 or ran >= RESET_AFTER:
        return 0.0
    return min(MAXIMUM, max(INITIAL, waited * 2))


def go_duration(seconds: float) -> str:
    """Seconds as the kubelet's messages have them: `10s`, `1m20s`, `5m0s`."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
