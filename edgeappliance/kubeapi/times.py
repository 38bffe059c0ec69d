"""Time in the API: RFC 3339 texts, and the short ages that tables show."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def rfc3339(wall_ms: int) -> str:
    """metav1.Time of a Unix time in milliseconds: `2026-01-02T03:04:05Z`."""
    return (_EPOCH + wall_ms * _MILLISECOND).strftime("%Y-%m-%dT%H:%M:%SZ")


def rfc3339_micro(wall_ms: int) -> str:
    """metav1.MicroTime of a Unix time in milliseconds: `2026-01-02T03:04:05.678000Z`."""
    return (_EPOCH + wall_ms * _MILLISECOND).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: object) -> int | None:
    """Unix milliseconds of an RFC 3339 text; None when it is none."""
    if not isinstance(text, str) or len(text) > 64:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return (moment - _EPOCH) // _MILLISECOND


def human_duration(seconds: float) -> str:
    """A duration as kubectl's tables show it: two significant units at most (`90s`, `5m30s`, `3h20m`, `4d`)."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    if total < 0:
        return "0s"
    if total < 120:
        return f"{total}s"
    minutes = total // 60
    if minutes < 10:
        rest = total % 60
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    hours = total // 3600
    if hours < 8:
        rest = minutes % 60
        return f"{hours}h{rest}m" if rest else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    days = hours // 24
    if hours < 192:
        rest = hours % 24
        return f"{days}d{rest}h" if rest else f"{days}d"
    if hours < 24 * 365 * 2:
        return f"{days}d"
    years = days // 365
    if hours < 24 * 365 * 8:
        rest = days % 365
        return f"{years}y{rest}d" if rest else f"{years}y"
    return f"{years}y"


def age(timestamp: object, now_ms: int) -> str:
    """The age column of a creationTimestamp: `<unknown>` when there is none."""
    created = parse_time(timestamp)
    return "<unknown>" if created is None else human_duration((now_ms - created) / 1000)
