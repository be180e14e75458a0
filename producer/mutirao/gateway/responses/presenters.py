"""The wire records of /v1: what a client reads of jobs and models."""

from __future__ import annotations

from typing import Any

import msgspec

from mutirao import keyspace
from mutirao.queue_stats import QueueDepth, QueuePosition
from mutirao.registry import ModelInfo
from mutirao.wire import binary_codec
from mutirao.wire.messages import History, JobRecord
from mutirao.wire.signature import Signature


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


class SubmitManyReply(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs of one call.

    Attributes:
        ids: an id for each request, in their order.
        known: the places of those that were submitted before, from 0.
    """

    ids: tuple[str, ...]
    known: tuple[int, ...] = ()


class Await(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs that are waited for together.

    Attributes:
        ids: at most 1,000 of them.
        wait: how long at most, in seconds, at most 60.
        results: whether to tell the results too, those that are not large.
    """

    ids: tuple[str, ...]
    wait: float = 0.0
    results: bool = False


class Jobs(msgspec.Struct, frozen=True, kw_only=True):
    """Some jobs.

    Attributes:
        jobs: the jobs.
        missing: the ids of which there is no job.
    """

    jobs: tuple[JobView, ...]
    missing: tuple[str, ...] = ()


class ModelView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model.

    Attributes:
        name: its name.
        version: the active version.
        versions: all versions in the repository.
        runtime: what loads it.
        state: ready, or unavailable.
        reason: why it is unavailable, or what to know of it.
        ready: whether a live worker serves it now.
        workers: how many do.
        rate_per_s: requests a second that they answer.
        requests: how many wait.
        waiting_rows: how many rows wait.
        oldest_s: the age of the oldest that waits, in seconds.
        speed: rows a second of one worker at full batches, as it was last measured.
        signature: what it takes and gives.
        variants: what other copies of it take and give, that live workers serve under the same name.
    """

    name: str
    version: str
    versions: tuple[str, ...] = ()
    runtime: str = ""
    state: str = "ready"
    reason: str = ""
    ready: bool
    workers: int
    rate_per_s: float = 0.0
    requests: int | None = None
    waiting_rows: int | None = None
    oldest_s: float | None = None
    speed: float = 0.0
    signature: Signature
    variants: tuple[Signature, ...] = ()


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """The models that workers have announced."""

    models: tuple[ModelView, ...]


def job(record: JobRecord, place: QueuePosition | None = None, *, result: bool = False) -> JobView:
    """Show a job's record as its tenant knows it; where it stands while it waits, and its result if that is wanted."""
    record, info = msgspec.structs.replace(record, task_id=keyspace.unqualified(record.task_id)), record.job
    return JobView(
        id=record.task_id,
        status=record.state,
        model=info.model,
        rows=info.rows,
        priority=info.priority,
        queued_at=info.queued_at,
        expires_at=info.expires_at,
        reserved_at=info.reserved_at,
        started_at=info.started_at,
        finished_at=info.finished_at,
        worker=info.worker,
        version=info.version,
        attempts=info.attempts,
        batch=info.batch,
        place=info.place,
        history=info.history,
        before=None if place is None else place.before,
        urgent=None if place is None else place.urgent,
        wait_s=None if place is None else place.wait_s,
        error=_failure(record),
        result=_kept(record) if result and record.status == "SUCCESS" else msgspec.UNSET,
        links=links(record.task_id),
    )


def links(id: str) -> Links:
    """Name a job's addresses."""
    return Links(self=f"/v1/jobs/{id}", result=f"/v1/jobs/{id}/result", events=f"/v1/jobs/{id}/events")


def model(info: ModelInfo, rate_per_s: float, depth: QueueDepth | None) -> ModelView:
    """Show a model."""
    return ModelView(
        name=info.name,
        version=info.version,
        versions=info.versions,
        runtime=info.runtime,
        state=info.state,
        reason=info.reason,
        ready=info.state == "ready" and info.workers > 0,
        workers=info.workers,
        rate_per_s=rate_per_s,
        requests=None if depth is None else depth.requests,
        waiting_rows=None if depth is None else depth.rows,
        oldest_s=None if depth is None else depth.oldest_s,
        speed=info.speed,
        signature=info.signature,
        variants=info.variants,
    )


def _kept(record: JobRecord) -> msgspec.Raw:
    return msgspec.Raw(b"null") if binary_codec.is_beside(record.response()) else record.result


def _failure(record: JobRecord) -> Failure | None:
    if not record.done or record.status == "SUCCESS":
        return None
    error = record.error()
    return Failure(type=type(error).__name__, message=str(error), status=error.status, data=error.data)
