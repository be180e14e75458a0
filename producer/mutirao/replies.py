"""Waiting for results: one subscription for any number of jobs, no polling.

A result is announced on the channel of its record's key, once. So the order is: subscribe, then read the record when Redis
confirms the subscription. A result that came earlier is found by that read, a later one is announced; after a broken
connection the same two steps are done again for every job still waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import redis
import redis.asyncio

from mutirao import queues
from mutirao.errors import JobNotFound, MutiraoError
from mutirao.messages import JobRecord

PubSub = redis.asyncio.client.PubSub
Read = Callable[[Sequence[str]], Awaitable[list[JobRecord | None]]]

# A subscription needs a channel before it can listen; this one carries nothing yet.
IDLE_CHANNEL = "mutirao:replies"
BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0)


class Replies:
    """Futures of finished records, by job id. Lives on one event loop."""

    def __init__(self, subscription: Callable[[], PubSub], read: Read, missing: Callable[[str], JobNotFound]) -> None:
        """Take the ways to subscribe, to read records, and to say that a job is not there."""
        self._subscription = subscription
        self._read = read
        self._missing = missing
        self._waiting: dict[str, asyncio.Future[JobRecord]] = {}
        self._joining: list[str] = []
        self._leaving: list[str] = []
        self._unread: set[str] = set()
        self._pubsub: PubSub | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening = False
        self._reading = False

    def future(self, id: str) -> asyncio.Future[JobRecord]:
        """Return the future of a job's finished record; several callers share one."""
        if id not in self._waiting:
            self._waiting[id] = asyncio.get_running_loop().create_future()
            self._joining.append(id)
            if not self._listening:
                self._listening = True
                self._spawn(self._listen())
            elif self._pubsub is not None and len(self._joining) == 1:
                self._spawn(self._join())
        return self._waiting[id]

    async def close(self) -> None:
        """Stop listening; what is still waited for is cancelled."""
        await ended(set(self._tasks))
        for future in self._waiting.values():
            future.cancel()
        self._waiting.clear()
        await self._drop()

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                await self._connect()
                while True:
                    self._take(await self._pubsub_open().get_message(timeout=None))
                    failures = 0
            except (redis.RedisError, OSError, MutiraoError):
                await self._drop()
                await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                failures += 1
            except Exception as exc:  # a bug here must not leave anybody waiting for ever
                for id in list(self._waiting):
                    self._fail(id, exc)
                raise

    async def _connect(self) -> None:
        """Subscribe anew for everything still waited for. Nobody else may use the subscription before it has its connection."""
        pubsub = self._subscription()
        await pubsub.subscribe(IDLE_CHANNEL)
        self._joining = list(self._waiting)
        self._pubsub = pubsub
        await self._join()

    async def _join(self) -> None:
        """Subscribe for all jobs that came in this turn of the loop, in one command."""
        ids, self._joining = self._joining, []
        if self._pubsub is not None and ids:
            with contextlib.suppress(redis.RedisError, OSError):  # the listener sees the same failure and begins anew
                await self._pubsub.subscribe(*(queues.record_key(id) for id in ids))

    async def _leave(self) -> None:
        ids, self._leaving = self._leaving, []
        if self._pubsub is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                await self._pubsub.unsubscribe(*(queues.record_key(id) for id in ids if id not in self._waiting))

    def _take(self, message: dict[str, Any] | None) -> None:
        if message is None or message["type"] not in ("message", "subscribe"):
            return
        id = message["channel"].decode().removeprefix(queues.record_key(""))
        if id not in self._waiting:
            return
        if message["type"] == "message":
            self._settle(id, msgspec.json.decode(message["data"], type=JobRecord))
        else:
            self._unread.add(id)
            if not self._reading:
                self._reading = True
                self._spawn(self._read_unread())

    async def _read_unread(self) -> None:
        await asyncio.sleep(0)  # let the other confirmations of the same subscription come in
        while self._unread:
            ids, self._unread = list(self._unread), set()
            try:
                records = await self._read(ids)
            except MutiraoError:
                self._unread.update(ids)
                await asyncio.sleep(BACKOFF_S[-1])
                continue
            for id, record in zip(ids, records, strict=True):
                if record is None:
                    self._fail(id, self._missing(id))
                else:
                    self._settle(id, record)
        self._reading = False

    def _settle(self, id: str, record: JobRecord) -> None:
        if record.done and (future := self._forget(id)):
            future.set_result(record)

    def _fail(self, id: str, error: Exception) -> None:
        if future := self._forget(id):
            future.set_exception(error)

    def _forget(self, id: str) -> asyncio.Future[JobRecord] | None:
        future = self._waiting.pop(id, None)
        self._leaving.append(id)
        if len(self._leaving) == 1:
            self._spawn(self._leave())
        return future if future and not future.done() else None

    async def _drop(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            with contextlib.suppress(redis.RedisError, OSError):
                await pubsub.aclose()

    def _pubsub_open(self) -> PubSub:
        if self._pubsub is None:
            raise redis.ConnectionError("the subscription was dropped")
        return self._pubsub

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def ended(tasks: set[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended: redis-py loses a cancellation that comes while it connects."""
    while running := {task for task in tasks if not task.done()}:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=0.1)
    await asyncio.gather(*tasks, return_exceptions=True)
