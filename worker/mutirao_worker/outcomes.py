"""Ends requests: keeps how each ended, tells it, and lets go of it; what Redis could not keep is kept when it is back."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import redis
from celery.worker import state as worker_state

from mutirao import queues
from mutirao_worker.commit import Commit
from mutirao_worker.ending import Ending, Run
from mutirao_worker.events import Events
from mutirao_worker.request import Request
from mutirao_worker.transport.scripts import Call

Heard = Callable[[bool, Any], None]

logger = logging.getLogger(__name__)


class Outcomes:
    """What became of one worker's requests.

    Attributes:
        counts: how many requests of each model have ended.
    """

    def __init__(self, commit: Commit, events: Events, follow: Callable[[Ending], None]) -> None:
        """Take how ends are kept, where they are told, and what runs what a stock client wants to be run after a request."""
        self.counts: dict[str, int] = {}
        self._commit = commit
        self._events = events
        self._follow = follow
        self._unkept: list[tuple[Run, list[Ending]]] = []
        self._posted: dict[int, tuple[Run, list[Ending]]] = {}
        self._numbers = itertools.count()

    @property
    def unkept(self) -> list[Request]:
        """Requests that have ended, of which Redis does not know it yet."""
        return [ending.request for _, endings in (*self._unkept, *self._posted.values()) for ending in endings]

    def end(
        self, run: Run, endings: Sequence[Ending], runtime: float, free: int, then: Call | None = None
    ) -> tuple[bool, Any]:
        """End requests that ran together, or that never ran.

        Args:
            run: their run.
            endings: how each ended.
            runtime: what the model took for all, in seconds.
            free: how many slots other workers should leave requests for.
            then: a script to call in the same round trip.

        Returns:
            Whether Redis answered, and the reply of that script.
        """
        try:
            said, reply = self._commit.end(run, endings, free, then)
        except redis.RedisError as exc:
            self._failed(run, endings, exc)
            return False, None
        self._kept(run, endings, said, runtime)
        return True, reply

    def post(
        self, run: Run, endings: Sequence[Ending], runtime: float, free: int, then: Call | None, heard: Heard
    ) -> int | None:
        """End requests as `end` does, and do not wait for it.

        Args:
            run: as `end` takes it.
            endings: as `end` takes it.
            runtime: as `end` takes it.
            free: as `end` takes it.
            then: as `end` takes it.
            heard: takes what `end` returns.

        Returns:
            The descriptor that can be read once Redis has answered; None where nothing could be sent.
        """
        number = next(self._numbers)
        self._posted[number] = (run, list(endings))

        def told(found: Any) -> None:
            del self._posted[number]
            if isinstance(found, redis.RedisError):
                self._failed(run, endings, found)
                heard(False, None)
            else:
                self._kept(run, endings, found[0], runtime)
                heard(True, found[1])

        try:
            return self._commit.post(run, endings, free, then, told)
        except redis.RedisError as exc:
            told(exc)
            return None

    def keep(self, free: int) -> None:
        """Try again to keep what could not be kept while Redis was away."""
        unkept, self._unkept = self._unkept, []
        for at, (run, endings) in enumerate(unkept):
            kept, _ = self.end(run, endings, 0.0, free)
            if not kept:
                self._unkept += unkept[at + 1 :]
                return

    def ended(self, request: Request, why: str) -> None:
        """Note that a request ended before it could run; its record says so already."""
        self.forget(request)
        if why in {"expired", "REVOKED"}:
            self._events.revoked(request.id, expired=why == "expired")

    def forget(self, request: Request) -> None:
        """Let go of a request: it has ended, or others have it."""
        request.batch, request.ended = None, True
        worker_state.requests.pop(request.id, None)
        worker_state.reserved_requests.discard(request)
        worker_state.active_requests.discard(request)
        if request.headers.eta is not None:
            worker_state.scheduled_requests.discard(request)

    def _failed(self, run: Run, endings: Sequence[Ending], exc: redis.RedisError) -> None:
        logger.warning("cannot keep %d results yet: %s", len(endings), " ".join(str(exc).split()))
        self._unkept.append((run, list(endings)))

    def _kept(self, run: Run, endings: Sequence[Ending], said: Sequence[str], runtime: float) -> None:
        answers: list[tuple[str, str]] = []
        for ending, how in zip(endings, said, strict=True):
            if how == "1" and ending.status == "SUCCESS":
                answers.append((ending.request.id, ending.shown))
            elif how in {"1", "REVOKED"}:
                self._noted(ending, how)
            self.forget(ending.request)
            if ending.embed and how == "1":
                self._follow(ending)
        if answers:
            worker_state.total_count[queues.TASK] += len(answers)
            worker_state.all_total_count[0] += len(answers)
            self._events.succeeded(answers, runtime)
        self.counts[run.model] = self.counts.get(run.model, 0) + len(endings)

    def _noted(self, ending: Ending, how: str) -> None:
        """Tell that a request has ended otherwise than with an answer."""
        request = ending.request
        if how == "REVOKED" or ending.status == "REVOKED":
            why = ending.shown if ending.status == "REVOKED" else ""
            expired, terminated = why == "expired", why == "terminated"
            self._events.revoked(request.id, expired=expired, terminated=terminated, signum=ending.signum)
        else:
            logger.info("request %s failed: %s", request.id, ending.shown)
            self._events.failed(request.id, ending.shown)
