"""When a delivery is retried, and when it is given up: a pure policy."""

from __future__ import annotations

import datetime
import email.utils
from typing import Literal

# After the first attempt. With all of it, 18 h, and no wait more than a fifth longer: within the day for which a record is kept.
DELAYS_S = (5.0, 25.0, 120.0, 600.0, 3600.0, 7200.0, 14_400.0, 18_000.0, 21_600.0)
TRIES = len(DELAYS_S) + 1
JITTER = 0.2
# The longest Retry-After that is followed.
RETRY_AFTER_MAX_S = 21_600.0

Decision = Literal["delivered", "retry", "undeliverable"]


def decide(status: int) -> Decision:
    """Return what a receiver's status means for its delivery.

    A redirect makes it undeliverable: it is not followed, since it could lead where no webhook may go.
    """
    if 200 <= status < 300:
        return "delivered"
    return "retry" if status in {408, 429} or status >= 500 else "undeliverable"


def delay_s(tries: int, chance: float, retry_after_s: float = 0.0) -> float | None:
    """Return how long to wait after an attempt that failed.

    Args:
        tries: how many attempts have failed, this one included.
        chance: from 0 to 1, so that receivers that failed together are not called together.
        retry_after_s: what the receiver asked for with Retry-After.

    Returns:
        Seconds, or None where this was the last attempt.
    """
    if tries > len(DELAYS_S):
        return None
    own_s = DELAYS_S[tries - 1] * (1 + JITTER * (2 * chance - 1))
    return max(own_s, min(retry_after_s, RETRY_AFTER_MAX_S))


def parse_retry_after(header: str | None, now: float) -> float:
    """Return the seconds of a Retry-After header, which holds seconds or a date; 0 where there is none, or it is neither."""
    text = (header or "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, when.replace(tzinfo=when.tzinfo or datetime.UTC).timestamp() - now)
