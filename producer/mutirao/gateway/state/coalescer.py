"""Submit requests that arrive together by one script call: what arrives while a call is under way goes with the next.

No request is delayed for it: where no call is under way, a request goes at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mutirao import errors
from mutirao.client.encoding import EncodedGroup, Prepared, SubmitOptions
from mutirao.client.job import JobHandle, SubmissionContext
from mutirao.client.redis_backend import RedisBackend
from mutirao.client.result_listener import ResultListener
from mutirao.gateway.state.metrics import Metrics
from mutirao.redisdb.drivers import AsyncRedisDriver
from mutirao.wire.messages import Tensor

# Requests in one script call: Redis runs nothing else meanwhile, for about a millisecond.
TOGETHER_MAX = 256
# More requests of one call are encoded in a thread, so that the event loop goes on.
MANY = 500
LARGE_BYTES = 1024 * 1024
# Jobs that are remembered, the latest ones; the records of others are read.
RECENT_MAX = 100_000


class Queued(NamedTuple):
    """A request that is in the queue, and whether a job of its id was there before."""

    job: JobHandle
    known: bool = False


class Item(NamedTuple):
    """A request that waits to be queued."""

    options: SubmitOptions
    id: str
    group: EncodedGroup
    queued: asyncio.Future[Queued]


class SubmitCoalescer:
    """Queues requests for all handlers of the process."""

    def __init__(
        self, backend: RedisBackend, redis: AsyncRedisDriver, listener: ResultListener, metrics: Metrics
    ) -> None:
        """Take the operations, what runs them, and the listener that receives the results."""
        self._backend = backend
        self._redis = redis
        self._listener = listener
        self._metrics = metrics
        self._gathered: dict[tuple[object, ...], list[Item]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def one(self, options: SubmitOptions, inputs: tuple[Tensor, ...], id: str) -> asyncio.Future[Queued]:
        """Queue one request, together with others of the same model, priority, deadline and tenant that arrive at the same time.

        Returns:
            A future of the job. It raises QueueFull where the queue has no room, BrokerUnavailable where Redis is away.

        Raises:
            PayloadTooLarge: the request is.
        """
        (group,) = self._backend.encoded(options, [inputs], [id])
        item = Item(options, id, group, asyncio.get_running_loop().create_future())
        key = (options.model, options.priority, options.expires_s, options.tenant)
        gathered = self._gathered.get(key)
        if gathered is not None:
            gathered.append(item)
            return item.queued
        self._gathered[key] = [item]
        task = asyncio.get_running_loop().create_task(self._drain(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return item.queued

    async def many(
        self, options: SubmitOptions, bound: Prepared, ids: Sequence[str], *, large: bool = False
    ) -> list[Queued]:
        """Queue requests by a script call of their own, all of them or none.

        Raises:
            IdTaken: an id belongs to a job with other content.
            QueueFull: they do not fit.
        """
        if len(ids) > MANY or large:
            runs = await asyncio.to_thread(self._backend.encoded, options, bound, ids)
        else:
            runs = self._backend.encoded(options, bound, ids)
        epoch = self._listener.epoch
        submitted = await self._redis.run(self._backend.queue(options, ids, runs))
        self._metrics.queued(options.model, sum(group.template.rows * (len(group.items) // 3) for group in runs))
        origin, known, queued = self._origin(epoch, submitted.expires_s), submitted.repeated, []
        for first in range(0, len(submitted.ids), MANY):
            for at, id in enumerate(submitted.ids[first : first + MANY], first):
                queued.append(Queued(JobHandle(id, None if at in known else origin), at in known))
            if len(queued) % (20 * MANY) == 0:
                await asyncio.sleep(0)
        return queued

    async def _drain(self, key: tuple[object, ...]) -> None:
        """Queue what has gathered, and what gathers meanwhile, until nothing is left."""
        items: list[Item] = []
        try:
            while self._gathered[key]:
                items = self._gathered[key][:TOGETHER_MAX]
                self._gathered[key] = self._gathered[key][TOGETHER_MAX:]
                try:
                    await self._queue(items)
                except errors.BrokerUnavailable as exc:  # what gathered meanwhile would fail the same way
                    self._fail(items + self._gathered[key], exc)
                    self._gathered[key] = []
        except BaseException as exc:
            self._fail(items + self._gathered[key], exc)
            raise
        finally:
            del self._gathered[key]

    async def _queue(self, items: list[Item]) -> None:
        try:
            await self._together(items)
        except errors.QueueFull as exc:
            if len(items) == 1:
                self._fail(items, exc)
                return
            for item in items:  # there may be room for some of them
                await self._queue([item])
        except errors.BrokerUnavailable:
            raise
        except errors.MutiraoError as exc:
            self._fail(items, exc)

    async def _together(self, items: list[Item]) -> None:
        options, epoch = items[0].options, self._listener.epoch
        submitted = await self._redis.run(self._backend.queue(options, [item.id for item in items], _joined(items)))
        self._metrics.queued(options.model, sum(item.group.template.rows for item in items))
        origin = self._origin(epoch, submitted.expires_s)
        for item in items:
            if not item.queued.done():
                item.queued.set_result(Queued(JobHandle(item.id, origin)))

    def _origin(self, epoch: object | None, expires_s: float) -> SubmissionContext:
        return SubmissionContext(self._backend.client, epoch, asyncio.get_running_loop().time() + expires_s)

    def _fail(self, items: Sequence[Item], error: BaseException) -> None:
        failure = (
            error
            if isinstance(error, Exception)
            else errors.GatewayBusy("this gateway is stopping: send the request again")
        )
        for item in items:
            if not item.queued.done():
                item.queued.set_exception(failure)


class RecentSubmissions:
    """The jobs that this process has queued: it learns of their ends without asking Redis. A job is forgotten once its end was answered."""

    def __init__(self) -> None:
        """Begin with none."""
        self._origins: dict[str, SubmissionContext] = {}

    def keep(self, queued: Sequence[Queued]) -> None:
        """Remember the jobs of one request."""
        for job, known in queued:
            if not known and job.context is not None:
                self._origins[job.id] = job.context
        for id in list(self._origins)[: max(0, len(self._origins) - RECENT_MAX)]:
            del self._origins[id]

    def handles(self, ids: Iterable[str]) -> dict[str, JobHandle]:
        """Return those of the jobs that are remembered."""
        origins = ((id, self._origins.get(id)) for id in ids)
        return {id: JobHandle(id, origin) for id, origin in origins if origin is not None}

    def forget(self, ids: Iterable[str]) -> None:
        """Forget jobs whose ends were answered."""
        for id in ids:
            self._origins.pop(id, None)


def is_large(inputs: Iterable[Tensor]) -> bool:
    """Whether a request holds so much that encoding it takes a while."""
    return sum(len(tensor.data) for tensor in inputs) > LARGE_BYTES


def _joined(items: Sequence[Item]) -> list[EncodedGroup]:
    """Join neighbouring requests of one template into one group."""
    runs: list[EncodedGroup] = []
    for item in items:
        if runs and runs[-1].template is item.group.template:
            runs[-1].items.extend(item.group.items)
        else:
            runs.append(EncodedGroup(item.group.template, list(item.group.items)))
    return runs
