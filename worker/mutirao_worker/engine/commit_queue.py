"""Ends requests: keeps how each ended, tells it, and lets go of it; what Redis could not keep is kept when it is back.

What Redis refuses for good, or hangs up at again and again, is not sent for ever: that request fails with its reason.
"""

from __future__ import annotations

import collections
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import redis

from mutirao_worker.engine.commit import Commit, refused_for_good
from mutirao_worker.engine.interfaces import FollowUps, RequestRegistry, TaskEventSink
from mutirao_worker.engine.outcome import BatchRun, Outcome, refused
from mutirao_worker.engine.request import Request
from mutirao_worker.engine.script_client import Call, warn_once

Heard = Callable[[bool, Any], None]

logger = logging.getLogger(__name__)

# A larger end is sent alone. No limit that Redis may be given is lower than 1 MiB.
ALONE_BYTES = 512 * 1024
TOGETHER_BYTES = 8 * 1024 * 1024
# So often, and for so long, Redis must have failed to take an end while it answered others, before that is the end's own fault.
STRIKES = 3
STRIKES_S = 4.0
AGAIN_S = 0.1


class Unkept(NamedTuple):
    """Ends that Redis does not know yet.

    Attributes:
        run: their run.
        endings: how each ended.
        strikes: how often Redis has failed to take them though it answered.
        since: when it first did, by the monotonic clock.
    """

    run: BatchRun
    endings: list[Outcome]
    strikes: int = 0
    since: float = 0.0


class CommitQueue:
    """What became of one worker's requests.

    Attributes:
        counts: how many requests of each model have ended.
    """

    def __init__(
        self,
        commit: Commit,
        events: TaskEventSink,
        follow_ups: FollowUps,
        registry: RequestRegistry,
        again: Callable[[float], None],
    ) -> None:
        """Take the parts.

        Args:
            commit: how ends are kept.
            events: takes their task events.
            follow_ups: runs what a stock client wants to be run after a request.
            registry: where Celery finds requests.
            again: has `keep` called in so many seconds.
        """
        self.counts: dict[str, int] = {}
        self._follow_ups = follow_ups
        self._registry = registry
        self._commit = commit
        self._events = events
        self._again = again
        self._unkept: list[Unkept] = []
        self._posted: dict[int, Unkept] = {}
        self._numbers = itertools.count()
        self._refusal = ""  # why results could not be kept, as it was last told

    @property
    def unkept(self) -> list[Request]:
        """Requests that have ended, of which Redis does not know it yet."""
        return [one.request for unkept in (*self._unkept, *self._posted.values()) for one in unkept.endings]

    def end(
        self, run: BatchRun, endings: Sequence[Outcome], runtime: float, free: int, then: Call | None = None
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
        parts, reply = collections.deque(together(self._planned(endings))), None
        while parts:
            try:
                said, reply = self._commit.end(run, parts[0], free, then if len(parts) == 1 else None)
            except redis.RedisError as exc:
                for part in parts:
                    self._failed(Unkept(run, part), exc)
                return False, None
            self._kept(run, parts.popleft(), said, runtime)
        return True, reply

    def post(
        self, run: BatchRun, endings: Sequence[Outcome], runtime: float, free: int, then: Call | None, heard: Heard
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
        *first, last = together(self._planned(endings))
        for part in first:
            self._post(run, part, runtime, free, None, lambda *_: None)
        return self._post(run, last, runtime, free, then, heard)

    def keep(self, free: int) -> None:
        """Try again to keep what could not be kept."""
        unkept, self._unkept = collections.deque(self._unkept), []
        while unkept:
            each = unkept.popleft()
            try:
                said, _ = self._commit.end(each.run, each.endings, free)
            except redis.RedisError as exc:
                if refused_for_good(exc):
                    unkept.extendleft(reversed(_without(each, exc)))
                    continue
                if not self._commit.answers():
                    self._unkept += [each, *unkept]
                    return
                self._unkept.append(_struck(each, exc))
            else:
                self._kept(each.run, each.endings, said, 0.0)
        if self._unkept:
            self._again(STRIKES_S / STRIKES)

    def ended(self, request: Request, why: str) -> None:
        """Note that a request ended before it could run; its record says so already."""
        self.forget(request)
        if why in {"expired", "REVOKED"}:
            self._events.revoked(request.id, expired=why == "expired")

    def forget(self, request: Request) -> None:
        """Let go of a request: it has ended, or others have it."""
        request.batch, request.ended = None, True
        self._registry.remove(request)

    def _planned(self, endings: Sequence[Outcome]) -> list[Outcome]:
        return [self._follow_ups.planned(ending) if ending.embed else ending for ending in endings]

    def _post(
        self, run: BatchRun, endings: list[Outcome], runtime: float, free: int, then: Call | None, heard: Heard
    ) -> int | None:
        number = next(self._numbers)
        self._posted[number] = Unkept(run, endings)

        def told(found: Any) -> None:
            unkept = self._posted.pop(number)
            if isinstance(found, redis.RedisError):
                self._failed(unkept, found)
                heard(False, None)
            else:
                self._kept(run, endings, found[0], runtime)
                heard(True, found[1])

        try:
            return self._commit.post(run, endings, free, then, told)
        except redis.RedisError as exc:
            told(exc)
            return None

    def _failed(self, unkept: Unkept, exc: redis.RedisError) -> None:
        self._refusal = warn_once(logger, "cannot keep results yet", exc, self._refusal)
        self._unkept.append(unkept)
        self._again(AGAIN_S)

    def _kept(self, run: BatchRun, endings: Sequence[Outcome], said: Sequence[str], runtime: float) -> None:
        self._refusal = ""
        answers: list[tuple[str, str]] = []
        for ending, how in zip(endings, said, strict=True):
            if how == "1" and ending.status == "SUCCESS":
                answers.append((ending.request.id, ending.shown))
            elif how in {"1", "REVOKED"}:
                self._noted(ending, how)
            self.forget(ending.request)
            if ending.embed and how == "1":
                self._follow_ups.follow(ending)
        if answers:
            self._registry.count_succeeded(len(answers))
            self._events.succeeded(answers, runtime)
        self.counts[run.model] = self.counts.get(run.model, 0) + len(endings)

    def _noted(self, ending: Outcome, how: str) -> None:
        """Tell that a request has ended otherwise than with an answer."""
        request = ending.request
        if how == "REVOKED" or ending.status == "REVOKED":
            why = ending.shown if ending.status == "REVOKED" else ""
            expired, terminated = why == "expired", why == "terminated"
            self._events.revoked(request.id, expired=expired, terminated=terminated, signum=ending.signum)
        else:
            logger.info("request %s failed: %s", request.id, ending.shown)
            self._events.failed(request.id, ending.shown)


def together(endings: Sequence[Outcome]) -> Iterator[list[Outcome]]:
    """Share ends out to calls of a bounded size; a large one goes alone, so that it cannot take others with it."""
    part: list[Outcome] = []
    size = 0
    for each in endings:
        own = each.size
        if part and (own > ALONE_BYTES or size + own > TOGETHER_BYTES):
            yield part
            part, size = [], 0
        part.append(each)
        size += own
        if own > ALONE_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _without(unkept: Unkept, exc: redis.RedisError) -> list[Unkept]:
    """Find the end that Redis refuses: halves are tried apart, and who stands alone fails."""
    run, endings = unkept.run, unkept.endings
    if len(endings) > 1:
        half = len(endings) // 2
        return [Unkept(run, endings[:half]), Unkept(run, endings[half:])]
    (one,) = endings
    logger.error("Redis refuses the result of %s: %s", one.request.id, exc)
    return [Unkept(run, [refused(one, exc)])]


def _struck(unkept: Unkept, exc: redis.RedisError) -> Unkept:
    """Note that Redis answers, but not when it is sent these; a large one fails after a while."""
    now, (one, *others) = time.monotonic(), unkept.endings
    unkept = unkept._replace(strikes=unkept.strikes + 1, since=unkept.since or now)
    if others or one.size <= ALONE_BYTES or unkept.strikes < STRIKES or now - unkept.since < STRIKES_S:
        return unkept
    (failed,) = _without(unkept, exc)
    return failed
