"""The asyncio client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Self

from mutirao import errors, settings
from mutirao.broker.redis import AsyncRedis
from mutirao.catalog import Catalog, ModelInfo
from mutirao.core import Ask, Core
from mutirao.job import AsyncJob
from mutirao.messages import JobRecord
from mutirao.replies import Replies
from mutirao.tensors import Array


class AsyncClient:
    """Submits requests and awaits their results; the verbs are those of `Client`, which documents them.

    Belongs to the event loop on which it is first used.
    """

    def __init__(self, broker_url: str | None = None, *, check: bool = True, **given: Any) -> None:
        """Take the broker's URL and any other setting by name; nothing connects yet."""
        self.settings = settings.load(broker_url=broker_url, **given)
        self._core = Core(self.settings, check=check)
        self._redis = AsyncRedis(self.settings)
        self._replies = Replies(self._redis.subscription, self._read, self._core.missing)

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
        ask = Ask(model=model, outputs=outputs, parameters=parameters, expires_s=expires_s, priority=priority)
        (made,) = await self._redis.run(self._core.submit(ask, [data], None if id is None else [id]))
        return self._handle(made, expires_s)

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
        ask = Ask(model=model, outputs=outputs, parameters=parameters, expires_s=expires_s, priority=priority)
        made = await self._redis.run(self._core.submit(ask, each(many), ids, rows=True))
        return [self._handle(id, expires_s) for id in made]

    async def predict(self, model: str, data: Any, *, timeout: float | None = None, **asked: Any) -> dict[str, Array]:  # noqa: ASYNC109
        """Submit one request and wait for its outputs."""
        return await (await self.submit(model, data, **asked)).result(timeout)

    def job(self, id: str) -> AsyncJob:
        """Return the handle of a job submitted anywhere; nothing is read yet."""
        return AsyncJob(self, id)

    async def record(self, id: str) -> JobRecord:
        """Read a job's record."""
        return await self._redis.run(self._core.record(id))

    async def cancel(self, id: str) -> bool:
        """Cancel a job if it still waits; False where it runs or has ended."""
        return (await self._redis.run(self._core.settle(id, "revoked"))).state == "cancelled"

    async def models(self) -> list[ModelInfo]:
        """List the models that workers have announced."""
        return list((await self.catalog()).models.values())

    async def catalog(self) -> Catalog:
        """Read the models and the live workers."""
        return await self._redis.run(self._core.catalog())

    async def wait(self, job: AsyncJob, timeout: float | None = None) -> dict[str, Array]:  # noqa: ASYNC109
        """Wait for a job's outputs; see `Job.result`."""
        return await self._redis.run(self._core.outputs(await self.finished(job.id, job.expiring(), timeout)))

    async def finished(self, id: str, expiring: float | None, timeout: float | None) -> JobRecord:  # noqa: ASYNC109
        """Wait for a job's finished record, ending the job where its deadline passes first.

        Raises:
            ResultTimeout: the time passed; the job goes on.
        """
        until = None if timeout is None else time.monotonic() + timeout
        if expiring is None:
            expiring = await self._expiring(id)
        if expiring is not None and (until is None or time.monotonic() + expiring < until):
            if record := await self._within(id, max(0.0, expiring)):
                return record
            record = await self._redis.run(self._core.settle(id, "expired"))
            if record.done:
                return record
        if record := await self._within(id, None if until is None else until - time.monotonic()):
            return record
        record = await self.record(id)
        if record.done:
            return record
        raise await self._late(record, timeout)

    async def as_completed(self, jobs: Iterable[AsyncJob], timeout: float | None = None) -> AsyncIterator[AsyncJob]:  # noqa: ASYNC109
        """Yield jobs in the order in which they end.

        Raises:
            ResultTimeout: the time passed before all had ended.
        """
        waits = {asyncio.ensure_future(self.finished(job.id, job.expiring(), timeout)): job for job in jobs}
        pending = set(waits)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for wait in done:
                    if isinstance(wait.exception(), errors.ResultTimeout | errors.BrokerUnavailable):
                        wait.result()
                    yield waits[wait]
        finally:
            for wait in pending:
                wait.cancel()

    async def close(self) -> None:
        """Stop waiting, and close every connection."""
        await self._replies.close()
        await self._redis.close()

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(self, *_exc: object) -> None:
        """Close it."""
        await self.close()

    def _handle(self, id: str, expires_s: float | None) -> AsyncJob:
        return AsyncJob(self, id, expires_s=self.settings.expires_s if expires_s is None else expires_s)

    async def _read(self, ids: Sequence[str]) -> list[JobRecord | None]:
        return await self._redis.run(self._core.records(ids))

    async def _within(self, id: str, timeout: float | None) -> JobRecord | None:  # noqa: ASYNC109
        try:
            return await asyncio.wait_for(asyncio.shield(self._replies.future(id)), timeout)
        except TimeoutError:
            return None

    async def _expiring(self, id: str) -> float | None:
        record = await self.record(id)
        return (
            None if record.job.expires_at is None or record.done else max(0.0, record.job.expires_at - self._core.now())
        )

    async def _late(self, record: JobRecord, timeout: float | None) -> errors.ResultTimeout:  # noqa: ASYNC109
        why, model = "", record.job.model
        if record.state == "queued" and model and not (await self.catalog()).serving(model):
            why = f" since no live worker serves {model!r} (start one with: mutirao worker)"
        text = f"job {record.task_id} is still {record.state} after {timeout:g} s{why}; it goes on, ask for it again by its id"
        return errors.ResultTimeout(text, id=record.task_id)


def each(many: Iterable[Any]) -> Iterable[Any]:
    """Take the requests of a call: the items of an iterable, the rows of an array or DataFrame."""
    if hasattr(many, "columns") and hasattr(many, "iloc"):
        frame: Any = many
        return (frame.iloc[at : at + 1] for at in range(len(frame)))
    return many
