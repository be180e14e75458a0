"""Polls the queues of producers that leave no wakeup token: closely while their requests come, ever less often after the last."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

import redis

from mutirao import keyspace
from mutirao_worker.engine.script_client import ScriptClient

# What a producer waits for that sends its next request as soon as the last one is answered.
CLOSE_S = 0.005
# The pause grows with the time since the last such request, to this part of it: a producer that pauses waits in proportion.
PART = 1 / 8
# A longer pause would find nothing sooner than a worker does that waits for wakeup tokens.
PAUSE_MAX_S = 0.25
# For this long a worker is the only one that polls a queue; the others check whether it still does.
HOLD_S = 1.0

logger = logging.getLogger(__name__)


def pause(since_s: float) -> float | None:
    """Return how long to wait before the next poll, by the time since the last request without a wakeup token; None to stop."""
    pause_s = max(CLOSE_S, PART * since_s)
    return pause_s if pause_s < PAUSE_MAX_S else None


class Polling:
    """One worker's part: one worker polls a queue for all, and leaves the wakeup token that the producer did not."""

    def __init__(
        self,
        scripts: ScriptClient,
        worker: str,
        call_later: Callable[..., Any],
        watch_replies: Callable[[int], None] | None = None,
    ) -> None:
        """Take the parts; nothing is polled yet.

        Args:
            scripts: the broker's.
            worker: the name by which it polls.
            call_later: the loop's timer: seconds, function, arguments.
            watch_replies: reads the replies to posted calls once a descriptor is readable; None to wait for each reply.
        """
        self._last: dict[str, float] = {}
        self._call_later = call_later
        self._watch_replies = watch_replies
        self._polls = False
        self._scripts = scripts
        self._worker = worker

    def __contains__(self, queue: str) -> bool:
        """Whether requests without a wakeup token have come from a queue lately."""
        return queue in self._last

    def note_silent(self, names: Iterable[str]) -> None:
        """Note that a request without a wakeup token has come from each of these queues."""
        self._last |= dict.fromkeys(names, time.monotonic())
        if self._last and not self._polls:
            self._polls = True
            self._call_later(CLOSE_S, self._poll)

    def _poll(self) -> None:
        now = time.monotonic()
        self._last = {queue: at for queue, at in self._last.items() if pause(now - at) is not None}
        names = list(self._last)
        if not names:
            self._polls = False
            return
        call = ("poll_queues", (), (self._worker, round(1000 * HOLD_S), keyspace.KOMBU_SEPARATOR, *names))
        try:
            if self._watch_replies is None:
                self._on_reply(names, self._scripts.call_all([call]))
            else:
                self._watch_replies(self._scripts.post([call], lambda replies: self._on_reply(names, replies)))
        except redis.RedisError as exc:
            self._on_reply(names, exc)

    def _on_reply(self, names: list[str], replies: list[Any] | redis.RedisError) -> None:
        if isinstance(replies, redis.RedisError):
            logger.debug("cannot poll %s: %s", ", ".join(names), replies)
            self._last, self._polls = {}, False
            return
        states = dict(zip(names, replies[0], strict=True))
        self.note_silent(queue for queue, state in states.items() if state == 2)
        now = time.monotonic()
        pauses = [pause(now - self._last[queue]) for queue, state in states.items() if state and queue in self._last]
        self._call_later(min((each for each in pauses if each is not None), default=PAUSE_MAX_S), self._poll)
