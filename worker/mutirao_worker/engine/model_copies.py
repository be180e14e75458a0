"""Copies of one model that differ from worker to worker: what the signature of this worker's refuses may be for another's."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mutirao_worker.engine.live_workers import LiveWorkers
from mutirao_worker.models.model_host import ModelHost

if TYPE_CHECKING:
    from mutirao_worker.engine.request import Request

# For this long a worker takes nothing from a queue after it has handed requests over: its neighbours are to have them.
LEAVE_S = 0.25


class ModelCopies:
    """Which copies of its models other workers serve; read only once a request has been refused."""

    def __init__(self, host: ModelHost, live_workers: LiveWorkers) -> None:
        """Take this worker's own models, and the workers that serve others."""
        self._host = host
        self._left_until: dict[str, float] = {}
        self._live_workers = live_workers

    def has_refused(self, request: Request) -> bool:
        """Whether this worker's copy has refused a request before."""
        return self._digest(request.model) in request.refused_by

    def another_may_take(self, request: Request) -> bool:
        """Whether a live worker serves a copy that has not refused a request yet."""
        seen = request.refused_by | {self._digest(request.model), ""}
        serving = self._live_workers.serving(request.model)
        return any(worker.digests.get(request.model, "") not in seen for worker in serving)

    def grouped(self, requests: Iterable[Request]) -> dict[tuple[str, str], list[Request]]:
        """Group requests by their model and by the digest of the copy that refused them."""
        groups: defaultdict[tuple[str, str], list[Request]] = defaultdict(list)
        for request in requests:
            groups[request.model, self._digest(request.model)].append(request)
        return groups

    def leave_to_others(self, queue: str) -> None:
        """Leave a queue to others for a moment."""
        self._left_until[queue] = time.monotonic() + LEAVE_S

    def is_left_to_others(self, queue: str) -> bool:
        """Whether a queue is left to others now."""
        return bool(self._left_until) and time.monotonic() < self._left_until.get(queue, 0.0)

    def _digest(self, model: str) -> str:
        """Return the digest of this worker's copy of a model; "" where it cannot serve it, which says nothing of the copy."""
        return "" if self._host.failure(model) else self._host.digest(model)
