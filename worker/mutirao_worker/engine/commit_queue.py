"""Commits outcomes and sends their events; what Redis could not take is committed again once it is back.

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
from mutirao_worker.engine.script_client import ScriptCall, warn_once

OnOutcome = Callable[[bool, Any], None]

logger = logging.getLogger(__name__)

# A larger end is sent alone. No limit that Redis may be given is lower than 1 MiB.
ALONE_BYTES = 512 * 1024
TOGETHER_BYTES = 8 * 1024 * 1024
# Redis must have failed this often, and for this long, to take an outcome while it answered other calls, before that is the outcome's fault.
STRIKES = 3
STRIKES_S = 4.0
RETRY_S = 0.1


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
        retry_later: Callable[[float], None],
    ) -> None:
        """Take the parts.

        Args:
            commit: writes outcomes.
            events: takes their task events.
            follow_ups: runs what a stock client wants to be run after a request.
            registry: where Celery finds requests.
            retry_later: calls `retry` in a number of seconds.
        """
        self.counts: dict[str, int] = {}
        self._follow_ups = follow_ups
        self._registry = registry
        self._commit = commit
        self._events = events
        self._retry_later = retry_later
        self._uncommitted: list[Uncommitted] = []
        self._posted: dict[int, Uncommitted] = {}
        self._numbers = itertools.count()
        self._refusal = ""  # why results could not be committed, as it was last logged

    @property
    def uncommitted(self) -> list[Request]:
        """Requests that have ended, of which Redis does not know it yet."""
        return [
            one.request for uncommitted in (*self._uncommitted, *self._posted.values()) for one in uncommitted.outcomes
        ]

    def end(
        self, run: BatchRun, outcomes: Sequence[Outcome], runtime: float, free: int, then: ScriptCall | None = None
    ) -> tuple[bool, Any]:
        """End requests that ran together, or that never ran.

        Args:
            run: their run.
            outcomes: how each ended.
            runtime: what the model took for all, in seconds.
            free: how many slots other workers should leave requests for.
            then: a script to call in the same round trip.

        Returns:
            Whether Redis answered, and the reply of that script.
        """
        parts, reply = collections.deque(split_by_size(self._plan(outcomes))), None
        while parts:
            try:
                statuses, reply = self._commit.end(run, parts[0], free, then if len(parts) == 1 else None)
            except redis.RedisError as exc:
                for part in parts:
                    self._failed(Uncommitted(run, part), exc)
                return False, None
            self._committed(run, parts.popleft(), statuses, runtime)
        return True, reply

    def post(
        self,
        run: BatchRun,
        outcomes: Sequence[Outcome],
        runtime: float,
        free: int,
        then: ScriptCall | None,
        on_outcome: OnOutcome,
    ) -> int | None:
        """End requests as `end` does, and do not wait for it.

        Args:
            run: as `end` takes it.
            outcomes: as `end` takes it.
            runtime: as `end` takes it.
            free: as `end` takes it.
            then: as `end` takes it.
            on_outcome: takes what `end` returns.

        Returns:
            The descriptor that can be read once Redis has answered; None where nothing could be sent.
        """
        *first, last = split_by_size(self._plan(outcomes))
        for part in first:
            self._post(run, part, runtime, free, None, lambda *_: None)
        return self._post(run, last, runtime, free, then, on_outcome)

    def retry(self, free: int) -> None:
        """Commit again what could not be committed."""
        uncommitted, self._uncommitted = collections.deque(self._uncommitted), []
        while uncommitted:
            each = uncommitted.popleft()
            try:
                statuses, _ = self._commit.end(each.run, each.outcomes, free)
            except redis.RedisError as exc:
                if refused_for_good(exc):
                    uncommitted.extendleft(reversed(_isolate_refused(each, exc)))
                    continue
                if not self._commit.answers():
                    self._uncommitted += [each, *uncommitted]
                    return
                self._uncommitted.append(_add_strike(each, exc))
            else:
                self._committed(each.run, each.outcomes, statuses, 0.0)
        if self._uncommitted:
            self._retry_later(STRIKES_S / STRIKES)

    def ended(self, request: Request, why: str) -> None:
        """Note that a request ended before it could run; its record says so already."""
        self.forget(request)
        if why in {"expired", "REVOKED"}:
            self._events.revoked(request.id, expired=why == "expired")

    def forget(self, request: Request) -> None:
        """Drop a request: it has ended, or others have it."""
        request.batch, request.ended = None, True
        self._registry.remove(request)

    def _plan(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        return [self._follow_ups.plan(outcome) if outcome.embed else outcome for outcome in outcomes]

    def _post(
        self,
        run: BatchRun,
        outcomes: list[Outcome],
        runtime: float,
        free: int,
        then: ScriptCall | None,
        on_outcome: OnOutcome,
    ) -> int | None:
        number = next(self._numbers)
        self._posted[number] = Uncommitted(run, outcomes)

        def on_reply(found: Any) -> None:
            uncommitted = self._posted.pop(number)
            if isinstance(found, redis.RedisError):
                self._failed(uncommitted, found)
                on_outcome(False, None)
            else:
                self._committed(run, outcomes, found[0], runtime)
                on_outcome(True, found[1])

        try:
            return self._commit.post(run, outcomes, free, then, on_reply)
        except redis.RedisError as exc:
            on_reply(exc)
            return None

    def _failed(self, uncommitted: Uncommitted, exc: redis.RedisError) -> None:
        self._refusal = warn_once(logger, "cannot keep results yet", exc, self._refusal)
        self._uncommitted.append(uncommitted)
        self._retry_later(RETRY_S)

    def _committed(self, run: BatchRun, outcomes: Sequence[Outcome], statuses: Sequence[str], runtime: float) -> None:
        self._refusal = ""
        answers: list[tuple[str, str]] = []
        for outcome, how in zip(outcomes, statuses, strict=True):
            if how == "1" and outcome.status == "SUCCESS":
                answers.append((outcome.request.id, outcome.shown))
            elif how in {"1", "REVOKED"}:
                self._send_event(outcome, how)
            self.forget(outcome.request)
            if outcome.embed and how == "1":
                self._follow_ups.follow(outcome)
        if answers:
            self._registry.count_succeeded(len(answers))
            self._events.succeeded(answers, runtime)
        self.counts[run.model] = self.counts.get(run.model, 0) + len(outcomes)

    def _send_event(self, outcome: Outcome, how: str) -> None:
        """Send that a request has ended otherwise than with an answer."""
        request = outcome.request
        if how == "REVOKED" or outcome.status == "REVOKED":
            why = outcome.shown if outcome.status == "REVOKED" else ""
            expired, terminated = why == "expired", why == "terminated"
            self._events.revoked(request.id, expired=expired, terminated=terminated, signum=outcome.signum)
        else:
            logger.info("request %s failed: %s", request.id, outcome.shown)
            self._events.failed(request.id, outcome.shown)


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
