"""Waiting through a gateway: one long poll waits for many jobs, returns those that have ended, and is sent again.

A new wait joins the next poll, which begins at once. The number of polls is limited, so that many waits that begin one by one
do not hold a connection each; small polls are merged when others wait for a place.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import islice

from mutirao import errors, keyspace
from mutirao.client.http_backend.backend import HttpBackend
from mutirao.client.http_backend.transport import AsyncHttpTransport
from mutirao.client.waiter import BACKOFF_S, Completions, JobWaiters, Waiter, cancel_all, closed_error

logger = logging.getLogger(__name__)

# How long a gateway waits before it answers that no job has ended; shorter while jobs wait for a poll.
POLL_S = 20.0
CROWDED_S = 2.0
POLLS_MAX = 32
IDS_MAX = 500
# How long jobs wait for a place before small polls are merged.
MERGE_AFTER_S = 0.1
FEW = IDS_MAX // 10
# An unwanted poll is dropped after this: a caller that retries with short timeouts would otherwise open a connection each time.
UNWANTED_S = 1.0


class LongPoller(JobWaiters):
    """Delivers the ends of jobs to those who wait. Lives on one event loop."""

    def __init__(self, backend: HttpBackend, driver: AsyncHttpTransport) -> None:
        """Take the operations and what runs them."""
        super().__init__()
        self._backend = backend
        self._driver = driver
        self._pending: dict[str, None] = {}  # jobs in no poll, in order
        self._polled: set[str] = set()  # jobs in one
        self._polls: set[_Poll] = set()
        self._scheduled = False
        self._merge_timer: asyncio.TimerHandle | None = None
        self._drop_timer: asyncio.TimerHandle | None = None

    def _add(self, waiter: Waiter) -> None:
        wrong: Completions = []
        for job in waiter.jobs:
            try:
                keyspace.job_id(job.id)  # an invalid id would have the whole poll refused
            except errors.InvalidRequest as exc:
                wrong.append((job.id, exc))
                continue
            self._waiters[job.id] = (*self._waiters.get(job.id, ()), waiter)
            if job.id not in self._polled:
                self._pending[job.id] = None
        self._start_polls_soon()
        if wrong:
            waiter.deliver(wrong)

    def remove(self, waiter: Waiter) -> None:
        """Wait no longer."""
        super().remove(waiter)
        if not self._polled.isdisjoint(job.id for job in waiter.jobs):
            self._drop_soon()

    async def close(self) -> None:
        """Stop waiting; everybody who still waits gets an error."""
        self._closed = True
        for timer in (self._merge_timer, self._drop_timer):
            if timer is not None:
                timer.cancel()
        await cancel_all({poll.task for poll in self._polls})
        self._deliver([(id, closed_error()) for id in list(self._waiters)])

    def _start_polls_soon(self) -> None:
        """Let all waits that begin in this turn of the loop share one poll."""
        if not self._scheduled and not self._closed:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start_polls)

    def _start_polls(self) -> None:
        self._scheduled = False
        while self._pending and len(self._polls) < POLLS_MAX and not self._closed:
            ids = list(islice(self._pending, IDS_MAX))
            for id in ids:
                del self._pending[id]
            self._start(_Poll(ids))
        if self._pending and self._merge_timer is None and not self._closed:
            self._merge_timer = asyncio.get_running_loop().call_later(MERGE_AFTER_S, self._merge)

    def _merge(self) -> None:
        """Cancel small polls: their jobs and those that wait for a place share the next ones."""
        self._merge_timer = None
        if self._pending:
            for poll in self._polls:
                if len(poll.ids) <= FEW:
                    poll.task.cancel()

    def _drop_soon(self) -> None:
        if self._drop_timer is None and not self._closed:
            self._drop_timer = asyncio.get_running_loop().call_later(UNWANTED_S, self._drop_unwanted)

    def _drop_unwanted(self) -> None:
        self._drop_timer = None
        for poll in self._polls:
            if not any(id in self._waiters for id in poll.ids):
                poll.task.cancel()

    def _start(self, poll: _Poll) -> None:
        self._polls.add(poll)
        self._polled.update(poll.ids)
        poll.task = asyncio.get_running_loop().create_task(self._poll(poll.ids))
        poll.task.add_done_callback(lambda _: self._on_poll_done(poll))

    async def _poll(self, ids: list[str]) -> Completions:
        """Poll until there is an answer: a gateway that is away or busy may be back before a wait times out."""
        failures = 0
        while True:
            try:
                return await self._driver.run(self._backend.ends(ids, CROWDED_S if self._pending else POLL_S))
            except errors.MutiraoError as exc:
                if not exc.retryable:
                    raise
                after_s = getattr(exc, "retry_after_s", None) or 0.0
                await asyncio.sleep(max(after_s, BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]))
                failures += 1

    def _on_poll_done(self, poll: _Poll) -> None:
        """Deliver what a poll has found, and queue its remaining jobs for another."""
        self._polls.discard(poll)
        self._polled.difference_update(poll.ids)
        if not poll.task.cancelled():
            error = poll.task.exception()
            if isinstance(error, errors.Forbidden) and len(poll.ids) > 1 and not self._closed:
                self._split(poll)  # one of them is not for this key, which is no reason to refuse the others
                return
            self._deliver(poll.task.result() if error is None else [(id, _as_error(error)) for id in poll.ids])
        for id in poll.ids:
            if id in self._waiters:
                self._pending[id] = None
        self._start_polls_soon()

    def _split(self, poll: _Poll) -> None:
        half = len(poll.ids) // 2
        for ids in (poll.ids[:half], poll.ids[half:]):
            if wanted := [id for id in ids if id in self._waiters]:
                self._start(_Poll(wanted))

    def _forget(self, id: str) -> None:
        self._waiters.pop(id, None)
        self._pending.pop(id, None)


class _Poll:
    """One long poll."""

    def __init__(self, ids: list[str]) -> None:
        self.ids = ids
        self.task: asyncio.Task[Completions]


def _as_error(error: BaseException) -> Exception:
    """Return an error to deliver, whatever was raised: a bug here must not leave anybody waiting for ever."""
    if isinstance(error, errors.MutiraoError):
        return error
    logger.error("waiting for results failed", exc_info=error)
    return error if isinstance(error, Exception) else errors.MutiraoError(repr(error))
