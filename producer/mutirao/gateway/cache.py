"""What waits for each model: one look at Redis for all who ask, kept for a moment."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence

from mutirao import queue_stats
from mutirao.client.redis_backend import RedisBackend
from mutirao.queue_stats import QueueDepth
from mutirao.redisdb.drivers import AsyncRedisDriver

# An estimate made of it is no better than this.
KEPT_S = 0.5

Found = dict[str, tuple[QueueDepth, ...]]


class QueueStatsCache:
    """The lines of all models by one call, read when somebody asks."""

    def __init__(self, backend: RedisBackend, redis: AsyncRedisDriver) -> None:
        """Take the operations, and what runs them."""
        self._backend, self._redis = backend, redis
        self._found: Found = {}
        self._models: frozenset[str] = frozenset()
        self._read_at = float("-inf")
        self._reading: asyncio.Task[Found] | None = None

    async def of(self, models: Sequence[str]) -> Found:
        """Read the lines of models, by model: the queue's own and each tenant's that waits.

        Raises:
            BrokerUnavailable: Redis does not answer.
        """
        if time.monotonic() - self._read_at <= KEPT_S and self._models.issuperset(models):
            return self._found
        if self._reading is None or self._reading.done() or not self._models.issuperset(models):
            self._models = frozenset(models)
            self._reading = asyncio.create_task(self._read(models))
            self._reading.add_done_callback(_noticed)
        return await asyncio.shield(self._reading)

    async def _read(self, models: Sequence[str]) -> Found:
        asked_at = time.monotonic()
        found: defaultdict[str, list[QueueDepth]] = defaultdict(list)
        for depth in await self._redis.run(queue_stats.depths(self._backend, models)):
            found[depth.model].append(depth)
        self._found, self._read_at = {name: tuple(lines) for name, lines in found.items()}, asked_at
        return self._found


def whole(model: str, lines: Sequence[QueueDepth]) -> QueueDepth | None:
    """Add a model's lines up; None where nobody can look into them."""
    if not lines:
        return None
    oldest = max((line.oldest_s for line in lines if line.oldest_s is not None), default=None)
    return QueueDepth(model, "", sum(line.requests for line in lines), sum(line.rows for line in lines), oldest)


def _noticed(reading: asyncio.Task[Found]) -> None:
    """Take note of a failure that perhaps nobody waits for."""
    if not reading.cancelled():
        reading.exception()
