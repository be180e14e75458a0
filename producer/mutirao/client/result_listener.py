"""Waiting for results: one subscription for any number of jobs.

A client process's own jobs are announced on its one reply channel, in groups; other jobs each on the channel of its record's
key. Either way once, so the order is: subscribe, then read the records when Redis confirms the subscription. A result that came
earlier is found by that read, a later one is announced; after a broken connection the same two steps are done again for every
job still waited for. A job that was submitted while the reply channel was open needs no read.

Whatever was lost on the way all the same (by a worker that knows no reply channels, or by a bug) is found by a slow re-read.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import redis

from mutirao import keyspace
from mutirao.client.job import JobHandle
from mutirao.client.redis_backend import READ_MAX, RedisBackend
from mutirao.client.waiter import BACKOFF_S, Completions, Waiter, cancel_all, closed_error
from mutirao.errors import MutiraoError
from mutirao.redisdb.drivers import AsyncRedisDriver
from mutirao.redisdb.subscription import Subscription
from mutirao.wire.messages import JobRecord

logger = logging.getLogger(__name__)

REREAD_S = 1.0
# Results of jobs that nobody has waited for yet.
EARLY_BYTES_MAX = 32 * 1024 * 1024


class ResultListener:
    """Tells those who wait how their jobs ended. Lives on one event loop."""

    def __init__(self, core: RedisBackend, store: AsyncRedisDriver) -> None:
        """Take the operations and what runs them."""
        self._core = core
        self._redis = store
        self._channel = b""
        self._waits: dict[str, tuple[Waiter, ...]] = {}
        self._others: set[str] = set()  # those waited for that are announced on channels of their own
        self._joining: list[str] = []
        self._leaving: list[str] = []
        self._unread: set[str] = set()
        self._early: dict[str, JobRecord] = {}
        self._early_bytes = 0
        self._deadlines: dict[str, float] = {}
        self._due: list[tuple[float, str]] = []  # a heap of them; one that is not in `_deadlines` is void
        self._alarm: asyncio.TimerHandle | None = None
        self._subscription: Subscription | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = False
        self._reading = False
        self._rereading = False
        self._closed = False
        # Stands for the time since which nothing of the reply channel can have been missed; another object after each gap.
        self.epoch: object | None = None

    def add(self, wait: Waiter) -> None:
        """Begin to wait."""
        if self._closed:
            wait.deliver([(job.id, closed_error()) for job in wait.jobs])
            return
        try:
            self._watch(wait)
        except Exception as exc:  # a bug here must not leave anybody waiting for ever
            wait.deliver([(job.id, exc) for job in wait.jobs])
            raise

    def _watch(self, wait: Waiter) -> None:
        ended: Completions = []
        for job in wait.jobs:
            id = job.id
            if job.origin is not None and (early := self._early.pop(id, None)):
                self._early_bytes -= len(bytes(early.result))
                ended.append((id, early))
                continue
            waits = self._waits.get(id)
            if waits is None:
                self._begin(job)
            self._waits[id] = (*waits, wait) if waits else (wait,)
            if job.origin is not None:
                self._date(id, job.origin.deadline)
        self._set_alarm()
        self._read_soon()
        if self._waits and not self._listening:
            self._listening = True
            self._spawn(self._listen())
        elif self._joining and self._subscription is not None:
            self._spawn(self._join())
        if self._waits and not self._rereading:
            self._rereading = True
            self._spawn(self._reread())
        if ended:
            wait.deliver(ended)

    def remove(self, wait: Waiter) -> None:
        """Wait no longer."""
        for job in wait.jobs:
            waits = self._waits.get(job.id, ())
            if wait in waits:
                left = tuple(other for other in waits if other is not wait)
                if left:
                    self._waits[job.id] = left
                else:
                    self._forget(job.id)
        self._leave_soon()

    async def close(self) -> None:
        """Stop listening; who still waits is told."""
        self._closed = True
        await cancel_all(set(self._tasks))
        await self._drop()
        self._fail(closed_error())
        self._set_alarm()

    def _begin(self, job: JobHandle) -> None:
        if job.origin is None or job.origin.client != self._core.client:
            self._others.add(job.id)
            self._joining.append(job.id)
        elif job.origin.epoch is None or job.origin.epoch is not self.epoch:
            self._unread.add(job.id)

    # Listening

    async def _listen(self) -> None:
        failures = 0
        try:
            while True:
                try:
                    async for message in (await self._connect()).messages():
                        self._take(message)
                        failures = 0
                except (redis.RedisError, OSError, MutiraoError):
                    await self._drop()
                    await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                    failures += 1
        finally:
            self._listening = False

    async def _connect(self) -> Subscription:
        """Subscribe anew for everything still waited for. Nobody else may use the subscription before it has its connection."""
        self._channel = keyspace.reply_channel(self._core.client).encode()
        subscription = self._redis.subscription()
        try:
            await subscription.subscribe(self._channel)
        except BaseException:
            await subscription.close()
            raise
        self._joining = list(self._others)
        self._subscription = subscription
        await self._join()
        return subscription

    async def _join(self) -> None:
        """Subscribe for all jobs of others that came in this turn of the loop, in one command."""
        ids, self._joining = self._joining, []
        if self._subscription is not None and ids:
            with contextlib.suppress(redis.RedisError, OSError):  # the listener sees the same failure and begins anew
                await self._subscription.subscribe(*(keyspace.record_key(id) for id in ids))

    async def _leave(self) -> None:
        channels = [keyspace.record_key(id) for id in self._leaving if id not in self._others]
        self._leaving = []
        if self._subscription is not None and channels:
            with contextlib.suppress(redis.RedisError, OSError):
                await self._subscription.unsubscribe(*channels)

    def _take(self, message: dict[str, Any]) -> None:
        if message["type"] not in ("message", "subscribe"):
            return
        if message["type"] == "message":
            self._take_records(message["channel"] == self._channel, message["data"])
        elif message["channel"] == self._channel:
            self.epoch = object()
            self._unread.update(self._waits.keys() - self._others)
        else:
            self._unread.update({message["channel"].decode().removeprefix(keyspace.record_key(""))} & self._others)
        self._read_soon()

    def _take_records(self, grouped: bool, data: bytes) -> None:
        try:
            found = msgspec.json.decode(data if grouped else b"[" + data + b"]", type=list[JobRecord])
        except msgspec.DecodeError as exc:
            logger.warning("an announcement of %d bytes is not of job records: %s", len(data), exc)
            return  # the re-read finds what it was about
        self._settle(found, keep=grouped)

    async def _drop(self) -> None:
        subscription, self._subscription, self.epoch = self._subscription, None, None
        if subscription is not None:
            await subscription.close()

    # Reading

    def _read_soon(self) -> None:
        """Read what has to be, once the subscription stands."""
        if self._unread and self.epoch is not None and not self._reading:
            self._reading = True
            self._spawn(self._read_unread())

    async def _read_unread(self) -> None:
        try:
            await asyncio.sleep(0)  # let the other confirmations of the same subscription come in
            while self._unread:
                ids = list(itertools.islice(self._unread, READ_MAX))
                self._unread.difference_update(ids)
                try:
                    await self._look(ids)
                except MutiraoError:
                    self._unread.update(ids)
                    await asyncio.sleep(BACKOFF_S[-1])
        finally:
            self._reading = False

    async def _reread(self) -> None:
        """Once a second look at those who were looked at longest ago, and go on while that finds something."""
        try:
            while self._waits:
                await asyncio.sleep(REREAD_S)
                with contextlib.suppress(MutiraoError):  # Redis is away: the next look may find it
                    while ids := list(itertools.islice(self._waits, READ_MAX)):
                        if not await self._look(ids):
                            break
                        if self._subscription is not None:
                            self._subscription.check_soon()
                        await asyncio.sleep(0)
        finally:
            self._rereading = False

    async def _look(self, ids: Sequence[str]) -> int:
        """Read records; return how many had ended."""
        ids = [id for id in ids if id in self._waits]
        if not ids:
            return 0
        for id in ids:
            self._waits[id] = self._waits.pop(id)  # to the end of the line
        return self._seen(ids, await self._redis.run(self._core.records(ids)))

    def _seen(self, ids: Sequence[str], records: Sequence[JobRecord | None]) -> int:
        for id, record in zip(ids, records, strict=True):
            if record is None:
                self._fail(self._core.missing(id), [id])
            elif record.status == "QUEUED" and record.job.expires_at is not None and id not in self._deadlines:
                # By Redis's clock it has not passed, whatever ours says.
                self._date(id, time.monotonic() + max(BACKOFF_S[0], record.job.expires_at - self._core.now()))
        self._set_alarm()
        done = [record for record in records if record is not None and record.done]
        self._settle(done)
        return len(done)

    # Deadlines

    def _date(self, id: str, deadline: float) -> None:
        self._deadlines[id] = deadline
        heapq.heappush(self._due, (deadline, id))

    def _set_alarm(self) -> None:
        """Wake at the earliest deadline of those who wait."""
        if len(self._due) > 2 * len(self._deadlines) + READ_MAX:
            self._due = [(deadline, id) for id, deadline in self._deadlines.items()]
            heapq.heapify(self._due)
        while self._due and self._deadlines.get(self._due[0][1]) != self._due[0][0]:
            heapq.heappop(self._due)
        at = self._due[0][0] if self._due else None
        if self._alarm is not None and (at is None or at < self._alarm.when()):
            self._alarm.cancel()
            self._alarm = None
        if self._alarm is None and at is not None:
            self._alarm = asyncio.get_running_loop().call_at(at, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        now, ids = time.monotonic(), []
        while self._due and self._due[0][0] <= now:
            deadline, id = heapq.heappop(self._due)
            if self._deadlines.get(id) == deadline:
                del self._deadlines[id]
                ids.append(id)
        if ids:
            self._spawn(self._expire(ids))
        self._set_alarm()

    async def _expire(self, ids: Sequence[str]) -> None:
        for first in range(0, len(ids), READ_MAX):
            some = ids[first : first + READ_MAX]
            try:
                self._seen(some, await self._redis.run(self._core.settle(some, "expired")))
            except MutiraoError:
                for id in some:
                    if id in self._waits:
                        self._date(id, time.monotonic() + BACKOFF_S[-1])
                self._set_alarm()

    # Telling

    def _settle(self, records: Iterable[JobRecord], *, keep: bool = False) -> None:
        told: dict[Waiter, Completions] = {}
        for record in records:
            if not record.done:
                continue
            id = record.task_id
            waits = self._waits.get(id)
            if waits is None:
                if keep and id not in self._early:
                    self._early[id] = record
                    self._early_bytes += len(bytes(record.result))
                continue
            self._forget(id)
            for wait in waits:
                told.setdefault(wait, []).append((id, record))
        if self._early_bytes > EARLY_BYTES_MAX:
            self._early.clear()
            self._early_bytes, self.epoch = 0, object()
        self._leave_soon()
        for wait, ended in told.items():
            wait.deliver(ended)

    def _fail(self, error: Exception, ids: Iterable[str] | None = None) -> None:
        for id in list(self._waits) if ids is None else ids:
            waits = self._waits.get(id, ())
            self._forget(id)
            for wait in waits:
                wait.deliver([(id, error)])
        self._leave_soon()

    def _forget(self, id: str) -> None:
        self._waits.pop(id, None)
        self._deadlines.pop(id, None)
        if id in self._others:
            self._others.discard(id)
            self._leaving.append(id)

    def _leave_soon(self) -> None:
        if self._leaving and self._subscription is not None:
            self._spawn(self._leave())

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("waiting for results failed", exc_info=error)
            self._fail(
                error if isinstance(error, Exception) else MutiraoError(repr(error))
            )  # a bug here must not leave anybody waiting for ever
