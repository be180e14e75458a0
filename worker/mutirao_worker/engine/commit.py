"""Ends requests: their results are committed, their events sent; what Redis could not take is committed again once it is back.

What Redis refuses for good, or hangs up at again and again, is not sent for ever: that request fails with its reason.
"""

from __future__ import annotations

import itertools
import logging
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import redis

from mutirao_worker.engine.interfaces import FollowUps, RequestRegistry, TaskEventSink
from mutirao_worker.engine.job_records import JobRecords
from mutirao_worker.engine.outcome import BatchRun, Outcome, refused
from mutirao_worker.engine.request import Request
from mutirao_worker.engine.script_client import PIECE, Then, warn_once

logger = logging.getLogger(__name__)

# A larger end is sent alone. No limit that Redis may be given is lower than 1 MiB.
ALONE_BYTES = 512 * 1024
TOGETHER_BYTES = 8 * 1024 * 1024
# While more than this is still to be committed, nothing new is begun: a slow link must not fill the memory with results.
CONGESTED_BYTES = 64 * 1024 * 1024
# Redis must have failed this often, and for this long, to take an outcome while it answered other calls, before that is the outcome's fault.
STRIKES = 3
STRIKES_S = 4.0
RETRY_S = 0.1
# What Redis says while something passes that is not the call's fault: who asks again is answered one day.
_TRANSIENT = re.compile(
    r"\b(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOAUTH|NOGOODSLAVE|NOPERM|NOREPLICAS|READONLY|TRYAGAIN|UNBLOCKED)\b"
)


class Uncommitted(NamedTuple):
    """Outcomes that Redis does not know yet.

    Attributes:
        run: their run.
        outcomes: how each ended.
        strikes: how often Redis has failed to take them though it answered.
        since: when it first did, by the monotonic clock.
    """

    run: BatchRun
    outcomes: list[Outcome]
    strikes: int = 0
    since: float = 0.0

    @property
    def size(self) -> int:
        """How many bytes are kept of them."""
        return sum(each.size for each in self.outcomes)


class Commit:
    """What became of one worker's requests.

    Attributes:
        counts: how many requests of each model have ended.
    """

    def __init__(
        self,
        records: JobRecords,
        events: TaskEventSink,
        follow_ups: FollowUps,
        registry: RequestRegistry,
        *,
        idle_slots: Callable[[], int],
        call_later: Callable[..., Any],
        on_relieved: Callable[[], None],
        watch_replies: Callable[[int], None] | None,
    ) -> None:
        """Take the parts.

        Args:
            records: the jobs' records.
            events: takes task events.
            follow_ups: runs what a stock client wants to be run after a request.
            registry: where Celery finds requests.
            idle_slots: how many slots other workers should leave requests for.
            call_later: the loop's timer: seconds, function.
            on_relieved: called once no more than CONGESTED_BYTES are still to be committed.
            watch_replies: reads the replies to posted calls once a descriptor is readable; None to wait for each reply.
        """
        self.counts: dict[str, int] = {}
        self._call_later = call_later
        self._background_bytes = 0  # of what is being sent in the background
        self._events = events
        self._follow_ups = follow_ups
        self._idle_slots = idle_slots
        self._numbers = itertools.count()
        self._on_relieved = on_relieved
        self._posted: dict[int, Uncommitted] = {}
        self._records = records
        self._refusal = ""  # why results could not be committed, as it was last logged
        self._registry = registry
        self._uncommitted: list[Uncommitted] = []
        self._watch_replies = watch_replies

    @property
    def uncommitted(self) -> list[Request]:
        """Requests that have ended, of which Redis does not know it yet."""
        return [each.request for part in (*self._uncommitted, *self._posted.values()) for each in part.outcomes]

    @property
    def congested(self) -> bool:
        """Whether so much is still to be committed that nothing new should begin."""
        return self._background_bytes + sum(part.size for part in self._uncommitted) > CONGESTED_BYTES

    def end(
        self,
        run: BatchRun,
        outcomes: Sequence[Outcome],
        runtime: float = 0.0,
        then: Then | None = None,
        *,
        wait: bool = False,
    ) -> None:
        """End requests that ran together, or that never ran.

        Args:
            run: their run.
            outcomes: how each ended; at least one.
            runtime: what the model took for all, in seconds.
            then: a script to call in the same round trip, and what takes its reply, or the error that took its place.
            wait: for Redis, also where the loop can watch for its reply.
        """
        planned = [self._follow_ups.plan(outcome) if outcome.embed else outcome for outcome in outcomes]
        parts = [Uncommitted(run, part) for part in split_by_size(planned)]
        if then is not None and self._is_background(parts[-1], wait=wait):
            parts.append(Uncommitted(run, []))  # that script's reply is not to wait for what is long on its way
        for place, part in enumerate(parts, 1):
            last = place == len(parts)
            exc = self._send(part, runtime, then if last else None, wait=wait)
            if exc is not None and not last:
                self._uncommitted += [part for part in parts[place:] if part.outcomes]
                if then is not None:
                    then[1](exc)
                return

    def retry(self, *, wait: bool = False) -> None:
        """Commit again what could not be committed; `wait` is that of `end`."""
        uncommitted, self._uncommitted = deque(self._uncommitted), []
        while uncommitted:
            part = uncommitted.popleft()
            if self._is_background(part, wait=wait):
                self._send(part, 0.0, None, wait=wait)
                continue
            try:
                statuses, *_ = self._records.commit(part.run, part.outcomes, self._idle_slots())
            except redis.RedisError as exc:
                if refused_for_good(exc):
                    uncommitted.extendleft(reversed(_isolate_refused(part, exc)))
                    continue
                if not self._redis_answers():
                    self._uncommitted += [part, *uncommitted]
                    return
                self._uncommitted.append(_add_strike(part, exc))
            else:
                self._committed(part, statuses, 0.0)
        if self._uncommitted:
            self._call_later(STRIKES_S / STRIKES, self.retry)

    def ended(self, request: Request, why: str) -> None:
        """Note that a request ended before it could run; its record says so already."""
        self.forget(request)
        if why in {"expired", "REVOKED"}:
            self._events.revoked(request.id, expired=why == "expired")

    def forget(self, request: Request) -> None:
        """Drop a request: it has ended, or others have it."""
        request.batch, request.ended = None, True
        self._registry.remove(request)

    def _send(self, part: Uncommitted, runtime: float, then: Then | None, *, wait: bool) -> redis.RedisError | None:
        """Commit outcomes by one call; return why that has failed, if it has."""
        number, free, call = next(self._numbers), self._idle_slots(), None if then is None else then[0]
        background = part.size if self._is_background(part, wait=wait) else 0
        self._posted[number] = part
        self._background_bytes += background

        def on_replies(replies: list[Any] | redis.RedisError) -> None:
            was_congested = self.congested
            del self._posted[number]
            self._background_bytes -= background
            if not isinstance(replies, redis.RedisError):
                self._committed(part, replies[0], runtime)
            elif part.outcomes:
                self._refusal = warn_once(logger, "cannot keep results yet", replies, self._refusal)
                self._uncommitted += self._after_failure(part, replies) if background else [part]
                self._call_later(STRIKES_S / STRIKES if part.strikes else RETRY_S, self.retry)
            if then is not None:
                then[1](replies if isinstance(replies, redis.RedisError) else replies[1])
            if was_congested and not self.congested:
                self._on_relieved()

        try:
            if self._watch_replies is not None and not wait:
                calls, results = self._records.commit_calls(part.run, part.outcomes, free, call), self._records.results
                self._watch_replies((results.post_large if background else results.post)(calls, on_replies))
                return None
            replies = self._records.commit(part.run, part.outcomes, free, call)
        except redis.RedisError as exc:
            on_replies(exc)
            return exc
        on_replies(replies)
        return None

    def _is_background(self, part: Uncommitted, *, wait: bool) -> bool:
        """Whether outcomes are sent in the background: over a slow link they would take long."""
        return self._watch_replies is not None and not wait and part.size > PIECE

    def _after_failure(self, part: Uncommitted, exc: redis.RedisError) -> list[Uncommitted]:
        """Say what is to be committed next of what Redis did not take."""
        if refused_for_good(exc):
            return _isolate_refused(part, exc)
        return [_add_strike(part, exc) if self._redis_answers() else part]

    def _committed(self, part: Uncommitted, statuses: Sequence[bytes], runtime: float) -> None:
        self._refusal = ""
        answers: list[tuple[str, str]] = []
        for outcome, status in zip(part.outcomes, statuses, strict=True):
            if status == b"1" and outcome.status == "SUCCESS":
                answers.append((outcome.request.id, outcome.shown))
            elif status in {b"1", b"REVOKED"}:
                self._send_event(outcome, revoked=status == b"REVOKED" or outcome.status == "REVOKED")
            self.forget(outcome.request)
            if outcome.embed and status == b"1":
                self._follow_ups.follow(outcome)
        if answers:
            self._registry.count_succeeded(len(answers))
            self._events.succeeded(answers, runtime)
        self.counts[part.run.model] = self.counts.get(part.run.model, 0) + len(part.outcomes)

    def _send_event(self, outcome: Outcome, *, revoked: bool) -> None:
        """Send that a request has ended otherwise than with an answer."""
        id, why = outcome.request.id, outcome.shown if outcome.status == "REVOKED" else ""
        if revoked:
            expired, terminated = why == "expired", why == "terminated"
            self._events.revoked(id, expired=expired, terminated=terminated, signum=outcome.signum)
        else:
            logger.info("request %s failed: %s", id, outcome.shown)
            self._events.failed(id, outcome.shown)

    def _redis_answers(self) -> bool:
        try:
            return bool(self._records.results.client.ping())
        except redis.RedisError:
            return False


def refused_for_good(error: redis.RedisError) -> bool:
    """Whether Redis has refused this very call, and will again: it has no room for it, or the call breaks a rule."""
    if isinstance(error, redis.exceptions.NoPermissionError | redis.exceptions.NoScriptError):
        return False
    return isinstance(error, redis.ResponseError) and not _TRANSIENT.search(str(error))


def split_by_size(outcomes: Sequence[Outcome]) -> Iterator[list[Outcome]]:
    """Share outcomes out to calls of a bounded size; a large one goes alone, so that its failure is not that of others."""
    part: list[Outcome] = []
    size = 0
    for each in outcomes:
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


def _isolate_refused(uncommitted: Uncommitted, exc: redis.RedisError) -> list[Uncommitted]:
    """Find the outcome that Redis refuses: halves are tried apart, and one that stands alone fails."""
    run, outcomes = uncommitted.run, uncommitted.outcomes
    if len(outcomes) > 1:
        half = len(outcomes) // 2
        return [Uncommitted(run, outcomes[:half]), Uncommitted(run, outcomes[half:])]
    (one,) = outcomes
    logger.error("Redis refuses the result of %s: %s", one.request.id, exc)
    return [Uncommitted(run, [refused(one, exc)])]


def _add_strike(uncommitted: Uncommitted, exc: redis.RedisError) -> Uncommitted:
    """Note that Redis answers, but not when it is sent these; a large one fails after a while."""
    now, (one, *others) = time.monotonic(), uncommitted.outcomes
    uncommitted = uncommitted._replace(strikes=uncommitted.strikes + 1, since=uncommitted.since or now)
    if others or one.size <= ALONE_BYTES or uncommitted.strikes < STRIKES or now - uncommitted.since < STRIKES_S:
        return uncommitted
    (failed,) = _isolate_refused(uncommitted, exc)
    return failed
