"""The JSON bodies of `/v1`: what a client sends, the view of a job that it reads and that webhooks send, and errors."""

from __future__ import annotations

from typing import Any

import msgspec

from mutirao import keyspace
from mutirao.wire import binary_codec
from mutirao.wire.messages import History, JobInfo, JobRecord, RequestedOutput, Tensor


class InferBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a JSON body may hold: a V2 inference request, or `rows`; and a job's options.

    Attributes:
        inputs: V2's tensors.
        outputs: the outputs wanted; the model's default ones where none is named.
        parameters: V2's parameters: binary_data_output, priority and timeout (microseconds) count.
        id: V2's name of the request; it is echoed, and no job is called so.
        rows: instead of `inputs`: rows of values, or objects by column.
        priority: high, normal or low.
        expires_s: drop the job if it has not started in so many seconds.
        webhook: the URL that is told when the job has ended.
        ids: own ids of a batch's jobs.
        requests: of a batch: each with `inputs` or `rows`.
    """

    inputs: tuple[Tensor, ...] | msgspec.UnsetType = msgspec.UNSET
    outputs: tuple[RequestedOutput, ...] | None = None
    parameters: dict[str, Any] | None = None
    id: str | None = None
    rows: list[Any] | msgspec.UnsetType = msgspec.UNSET
    priority: str | None = None
    expires_s: float | None = None
    webhook: str | None = None
    ids: tuple[str, ...] | None = None
    requests: tuple[RequestInputs, ...] | None = None


class RequestInputs(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request of a batch."""

    inputs: tuple[Tensor, ...] | msgspec.UnsetType = msgspec.UNSET
    rows: list[Any] | msgspec.UnsetType = msgspec.UNSET
    id: str | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error.

    Attributes:
        error: what is wrong, in a sentence.
        type: the class of the error.
        data: what it is about: names and numbers.
    """

    error: str
    type: str
    data: dict[str, Any] = {}


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job ended without a result.

    Attributes:
        type: the class of the error.
        message: what happened, in a sentence.
        status: the HTTP status that `infer` answers with.
        data: what it is about: names and numbers.
    """

    type: str
    message: str
    status: int
    data: dict[str, Any] = {}


class Links(msgspec.Struct, frozen=True, kw_only=True):
    """Where to go on from here."""

    self: str
    result: str
    events: str


class JobView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job. Times are seconds since the epoch by Redis's clock.

    Attributes:
        id: its id.
        status: queued, running, succeeded, failed, cancelled or expired.
        model: the model's name.
        rows: how many rows it holds.
        priority: high, normal or low.
        queued_at: when it was queued.
        expires_at: when it expires if it has not started.
        reserved_at: when a worker took it from the queue.
        started_at: when the model was given it.
        finished_at: when it ended.
        worker: who has or had it.
        version: the model's version that ran.
        attempts: deliveries, this one included.
        batch: how many requests the model was given together.
        place: its own place among them, from 1.
        history: earlier deliveries that came to nothing.
        before: how many requests are served before it, while it is queued and that is known.
        urgent: how many of a higher priority wait, likewise.
        wait_s: how long it will still wait, as far as the live workers' speed tells.
        error: why it ended without a result.
        result: its V2 response as it is kept, where it was asked for and is not a large one; raw tensors stand in it as base64.
        links: the addresses of the job, of its result and of its events.
    """

    id: str
    status: str
    model: str = ""
    rows: int = 0
    priority: str = ""
    queued_at: float | None = None
    expires_at: float | None = None
    reserved_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    worker: str = ""
    version: str = ""
    attempts: int = 0
    batch: int = 0
    place: int = 0
    history: tuple[History, ...] = ()
    before: int | None = None
    urgent: int | None = None
    wait_s: float | None = None
    error: Failure | None = None
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    links: Links


# What a view shows of the record as it is.
JOB_FIELDS = tuple(field for field in JobInfo.__struct_fields__ if field in JobView.__struct_fields__)


def job_view(record: JobRecord, *, result: bool = False) -> JobView:
    """Return a job's record as its tenant knows it, with its result if that is wanted."""
    id, info = keyspace.unqualified(record.task_id), record.job
    return JobView(
        id=id,
        status=record.state,
        error=_failure(msgspec.structs.replace(record, task_id=id)),
        result=_kept(record) if result and record.status == "SUCCESS" else msgspec.UNSET,
        links=links(id),
        **{field: getattr(info, field) for field in JOB_FIELDS},
    )


def links(id: str) -> Links:
    """Return a job's addresses."""
    return Links(self=f"/v1/jobs/{id}", result=f"/v1/jobs/{id}/result", events=f"/v1/jobs/{id}/events")


def _kept(record: JobRecord) -> msgspec.Raw:
    return msgspec.Raw(b"null") if binary_codec.is_offloaded(record.response()) else record.result


def _failure(record: JobRecord) -> Failure | None:
    if not record.done or record.status == "SUCCESS":
        return None
    error = record.error()
    return Failure(type=type(error).__name__, message=str(error), status=error.status, data=error.data)
