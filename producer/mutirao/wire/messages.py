"""The wire records: requests and results as they travel, and the record of a job.

Requests and results are those of the Open Inference Protocol V2 (`open_inference_rest.yaml` of the protocol's repository).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mutirao import errors


class Tensor(msgspec.Struct, frozen=True, omit_defaults=True):
    """A V2 tensor.

    Attributes:
        name: empty for the shorthand's only tensor.
        datatype: BOOL, UINT8 ... INT64, FP16, FP32, FP64 or BYTES; empty for the shorthand, whose type the signature gives.
        shape: rows first.
        data: a nested or flat row-major list (JSON), raw little-endian bytes (binary), or None while the bytes are apart from it.
        parameters: `binary_data_size` counts the raw bytes.
    """

    name: str = ""
    datatype: str = ""
    shape: tuple[int, ...] = ()
    data: Any = None
    parameters: dict[str, Any] | None = None


class RequestedOutput(msgspec.Struct, frozen=True, omit_defaults=True):
    """One output that the client requests."""

    name: str
    parameters: dict[str, Any] | None = None


class PredictRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """A V2 inference request. No `outputs` means the model's default outputs."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[RequestedOutput, ...] | None = None
    parameters: dict[str, Any] | None = None
    id: str | None = None


class PredictResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """A V2 inference response."""

    model_name: str
    model_version: str
    outputs: tuple[Tensor, ...]
    id: str | None = None
    parameters: dict[str, Any] | None = None

    def __repr__(self) -> str:
        """Describe it without its values: Celery writes this into logs and events."""
        shown = ", ".join(f"{tensor.name} {shape(tensor)}" for tensor in self.outputs)
        return f"{self.model_name}:{self.model_version} -> {shown}"

    def __json__(self) -> Any:
        """Return plain data for kombu, where a stock client's `link`, chain or chord passes the response on."""
        return msgspec.to_builtins(self)


class History(msgspec.Struct, frozen=True):
    """An earlier delivery without a result: its worker, until when, and how it ended.

    Attributes:
        worker: the worker that held the request.
        at: when it was taken from that worker, by Redis's clock.
        how: worker lost, given back, handed over, process died, time limit, or replayed.
    """

    worker: str
    at: float
    how: str


class JobInfo(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The fields of a job in its record, in addition to Celery's own. Times are seconds since the epoch by Redis's clock.

    Scripts edit records as text: the fields from `started_at` on are written together, and replaced together.

    Attributes:
        owner: the tenant that submitted it; empty for a job submitted through Redis, or through a gateway without keys.
        webhook: the URL that is called at its end; empty for none.
        digest: of the request's content; a request that is sent again under its id must have the same.
        line: its number in its list: how many had been taken from the list's head plus how many waited, when it was queued.
        history: earlier deliveries.
        attempts: deliveries, this one included.
        reserved_at: when the worker took it from the queue.
        batch: how many requests the model was given together.
        place: its own place among them, from 1.
    """

    model: str = ""
    rows: int = 0
    priority: str = ""
    owner: str = ""
    webhook: str = ""
    digest: str = ""
    queued_at: float | None = None
    expires_at: float | None = None
    line: int | None = None
    history: tuple[History, ...] = ()
    started_at: float | None = None
    finished_at: float | None = None
    worker: str = ""
    version: str = ""
    attempts: int = 0
    reserved_at: float | None = None
    batch: int = 0
    place: int = 0


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Celery's result document, as kept under `celery-task-meta-<id>`."""

    status: str
    task_id: str
    result: msgspec.Raw = msgspec.Raw(b"null")
    traceback: str | None = None
    date_done: str | None = None
    children: Any = None
    job: JobInfo = JobInfo()

    @property
    def state(self) -> str:
        """The state: queued, running, succeeded, failed, cancelled or expired."""
        if self.status == "REVOKED":
            return "expired" if "expired" in self._failure().message else "cancelled"
        return {"STARTED": "running", "SUCCESS": "succeeded", "FAILURE": "failed"}.get(self.status, "queued")

    @property
    def done(self) -> bool:
        """Whether the state is a terminal one."""
        return self.status in TERMINAL

    def response(self) -> PredictResult:
        """Decode the result of a succeeded job, without its raw tensors (see `binary_codec`)."""
        return msgspec.json.decode(self.result, type=PredictResult)

    def error(self) -> errors.MutiraoError:
        """Return the error of a job that ended without a result."""
        failure = self._failure()
        if self.status == "REVOKED":
            kind: type[errors.MutiraoError] = errors.JobExpired if self.state == "expired" else errors.JobCancelled
            what = "expired before it ran" if self.state == "expired" else "was cancelled"
            return kind(f"job {self.task_id} {what}", id=self.task_id)
        if failure.is_own and (own_class := errors.class_named(failure.exc_type)):
            return own_class(failure.message, **{"id": self.task_id, **(failure.exc_data or {})})
        kind = _CELERY_ERRORS.get(failure.exc_type, errors.JobError)
        return kind(
            _SAYS.get(kind, "job {id} failed: {type}{text}").format(
                id=self.task_id,
                type=failure.exc_type,
                text=f": {failure.message}" if failure.message else "",
                limit=f" of {failure.message} s" if failure.message else "",
            ),
            id=self.task_id,
        )

    def _failure(self) -> Failure:
        try:
            return msgspec.json.decode(self.result, type=Failure)
        except msgspec.DecodeError:
            return Failure(exc_type="Unknown", exc_message=[])


class Failure(msgspec.Struct, frozen=True):
    """Celery's form of an exception, with the data of one of this project's errors."""

    exc_type: str
    exc_message: Any
    exc_module: str | None = None
    exc_data: dict[str, Any] | None = None

    @property
    def is_own(self) -> bool:
        """Whether it is an error of this project; Celery has a TimeLimitExceeded too."""
        return self.exc_module == errors.__name__

    @property
    def message(self) -> str:
        """The exception's text."""
        parts = self.exc_message if isinstance(self.exc_message, list) else [self.exc_message]
        return ", ".join(str(part) for part in parts)


# The task's arguments, in order.
ARGUMENTS = ("model", "request")
TERMINAL = frozenset({"SUCCESS", "FAILURE", "REVOKED"})

_CELERY_ERRORS: dict[str, type[errors.MutiraoError]] = {
    "WorkerLostError": errors.WorkerLost,
    "Terminated": errors.WorkerLost,
    "TimeLimitExceeded": errors.TimeLimitExceeded,
    "SoftTimeLimitExceeded": errors.TimeLimitExceeded,
    "NotRegistered": errors.InvalidRequest,
}
_SAYS: dict[type[errors.MutiraoError], str] = {
    errors.InvalidRequest: "job {id} failed: its task is not known{text}; the only one is mutirao.predict",
    errors.WorkerLost: "job {id} failed: the process that ran the model died{text}",
    errors.TimeLimitExceeded: "job {id} failed: the model ran past its time limit{limit} and was stopped",
}


def arguments(args: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the model and the request among a task's arguments, each given by position or by name; no other is allowed.

    Raises:
        InvalidRequest: one of them is missing, or there are others.
    """
    by_place = [name for name in ARGUMENTS if name not in named]
    if len(args) != len(by_place) or len(by_place) + len(named) != len(ARGUMENTS):
        options = [name[:_NAME_SHOWN] for name in sorted(named)[:_SHOWN]]
        text = f"mutirao.predict takes (model, request), got {len(args)} arguments and options {options}"
        if len(args) == 1 and not named:
            text += ": where the other one comes from a task before, give the model as kwargs={'model': ...}"
        raise errors.InvalidRequest(text, reason="not (model, request)")
    values = {**named, **dict(zip(by_place, args, strict=True))}
    return values["model"], values["request"]


def read_request(request: Any) -> PredictRequest:
    """Convert what a client sent to a request: a V2 request, or the shorthand, a bare nested list.

    Raises:
        InvalidRequest: it is neither of them.
    """
    if isinstance(request, PredictRequest):
        return request
    if isinstance(request, list):
        return PredictRequest(inputs=(Tensor(data=request),))
    try:
        return msgspec.convert(request, PredictRequest)
    except msgspec.ValidationError as exc:
        text = f"this is neither a V2 inference request nor a nested list: {exc}"
        raise errors.InvalidRequest(text, reason="neither a V2 request nor a nested list") from exc


def summary(model: str, request: PredictRequest) -> str:
    """Describe a request by its shape, without its values, for Flower, logs and events."""
    inputs = request.inputs
    if len(inputs) > _SHOWN:
        return f"{model}: {rows(inputs[0])} rows x {len(inputs)} inputs"
    return f"{model}: " + ", ".join(f"{tensor.name} {shape(tensor)} {tensor.datatype}".strip() for tensor in inputs)


def shape(tensor: Tensor) -> str:
    """Return a tensor's shape as text: 2x4."""
    return "x".join(str(size) for size in tensor.shape or _nested(tensor.data))


_SHOWN = 3
_NAME_SHOWN = 64


def rows(tensor: Tensor) -> int:
    """Return a tensor's rows, by its own shape."""
    return (tensor.shape or _nested(tensor.data) or (0,))[0]


def _nested(data: Any) -> tuple[int, ...]:
    sizes: list[int] = []
    while isinstance(data, list) and len(sizes) < 8:
        sizes.append(len(data))
        data = data[0] if data else None
    return tuple(sizes)
