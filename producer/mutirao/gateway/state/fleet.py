"""The fleet at one moment: models, queues and workers, as far as a caller may see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from mutirao.gateway.auth.authenticator import Caller
from mutirao.queue_stats import QueueDepth, drain_s
from mutirao.registry import ModelInfo, Registry, WorkerInfo


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    """A model as the console shows it.

    Attributes:
        name: its name.
        version: the active version.
        versions: all versions in the repository.
        runtime: what loads it.
        ready: whether a live worker serves it now.
        reason: why it is not ready, or what to know of it.
        workers: how many live workers serve it.
        requests: how many requests wait; None where the broker is no Redis, since nobody can look.
        rows: how many rows wait; None as above.
        oldest_s: the age in seconds of the request that has waited longest; None where none waits, or its age is not known.
        rate_per_s: requests a second that the live workers answered lately.
        batch_rows: mean rows of a batch lately; 0 where there was none.
        drain_s: the seconds in which what waits will have been served, at the live workers' speed; None where it is not known.
    """

    name: str
    version: str
    versions: tuple[str, ...]
    runtime: str
    ready: bool
    reason: str
    workers: int
    requests: int | None
    rows: int | None
    oldest_s: float | None
    rate_per_s: float
    batch_rows: float
    drain_s: float | None


class WorkerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A live worker as the console shows it.

    Attributes:
        name: Celery's host name of it.
        cores: of its machine that it may use.
        processes: how many predictions it runs at once.
        memory_bytes: resident memory of its main process.
        models: the active version of each model it serves, by name.
        rate_per_s: requests a second that it answered lately.
        started_at: seconds since the epoch.
        failing: why it cannot serve a model that it should, by the model's name.
    """

    name: str
    cores: int
    processes: int
    memory_bytes: int
    models: dict[str, str]
    rate_per_s: float
    started_at: float
    failing: dict[str, str]


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """All of it at one moment.

    Attributes:
        at: when, in seconds since the epoch by Redis's clock.
        models: the models, by name; one that no live worker has in its repository while something waits for it alone.
        workers: the live workers, by name; None for a caller who may not see them.
    """

    at: float
    models: tuple[ModelRow, ...]
    workers: tuple[WorkerRow, ...] | None


class FleetSnapshot(msgspec.Struct, frozen=True):
    """The fleet as it was read at one moment, for any caller."""

    at: float
    registry: Registry
    depths: Mapping[str, Sequence[QueueDepth]]

    def shown_to(self, caller: Caller) -> Fleet:
        """Return what a caller may see: with the scope operate everything; else the models that it may read, its own requests that
        wait, and no workers. How soon a queue drains counts the requests of every tenant.
        """
        operator = caller.may("operate")
        models = tuple(
            _model(info, self.registry, self.depths.get(name), None if operator else caller.tenant)
            for name, info in sorted(self.registry.models.items())
            if (operator or caller.may("read", name))
            and (info.expected or any(depth.requests for depth in self.depths.get(name, ())))
        )
        return Fleet(
            at=self.at, models=models, workers=tuple(map(_worker, self.registry.workers)) if operator else None
        )


def _model(info: ModelInfo, registry: Registry, depths: Sequence[QueueDepth] | None, tenant: str | None) -> ModelRow:
    shown = [depth for depth in depths or () if tenant is None or depth.tenant == tenant]
    serving = registry.serving(info.name)
    ready = info.state == "ready" and bool(serving)
    return ModelRow(
        name=info.name,
        version=info.version,
        versions=info.versions,
        runtime=info.runtime,
        ready=ready,
        reason=info.reason or ("" if ready else _why(info)),
        workers=len(serving),
        requests=None if depths is None else sum(depth.requests for depth in shown),
        rows=None if depths is None else sum(depth.rows for depth in shown),
        oldest_s=max((depth.oldest_s for depth in shown if depth.oldest_s is not None), default=None),
        rate_per_s=registry.rate(info.name),
        batch_rows=_batch_rows(info.name, serving),
        drain_s=None if depths is None else drain_s(sum(depth.rows for depth in depths), registry.speed(info.name)),
    )


def _why(info: ModelInfo) -> str:
    return "no live worker serves it" if info.expected else "no live worker has it in its repository"


def _batch_rows(model: str, serving: Sequence[WorkerInfo]) -> float:
    """Mean rows of a batch, over the workers that ran any."""
    means = [worker.batches[model] for worker in serving if worker.batches.get(model)]
    return sum(means) / len(means) if means else 0.0


def _worker(info: WorkerInfo) -> WorkerRow:
    return WorkerRow(
        name=info.name,
        cores=info.cores,
        processes=info.processes,
        memory_bytes=info.memory_bytes,
        models=info.models,
        rate_per_s=sum(info.rates.values(), 0.0),
        started_at=info.started_at,
        failing=info.failing,
    )
