"""Run a batch: stack the requests, predict, check, split. Runs in a pool child, and needs neither Redis nor Celery there.

Each request has its own fate. Where a call fails, or returns what does not fit, its requests run again in halves until the guilty
stand alone. What a model does to rows in the right number and of the right type cannot be seen: one that returns them in
another order answers each request with a neighbour's row.
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
from mutirao_worker.inference.inputs import InputReader, PackedRequest, RejectedRequest, Stack
from mutirao_worker.inference.outputs import (
    INTERRUPTED,
    Bounds,
    RequestResult,
    failed,
    invalid_output,
    model_failed,
    responses,
)
from mutirao_worker.models.loaded_model import LoadedModel
from mutirao_worker.process import isolation, run_delay
from mutirao_worker.process.isolation import Leak

__all__ = ["BatchResult", "Bounds", "PackedRequest", "RequestResult", "run"]

# Results of more bytes than this do not go back at once, for all of them stand in the parent: the rest stays interrupted, and runs again.
TOGETHER_BYTES = 128 * 1024 * 1024


class BatchResult(NamedTuple):
    """What became of a batch.

    Attributes:
        answers: of each request, in the order in which they were asked.
        rows: predicted in all calls.
        predict_s: time in the model, all calls.
        waited_s: how long it could have run, but waited for a core.
        leak: what it has left open or running in the process; None for nothing.
    """

    answers: list[RequestResult]
    rows: int
    predict_s: float
    waited_s: float
    leak: Leak | None = None


def run(find: Callable[[str], LoadedModel], asked: Sequence[PackedRequest], bounds: Bounds) -> BatchResult:
    """Answer requests, with as few predict calls as the models' limits allow.

    Nothing is raised, but what ends the process on purpose.

    Args:
        find: finds a loaded model, or raises ModelNotFound or ModelUnavailable.
        asked: the requests, of any models.
        bounds: how large a result may be.
    """
    waited_s = run_delay.waited_s()
    batch = _BatchRunner(find, asked, bounds)
    try:
        batch.answer(range(len(asked)))
    except interruption.TIME_LIMIT as exc:
        batch.interrupt(exc)
    return BatchResult(batch.answers, batch.rows, batch.predict_s, run_delay.waited_s() - waited_s)


class _BatchRunner:
    def __init__(self, find: Callable[[str], LoadedModel], asked: Sequence[PackedRequest], bounds: Bounds) -> None:
        self.answers = [INTERRUPTED] * len(asked)
        self.rows = 0
        self.predict_s = 0.0
        self._reader = InputReader(find, asked)
        self._bounds = bounds
        self._bytes = 0
        self._began = self._called = time.perf_counter()
        self._running: list[Stack] = []

    def answer(self, members: Sequence[int]) -> None:
        """Answer some of the requests, reading them anew: a model may have changed the arrays of its last call."""
        kinds: defaultdict[tuple[Any, ...], list[Stack]] = defaultdict(list)
        for found in self._reader.read(members):
            if isinstance(found, RejectedRequest):
                answer = failed(found.error, found.embed, 0)
                self._end([found.member], [answer._replace(by_copy=found.by_copy)])
            else:
                kinds[found.kind].append(found)
        for stacks in kinds.values():
            limits = stacks[0].form.loaded.manifest
            for call in calls(stacks, limits.max_batch_rows, limits.max_batch_bytes):
                self._answer(call)

    def interrupt(self, exc: Exception) -> None:
        """Time is up: a request that ran alone for most of it has exceeded its limit; of several nobody knows which."""
        unanswered = {at for at, one in enumerate(self.answers) if one is INTERRUPTED}
        running = [(at, stack) for stack in self._running for at in unanswered.intersection(stack.members)]
        lone = len(self.answers) == 1
        if len(running) == 1 and (lone or time.perf_counter() - self._called > self._called - self._began):
            ((at, stack),) = running
            self._end([at], [failed(exc, stack.form.embed, stack.rows)])
        elif lone and unanswered:  # in our own code: it must not come back for ever
            self._end([0], [failed(exc, None, 0)])

    def _answer(self, call: list[Stack]) -> None:
        """Answer the requests of one predict call; where it fails, in halves."""
        if self._bytes > TOGETHER_BYTES:
            return
        form, members = call[0].form, [member for stack in call for member in stack.members]
        self._running, self._called = call, time.perf_counter()
        try:
            self._predict_and_split(call)
        except interruption.TIME_LIMIT:
            raise
        except Exception as exc:  # noqa: BLE001 - of ours too: one request's rows must not cost the others
            error = exc
        else:
            return
        if len(members) == 1:
            self._end(members, [failed(error, form.embed, call[0].rows)])
            return
        half = len(members) // 2
        for part in (members[:half], members[half:]):
            # Else they stay interrupted: halves of halves might take longer than the process is given.
            if time.perf_counter() - self._began < form.loaded.manifest.time_limit_s / 2:
                self.answer(part)

    def _predict_and_split(self, call: list[Stack]) -> None:
        form, rows = call[0].form, sum(stack.rows * len(stack.members) for stack in call)
        alone = len(call) == 1 and len(call[0].members) == 1
        outputs = self._predict(call, rows, alone=alone)
        _check(form.loaded, form.wanted, outputs, rows, alone=alone)
        start = 0
        for stack in call:
            stop = start + stack.rows * len(stack.members)
            own = {spec.name: outputs[spec.name][start:stop] for spec in form.wanted}
            self._end(stack.members, responses(stack, own, self._bounds))
            start = stop

    def _predict(self, call: list[Stack], rows: int, *, alone: bool) -> Mapping[str, Array]:
        inputs, started = _stacked(call), time.perf_counter()
        try:
            return _predicted(call[0].form.loaded, inputs, call[0].form.wanted, alone=alone)
        finally:
            self.rows += rows
            self.predict_s += time.perf_counter() - started

    def _end(self, members: Sequence[int], answers: Sequence[RequestResult]) -> None:
        for member, one in zip(members, answers, strict=True):
            if self._bytes > TOGETHER_BYTES:
                return
            self.answers[member] = one
            self._bytes += len(one.result) + len(one.payload or b"")


def calls(stacks: Sequence[Stack], max_rows: int, max_bytes: int) -> Iterator[list[Stack]]:
    """Share requests out to predict calls; one that is larger than a call may be goes alone, whole."""
    call: list[Stack] = []
    rows = size = 0
    for stack in stacks:
        start, count = 0, len(stack.members)
        while start < count:
            fits = min(count - start, (max_rows - rows) // stack.rows, (max_bytes - size) // stack.size)
            if fits < 1 and call:
                yield call
                call, rows, size = [], 0, 0
                continue
            fits = max(fits, 1)
            call.append(stack.cut(start, start + fits))
            start, rows, size = start + fits, rows + fits * stack.rows, size + fits * stack.size
    if call:
        yield call


def _stacked(call: list[Stack]) -> dict[str, Array]:
    if len(call) == 1:
        return call[0].inputs
    return {name: np.concatenate([stack.inputs[name] for stack in call]) for name in call[0].inputs}


def _predicted(
    loaded: LoadedModel, inputs: dict[str, Array], wanted: tuple[OutputSpec, ...], *, alone: bool
) -> Mapping[str, Array]:
    process = os.getpid()
    try:
        with isolation.preserved_process_state():
            return loaded.predict(inputs, wanted)
    except interruption.TIME_LIMIT:
        raise
    except BaseException as exc:  # sys.exit() in a model must not end the worker
        if interruption.is_terminating():  # that is not the model: this process is being ended
            raise
        if not alone and (late := _time_was_up(exc)):
            raise late from None
        ours = isinstance(exc, errors.InvalidOutput)
        error = invalid_output(loaded, str(exc)) if ours else model_failed(loaded, exc)
    finally:
        if os.getpid() != process:  # the model forked, and this is the copy: it must not answer a second time
            os._exit(os.EX_SOFTWARE)
    # Raised outside the handler, so that nothing of the model's own exception, which may not pickle, hangs on to it.
    raise error


def _time_was_up(exc: BaseException) -> Exception | None:
    """Find the time limit behind an exception that a model made of it."""
    found: BaseException | None = exc
    for _ in range(100):
        if found is None or isinstance(found, interruption.TIME_LIMIT):
            return found
        found = found.__cause__ or found.__context__
    return None


def _check(
    loaded: LoadedModel, wanted: tuple[OutputSpec, ...], outputs: Mapping[str, Array], rows: int, *, alone: bool
) -> None:
    """Hold outputs against the number of rows; those of several requests against the signature too.

    A row of another type than the signature's changes the type of its neighbours (a text makes all of them texts): each
    such request is answered alone, with what the model returns for it.
    """
    for spec in wanted:
        array = outputs[spec.name]
        if array.ndim == 0 or len(array) != rows:
            returned = "a single value" if array.ndim == 0 else f"{len(array)} rows"
            raise invalid_output(loaded, f"returned {returned} of {spec.name!r} for {rows} rows of input")
        if not alone and not _as_announced(spec, array):
            raise invalid_output(loaded, f"returned another type or shape of {spec.name!r} than it announced")


def _as_announced(spec: OutputSpec, array: Array) -> bool:
    shapes = zip(spec.shape[1:], array.shape[1:], strict=False)
    return (
        tensors.datatype_of(array) == spec.datatype
        and len(spec.shape) == array.ndim
        and all(want in (-1, got) for want, got in shapes)
    )
