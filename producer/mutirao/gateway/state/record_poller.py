"""Poll the records of all jobs that streams follow, by one read for all of them, while any stream is open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol

from mutirao import errors
from mutirao.client.redis_backend import READ_MAX, RedisBackend
from mutirao.redisdb.drivers import AsyncRedisDriver
from mutirao.wire.messages import JobRecord

# How often; a job's end arrives at once, by the result listener.
POLL_S = 0.5


class Follower(Protocol):
    """A stream that follows one job.

    Attributes:
        id: the job.
    """

    id: str

    def on_record(self, record: JobRecord) -> None:
        """Take the job's latest record."""


class RecordPoller:
    """Polls for the streams of one process."""

    def __init__(self, backend: RedisBackend, redis: AsyncRedisDriver) -> None:
        """Take the operations, and what runs them."""
        self._backend, self._redis = backend, redis
        self._open: dict[Follower, str] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, stream: Follower) -> None:
        """Poll for this stream too."""
        self._open[stream] = ""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._poll_all())

    def discard(self, stream: Follower) -> None:
        """Stop polling for it."""
        self._open.pop(stream, None)

    async def _poll_all(self) -> None:
        while self._open:
            await asyncio.sleep(POLL_S)
            streams = list(self._open)
            for first in range(0, len(streams), READ_MAX):
                with contextlib.suppress(errors.MutiraoError):  # Redis is away: the next poll may reach it
                    await self._poll(streams[first : first + READ_MAX])

    async def _poll(self, streams: Sequence[Follower]) -> None:
        records = await self._redis.run(self._backend.records([stream.id for stream in streams]))
        for stream, record in zip(streams, records, strict=True):
            if record is None or stream not in self._open or record.done:
                continue  # its end arrives by the result listener
            state = f"{record.status} {record.job.started_at} {len(record.job.history)}"
            if self._open[stream] != state:
                self._open[stream] = state
                stream.on_record(record)
