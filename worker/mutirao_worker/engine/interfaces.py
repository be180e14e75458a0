"""What the engine asks of its surroundings: the pool, the source of requests, Celery's registers, task events, follow-up tasks."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any, Protocol

from mutirao_worker.engine.batch import Batch
from mutirao_worker.engine.outcome import Outcome
from mutirao_worker.engine.request import Request
from mutirao_worker.engine.script_client import Then
from mutirao_worker.inference.inputs import PackedRequest


class Pool(Protocol):
    """The pool's slots."""

    @property
    def slots(self) -> int:
        """How many batches may run at once."""

    @property
    def starting(self) -> int:
        """How many slots are about to be added."""

    def send(self, batch: Batch, packed: list[PackedRequest]) -> None:
        """Run a batch; `Dispatcher.finished` or `Dispatcher.batch_failed` is called at its end."""

    def terminate(self, batch: Batch, signal: Any) -> None:
        """End the process that runs a batch."""

    def stop(self, batch: Batch) -> None:
        """End the process that has or gets a batch, also one that has not accepted it yet; its result is discarded."""

    def recall_unsent(self, batches: list[Batch]) -> list[Batch]:
        """Take batches out of the pool that no process has begun to read."""


class RequestSource(Protocol):
    """Where requests come from, and where they are given back to."""

    def reserve_call(self) -> Then | None:
        """Make the call that takes more requests, and what takes its reply; None where none are wanted."""

    def pull(self) -> None:
        """Take more requests, if more are wanted."""

    def return_requests(self, requests: Iterable[Request]) -> None:
        """Put requests back where others can take them."""

    def hand_over(self, requests: Sequence[Request]) -> Sequence[Request]:
        """Give back requests that this worker, or its copy of their model, cannot answer, where another's may. Returns those."""

    def return_unacknowledged(self) -> int:
        """Put back what is reserved here in a reply that was lost. Returns how many."""


class RequestRegistry(Protocol):
    """The registers in which Celery's remote control finds requests."""

    @property
    def revoked(self) -> Container[str]:
        """The ids of the requests that the worker has been told to drop."""

    def add(self, requests: Iterable[Request]) -> None:
        """Enter requests that have come in."""

    def mark_waiting(self, request: Request) -> None:
        """Enter a request among those that wait for a slot."""

    def mark_running(self, requests: Iterable[Request]) -> None:
        """Enter requests among those that run."""

    def unmark_running(self, request: Request) -> None:
        """Take a request out of those that run."""

    def remove(self, request: Request) -> None:
        """Take a request out of every register."""

    def count_succeeded(self, count: int) -> None:
        """Count requests that were answered."""


class TaskEventSink(Protocol):
    """Takes the task events of requests."""

    def received(self, requests: Sequence[Request]) -> None:
        """Send that requests were taken from their queue."""

    def started(self, requests: Sequence[Request]) -> None:
        """Send that requests went to a process."""

    def succeeded(self, answers: Sequence[tuple[str, str]], runtime: float) -> None:
        """Send that requests were answered: the id of each, and a description of its answer."""

    def failed(self, id: str, shown: str) -> None:
        """Send that a request failed; `shown` is the error without a word of the payload."""

    def revoked(self, id: str, *, expired: bool, terminated: bool = False, signum: int | None = None) -> None:
        """Send that a request was cancelled, or that its deadline passed."""

    def retried(self, id: str, why: str) -> None:
        """Send that a request is to run again."""


class FollowUps(Protocol):
    """Runs what a stock client wants to be run after its request."""

    def plan(self, outcome: Outcome) -> Outcome:
        """Give what is to follow its ids, and name it in the record."""

    def follow(self, outcome: Outcome) -> None:
        """Run what is to follow a request that has ended."""
