"""Waiting for results: one subscription for any number of jobs.

A client process's own jobs are announced on its one reply channel, in groups; other jobs each on the channel of its record's
key. Either way once, so the order is: subscribe, then read the records when Redis confirms the subscription. A result that came
earlier is found by that read, a later one is announced; after a broken connection the same two steps are done again for every
job still waited for. A job that was submitted while the reply channel was open needs no read.

An announcement that is lost all the same (by a worker that knows no reply channels, or by a bug) is made up for by a slow re-read.
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
from mutirao.client.waiter import BACKOFF_S, Completions, JobWaiters, Waiter, cancel_all, closed_error
from mutirao.errors import MutiraoError
from mutirao.redisdb.drivers import AsyncRedisDriver
from mutirao.redisdb.subscription import Subscription
from mutirao.wire.messages import JobRecord

logger = logging.getLogger(__name__)

REREAD_S = 1.0
# Results of jobs that nobody has waited for yet.
EARLY_BYTES_MAX = 32 * 1024 * 1024


class ResultListener(JobWaiters):
    """Delivers the ends of jobs to those who wait. Lives on one event loop."""

    def __init__(self, backend: RedisBackend, driver: AsyncRedisDriver) -> None:
        """Take the operations and what runs them."""
        super().__init__()
        self._backend = backend
        self._driver = driver
        self._channel = b""
        self._on_own_channel: set[str] = set()  # jobs that are announced on channels of their own
        self._to_subscribe: list[str] = []
        self._to_unsubscribe: list[str] = []
        self._unread: set[str] = set()
        self._early: dict[str, JobRecord] = {}
        self._early_bytes = 0
        self._deadlines: dict[str, float] = {}
        self._deadline_heap: list[tuple[float, str]] = []  # an entry that is not in `_deadlines` is void
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0  # uvloop's handle of a time that has passed does not tell it
        self._subscription: Subscription | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = False
        self._reading = False
        self._rereading = False

    def _add(self, waiter: Waiter) -> None:
        ended: Completions = []
        for job in waiter.jobs:
            id = job.id
            if job.context is not None and (early := self._early.pop(id, None)):
                self._early_bytes -= len(bytes(early.result))
                ended.append((id, early))
                continue
            waiters = self._waiters.get(id)
            if waiters is None:
                self._track(job)
            self._waiters[id] = (*waiters, waiter) if waiters else (waiter,)
            if job.context is not None:
                self._set_deadline(id, job.context.deadline)
        self._set_timer()
        self._read_soon()
        if self._waiters and not self._listening:
            self._listening = True
            self._spawn(self._listen())
        elif self._to_subscribe and self._subscription is not None:
            self._spawn(self._subscribe())
        if self._waiters and not self._rereading:
            self._rereading = True
            self._spawn(self._reread())
        if ended:
            waiter.deliver(ended)

    def remove(self, waiter: Waiter) -> None:
        """Wait no longer."""
        super().remove(waiter)
        self._unsubscribe_soon()

    async def close(self) -> None:
        """Stop listening; everybody who still waits gets an error."""
        self._closed = True
        await cancel_all(set(self._tasks))
        await self._disconnect()
        self._fail(closed_error())
        self._set_timer()

    def _track(self, job: JobHandle) -> None:
        if job.context is None or job.context.client != self._backend.client:
            self._on_own_channel.add(job.id)
            self._to_subscribe.append(job.id)
        elif job.context.epoch is None or job.context.epoch is not self.epoch:
            self._unread.add(job.id)

    # Listening

    async def _listen(self) -> None:
        failures = 0
        try:
            while True:
                try:
                    async for message in (await self._connect()).messages():
                        self._on_message(message)
                        failures = 0
                except (redis.RedisError, OSError, MutiraoError):
                    await self._disconnect()
                    await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                    failures += 1
        finally:
            self._listening = False

    async def _connect(self) -> Subscription:
        """Subscribe anew for every job still waited for. Nothing else may use the subscription before it has its connection."""
        self._channel = keyspace.reply_channel(self._backend.client).encode()
        subscription = self._driver.subscription()
        try:
            await subscription.subscribe(self._channel)
        except BaseException:
            await subscription.close()
            raise
        self._to_subscribe = list(self._on_own_channel)
        self._subscription = subscription
        await self._subscribe()
        return subscription

    async def _subscribe(self) -> None:
        """Subscribe to the channels of all jobs added in this turn of the loop, in one command."""
        ids, self._to_subscribe = self._to_subscribe, []
        if self._subscription is not None and ids:
            with contextlib.suppress(redis.RedisError, OSError):  # the listener sees the same failure and begins anew
                await self._subscription.subscribe(*(keyspace.record_key(id) for id in ids))

    async def _unsubscribe(self) -> None:
        channels = [keyspace.record_key(id) for id in self._to_unsubscribe if id not in self._on_own_channel]
        self._to_unsubscribe = []
        if self._subscription is not None and channels:
            with contextlib.suppress(redis.RedisError, OSError):
                await self._subscription.unsubscribe(*channels)

    def _on_message(self, message: dict[str, Any]) -> None:
        if message["type"] not in ("message", "subscribe"):
            return
        if message["type"] == "message":
            self._on_announcement(message["channel"] == self._channel, message["data"])
        elif message["channel"] == self._channel:
            self.epoch = object()
            self._unread.update(self._waiters.keys() - self._on_own_channel)
        else:
            self._unread.update(
                {message["channel"].decode().removeprefix(keyspace.record_key(""))} & self._on_own_channel
            )
        self._read_soon()

    def _on_announcement(self, grouped: bool, data: bytes) -> None:
        try:
            records = msgspec.json.decode(data if grouped else b"[" + data + b"]", type=list[JobRecord])
        except msgspec.DecodeError as exc:
            logger.warning("an announcement of %d bytes is not of job records: %s", len(data), exc)
            return  # the re-read finds what it was about
        self._complete(records, keep=grouped)

    async def _disconnect(self) -> None:
        subscription, self._subscription, self.epoch = self._subscription, None, None
        if subscription is not None:
            await subscription.close()

    # Reading

    def _read_soon(self) -> None:
        """Read the unread records, once the subscription is confirmed."""
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
                    await self._read_records(ids)
                except MutiraoError:
                    self._unread.update(ids)
                    await asyncio.sleep(BACKOFF_S[-1])
        finally:
            self._reading = False

    async def _reread(self) -> None:
        """Read once a second the records that were read longest ago, and go on while some of them have ended."""
        try:
            while self._waiters:
                await asyncio.sleep(REREAD_S)
                with contextlib.suppress(MutiraoError):  # Redis is away: the next look may find it
                    while ids := list(itertools.islice(self._waiters, READ_MAX)):
                        if not await self._read_records(ids):
                            break
                        if self._subscription is not None:
                            self._subscription.check_soon()
                        await asyncio.sleep(0)
        finally:
            self._rereading = False

    async def _read_records(self, ids: Sequence[str]) -> int:
        """Read records; return how many had ended."""
        ids = [id for id in ids if id in self._waiters]
        if not ids:
            return 0
        for id in ids:
            self._waiters[id] = self._waiters.pop(id)  # now the one read last
        return self._on_records(ids, await self._driver.run(self._backend.records(ids)))

    def _on_records(self, ids: Sequence[str], records: Sequence[JobRecord | None]) -> int:
        for id, record in zip(ids, records, strict=True):
            if record is None:
                self._fail(self._backend.not_found_error(id), [id])
            elif record.status == "QUEUED" and record.job.expires_at is not None and id not in self._deadlines:
                # By Redis's clock it has not passed, whatever ours says.
                self._set_deadline(
                    id, time.monotonic() + max(BACKOFF_S[0], record.job.expires_at - self._backend.now())
                )
        self._set_timer()
        done = [record for record in records if record is not None and record.done]
        self._complete(done)
        return len(done)

    # Deadlines

    def _set_deadline(self, id: str, deadline: float) -> None:
        self._deadlines[id] = deadline
        heapq.heappush(self._deadline_heap, (deadline, id))

    def _set_timer(self) -> None:
        """Set the timer to the earliest deadline."""
        if len(self._deadline_heap) > 2 * len(self._deadlines) + READ_MAX:
            self._deadline_heap = [(deadline, id) for id, deadline in self._deadlines.items()]
            heapq.heapify(self._deadline_heap)
        while self._deadline_heap and self._deadlines.get(self._deadline_heap[0][1]) != self._deadline_heap[0][0]:
            heapq.heappop(self._deadline_heap)
        at = self._deadline_heap[0][0] if self._deadline_heap else None
        if self._timer is not None and (at is None or at < self._timer_at):
            self._timer.cancel()
            self._timer = None
        if self._timer is None and at is not None:
            self._timer, self._timer_at = asyncio.get_running_loop().call_at(at, self._on_deadline), at

    def _on_deadline(self) -> None:
        self._timer = None
        now, ids = time.monotonic(), []
        while self._deadline_heap and self._deadline_heap[0][0] <= now:
            deadline, id = heapq.heappop(self._deadline_heap)
            if self._deadlines.get(id) == deadline:
                del self._deadlines[id]
                ids.append(id)
        if ids:
            self._spawn(self._expire(ids))
        self._set_timer()

    async def _expire(self, ids: Sequence[str]) -> None:
        for first in range(0, len(ids), READ_MAX):
            some = ids[first : first + READ_MAX]
            try:
                self._on_records(some, await self._driver.run(self._backend.cancel_or_expire(some, "expired")))
            except MutiraoError:
                for id in some:
                    if id in self._waiters:
                        self._set_deadline(id, time.monotonic() + BACKOFF_S[-1])
                self._set_timer()

    # Delivery

    def _complete(self, records: Iterable[JobRecord], *, keep: bool = False) -> None:
        ended: Completions = []
        for record in records:
            if record.done and record.task_id in self._waiters:
                ended.append((record.task_id, record))
            elif record.done and keep and record.task_id not in self._early:
                self._early[record.task_id] = record
                self._early_bytes += len(bytes(record.result))
        if self._early_bytes > EARLY_BYTES_MAX:
            self._early.clear()
            self._early_bytes, self.epoch = 0, object()
        self._deliver(ended)
        self._unsubscribe_soon()

    def _fail(self, error: Exception, ids: Iterable[str] | None = None) -> None:
        self._deliver([(id, error) for id in (list(self._waiters) if ids is None else ids)])
        self._unsubscribe_soon()

    def _forget(self, id: str) -> None:
        self._waiters.pop(id, None)
        self._deadlines.pop(id, None)
        if id in self._on_own_channel:
            self._on_own_channel.discard(id)
            self._to_unsubscribe.append(id)

    def _unsubscribe_soon(self) -> None:
        if self._to_unsubscribe and self._subscription is not None:
            self._spawn(self._unsubscribe())

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("waiting for results failed", exc_info=error)
            self._fail(
                error if isinstance(error, Exception) else MutiraoError(repr(error))
            )  # a bug here must not leave anybody waiting for ever
