"""When a webhook is tried again, and when no more: a pure policy."""

from __future__ import annotations

import datetime
import email.utils
from typing import Literal

# After the first try. With all of it, 18 h, and no wait more than a fifth longer: within the day for which a record is kept.
DELAYS_S = (5.0, 25.0, 120.0, 600.0, 3600.0, 7200.0, 14_400.0, 18_000.0, 21_600.0)
TRIES = len(DELAYS_S) + 1
JITTER = 0.2
# A receiver may ask for more patience, but not for more than this.
RETRY_AFTER_MAX_S = 21_600.0

Verdict = Literal["delivered", "again", "undeliverable"]


def judge(status: int) -> Verdict:
    """Say what a receiver's status means: taken, not now, or never.

    A redirect is never: it is not followed, since it could lead where no webhook may go.
    """
    if 200 <= status < 300:
        return "delivered"
    return "again" if status in {408, 429} or status >= 500 else "undeliverable"


def wait_s(tries: int, chance: float, asked_s: float = 0.0) -> float | None:
    """Say how long to wait after a try that failed.

    Args:
        tries: how many have failed, this one included.
        chance: from 0 to 1, so that receivers that fell ill together are not called together.
        asked_s: what the receiver asked for with Retry-After.

    Returns:
        Seconds, or None where this was the last try.
    """
    if tries > len(DELAYS_S):
        return None
    own_s = DELAYS_S[tries - 1] * (1 + JITTER * (2 * chance - 1))
    return max(own_s, min(asked_s, RETRY_AFTER_MAX_S))


def retry_after_s(header: str | None, now: float) -> float:
    """Read a Retry-After header, seconds or a date; 0 for none, or one that says nothing."""
    text = (header or "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, when.replace(tzinfo=when.tzinfo or datetime.UTC).timestamp() - now)
