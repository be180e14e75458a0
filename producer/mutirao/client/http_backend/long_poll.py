"""Waiting through a gateway: many jobs in one long poll, a round, which is told of those that have ended and begins again.

Who begins to wait joins the next round, which begins at once. So that a crowd that comes one by one does not hold a connection
each, there are only so many rounds, and those of few jobs are merged when others wait for a place.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import islice

from mutirao import errors, keyspace
from mutirao.client.http_backend.backend import HttpBackend
from mutirao.client.http_backend.transport import AsyncHttpTransport
from mutirao.client.waiter import BACKOFF_S, Completions, Waiter, cancel_all, closed_error

logger = logging.getLogger(__name__)

# How long a gateway waits before it says that nothing has ended; while others wait for a place, it is less.
ROUND_S = 20.0
CROWDED_S = 2.0
ROUNDS_MAX = 32
IDS_MAX = 500
# So long others wait for a place before rounds of few jobs are merged.
MERGE_AFTER_S = 0.1
FEW = IDS_MAX // 10
# A round that nobody wants any more is dropped only then: who polls would else open a connection each time.
UNWANTED_S = 1.0


class LongPoller:
    """Tells those who wait how their jobs ended. Lives on one event loop."""

    epoch: object | None = None

    def __init__(self, core: HttpBackend, driver: AsyncHttpTransport) -> None:
        """Take the operations and what runs them."""
        self._core = core
        self._driver = driver
        self._waits: dict[str, tuple[Waiter, ...]] = {}
        self._next: dict[str, None] = {}  # who is in no round, in order
        self._asked: set[str] = set()  # who is in one
        self._rounds: set[_Poll] = set()
        self._soon = False
        self._merging: asyncio.TimerHandle | None = None
        self._dropping: asyncio.TimerHandle | None = None
        self._closed = False

    def add(self, wait: Waiter) -> None:
        """Begin to wait."""
        if self._closed:
            wait.deliver([(job.id, closed_error()) for job in wait.jobs])
            return
        wrong: Completions = []
        for job in wait.jobs:
            try:
                keyspace.job_id(job.id)  # one that is no id would have the whole round refused
            except errors.InvalidRequest as exc:
                wrong.append((job.id, exc))
                continue
            self._waits[job.id] = (*self._waits.get(job.id, ()), wait)
            if job.id not in self._asked:
                self._next[job.id] = None
        self._begin_soon()
        if wrong:
            wait.deliver(wrong)

    def remove(self, wait: Waiter) -> None:
        """Wait no longer."""
        for job in wait.jobs:
            waits = self._waits.get(job.id, ())
            left = tuple(other for other in waits if other is not wait)
            if left:
                self._waits[job.id] = left
            elif waits:
                self._forget(job.id)
                self._drop_soon()

    async def close(self) -> None:
        """Wait for nothing any more; who still waits is told."""
        self._closed = True
        for timer in (self._merging, self._dropping):
            if timer is not None:
                timer.cancel()
        await cancel_all({round.task for round in self._rounds})
        self._settle([(id, closed_error()) for id in list(self._waits)])

    def _begin_soon(self) -> None:
        """Let all who come in this turn of the loop join one round."""
        if not self._soon and not self._closed:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._soon = False
        while self._next and len(self._rounds) < ROUNDS_MAX and not self._closed:
            ids = list(islice(self._next, IDS_MAX))
            for id in ids:
                del self._next[id]
            self._open(_Poll(ids))
        if self._next and self._merging is None and not self._closed:
            self._merging = asyncio.get_running_loop().call_later(MERGE_AFTER_S, self._merge)

    def _merge(self) -> None:
        """Give those who wait for a place the places of small rounds, and these a place together."""
        self._merging = None
        if self._next:
            for round in self._rounds:
                if len(round.ids) <= FEW:
                    round.task.cancel()

    def _drop_soon(self) -> None:
        if self._dropping is None and not self._closed:
            self._dropping = asyncio.get_running_loop().call_later(UNWANTED_S, self._drop_unwanted)

    def _drop_unwanted(self) -> None:
        self._dropping = None
        for round in self._rounds:
            if not any(id in self._waits for id in round.ids):
                round.task.cancel()

    def _open(self, round: _Poll) -> None:
        self._rounds.add(round)
        self._asked.update(round.ids)
        round.task = asyncio.get_running_loop().create_task(self._ends(round.ids))
        round.task.add_done_callback(lambda _: self._end(round))

    async def _ends(self, ids: list[str]) -> Completions:
        """Ask until there is an answer: a gateway that is away or busy may be back before anybody's time has passed."""
        failures = 0
        while True:
            try:
                return await self._driver.run(self._core.ends(ids, CROWDED_S if self._next else ROUND_S))
            except errors.MutiraoError as exc:
                if not exc.retryable:
                    raise
                after_s = getattr(exc, "retry_after_s", None) or 0.0
                await asyncio.sleep(max(after_s, BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]))
                failures += 1

    def _end(self, round: _Poll) -> None:
        """Tell what a round has found, and see to it that those who are left join another."""
        self._rounds.discard(round)
        self._asked.difference_update(round.ids)
        if not round.task.cancelled():
            error = round.task.exception()
            if isinstance(error, errors.Forbidden) and len(round.ids) > 1 and not self._closed:
                self._part(round)  # one of them is not for this key, which is no reason to refuse the others
                return
            self._settle(round.task.result() if error is None else [(id, _known(error)) for id in round.ids])
        for id in round.ids:
            if id in self._waits:
                self._next[id] = None
        self._begin_soon()

    def _part(self, round: _Poll) -> None:
        half = len(round.ids) // 2
        for ids in (round.ids[:half], round.ids[half:]):
            if wanted := [id for id in ids if id in self._waits]:
                self._open(_Poll(wanted))

    def _settle(self, found: Completions) -> None:
        told: dict[Waiter, Completions] = {}
        for id, how in found:
            for wait in self._waits.get(id, ()):
                told.setdefault(wait, []).append((id, how))
            self._forget(id)
        for wait, group in told.items():
            wait.deliver(group)

    def _forget(self, id: str) -> None:
        self._waits.pop(id, None)
        self._next.pop(id, None)


class _Poll:
    """One long poll."""

    def __init__(self, ids: list[str]) -> None:
        self.ids = ids
        self.task: asyncio.Task[Completions]


def _known(error: BaseException) -> Exception:
    """Make an error that can be told of any; a bug here must not leave anybody waiting for ever."""
    if isinstance(error, errors.MutiraoError):
        return error
    logger.error("waiting for results failed", exc_info=error)
    return error if isinstance(error, Exception) else errors.MutiraoError(repr(error))
