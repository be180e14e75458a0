"""A submitted request, as its submitter or anybody else with its id sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec

from mutirao.errors import JobNotFound
from mutirao.wire.messages import JobRecord
from mutirao.wire.tensors import Array

if TYPE_CHECKING:
    from mutirao.client.async_client import AsyncClient
    from mutirao.client.client import Client


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


class Origin(NamedTuple):
    """What a call knows of the jobs that it has submitted.

    Attributes:
        client: the process on whose reply channel they are announced.
        heard: what `Replies.heard` was before they were submitted.
        deadline: when they expire, by the process's own monotonic clock.
    """

    client: str
    heard: object | None
    deadline: float


class Handle:
    """An id, what its submitter knows of it, and, once somebody has waited for it, its finished record."""

    def __init__(self, id: str, origin: Origin | None = None) -> None:
        """Take the id; `origin` is None for a job that was submitted elsewhere or before."""
        self.id = id
        self.origin = origin
        self.finished: JobRecord | None = None

    def __repr__(self) -> str:
        """Show the id."""
        return f"{type(self).__name__}({self.id!r})"

    def __hash__(self) -> int:
        """Hash by id."""
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        """Two handles of one id are equal."""
        return isinstance(other, type(self)) and self.id == other.id

    def told(self, how: JobRecord | Exception) -> Self:
        """Keep the finished record that a wait found; an error that is not about this job alone is raised.

        A job that does not exist says so to whoever asks for its result.
        """
        if isinstance(how, JobRecord):
            self.finished = how
        elif not isinstance(how, JobNotFound):
            raise how
        return self


class Job(Handle):
    """A job of a blocking client. Every method may raise BrokerUnavailable, and JobNotFound or ResultExpired."""

    def __init__(self, client: Client, id: str, origin: Origin | None = None) -> None:
        """Take the client that the job is read through."""
        super().__init__(id, origin)
        self._client = client

    @property
    def status(self) -> str:
        """The state now: queued, running, succeeded, failed, cancelled or expired."""
        return self.record().state

    @property
    def timings(self) -> Timings:
        """When it was queued, started and finished."""
        return timings(self.record())

    def record(self) -> JobRecord:
        """Read the whole record: state, timings, attempts, worker."""
        return self._client.record(self.id)

    def done(self) -> bool:
        """Whether the state is a terminal one."""
        return self.record().done

    def result(self, timeout: float | None = None) -> dict[str, Array]:
        """Wait for the outputs, by name; each has one element or row for each row of the request.

        A job that was waited for keeps its end, so this asks nothing more, however long ago that was.

        Args:
            timeout: the longest wait in seconds; None waits until the job ends or expires.

        Raises:
            ResultTimeout: the time passed; the job goes on.
            JobError: it ended without a result: ModelFailed, JobExpired, JobCancelled, TimeLimitExceeded, WorkerLost.
            InvalidRequest: the worker refused the request.
        """
        return self._client.wait(self, timeout)

    def cancel(self) -> bool:
        """Cancel it if it still waits; False where it runs or has ended."""
        return self._client.cancel(self.id)


class AsyncJob(Handle):
    """A job of an asyncio client; the same verbs as `Job`, awaited."""

    def __init__(self, client: AsyncClient, id: str, origin: Origin | None = None) -> None:
        """Take the client that the job is read through."""
        super().__init__(id, origin)
        self._client = client

    async def status(self) -> str:
        """The state now: queued, running, succeeded, failed, cancelled or expired."""
        return (await self.record()).state

    async def timings(self) -> Timings:
        """When it was queued, started and finished."""
        return timings(await self.record())

    async def record(self) -> JobRecord:
        """Read the whole record."""
        return await self._client.record(self.id)

    async def done(self) -> bool:
        """Whether the state is a terminal one."""
        return (await self.record()).done

    async def result(self, timeout: float | None = None) -> dict[str, Array]:  # noqa: ASYNC109 - the same verb as Job's
        """Wait for the outputs; see `Job.result`."""
        return await self._client.wait(self, timeout)

    async def cancel(self) -> bool:
        """Cancel it if it still waits; False where it runs or has ended."""
        return await self._client.cancel(self.id)


def timings(record: JobRecord) -> Timings:
    """Read the timings of a record."""
    return Timings(queued_at=record.job.queued_at, started_at=record.job.started_at, finished_at=record.job.finished_at)


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else max(0.0, end - start)
