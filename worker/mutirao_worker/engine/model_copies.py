"""Copies of one model that differ from worker to worker: what the signature of this worker's refuses may be for another's."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import redis

from mutirao import keyspace, registry
from mutirao.registry import WorkerInfo
from mutirao_worker.engine.leases import Leases
from mutirao_worker.models.model_host import ModelHost

if TYPE_CHECKING:
    from mutirao_worker.engine.request import Request

logger = logging.getLogger(__name__)

# For this long a worker takes nothing from a queue after it has handed requests over: its neighbours are to have them.
LEAVE_S = 0.25
# How long the other workers' models are remembered.
KNOWN_S = 0.25


class ModelCopies:
    """Which copies of its models other workers serve; read only once a request has been refused."""

    def __init__(self, host: ModelHost, leases: Leases) -> None:
        """Take this worker's own models, and what it holds of Redis."""
        self._host = host
        self._known_until = 0.0
        self._left_until: dict[str, float] = {}
        self._leases = leases
        self._workers: tuple[WorkerInfo, ...] = ()

    def has_refused(self, request: Request) -> bool:
        """Whether this worker's copy has refused a request before."""
        return self._host.digest(request.model) in request.refused_by

    def another_may_take(self, request: Request) -> bool:
        """Whether a live worker serves a copy that has not refused a request yet."""
        seen = request.refused_by | {self._host.digest(request.model), ""}
        return any(worker.digests.get(request.model, "") not in seen for worker in self._live_workers())

    def grouped(self, requests: Iterable[Request]) -> dict[tuple[str, str], list[Request]]:
        """Group requests by their model and by the digest of this worker's copy of it."""
        groups: defaultdict[tuple[str, str], list[Request]] = defaultdict(list)
        for request in requests:
            groups[request.model, self._host.digest(request.model)].append(request)
        return groups

    def leave_to_others(self, queue: str) -> None:
        """Leave a queue to others for a moment."""
        self._left_until[queue] = time.monotonic() + LEAVE_S

    def is_left_to_others(self, queue: str) -> bool:
        """Whether a queue is left to others now."""
        return bool(self._left_until) and time.monotonic() < self._left_until.get(queue, 0.0)

    def _live_workers(self) -> tuple[WorkerInfo, ...]:
        if time.monotonic() >= self._known_until:
            now, client = self._leases.now(), self._leases.scripts.client
            try:
                announced: Any = client.hgetall(keyspace.WORKERS)
                leases: Any = client.zrangebyscore(keyspace.LEASES, now, "+inf")
            except redis.RedisError as exc:
                logger.debug("cannot ask who serves what: %s", exc)
            else:
                self._workers = registry.decode_registry({}, announced, now, leases).workers
            self._known_until = time.monotonic() + KNOWN_S
        return self._workers
