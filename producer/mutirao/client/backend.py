"""What every backend shares: the interface, and the check of requests against the latest copy of the registry."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
import numpy as np

from mutirao import errors, keyspace
from mutirao.client import request_data
from mutirao.client.encoding import SubmitOptions
from mutirao.client.request_data import ValidatedRequests
from mutirao.client.waiter import JobWaiters
from mutirao.registry import Registry
from mutirao.settings import Settings
from mutirao.single_flight import SharedCall
from mutirao.wire import elements
from mutirao.wire.messages import JobRecord
from mutirao.wire.signature import Signature
from mutirao.wire.tensors import Array

REGISTRY_AGE_S = 5.0
_SECONDS_MAX = 1e9
NOT_PICKLED = "a {} cannot be pickled, since it holds connections: make one in each process; a job is found there by its id, client.job(id)"

T = TypeVar("T")
Operation = Generator[Any, Any, T]


class Driver(Protocol):
    """Runs a backend's operations, blocking."""

    def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end."""

    def close(self) -> None:
        """Close every connection."""


class AsyncDriver(Protocol):
    """Runs a backend's operations on the running event loop."""

    async def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end."""

    async def close(self) -> None:
        """Close every connection."""


class BackendFactory(NamedTuple):
    """The constructors of a backend's parts."""

    backend: Callable[..., Backend]
    driver: Callable[[Settings], Driver]
    async_driver: Callable[[Settings], AsyncDriver]
    waiters: Callable[[Any, Any], JobWaiters]


class Submitted(NamedTuple):
    """The result of a submit: the id of each request, and the places of those not queued, since jobs of these ids exist."""

    ids: list[str]
    repeated: frozenset[int]
    expires_s: float


def seconds(name: str, value: Any, *, above_0: bool = False) -> float:
    """Return a number of seconds, 0 or more, or above 0, as a float.

    Raises:
        InvalidRequest: the value is not such a number, or is too large for a clock.
    """
    if isinstance(value, timedelta):
        raise errors.InvalidRequest(f"{name} is {value!r}: it must be a number of seconds, {value.total_seconds():g}")
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise errors.InvalidRequest(f"{name} is {elements.show(value)}: it must be a number of seconds")
    if not 0 <= value < _SECONDS_MAX or (above_0 and value == 0):
        least = "more than 0" if above_0 else "0 or more"
        raise errors.InvalidRequest(
            f"{name} is {value!r}: it must be a number of seconds, {least}, below {_SECONDS_MAX:g}"
        )
    return float(value)


def checked_jobs(jobs: Iterable[Any], kind: type[T]) -> list[T]:
    """Return jobs as a list.

    Raises:
        InvalidRequest: one of them is no such job, or they are not several; names the first.
    """
    if isinstance(jobs, str | bytes) or not isinstance(jobs, Iterable):
        raise errors.InvalidRequest(f"as_completed takes a list of jobs, got {elements.show(jobs)}")
    listed = list(jobs)
    for at, job in enumerate(listed):
        if not isinstance(job, kind):
            text = f"as_completed takes jobs of type {kind.__name__}, and number {at} is {elements.show(job)}: client.job(ID) is the job of an id"
            raise errors.InvalidRequest(text)
    return listed


class Backend(ABC):
    """The operations of clients: generators of commands, which the backend's drivers run."""

    def __init__(self, settings: Settings, *, check: bool) -> None:
        """Take the settings; `check` says whether requests are validated against the served models' signatures before they leave."""
        self.settings = settings
        self._check = check
        self._registry: Registry | None = None
        self._read_at = float("-inf")

    @property
    @abstractmethod
    def client(self) -> str:
        """The name of this process's reply channel; empty where ends are polled for."""

    def submit(
        self, options: SubmitOptions, many: Any, ids: Sequence[str] | None = None, *, rows: bool = False
    ) -> Operation[Submitted]:
        """Check, encode and queue requests, in one round trip.

        Args:
            options: the same for each request.
            many: the data of each request.
            ids: an id for each; made here where not given.
            rows: each item is a row, so a flat one stands for one row.

        Raises:
            IdTaken, QueueFull: nothing of the call is queued.
        """
        if not hasattr(many, "__len__") and not isinstance(many, Iterable):
            raise errors.InvalidRequest(f"submit_many takes a list of requests, got {type(many).__name__}")
        many = many if hasattr(many, "__len__") else list(many)
        _check_options(options)
        keyspace.step(options.priority)
        if options.tenant:
            keyspace.tenant_name(options.tenant)
        expires_s = self._expires_s(options)
        count = request_data.count(many)
        if isinstance(ids, str):
            raise errors.InvalidRequest(f"ids is {elements.show(ids)}: it must be a list of ids")
        ids = [keyspace.job_id(id) for id in ids] if ids is not None else keyspace.new_ids(count)
        if len(ids) != count:
            raise errors.InvalidRequest(f"{len(ids)} ids were given for {count} requests")
        requests = yield from self._validate(options, many, rows=rows)
        repeated = (yield from self._send(options, requests, ids)) if ids else frozenset()
        return Submitted(ids, repeated, expires_s)

    @abstractmethod
    def _send(self, options: SubmitOptions, requests: ValidatedRequests, ids: list[str]) -> Operation[frozenset[int]]:
        """Encode and queue validated requests, and return the places of those not queued, since jobs of their ids exist."""

    @abstractmethod
    def record(self, id: str) -> Operation[JobRecord]:
        """Read a job's record.

        Raises:
            JobNotFound: no such job; ResultExpired where it is past the time for which results are kept.
        """

    @abstractmethod
    def cancel(self, id: str) -> Operation[bool]:
        """Cancel a job if it still waits; False where it runs or has ended.

        Raises:
            JobNotFound: no such job.
        """

    @abstractmethod
    def outputs(self, record: JobRecord) -> Operation[dict[str, Array]]:
        """Read a finished job's outputs; JSON documents as plain Python objects.

        Raises:
            JobError: the job ended without a result; the class says how.
        """

    @abstractmethod
    def catalog(self) -> Operation[Registry]:
        """Read which models are served and which workers live."""

    def timeout_error(self, record: JobRecord, timeout: float | None) -> Operation[errors.ResultTimeout]:
        """Build the error for a job that has not ended in time, with the reason where there is one to see."""
        why, model = "", record.job.model
        if record.state == "queued" and model and not (yield from self.read_models()).is_served(model):
            why = f" since no live worker serves {model!r} (start one with: mutirao worker)"
        text = f"job {record.task_id} is still {record.state} after {timeout:g} s{why}; it goes on, ask for it again by its id"
        return errors.ResultTimeout(text, id=record.task_id)

    def read_models(self) -> Operation[Registry]:
        """Read which models are served, and by how many workers; the workers themselves may be left out."""
        return self.catalog()

    def cached_registry(self, since: float | None = None) -> Operation[Registry]:
        """Return the latest copy of the registry; callers that need a new one share a read.

        Args:
            since: the oldest start of a read whose copy will do, by the monotonic clock; 5 s ago by default.
        """
        since = time.monotonic() - REGISTRY_AGE_S if since is None else since
        while self._registry is None or self._read_at < since:  # a read that is under way may have begun before that
            yield SharedCall("models", self.read_models)
        return self._registry

    def _keep_copy(self, registry: Registry, started_at: float) -> Registry:
        """Keep a copy of the registry, unless the one kept was read later."""
        if started_at > self._read_at:
            self._registry, self._read_at = registry, started_at
        return registry

    def _expires_s(self, options: SubmitOptions) -> float:
        if options.expires_s is None:
            return self.settings.expires_s
        return seconds("expires_s", options.expires_s, above_0=True)

    def _validate(self, options: SubmitOptions, many: Any, *, rows: bool) -> Operation[ValidatedRequests]:
        keyspace.model_name(options.model)
        if not self._check:
            return request_data.validate(options.model, None, many, rows=rows)
        started_at = time.monotonic()
        try:
            return _validate_by_registry((yield from self.cached_registry()), options, many, rows=rows)
        except errors.MutiraoError:
            if self._read_at >= started_at:
                raise
        # The model may have been added or replaced since the copy was read.
        return _validate_by_registry((yield from self.cached_registry(started_at)), options, many, rows=rows)


def _check_options(options: SubmitOptions) -> None:
    """Refuse outputs that are not a list of names, and parameters that are not a dict."""
    outputs, parameters = options.outputs, options.parameters
    if outputs is not None and not (
        isinstance(outputs, Sequence)
        and not isinstance(outputs, str)
        and all(isinstance(each, str) for each in outputs)
    ):
        hint = f", [{outputs!r}]" if isinstance(outputs, str) else ""
        raise errors.InvalidRequest(f"outputs is {outputs!r}: it must be a list of names{hint}", reason="outputs")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise errors.InvalidRequest(
            f"parameters is {elements.show(parameters)}: it must be a dict", reason="parameters"
        )
    try:
        msgspec.json.encode(parameters)
    except (TypeError, ValueError) as exc:
        raise errors.InvalidRequest(f"parameters cannot be written as JSON: {exc}", reason="parameters") from exc


def _validate_by_registry(registry: Registry, options: SubmitOptions, many: Any, *, rows: bool) -> ValidatedRequests:
    info = registry.find(options.model)
    try:
        return _validate_by(info.signature, options, many, rows=rows)
    except errors.InvalidRequest:
        for other in info.variants:
            with contextlib.suppress(errors.InvalidRequest):
                return _validate_by(other, options, many, rows=rows)
        raise


def _validate_by(signature: Signature, options: SubmitOptions, many: Any, *, rows: bool) -> ValidatedRequests:
    signature.select_outputs(options.outputs)
    signature.read_parameters(options.parameters)
    return request_data.validate(options.model, signature, many, rows=rows)
