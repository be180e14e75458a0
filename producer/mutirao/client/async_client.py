"""The asyncio client and its jobs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from mutirao import errors, settings
from mutirao.client.backend import NOT_PICKLED, checked_jobs, seconds
from mutirao.client.backends import backend_for
from mutirao.client.encoding import SubmitOptions
from mutirao.client.event_loops import LoopClients
from mutirao.client.job import JobHandle, SubmissionContext, Timings, timings
from mutirao.client.waiter import Completions, Waiter
from mutirao.registry import ModelInfo, Registry
from mutirao.wire.messages import JobRecord
from mutirao.wire.tensors import Array


class AsyncClient:
    """Submits requests and awaits their results; the verbs are those of `Client`, which documents them.

    Event loops may share one, in turn or at the same time: each has connections of its own, which end with it.
    """

    def __init__(self, broker_url: str | None = None, *, check: bool = True, **given: Any) -> None:
        """Take the broker's URL and any other setting by name; nothing connects yet."""
        self.settings = settings.load(broker_url=broker_url, **given)
        self._loops = LoopClients(backend_for(self.settings), self.settings, check=check)

    def __reduce__(self) -> Any:
        """Refuse to be pickled or copied: it holds connections."""
        raise TypeError(NOT_PICKLED.format(type(self).__name__))

    async def submit(
        self,
        model: str,
        data: Any,
        *,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        id: str | None = None,
        expires_s: float | None = None,
        priority: str = "normal",
    ) -> AsyncJob:
        """Queue one request."""
        options = SubmitOptions(
            model=model, outputs=outputs, parameters=parameters, expires_s=expires_s, priority=priority
        )
        return (await self._submit(options, [data], None if id is None else [id]))[0]

    async def submit_many(
        self,
        model: str,
        many: Iterable[Any],
        *,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        expires_s: float | None = None,
        priority: str = "normal",
    ) -> list[AsyncJob]:
        """Queue many requests in one round trip."""
        options = SubmitOptions(
            model=model, outputs=outputs, parameters=parameters, expires_s=expires_s, priority=priority
        )
        return await self._submit(options, many, ids, rows=True)

    async def predict(self, model: str, data: Any, *, timeout: float | None = None, **options: Any) -> dict[str, Array]:  # noqa: ASYNC109
        """Submit one request and wait for its outputs."""
        if timeout is not None:
            seconds("timeout", timeout)
        return await (await self.submit(model, data, **options)).result(timeout)

    def job(self, id: str) -> AsyncJob:
        """Return the handle of a job submitted anywhere; nothing is read yet."""
        return AsyncJob(self, id)

    async def record(self, id: str) -> JobRecord:
        """Read a job's record."""
        here = self._loops.here()
        return await here.driver.run(here.backend.record(id))

    async def cancel(self, id: str) -> bool:
        """Cancel a job if it still waits; False where it runs or has ended."""
        here = self._loops.here()
        return await here.driver.run(here.backend.cancel(id))

    async def models(self) -> list[ModelInfo]:
        """List the models that workers have announced."""
        here = self._loops.here()
        return list((await here.driver.run(here.backend.read_models())).models.values())

    async def catalog(self) -> Registry:
        """Read the models and the live workers."""
        here = self._loops.here()
        return await here.driver.run(here.backend.catalog())

    async def wait(self, job: AsyncJob, timeout: float | None = None) -> dict[str, Array]:  # noqa: ASYNC109
        """Wait for a job's outputs; see `Job.result`."""
        here = self._loops.here()
        return await here.driver.run(here.backend.outputs(await self.finished(job, timeout)))

    async def finished(self, job: AsyncJob, timeout: float | None = None) -> JobRecord:  # noqa: ASYNC109
        """Wait for a job's finished record, however it ended.

        Raises:
            ResultTimeout: the time passed; the job goes on.
        """
        if job.finished is None:
            with self._waiting([job]) as completions:
                try:
                    async with asyncio.timeout(timeout if timeout is None else seconds("timeout", timeout)):
                        ((_, outcome),) = await completions.get()
                except TimeoutError:
                    outcome = await self.record(job.id)
            if isinstance(outcome, Exception):
                raise outcome
            if not outcome.done:
                here = self._loops.here()
                raise await here.driver.run(here.backend.timeout_error(outcome, timeout))
            job.finished = outcome
        return job.finished

    async def as_completed(self, jobs: Iterable[AsyncJob], timeout: float | None = None) -> AsyncIterator[AsyncJob]:  # noqa: ASYNC109
        """Yield jobs in the order in which they end.

        Raises:
            ResultTimeout: the time passed before all had ended.
            InvalidRequest: something else than the jobs of a client like this one was given, such as their ids.
        """
        pending: dict[str, list[AsyncJob]] = {}
        for job in checked_jobs(jobs, AsyncJob):
            if job.finished is not None:
                yield job
            else:
                pending.setdefault(job.id, []).append(job)
        count, until = (
            len(pending),
            None if timeout is None else asyncio.get_running_loop().time() + seconds("timeout", timeout),
        )
        with self._waiting([handles[0] for handles in pending.values()]) as completions:
            while pending:
                try:
                    async with asyncio.timeout_at(until):
                        group = await completions.get()
                except TimeoutError:
                    text = f"{len(pending)} of {count} jobs had not ended after {timeout:g} s; they go on"
                    raise errors.ResultTimeout(text) from None
                for id, outcome in group:
                    for job in pending.pop(id):
                        yield job.with_outcome(outcome)

    async def close(self) -> None:
        """Stop waiting, and close every connection, on whatever loop."""
        await self._loops.close()

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Close it."""
        await self.close()

    async def _submit(
        self, options: SubmitOptions, many: Any, ids: Sequence[str] | None, *, rows: bool = False
    ) -> list[AsyncJob]:
        here = self._loops.here()
        epoch = here.waiters.epoch
        submitted = await here.driver.run(here.backend.submit(options, many, ids, rows=rows))
        context = SubmissionContext(here.backend.client, epoch, time.monotonic() + submitted.expires_s)
        return [
            AsyncJob(self, id, None if at in submitted.repeated else context) for at, id in enumerate(submitted.ids)
        ]

    @contextlib.contextmanager
    def _waiting(self, jobs: Sequence[AsyncJob]) -> Iterator[asyncio.Queue[Completions]]:
        completions: asyncio.Queue[Completions] = asyncio.Queue()
        waiter, waiters = Waiter(jobs, completions.put_nowait), self._loops.here().waiters
        waiters.add(waiter)
        try:
            yield completions
        finally:
            waiters.remove(waiter)


class AsyncJob(JobHandle):
    """A job of an asyncio client; the same verbs as `Job`, awaited."""

    def __init__(self, client: AsyncClient, id: str, context: SubmissionContext | None = None) -> None:
        """Take the client that the job is read through."""
        super().__init__(id, context)
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
