"""What waits for each model, read from Redis once for all requests within half a second."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence

from mutirao import queue_stats
from mutirao.client.redis_backend import RedisBackend
from mutirao.queue_stats import QueueDepth
from mutirao.redisdb.drivers import AsyncRedisDriver
from mutirao.redisdb.refreshed_value import Refreshed

# An estimate made of it is no better than this.
KEPT_S = 0.5

Depths = dict[str, tuple[QueueDepth, ...]]


class QueueStatsCache:
    """The queue depths of all models, read by one call."""

    def __init__(self, backend: RedisBackend, redis: AsyncRedisDriver) -> None:
        """Take the operations, and what runs them."""
        self._backend, self._redis = backend, redis
        self._models: frozenset[str] = frozenset()
        self._depths = Refreshed(functools.partial(self._read, ()))

    async def of(self, models: Sequence[str]) -> Depths:
        """Return the queue depths by model: those without a tenant, and those of each tenant that has requests waiting.

        Raises:
            BrokerUnavailable: Redis does not answer.
        """
        if not self._models.issuperset(models):
            self._models = frozenset(models)
            self._depths = Refreshed(functools.partial(self._read, models))
        return await self._depths.get(KEPT_S)

    async def _read(self, models: Sequence[str]) -> Depths:
        by_model: defaultdict[str, list[QueueDepth]] = defaultdict(list)
        for depth in await self._redis.run(queue_stats.depths(self._backend, models)):
            by_model[depth.model].append(depth)
        return {name: tuple(depths) for name, depths in by_model.items()}


def total(model: str, depths: Sequence[QueueDepth]) -> QueueDepth | None:
    """Add up a model's queue depths; return None where the broker does not tell them."""
    if not depths:
        return None
    oldest = max((depth.oldest_s for depth in depths if depth.oldest_s is not None), default=None)
    return QueueDepth(model, "", sum(depth.requests for depth in depths), sum(depth.rows for depth in depths), oldest)
