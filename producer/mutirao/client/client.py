"""The blocking client and its jobs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

from mutirao import errors, settings
from mutirao.client.backend import NOT_PICKLED, Backend, BackendFactory, checked_jobs, seconds
from mutirao.client.backends import backend_for
from mutirao.client.encoding import SubmitOptions
from mutirao.client.job import JobHandle, SubmissionContext, Timings, timings
from mutirao.client.waiter import Completions, Waiter, cancel_all, closed_error
from mutirao.registry import ModelInfo, Registry
from mutirao.single_flight import PerProcessLock
from mutirao.wire.messages import JobRecord
from mutirao.wire.tensors import Array


class Client:
    """Submits requests and waits for their results. Threads may share one; a fork gets its own connections.

    Args:
        broker_url: Redis's URL, or a gateway's: http://host:8000; by default MUTIRAO_BROKER_URL, then the embedded system that
            runs in this folder, then redis://127.0.0.1:6379/0.
        check: validate each request against the signature that workers announced before it is queued. False lets a producer queue
            before the first worker ever started; the worker then refuses what does not fit. A gateway always checks.
        given: any other setting, by its name in `settings.Settings`; `api_key` is what a gateway knows the caller by.
    """

    def __init__(self, broker_url: str | None = None, *, check: bool = True, **given: Any) -> None:
        """Read the settings; nothing connects yet."""
        self.settings = settings.load(broker_url=broker_url, **given)
        self._factory = backend_for(self.settings)
        self._backend = self._factory.backend(self.settings, check=check)
        self._driver = self._factory.driver(self.settings)
        self._listener: _ListenerThread | None = None
        self._lock = PerProcessLock()

    def __reduce__(self) -> Any:
        """Refuse to be pickled or copied: it holds connections."""
        raise TypeError(NOT_PICKLED.format(type(self).__name__))

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
            outputs: names of the wanted outputs; None, or no name, for the model's default ones.
            parameters: V2 request parameters, handed to the runtime.
            id: an id of the caller's own. The same id with the same content is the same job, and is queued once.
            expires_s: deadline in seconds from now; a request not started by then is dropped and its job is expired.
            priority: high, normal or low.

        Raises:
            ModelNotFound, ModelUnavailable: nobody serves the model.
            SignatureMismatch, InvalidTensor, PayloadTooLarge, InvalidRequest: the request does not fit; nothing was queued.
            IdTaken: the id belongs to a job with other content.
            BrokerUnavailable: Redis, or the gateway, did not answer in time.
        """
        options = SubmitOptions(
            model=model, outputs=outputs, parameters=parameters, expires_s=expires_s, priority=priority
        )
        return self._submit(options, [data], None if id is None else [id])[0]

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
        options = SubmitOptions(
            model=model, outputs=outputs, parameters=parameters, expires_s=expires_s, priority=priority
        )
        return self._submit(options, many, ids, rows=True)

    def predict(self, model: str, data: Any, *, timeout: float | None = None, **options: Any) -> dict[str, Array]:
        """Submit one request and wait for its outputs: `submit` and `Job.result` in one."""
        if timeout is not None:
            seconds("timeout", timeout)
        return self.submit(model, data, **options).result(timeout)

    def job(self, id: str) -> Job:
        """Return the handle of a job submitted anywhere; nothing is read yet."""
        return Job(self, id)

    def as_completed(self, jobs: Iterable[Job], timeout: float | None = None) -> Iterator[Job]:
        """Yield jobs in the order in which they end, however they end.

        Raises:
            ResultTimeout: the time passed before all had ended.
            InvalidRequest: something else than the jobs of a client like this one was given, such as their ids.
        """
        pending: dict[str, list[Job]] = {}
        for job in checked_jobs(jobs, Job):
            if job.finished is not None:
                yield job
            else:
                pending.setdefault(job.id, []).append(job)
        count, until = len(pending), None if timeout is None else time.monotonic() + seconds("timeout", timeout)
        with self._waiting([handles[0] for handles in pending.values()]) as completions:
            while pending:
                try:
                    group = completions.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
                except queue.Empty:
                    text = f"{len(pending)} of {count} jobs had not ended after {timeout:g} s; they go on"
                    raise errors.ResultTimeout(text) from None
                for id, outcome in group:
                    for job in pending.pop(id):
                        yield job.with_outcome(outcome)

    def record(self, id: str) -> JobRecord:
        """Read a job's record."""
        return self._driver.run(self._backend.record(id))

    def cancel(self, id: str) -> bool:
        """Cancel a job if it still waits; False where it runs or has ended."""
        return self._driver.run(self._backend.cancel(id))

    def models(self) -> list[ModelInfo]:
        """List the models that workers have announced, each with how many live workers serve it now."""
        return list(self._driver.run(self._backend.read_models()).models.values())

    def catalog(self) -> Registry:
        """Read the models and the live workers."""
        return self._driver.run(self._backend.catalog())

    def wait(self, job: Job, timeout: float | None = None) -> dict[str, Array]:
        """Wait for a job's outputs; see `Job.result`."""
        return self.outputs(self.finished(job, timeout))

    def finished(self, job: Job, timeout: float | None = None) -> JobRecord:
        """Wait for a job's finished record, however it ended.

        Raises:
            ResultTimeout: the time passed; the job goes on.
        """
        if job.finished is None:
            with self._waiting([job]) as completions:
                try:
                    ((_, outcome),) = completions.get(
                        timeout=timeout if timeout is None else max(0.0, seconds("timeout", timeout))
                    )
                except queue.Empty:
                    outcome = self.record(job.id)
            if isinstance(outcome, Exception):
                raise outcome
            if not outcome.done:
                raise self._driver.run(self._backend.timeout_error(outcome, timeout))
            job.finished = outcome
        return job.finished

    def outputs(self, record: JobRecord) -> dict[str, Array]:
        """Read the outputs of a finished record.

        Raises:
            JobError: the job ended without a result; the class says how.
        """
        return self._driver.run(self._backend.outputs(record))

    def close(self) -> None:
        """Stop waiting, and close every connection."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self._driver.close()

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_exc: object) -> None:
        """Close it."""
        self.close()

    def _submit(self, options: SubmitOptions, many: Any, ids: Sequence[str] | None, *, rows: bool = False) -> list[Job]:
        listener = self._listener
        epoch = listener.epoch if listener is not None and listener.pid == os.getpid() else None
        submitted = self._driver.run(self._backend.submit(options, many, ids, rows=rows))
        context = SubmissionContext(self._backend.client, epoch, time.monotonic() + submitted.expires_s)
        return [Job(self, id, None if at in submitted.repeated else context) for at, id in enumerate(submitted.ids)]

    @contextlib.contextmanager
    def _waiting(self, jobs: Sequence[Job]) -> Iterator[queue.SimpleQueue[Completions]]:
        completions: queue.SimpleQueue[Completions] = queue.SimpleQueue()
        listener, waiter = self._listening(), Waiter(jobs, completions.put)
        listener.add(waiter)
        try:
            yield completions
        finally:
            if waiter.left > 0:  # the listener's thread is not woken for nothing
                listener.remove(waiter)

    def _listening(self) -> _ListenerThread:
        with self._lock:
            if self._listener is None or self._listener.pid != os.getpid():
                self._listener = _ListenerThread(self._factory, self._backend)
                # A client that nobody closes ends with the process or with its last reference, and logs nothing.
                weakref.finalize(self, self._listener.close)
            return self._listener


class Job(JobHandle):
    """A job of a blocking client. Every method may raise BrokerUnavailable, and JobNotFound or ResultExpired."""

    def __init__(self, client: Client, id: str, context: SubmissionContext | None = None) -> None:
        """Take the client that the job is read through."""
        super().__init__(id, context)
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


class _ListenerThread:
    """An event loop on a thread of its own, where results are waited for as the asyncio client does."""

    def __init__(self, factory: BackendFactory, backend: Backend) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mutirao-replies", daemon=True)
        self._thread.start()
        self._driver = factory.async_driver(backend.settings)
        self._waiters = factory.waiters(backend, self._driver)

    @property
    def epoch(self) -> object | None:
        return self._waiters.epoch

    def add(self, waiter: Waiter) -> None:
        try:
            self._loop.call_soon_threadsafe(self._waiters.add, waiter)
        except RuntimeError:  # the loop is closed
            raise closed_error() from None

    def remove(self, waiter: Waiter) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._waiters.remove, waiter)

    def close(self) -> None:
        # Its thread did not follow into a fork; and the last reference may go anywhere, on that thread too.
        if self.pid != os.getpid() or self._loop.is_closed() or threading.current_thread() is self._thread:
            return
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(asyncio.sleep(0))  # ends waits that began in between
        self._loop.close()

    async def _close(self) -> None:
        await self._waiters.close()
        await self._driver.close()
        await cancel_all({task for task in asyncio.all_tasks() if task is not asyncio.current_task()})
