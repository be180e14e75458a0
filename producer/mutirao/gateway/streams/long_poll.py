"""A request that waits for its job: until the job ends, the time is up, or the client goes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from mutirao import errors, keyspace
from mutirao.client.job import JobHandle
from mutirao.client.waiter import Completions, Waiter
from mutirao.gateway.requests.request import ClientGone, Request
from mutirao.gateway.responses import presenters
from mutirao.gateway.responses.presenters import Jobs
from mutirao.gateway.state import Gateway
from mutirao.wire.http_schemas import JobView
from mutirao.wire.messages import JobRecord

# Most jobs end sooner than this; only then is it worth a task to see whether the client is still there.
LOOK_S = 1.0
# After the first end others are waited for, so long for each job, and no longer than that: what an answer costs grows with the
# jobs that it was waited for with.
LINGER_EACH_S = 0.0001
LINGER_S = 0.02
# Results in one answer. Of jobs beyond that the ends alone are told, and their results are read one by one.
RESULTS_BYTES = 4 * 1024 * 1024


class LongPoll:
    """One wait; it leaves nothing behind however it ends."""

    __slots__ = ("_ended", "_left_s", "_looking", "_loop", "_request", "_timer", "outlasts_stop")

    def __init__(self, request: Request, wait_s: float, *, outlasts_stop: bool = False) -> None:
        """Take who waits, for how long at most, and whether that holds while the process stops."""
        self.outlasts_stop = outlasts_stop
        self._request = request
        self._left_s = wait_s
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[JobRecord | Exception | None] = self._loop.create_future()
        self._looking: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def end(self, gateway: Gateway, job: JobHandle) -> JobRecord | None:
        """Wait.

        Returns:
            The job's finished record; None where the time was up first.

        Raises:
            JobNotFound: there is no such job.
            ClientGone: nobody waits any more.
            GatewayBusy: too many wait.
            Unauthorized, Forbidden: the caller's key is good no more.
        """
        found = await self._first(gateway, [job])
        if isinstance(found, Exception):
            raise found
        return found

    async def first(self, gateway: Gateway, jobs: Sequence[JobHandle]) -> None:
        """Wait until any of these jobs has ended, or there is no such job, or the time is up.

        Raises:
            ClientGone, GatewayBusy, Unauthorized, Forbidden: as `end`.
        """
        found = await self._first(gateway, jobs)
        if isinstance(found, Exception) and not isinstance(found, errors.JobNotFound):
            raise found

    async def _first(self, gateway: Gateway, jobs: Sequence[JobHandle]) -> JobRecord | Exception | None:
        with gateway.hold_open(self, self._request.caller):
            wait = Waiter(jobs, self._told)
            gateway.listener.add(wait)
            self._set_timer()
            try:
                return await self._ended
            finally:
                self._stop()
                gateway.listener.remove(wait)

    def give_up(self, why: Exception | None = None) -> None:
        """End the wait now, as if its time were up, or with this error."""
        self._finish(why)

    def _told(self, ended: Completions) -> None:
        self._finish(ended[0][1])

    def _finish(self, how: JobRecord | Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(how)

    def _set_timer(self) -> None:
        step = min(LOOK_S, self._left_s) if self._looking is None else self._left_s
        self._left_s -= step
        self._timer = self._loop.call_later(max(0.0, step), self._ring)

    def _ring(self) -> None:
        if self._left_s <= 0:
            self._finish(None)
            return
        self._looking = self._loop.create_task(self._look())
        self._set_timer()

    async def _look(self) -> None:
        await self._request.disconnected()
        self._finish(ClientGone())

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()


class BatchLongPoll(LongPoll):
    """One wait for many jobs."""

    __slots__ = ("_count", "_found")

    def __init__(self, request: Request, wait_s: float, count: int) -> None:
        """Take who waits, for how long at most, and for how many jobs."""
        super().__init__(request, wait_s)
        self._found: Completions = []
        self._count = count

    async def ends(self, gateway: Gateway, jobs: Sequence[JobHandle]) -> Completions:
        """Wait until one of the jobs has ended, or there is no such job, or the time is up.

        Returns:
            All that were told by then.

        Raises:
            ClientGone: nobody waits any more.
            GatewayBusy: too many wait.
        """
        await self.first(gateway, jobs)
        return self._found

    def _told(self, ended: Completions) -> None:
        if not self._found:
            self._loop.call_later(min(LINGER_S, LINGER_EACH_S * self._count), self._finish, None)
        self._found += ended
        if len(self._found) == self._count:
            self._finish(None)


async def wait_for_any(gateway: Gateway, request: Request, ids: Sequence[str], wait_s: float, *, results: bool) -> Jobs:
    """Tell which of the caller's jobs have ended, and which are not there: at least one, unless the time is up.

    Args:
        gateway: the gateway.
        request: the request; its body has been read.
        ids: each once, as Redis keeps them.
        wait_s: the longest wait, in seconds.
        results: whether to tell the results too.

    Raises:
        Forbidden: the caller may not read jobs of this model.
    """
    tenant = request.caller.tenant
    own = gateway.recent.handles(ids) if wait_s else {}
    others = [id for id in ids if id not in own]
    found = await _read(gateway, others, tenant)
    if found:  # the announcement of another's end may still be on its way
        found |= await _read(gateway, list(own), tenant)
    elif wait_s:
        jobs = [*own.values(), *map(JobHandle, others)]
        found = _known(await BatchLongPoll(request, wait_s, len(jobs)).ends(gateway, jobs))
    found = {id: found[id] for id in ids if id in found}
    gateway.recent.forget(found)
    for record in filter(None, found.values()):
        request.caller.require("read", record.job.model)
    gateway.rate_limiter.ended(request.caller, [id for id, record in found.items() if record is not None])
    return _answer(found, results=results)


async def _read(gateway: Gateway, ids: Sequence[str], tenant: str) -> dict[str, JobRecord | None]:
    """Read those of the jobs that have ended; None for each that is not there, or not the tenant's."""
    if not ids:
        return {}
    records = await gateway.redis.run(gateway.backend.records(ids))
    found = {
        id: record if record is not None and record.job.owner == tenant else None
        for id, record in zip(ids, records, strict=True)
    }
    late = [id for id, record in found.items() if record is not None and _overdue(record, gateway.backend.now())]
    if late:
        found |= dict(zip(late, await gateway.redis.run(gateway.backend.settle(late, "expired")), strict=True))
    return {id: record for id, record in found.items() if record is None or record.done}


def _known(ended: Completions) -> dict[str, JobRecord | None]:
    known: dict[str, JobRecord | None] = {}
    for id, how in ended:
        if isinstance(how, Exception) and not isinstance(how, errors.JobNotFound):
            raise how
        known[id] = how if isinstance(how, JobRecord) else None
    return known


def _overdue(record: JobRecord, now: float) -> bool:
    expires_at = record.job.expires_at
    return record.status == "QUEUED" and expires_at is not None and expires_at < now


def _answer(found: dict[str, JobRecord | None], *, results: bool) -> Jobs:
    records = [record for record in found.values() if record is not None]
    shown = _with_results(records) if results else map(presenters.job, records)
    missing = (keyspace.unqualified(id) for id, record in found.items() if record is None)
    return Jobs(jobs=tuple(shown), missing=tuple(missing))


def _with_results(records: Iterable[JobRecord]) -> Iterable[JobView]:
    left = RESULTS_BYTES
    for record in records:
        size = len(bytes(record.result))
        fits = size <= left
        left -= size if fits else 0
        yield presenters.job(record, result=fits)
