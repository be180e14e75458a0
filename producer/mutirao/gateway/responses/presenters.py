"""The wire records of /v1: what a client reads of jobs and models."""

from __future__ import annotations

import msgspec

from mutirao.queue_stats import QueueDepth, QueuePosition
from mutirao.registry import ModelInfo
from mutirao.wire.http_schemas import JobView, job_view
from mutirao.wire.messages import JobRecord
from mutirao.wire.signature import Signature


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


def job(record: JobRecord, position: QueuePosition | None = None, *, result: bool = False) -> JobView:
    """Return a job's view, with its position in the queue where that is known."""
    view = job_view(record, result=result)
    if position is None:
        return view
    return msgspec.structs.replace(view, before=position.before, urgent=position.urgent, wait_s=position.wait_s)


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
