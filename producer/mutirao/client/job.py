"""Handles of submitted requests: the id, what the submitter knows of it, and its timings."""

from __future__ import annotations

from typing import NamedTuple, Self

import msgspec

from mutirao.errors import JobNotFound
from mutirao.wire.messages import JobRecord


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """When things happened, in seconds since the epoch by Redis's clock; None for what has not."""

    queued_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None

    @property
    def queued_s(self) -> float | None:
        """How long the request waited."""
        return _between(self.queued_at, self.started_at)

    @property
    def computed_s(self) -> float | None:
        """How long the worker had it."""
        return _between(self.started_at, self.finished_at)


class SubmissionContext(NamedTuple):
    """What a submitting call knows of its jobs.

    Attributes:
        client: the process on whose reply channel they are announced.
        epoch: the value of `JobWaiters.epoch` before they were submitted.
        deadline: when they expire, by the process's own monotonic clock.
    """

    client: str
    epoch: object | None
    deadline: float


class JobHandle:
    """A job's id, what its submitter knows of it, and its finished record once somebody has waited for it."""

    def __init__(self, id: str, context: SubmissionContext | None = None) -> None:
        """Take the id; `context` is None for a job that was submitted elsewhere or before."""
        self.id = id
        self.context = context
        self.finished: JobRecord | None = None

    def __repr__(self) -> str:
        """Show the id."""
        return f"{type(self).__name__}({self.id!r})"

    def __hash__(self) -> int:
        """Hash by id."""
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        """Compare ids."""
        return isinstance(other, type(self)) and self.id == other.id

    def with_outcome(self, outcome: JobRecord | Exception) -> Self:
        """Keep the finished record that a wait found, and return the handle.

        A job that does not exist raises when its result is asked for.

        Raises:
            MutiraoError: any other error.
        """
        if isinstance(outcome, JobRecord):
            self.finished = outcome
        elif not isinstance(outcome, JobNotFound):
            raise outcome
        return self


def timings(record: JobRecord) -> Timings:
    """Read the timings of a record."""
    return Timings(queued_at=record.job.queued_at, started_at=record.job.started_at, finished_at=record.job.finished_at)


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)
