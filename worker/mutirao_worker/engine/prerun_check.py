"""The last check of requests before they run: one that was cancelled or has expired while it waited must never reach the model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container

import redis

from mutirao_worker.engine import outcome
from mutirao_worker.engine.commit import Commit
from mutirao_worker.engine.job_records import JobRecords
from mutirao_worker.engine.outcome import Outcome
from mutirao_worker.engine.request import Request

logger = logging.getLogger(__name__)

# A request that was reserved less than this ago was looked at a moment ago.
FRESH_S = 0.05


class PrerunCheck:
    """Looks at batches; at their records only where one may have changed since it was reserved."""

    def __init__(
        self,
        records: JobRecords,
        commit: Commit,
        now: Callable[[], float],
        end: Callable[[Outcome], None],
        revoked: Container[str],
    ) -> None:
        """Take the records, what notes that a request has ended, Redis's clock, what ends a request, and the ids to drop."""
        self._cancelled = 0
        self._commit = commit
        self._deadline = float("inf")
        self._end = end
        self._observed_at = self._changed_at = 0.0
        self._now = now
        self._records = records
        self._revoked = revoked

    def observe(self, cancelled: int, deadline: float) -> None:
        """Note what Redis said when it gave requests: how many jobs have ever been cancelled, and the earliest deadline."""
        self._observed_at = time.monotonic()
        self._deadline = min(self._deadline, deadline)
        if cancelled != self._cancelled:
            self._cancelled, self._changed_at = cancelled, self._observed_at

    def filter(self, batch: list[Request]) -> list[Request]:
        """End what must not run any more, and return the rest."""
        for request in batch:
            revoked = request.id in self._revoked
            if revoked or (request.headers.expires is not None and (request.expires or 0) <= time.time()):
                self._end(outcome.revoked(request, "revoked" if revoked else "expired"))
        batch = [request for request in batch if not request.ended]
        if not batch or not self._may_have_changed(min(request.received for request in batch), time.monotonic()):
            return batch
        try:
            whys = self._records.prerun_check(batch)
        except redis.RedisError:
            return batch  # its end is fenced, whatever happened to it meanwhile
        runnable = []
        for request, why in zip(batch, whys, strict=True):
            if not why:
                runnable.append(request)
                continue
            self._commit.ended(request, why)
            try:
                self._records.acknowledge([request])
            except redis.RedisError as exc:  # it is found reserved before long, and looked at again
                logger.debug("cannot acknowledge %s, which had ended: %s", request.id, exc)
        return runnable

    def _may_have_changed(self, oldest: float, now: float) -> bool:
        """Whether one of the requests that came since may have been cancelled or have expired meanwhile."""
        if not self._records.fenced:
            return True
        if now - oldest < FRESH_S:
            return False
        return now - self._observed_at > FRESH_S or oldest < self._changed_at or self._now() >= self._deadline
