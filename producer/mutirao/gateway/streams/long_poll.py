"""Hold a request open until one of its jobs has ended, the time is up, or the client goes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from mutirao import errors, keyspace
from mutirao.client.job import JobHandle
from mutirao.client.waiter import Completions, Waiter
from mutirao.gateway.requests.request import ClientGone, Request
from mutirao.gateway.responses import presenters
from mutirao.gateway.responses.presenters import Jobs
from mutirao.gateway.state.gateway import Gateway
from mutirao.wire.http_schemas import JobView
from mutirao.wire.messages import JobRecord

# Most jobs end sooner than this; only a longer wait is worth a task that watches whether the client is still there.
WATCH_AFTER_S = 1.0
# How long a wait goes on after the first end: this for each job, and no longer than that. A response costs more the more jobs it is
# about.
LINGER_EACH_S = 0.0001
LINGER_S = 0.02
# Results in one response. Of jobs beyond that the response has the state alone, and the client reads their results one by one.
RESULTS_BYTES = 4 * 1024 * 1024


class LongPoll:
    """One wait; it leaves nothing behind however it ends."""

    __slots__ = ("_ended", "_left_s", "_loop", "_request", "_timer", "_watching", "outlasts_stop")

    def __init__(self, request: Request, wait_s: float, *, outlasts_stop: bool = False) -> None:
        """Take the request, how long it waits at most, and whether it goes on waiting while the process stops."""
        self.outlasts_stop = outlasts_stop
        self._request = request
        self._left_s = wait_s
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[JobRecord | Exception | None] = self._loop.create_future()
        self._watching: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def end(self, gateway: Gateway, job: JobHandle) -> JobRecord | None:
        """Wait for the end of a job.

        Returns:
            The job's finished record; None where the time was up first.

        Raises:
            JobNotFound: there is no such job.
            ClientGone: the client has gone.
            GatewayBusy: too many waits are open.
            Unauthorized, Forbidden: the caller's key is no longer valid.
        """
        found = await self._first(gateway, [job])
        if isinstance(found, Exception):
            raise found
        return found

    async def _first(self, gateway: Gateway, jobs: Sequence[JobHandle]) -> JobRecord | Exception | None:
        with gateway.hold_open(self, self._request.caller):
            wait = Waiter(jobs, self._on_ended)
            gateway.listener.add(wait)
            self._set_timer()
            try:
                return await self._ended
            finally:
                self._stop()
                gateway.listener.remove(wait)

    def _on_ended(self, ended: Completions) -> None:
        self.give_up(ended[0][1])

    def give_up(self, why: JobRecord | Exception | None = None) -> None:
        """End the wait now, as if its time were up, or with this error or finished record."""
        if not self._ended.done():
            self._ended.set_result(why)

    def _set_timer(self) -> None:
        step = min(WATCH_AFTER_S, self._left_s) if self._watching is None else self._left_s
        self._left_s -= step
        self._timer = self._loop.call_later(max(0.0, step), self._on_timer)

    def _on_timer(self) -> None:
        if self._left_s <= 0:
            self.give_up()
            return
        self._watching = self._loop.create_task(self._watch_client())
        self._set_timer()

    async def _watch_client(self) -> None:
        await self._request.disconnected()
        self.give_up(ClientGone())

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()


class BatchLongPoll(LongPoll):
    """One wait for the first end of many jobs."""

    __slots__ = ("_completions", "_count")

    def __init__(self, request: Request, wait_s: float, count: int) -> None:
        """Take the request, how long it waits at most, and for how many jobs."""
        super().__init__(request, wait_s)
        self._completions: Completions = []
        self._count = count

    async def ends(self, gateway: Gateway, jobs: Sequence[JobHandle]) -> Completions:
        """Wait until one of the jobs has ended, or there is no such job, or the time is up.

        Returns:
            All that have ended by then.

        Raises:
            ClientGone, GatewayBusy, Unauthorized, Forbidden: as `end`.
        """
        found = await self._first(gateway, jobs)
        if isinstance(found, Exception) and not isinstance(found, errors.JobNotFound):
            raise found
        return self._completions

    def _on_ended(self, ended: Completions) -> None:
        if not self._completions:
            self._loop.call_later(min(LINGER_S, LINGER_EACH_S * self._count), self.give_up)
        self._completions += ended
        if len(self._completions) == self._count:
            self.give_up()


async def wait_for_any(gateway: Gateway, request: Request, ids: Sequence[str], wait_s: float, *, results: bool) -> Jobs:
    """Return which of the caller's jobs have ended, and which do not exist: at least one, unless the time is up.

    Args:
        gateway: the gateway.
        request: the request; its body has been read.
        ids: the jobs' qualified ids, each once.
        wait_s: the longest wait, in seconds.
        results: whether to return the results too.

    Raises:
        Forbidden: the caller may not read jobs of this model.
    """
    tenant = request.caller.tenant
    recent = gateway.recent.handles(ids) if wait_s else {}
    others = [id for id in ids if id not in recent]
    found = await _read_ended(gateway, others, tenant)
    if found:  # the notice of another end may still be on its way
        found |= await _read_ended(gateway, list(recent), tenant)
    elif ids and wait_s:
        jobs = [*recent.values(), *map(JobHandle, others)]
        found = _records_of(await BatchLongPoll(request, wait_s, len(jobs)).ends(gateway, jobs))
    found = {id: found[id] for id in ids if id in found}
    gateway.recent.forget(found)
    for record in filter(None, found.values()):
        request.caller.require("read", record.job.model)
    gateway.rate_limiter.ended(request.caller, [id for id, record in found.items() if record is not None])
    return _answer(found, results=results)


async def _read_ended(gateway: Gateway, ids: Sequence[str], tenant: str) -> dict[str, JobRecord | None]:
    """Read the records of the jobs that have ended; None for each that does not exist, or is another tenant's."""
    if not ids:
        return {}
    records = await gateway.redis.run(gateway.backend.records(ids))
    found = {
        id: record if record is not None and record.job.owner == tenant else None
        for id, record in zip(ids, records, strict=True)
    }
    late = [id for id, record in found.items() if record is not None and _overdue(record, gateway.backend.now())]
    if late:
        found |= dict(
            zip(late, await gateway.redis.run(gateway.backend.cancel_or_expire(late, "expired")), strict=True)
        )
    return {id: record for id, record in found.items() if record is None or record.done}


def _records_of(ended: Completions) -> dict[str, JobRecord | None]:
    records: dict[str, JobRecord | None] = {}
    for id, how in ended:
        if isinstance(how, Exception) and not isinstance(how, errors.JobNotFound):
            raise how
        records[id] = how if isinstance(how, JobRecord) else None
    return records


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
