"""A batch on its way, and what the dispatcher asks of its two neighbours: the pool that runs it, the hold its requests come from."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from mutirao_worker.engine.request import Request
from mutirao_worker.engine.script_client import Call
from mutirao_worker.inference.inputs import PackedRequest


class Batch:
    """Requests that go through the model together, in one process of the pool."""

    __slots__ = ("began", "id", "limits", "model", "number", "pid", "requests", "started_at", "stopped", "terminated")

    _numbers = itertools.count(1)

    def __init__(self, requests: list[Request], limits: tuple[float | None, float | None]) -> None:
        """Take the requests, in order, and the hard and soft time limits in seconds."""
        self.number = next(self._numbers)
        self.id = requests[0].id
        self.model = requests[0].model
        self.requests = requests
        self.limits = limits
        self.began = time.monotonic()
        self.started_at = time.time()
        self.pid: int | None = None
        self.stopped = False
        self.terminated: dict[str, int | None] = {}


class Pool(Protocol):
    """The pool's slots."""

    @property
    def slots(self) -> int:
        """How many batches may run at once."""

    @property
    def starting(self) -> int:
        """How many more there are in a moment."""

    def send(self, batch: Batch, asked: list[PackedRequest]) -> None:
        """Run a batch; `Dispatcher.finished` or `Dispatcher.lost` hears how it went."""

    def terminate(self, batch: Batch, signal: Any) -> None:
        """End the process that runs a batch."""

    def stop(self, batch: Batch) -> None:
        """End it, too, where it has not said yet that it runs the batch: nothing more will be heard from it."""

    def unsent(self, batches: list[Batch]) -> list[Batch]:
        """Take batches out of the pool that no process has begun to read."""


class RequestSource(Protocol):
    """Where requests come from, and where they are given back to."""

    def reserving(self) -> Call | None:
        """Make the call that takes more requests; None where none are wanted."""

    def arrived(self, call: Call, reply: Any) -> None:
        """Offer what that call brought."""

    def unsure(self) -> None:
        """Note that a call that takes requests may have run unheard."""

    def pull(self) -> None:
        """Take more requests, if more are wanted."""

    def give_back(self, requests: Iterable[Request]) -> None:
        """Put requests back where others can take them."""

    def hand_over(self, requests: Sequence[Request]) -> Sequence[Request]:
        """Give back requests that this worker's copy of their model refuses, where another's may take them. Returns those."""

    def give_back_unheard(self) -> int:
        """Put back what is reserved here and has never been heard of. Returns how many."""
