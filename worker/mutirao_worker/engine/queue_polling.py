"""Polls the queues of producers that ring no bell: closely while their requests come, ever less often after the last of them."""

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
# A longer pause would find nothing sooner than a worker does that listens for bells.
PAUSE_MAX_S = 0.25
# For so long a worker is the only one that polls a queue; the others look whether it still does.
HOLD_S = 1.0

logger = logging.getLogger(__name__)


def pause(since_s: float) -> float | None:
    """Tell how long to wait before the next look, so long after the last request that rang no bell; None for no more looks."""
    found = max(CLOSE_S, PART * since_s)
    return found if found < PAUSE_MAX_S else None


class Polling:
    """One worker's part in it: one worker polls a queue for all, and rings the bell that the producer did not."""

    def __init__(
        self,
        scripts: ScriptClient,
        worker: str,
        later: Callable[..., Any],
        listen: Callable[[int], None] | None = None,
    ) -> None:
        """Take the parts; nothing is polled yet.

        Args:
            scripts: the broker's.
            worker: the name by which it polls.
            later: the loop's timer: seconds, function, arguments.
            listen: has the replies to what was posted heard, once a descriptor can be read; None to wait for each reply.
        """
        self._last: dict[str, float] = {}
        self._later = later
        self._listen = listen
        self._polls = False
        self._scripts = scripts
        self._worker = worker

    def __contains__(self, queue: str) -> bool:
        """Whether requests that rang no bell have come from a queue lately."""
        return queue in self._last

    def met(self, names: Iterable[str]) -> None:
        """Note that a request that rang no bell has come from each of these queues."""
        self._last |= dict.fromkeys(names, time.monotonic())
        if self._last and not self._polls:
            self._polls = True
            self._later(CLOSE_S, self._poll)

    def _poll(self) -> None:
        now = time.monotonic()
        self._last = {queue: at for queue, at in self._last.items() if pause(now - at) is not None}
        names = list(self._last)
        if not names:
            self._polls = False
            return
        call = ("poll_queues", (), (self._worker, round(1000 * HOLD_S), keyspace.KOMBU_SEPARATOR, *names))
        try:
            if self._listen is None:
                self._heard(names, self._scripts.call_all([call]))
            else:
                self._listen(self._scripts.post([call], lambda replies: self._heard(names, replies)))
        except redis.RedisError as exc:
            self._heard(names, exc)

    def _heard(self, names: list[str], replies: list[Any] | redis.RedisError) -> None:
        if isinstance(replies, redis.RedisError):
            logger.debug("cannot poll %s: %s", ", ".join(names), replies)
            self._last, self._polls = {}, False
            return
        found = dict(zip(names, replies[0], strict=True))
        self.met(queue for queue, said in found.items() if said == 2)
        now = time.monotonic()
        pauses = [pause(now - self._last[queue]) for queue, said in found.items() if said and queue in self._last]
        self._later(min((each for each in pauses if each is not None), default=PAUSE_MAX_S), self._poll)
