"""A batch: requests that go through the model together."""

from __future__ import annotations

import itertools
import time

from mutirao_worker.engine.request import Request


class Batch:
    """Requests that go through the model together, in one process of the pool.

    Attributes:
        fetching: its offloaded payloads are being read; no process has it.
        limits: the hard and the soft time limit, in seconds.
        terminated: the signals by which requests of it were terminated, by id.
    """

    __slots__ = ("began", "fetching", "id", "limits", "model", "number", "pid", "requests", "started_at", "terminated")

    _numbers = itertools.count(1)

    def __init__(self, requests: list[Request], limits: tuple[float | None, float | None]) -> None:
        self.number = next(self._numbers)
        self.id = requests[0].id
        self.model = requests[0].model
        self.requests = requests
        self.limits = limits
        self.began = time.monotonic()
        self.started_at = time.time()
        self.pid: int | None = None
        self.fetching = False
        self.terminated: dict[str, int | None] = {}
