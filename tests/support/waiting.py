"""Wait for a condition instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], *, timeout_s: float = 30.0, what: Callable[[], object] = lambda: "") -> T:
    """Ask until the answer is true, and return it; `what` tells more of a failure."""
    deadline = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not so within {timeout_s:g} s\n{what()}")
        time.sleep(0.02)
    return answer
