"""Run a batch: stack the requests, predict, check, split. Runs in a pool child, and needs neither Redis nor Celery there.

Each request has a result of its own. Where a call fails, or its outputs do not match, its requests run again in halves until the
faulty ones are alone. A model that returns the right number of rows of the right type in another order cannot be detected: each
request gets a neighbour's row.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mutirao import errors
from mutirao.wire import tensors
from mutirao.wire.signature import OutputSpec
from mutirao.wire.tensors import Array
from mutirao_worker.inference import interruption
from mutirao_worker.inference.inputs import (
    InputReader,
    OutputSpecification,
    PackedRequest,
    RejectedRequest,
    StackedRequests,
)
from mutirao_worker.inference.outputs import (
    INTERRUPTED,
    RequestResult,
    ResultLimits,
    failure_result,
    invalid_output,
    model_failed,
    split_responses,
)
from mutirao_worker.models.loaded_model import LoadedModel
from mutirao_worker.models.runtimes.predictor import RowsRefused
from mutirao_worker.process import cpu_wait, isolation
from mutirao_worker.process.isolation import Leak

__all__ = ["BatchResult", "PackedRequest", "RequestResult", "ResultLimits", "run"]

# No more bytes of results than this go back at a time, since the parent holds all of them: the rest stays interrupted, and runs again.
MAX_RESULTS_BYTES = 128 * 1024 * 1024


class BatchResult(NamedTuple):
    """The result of a batch.

    Attributes:
        results: of each request, in their order.
        rows: how many rows were predicted in all calls.
        predict_s: seconds in the model, all calls.
        cpu_wait_s: seconds for which the process could have run, but waited for a core.
        leak: what it has left open or running in the process; None for nothing.
    """

    results: list[RequestResult]
    rows: int
    predict_s: float
    cpu_wait_s: float
    leak: Leak | None = None


def run(find: Callable[[str], LoadedModel], requests: Sequence[PackedRequest], limits: ResultLimits) -> BatchResult:
    """Run requests, with as few predict calls as the models' limits allow.

    Nothing is raised but what ends the process on purpose.

    Args:
        find: returns a loaded model, or raises ModelNotFound or ModelUnavailable.
        requests: the requests, of any models.
        limits: how large a result may be.
    """
    cpu_wait_s = cpu_wait.waited_s()
    batch = _BatchRunner(find, requests, limits)
    try:
        batch.run_members(range(len(requests)))
    except interruption.TIME_LIMIT as exc:
        batch.interrupt(exc)
    return BatchResult(batch.results, batch.rows, batch.predict_s, cpu_wait.waited_s() - cpu_wait_s)


class _BatchRunner:
    def __init__(
        self, find: Callable[[str], LoadedModel], requests: Sequence[PackedRequest], limits: ResultLimits
    ) -> None:
        self.results = [INTERRUPTED] * len(requests)
        self.rows = 0
        self.predict_s = 0.0
        self._reader = InputReader(find, requests)
        self._limits = limits
        self._result_bytes = 0
        self._started_at = self._call_started_at = time.perf_counter()
        self._running: list[StackedRequests] = []

    def run_members(self, members: Sequence[int]) -> None:
        """Run some of the requests, decoding them anew: a model may have changed the arrays of its last call."""
        by_key: defaultdict[tuple[Any, ...], list[StackedRequests]] = defaultdict(list)
        for item in self._reader.read(members):
            if isinstance(item, RejectedRequest):
                rejected = failure_result(item.error, item.embed, 0)
                self._store([item.member], [rejected._replace(other_copy_may_accept=item.other_copy_may_accept)])
            else:
                by_key[item.batch_key].append(item)
        for stacked_requests in by_key.values():
            limits = stacked_requests[0].specification.loaded.manifest
            for call in split_into_calls(stacked_requests, limits.max_batch_rows, limits.max_batch_bytes):
                self._run_call(call)

    def interrupt(self, exc: Exception) -> None:
        """Fail the request that ran alone for most of the time limit; of several it is not known which exceeded it."""
        unfinished = {member for member, result in enumerate(self.results) if result is INTERRUPTED}
        running = [
            (member, stacked) for stacked in self._running for member in unfinished.intersection(stacked.members)
        ]
        lone = len(self.results) == 1
        if len(running) == 1 and (
            lone or time.perf_counter() - self._call_started_at > self._call_started_at - self._started_at
        ):
            ((member, stacked),) = running
            self._store([member], [failure_result(exc, stacked.specification.embed, stacked.rows)])
        elif lone and unfinished:  # in our own code: it must not run again for ever
            self._store([0], [failure_result(exc, None, 0)])

    def _run_call(self, call: list[StackedRequests]) -> None:
        """Run the requests of one predict call; where it fails, in halves."""
        if self._result_bytes > MAX_RESULTS_BYTES:
            return
        specification, members = call[0].specification, [member for stacked in call for member in stacked.members]
        self._running, self._call_started_at = call, time.perf_counter()
        try:
            self._predict_and_split(call)
        except interruption.TIME_LIMIT:
            raise
        except Exception as exc:  # noqa: BLE001 - our own errors too: one request's rows must not fail the others
            error = exc
        else:
            return
        if len(members) == 1:
            self._store(members, [failure_result(error, specification.embed, call[0].rows)])
            return
        half = len(members) // 2
        for part in (members[:half], members[half:]):
            # Else they stay interrupted: halves of halves might take longer than the process has.
            if time.perf_counter() - self._started_at < specification.loaded.manifest.time_limit_s / 2:
                self.run_members(part)

    def _predict_and_split(self, call: list[StackedRequests]) -> None:
        specification, rows = call[0].specification, sum(stacked.rows * len(stacked.members) for stacked in call)
        alone = len(call) == 1 and len(call[0].members) == 1
        refused: Mapping[int, errors.InvalidInput] = {}
        try:
            outputs = self._predict(call, rows, alone=alone)
        except RowsRefused as exc:
            outputs, refused = exc.outputs, exc.refused
        if len(refused) < rows:
            _check_outputs(specification.loaded, specification.outputs, outputs, rows, alone=alone)
        start = 0
        for stacked in _each_alone(call) if refused else call:
            stop = start + stacked.rows * len(stacked.members)
            error = next((refused[row] for row in range(start, stop) if row in refused), None) if refused else None
            if error is None:
                own = {spec.name: outputs[spec.name][start:stop] for spec in specification.outputs}
                self._store(stacked.members, split_responses(stacked, own, self._limits))
            else:
                self._store(stacked.members, [failure_result(error, stacked.specification.embed, stacked.rows)])
            start = stop

    def _predict(self, call: list[StackedRequests], rows: int, *, alone: bool) -> Mapping[str, Array]:
        inputs, started = _concatenate(call), time.perf_counter()
        try:
            return _call_model(call[0].specification, inputs, alone=alone)
        finally:
            self.rows += rows
            self.predict_s += time.perf_counter() - started

    def _store(self, members: Sequence[int], results: Sequence[RequestResult]) -> None:
        for member, result in zip(members, results, strict=True):
            if self._result_bytes > MAX_RESULTS_BYTES:
                return
            self.results[member] = result
            self._result_bytes += len(result.result) + len(result.payload or b"")


def split_into_calls(
    stacked_requests: Sequence[StackedRequests], max_rows: int, max_bytes: int
) -> Iterator[list[StackedRequests]]:
    """Divide requests into predict calls; one that is larger than a call may be goes alone, whole."""
    call: list[StackedRequests] = []
    rows = size = 0
    for stacked in stacked_requests:
        start, count = 0, len(stacked.members)
        while start < count:
            fits = min(count - start, (max_rows - rows) // stacked.rows, (max_bytes - size) // stacked.size)
            if fits < 1 and call:
                yield call
                call, rows, size = [], 0, 0
                continue
            fits = max(fits, 1)
            call.append(stacked.subset(start, start + fits))
            start, rows, size = start + fits, rows + fits * stacked.rows, size + fits * stacked.size
    if call:
        yield call


def _each_alone(call: list[StackedRequests]) -> Iterator[StackedRequests]:
    """Yield each request of a call by itself."""
    for stacked in call:
        yield from (stacked.subset(at, at + 1) for at in range(len(stacked.members)))


def _concatenate(call: list[StackedRequests]) -> dict[str, Array]:
    if len(call) == 1:
        return call[0].inputs
    return {name: np.concatenate([stacked.inputs[name] for stacked in call]) for name in call[0].inputs}


def _call_model(specification: OutputSpecification, inputs: dict[str, Array], *, alone: bool) -> Mapping[str, Array]:
    process, loaded = os.getpid(), specification.loaded
    try:
        with isolation.preserved_process_state():
            return loaded.predict(inputs, specification.outputs, specification.parameters)
    except (interruption.TIME_LIMIT, RowsRefused):
        raise
    except errors.InvalidInput as exc:
        error: errors.MutiraoError = errors.InvalidInput(str(exc))
    except BaseException as exc:  # sys.exit() in a model must not end the worker
        if interruption.is_terminating():  # not the model: this process is being ended
            raise
        if not alone and (late := _time_limit_behind(exc)):
            raise late from None
        is_ours = isinstance(exc, errors.InvalidOutput)
        error = invalid_output(loaded, str(exc)) if is_ours else model_failed(loaded, exc)
    finally:
        if os.getpid() != process:  # the model forked, and this is the copy: it must not return a second result
            os._exit(os.EX_SOFTWARE)
    # Raised outside the handler, so that it does not refer to the model's own exception, which may not pickle.
    raise error


def _time_limit_behind(exc: BaseException) -> Exception | None:
    """Return the time limit that a model has turned into another exception."""
    cause: BaseException | None = exc
    for _ in range(100):
        if cause is None or isinstance(cause, interruption.TIME_LIMIT):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _check_outputs(
    loaded: LoadedModel, specs: tuple[OutputSpec, ...], outputs: Mapping[str, Array], rows: int, *, alone: bool
) -> None:
    """Compare outputs with the number of rows; those of several requests with the signature too.

    A row of another type than the signature's changes the type of its neighbours (a text makes all of them texts): each
    such request runs alone, and gets what the model returns for it.
    """
    for spec in specs:
        array = outputs[spec.name]
        if array.ndim == 0 or len(array) != rows:
            returned = "a single value" if array.ndim == 0 else f"{len(array)} rows"
            raise invalid_output(loaded, f"returned {returned} of {spec.name!r} for {rows} rows of input")
        if not alone and not _matches_spec(spec, array):
            raise invalid_output(loaded, f"returned another type or shape of {spec.name!r} than it announced")


def _matches_spec(spec: OutputSpec, array: Array) -> bool:
    shapes = zip(spec.shape[1:], array.shape[1:], strict=False)
    return (
        tensors.datatype_of(array) == spec.datatype
        and len(spec.shape) == array.ndim
        and all(want in (-1, got) for want, got in shapes)
    )
