"""Which live workers serve a model, as they announce it; read only where this worker cannot serve a request itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import redis

from mutirao import keyspace, registry
from mutirao.registry import WorkerInfo

logger = logging.getLogger(__name__)

# How long what was read is remembered.
KNOWN_S = 0.25


class LiveWorkers:
    """The live workers; where Redis does not answer, those that it named last."""

    def __init__(self, client: redis.Redis, now: Callable[[], float]) -> None:
        """Take the Redis in which workers announce themselves, and its clock."""
        self._client = client
        self._known_until = 0.0
        self._now = now
        self._workers: tuple[WorkerInfo, ...] = ()

    def serving(self, model: str) -> list[WorkerInfo]:
        """Return those that serve a model."""
        if time.monotonic() >= self._known_until:
            self._read()
            self._known_until = time.monotonic() + KNOWN_S
        return [worker for worker in self._workers if model in worker.models]

    def _read(self) -> None:
        now = self._now()
        try:
            announced: Any = self._client.hgetall(keyspace.WORKERS)
            leases: Any = self._client.zrangebyscore(keyspace.LEASES, now, "+inf")
        except redis.RedisError as exc:
            logger.debug("cannot ask who serves what: %s", exc)
        else:
            self._workers = registry.decode_registry({}, announced, now, leases).workers
