"""The blocking client."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
import weakref
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Self, TypeVar

from mutirao import errors, settings
from mutirao.aio import AsyncClient, each
from mutirao.broker.redis import Redis
from mutirao.catalog import Catalog, ModelInfo
from mutirao.core import Ask, Core
from mutirao.job import Job
from mutirao.messages import JobRecord
from mutirao.replies import ended
from mutirao.tensors import Array

T = TypeVar("T")


class Client:
    """Submits requests and waits for their results. Threads may share one; a fork gets its own connections.

    Args:
        broker_url: Redis's URL; by default MUTIRAO_BROKER_URL, then the embedded system that runs in this folder, then
            redis://127.0.0.1:6379/0.
        check: hold each request against the signature that workers announced before it is queued. False lets a producer queue
            before the first worker ever started; the worker then refuses what does not fit.
        given: any other setting, by its name in `settings.Settings`.
    """

    def __init__(self, broker_url: str | None = None, *, check: bool = True, **given: Any) -> None:
        """Read the settings; nothing connects yet."""
        self.settings = settings.load(broker_url=broker_url, **given)
        self._check = check
        self._core = Core(self.settings, check=check)
        self._redis = Redis(self.settings)
        self._waiter: _Waiter | None = None
        self._lock = threading.Lock()

    def submit(
        self,
        model: str,
        data: Any,
        *,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        id: str | None = None,
        expires_s: float | None = None,
        priority: str = "normal",
    ) -> Job:
        """Queue one request.

        Args:
            model: the model's name.
            data: rows: an array or nested list of shape (rows, features), a DataFrame, or a mapping of named arrays.
            outputs: names of the wanted outputs; None for the model's default ones.
            parameters: V2 request parameters, handed to the runtime.
            id: an id of the caller's own. The same id with the same content is the same job, and is queued once.
            expires_s: deadline in seconds from now; a request not started by then is dropped and its job is expired.
            priority: high, normal or low.

        Raises:
            ModelNotFound, ModelUnavailable: nobody serves the model.
            SignatureMismatch, InvalidTensor, PayloadTooLarge, InvalidRequest: the request does not fit; nothing was queued.
            IdTaken: the id belongs to a job with other content.
            BrokerUnavailable: Redis did not answer in time.
        """
        ask = Ask(model=model, outputs=outputs, parameters=parameters, expires_s=expires_s, priority=priority)
        (made,) = self._redis.run(self._core.submit(ask, [data], None if id is None else [id]))
        return self._handle(made, expires_s)

    def submit_many(
        self,
        model: str,
        many: Iterable[Any],
        *,
        outputs: Sequence[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        ids: Sequence[str] | None = None,
        expires_s: float | None = None,
        priority: str = "normal",
    ) -> list[Job]:
        """Queue many requests in one round trip, all of them or none.

        Args:
            model: the model's name.
            many: the data of each request. Each row of a 2-d array or DataFrame, and each flat list, is a request of one row.
            outputs: as `submit`.
            parameters: as `submit`.
            ids: an id for each request.
            expires_s: as `submit`.
            priority: as `submit`.

        Raises:
            As `submit`.
        """
        ask = Ask(model=model, outputs=outputs, parameters=parameters, expires_s=expires_s, priority=priority)
        made = self._redis.run(self._core.submit(ask, each(many), ids, rows=True))
        return [self._handle(id, expires_s) for id in made]

    def predict(self, model: str, data: Any, *, timeout: float | None = None, **asked: Any) -> dict[str, Array]:
        """Submit one request and wait for its outputs: `submit` and `Job.result` in one."""
        return self.submit(model, data, **asked).result(timeout)

    def job(self, id: str) -> Job:
        """Return the handle of a job submitted anywhere; nothing is read yet."""
        return Job(self, id)

    def as_completed(self, jobs: Iterable[Job], timeout: float | None = None) -> Iterator[Job]:
        """Yield jobs in the order in which they end, however they end.

        Raises:
            ResultTimeout: the time passed before all had ended.
        """
        ended: queue.SimpleQueue[Future[JobRecord]] = queue.SimpleQueue()
        until = None if timeout is None else time.monotonic() + timeout
        waits = {self._wait(job, None): job for job in jobs}
        for wait in waits:
            wait.add_done_callback(ended.put)
        try:
            for _ in range(len(waits)):
                wait = ended.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
                if isinstance(wait.exception(), errors.BrokerUnavailable):
                    wait.result()
                yield waits[wait]
        except queue.Empty:
            left = sum(not wait.done() for wait in waits)
            raise errors.ResultTimeout(
                f"{left} of {len(waits)} jobs had not ended after {timeout:g} s; they go on"
            ) from None
        finally:
            for wait in waits:
                wait.cancel()

    def record(self, id: str) -> JobRecord:
        """Read a job's record."""
        return self._redis.run(self._core.record(id))

    def cancel(self, id: str) -> bool:
        """Cancel a job if it still waits; False where it runs or has ended."""
        return self._redis.run(self._core.settle(id, "revoked")).state == "cancelled"

    def models(self) -> list[ModelInfo]:
        """List the models that workers have announced, each with how many live workers serve it now."""
        return list(self.catalog().models.values())

    def catalog(self) -> Catalog:
        """Read the models and the live workers."""
        return self._redis.run(self._core.catalog())

    def wait(self, job: Job, timeout: float | None = None) -> dict[str, Array]:
        """Wait for a job's outputs; see `Job.result`."""
        return self.outputs(self.finished(job, timeout))

    def finished(self, job: Job, timeout: float | None = None) -> JobRecord:
        """Wait for a job's finished record, however it ended.

        Raises:
            ResultTimeout: the time passed; the job goes on.
        """
        return self._wait(job, timeout).result()

    def outputs(self, record: JobRecord) -> dict[str, Array]:
        """Read the outputs of a finished record.

        Raises:
            JobError: the job ended without a result; the class says how.
        """
        return self._redis.run(self._core.outputs(record))

    def close(self) -> None:
        """Stop waiting, and close every connection."""
        if self._waiter and self._waiter.pid == os.getpid():  # its thread did not follow into a fork
            self._waiter.close()
        self._redis.close()

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close it."""
        self.close()

    def _handle(self, id: str, expires_s: float | None) -> Job:
        return Job(self, id, expires_s=self.settings.expires_s if expires_s is None else expires_s)

    def _wait(self, job: Job, timeout: float | None) -> Future[JobRecord]:
        with self._lock:
            if self._waiter is None or self._waiter.pid != os.getpid():
                self._waiter = _Waiter(self.settings)
                # A client that nobody closes ends with the process, or with its last reference, without a word.
                weakref.finalize(self, self._waiter.close)
            return self._waiter.finished(job, timeout)


class _Waiter:
    """An asyncio client on a thread of its own: there is one way to wait, and it is `replies`."""

    def __init__(self, given: settings.Settings) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mutirao-replies", daemon=True)
        self._thread.start()
        self._client = self._call(_opened(given)).result()

    def finished(self, job: Job, timeout: float | None) -> Future[JobRecord]:
        return self._call(self._client.finished(job.id, job.expiring(), timeout))

    def close(self) -> None:
        if self.pid != os.getpid() or self._loop.is_closed():
            return
        self._call(self._ended()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _ended(self) -> None:
        await self._client.close()
        await ended({task for task in asyncio.all_tasks() if task is not asyncio.current_task()})

    def _call(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)


async def _opened(given: settings.Settings) -> AsyncClient:
    return AsyncClient(
        given.broker_url,
        check=False,
        result_url=given.result_url,
        result_ttl_s=given.result_ttl_s,
        timeout_s=given.timeout_s,
    )
