"""Queue statistics: what waits for each model and for how long, and where a request stands in its queue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from mutirao import keyspace
from mutirao.client.redis_backend import RedisBackend
from mutirao.redisdb.drivers import Command, Operation
from mutirao.wire.messages import JobRecord


class QueueDepth(msgspec.Struct, frozen=True):
    """What waits of one tenant in a model's queue.

    Attributes:
        model: the queue's model.
        tenant: the tenant; "" for the stock lists, where requests without a tenant wait.
        requests: how many wait.
        rows: their rows; a request that does not say how many it has counts as one.
        oldest_s: how long the oldest has waited, in seconds by Redis's clock; None where nothing waits, or where neither its record
            nor its id holds a time.
        steps: the rows of each priority step, the most urgent first; () where that is not known.
    """

    model: str
    tenant: str
    requests: int
    rows: int
    oldest_s: float | None
    steps: tuple[int, ...] = ()

    def rows_until(self, priority: str) -> int:
        """Count the tenant's rows that are served before a request of this priority that is queued now."""
        if not self.steps:
            return self.rows
        return sum(
            rows for step, rows in zip(keyspace.KOMBU_STEPS, self.steps, strict=True) if step <= keyspace.step(priority)
        )


class QueuePosition(msgspec.Struct, frozen=True):
    """Where a request stands in its queue.

    Attributes:
        before: how many of its priority and tenant are served before it.
        urgent: how many of its tenant wait with a higher priority.
        wait_s: an estimate of the seconds until a worker takes it; None where no live worker has announced its speed.
    """

    before: int
    urgent: int
    wait_s: float | None


class QueueCounts(NamedTuple):
    """The counts of a request's list, and of the tenants that share its queue.

    Attributes:
        taken: how many requests have ever been taken from its list.
        requests: how many wait in its list.
        rows: their rows.
        urgent: how many wait in the more urgent lists of its tenant.
        urgent_rows: their rows.
        sharing: how many more tenants share the queue, whose rows were not counted.
        others: the rows that wait of each other tenant.
    """

    taken: int
    requests: int
    rows: int
    urgent: int
    urgent_rows: int
    sharing: int = 0
    others: tuple[int, ...] = ()


def depths(backend: RedisBackend, models: Sequence[str]) -> Operation[tuple[QueueDepth, ...]]:
    """Read what waits for models: in the stock lists of each, and of every tenant that waits.

    Args:
        backend: the backend of the Redis to read.
        models: their names.

    Returns:
        Nothing where the broker is RabbitMQ, whose queues cannot be read.
    """
    if backend.settings.uses_amqp or not models:
        return ()
    names = [keyspace.queue(model) for model in models]
    now, *counts = yield Command(
        "broker", "queue_depths", (), (keyspace.KOMBU_SEPARATOR, keyspace.record_key(""), *names)
    )
    return tuple(
        QueueDepth(
            queue.decode().removeprefix(keyspace.PREFIX),
            tenant.decode(),
            requests,
            rows,
            oldest_s(heads, float(now)),
            tuple(steps),
        )
        for queue, tenant, requests, rows, heads, steps in counts
    )


def position(backend: RedisBackend, record: JobRecord) -> Operation[QueuePosition | None]:
    """Return a request's position in its queue; the cost does not grow with what waits.

    Args:
        backend: the backend of the Redis to read; its copy of the registry gives the workers' speed.
        record: the job's record.

    Returns:
        None for a job that does not wait, and where positions are not counted: the queue is on another server than the record, a
        stock client submitted the job, or kombu's own transport takes requests.
    """
    job = record.job
    if record.status != "QUEUED" or job.line is None or not job.model:
        return None
    registry = yield from backend.cached_registry()
    step = keyspace.STEPS.get(job.priority, keyspace.KOMBU_STEPS[0])  # type: ignore[call-overload]
    args = (keyspace.KOMBU_SEPARATOR, keyspace.queue(job.model), backend.list_tenant(job.owner), step)
    taken, requests, rows, urgent, urgent_rows, sharing, *others = yield Command("broker", "queue_position", (), args)
    counts = QueueCounts(taken, requests, rows, urgent, urgent_rows, sharing, tuple(others))
    return position_from(job.line, counts, registry.speed(job.model))


def position_from(number: int, counts: QueueCounts, speed: float) -> QueuePosition:
    """Return the position of a request.

    Args:
        number: its own number in its list.
        counts: what waits.
        speed: rows a second of all workers; 0 where it is not known.
    """
    before = max(0, min(number - counts.taken, counts.requests - 1))
    rows = before * counts.rows / counts.requests if counts.requests else 0.0
    return QueuePosition(
        before, counts.urgent, drain_s(rows_ahead(rows + counts.urgent_rows, counts.others, counts.sharing), speed)
    )


def wait_s(waiting: Iterable[QueueDepth], tenant: str, priority: str, speed: float) -> float | None:
    """Estimate how long a request will wait that is queued now, in seconds.

    Args:
        waiting: what waits for its model.
        tenant: the request's tenant.
        priority: the request's priority; its tenant's less urgent requests are served after it.
        speed: rows a second of all workers; 0 where it is not known.
    """
    by_tenant = {depth.tenant: depth for depth in waiting}
    own = by_tenant.pop(tenant, None)
    ahead = own.rows_until(priority) if own else 0
    return drain_s(rows_ahead(ahead, [depth.rows for depth in by_tenant.values()]), speed)


def rows_ahead(own: float, others: Iterable[int], sharing: int = 0) -> float:
    """Count the rows that are served before a request: tenants take turns, so no other is served more than the request's own.

    Args:
        own: the rows of its own tenant before it.
        others: the rows that wait of each other tenant.
        sharing: how many more tenants there are, with any number of rows.
    """
    return own + sum(min(own, rows) for rows in others) + own * sharing


def drain_s(rows: float, speed: float) -> float | None:
    """Estimate in how many seconds rows are served at a speed in rows a second; None where the speed is 0, not known."""
    return rows / speed if speed > 0 else None


def oldest_s(heads: Sequence[bytes], now: float) -> float | None:
    """Return how long the oldest of the requests at the heads of lists has waited, in seconds.

    Args:
        heads: of each request when it was queued, b"" where no record says so, and its id, one after the other.
        now: by Redis's clock, in seconds since the epoch.
    """
    times = [
        float(at) if at else keyspace.created_at(id.decode(errors="replace"))
        for at, id in zip(heads[::2], heads[1::2], strict=True)
    ]
    return max((max(0.0, now - at) for at in times if at is not None), default=None)
