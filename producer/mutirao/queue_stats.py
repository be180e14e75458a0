"""What waits for each model, and for how long: by one call, whoever submitted it, with or without workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from mutirao import keyspace
from mutirao.client.redis_backend import RedisBackend
from mutirao.redisdb.drivers import Command, Operation
from mutirao.wire.messages import JobRecord


class QueueDepth(msgspec.Struct, frozen=True):
    """What waits in one line of a model's queue.

    Attributes:
        model: whose queue it is.
        tenant: whose line it is; "" for the queue's own, in which everybody's requests wait who is no tenant.
        requests: how many wait.
        rows: their rows; a request that does not say how many it has counts as one.
        oldest_s: how long the oldest has waited, in seconds by Redis's clock; None where nothing waits, and where neither its
            record nor its id tells.
        steps: the rows of each priority step, the most urgent first; () where that is not known.
    """

    model: str
    tenant: str
    requests: int
    rows: int
    oldest_s: float | None
    steps: tuple[int, ...] = ()

    def rows_until(self, priority: str) -> int:
        """Count the rows that are served before a request of this priority that joins the line now."""
        if not self.steps:
            return self.rows
        return sum(
            rows for step, rows in zip(keyspace.KOMBU_STEPS, self.steps, strict=True) if step <= keyspace.step(priority)
        )


class QueuePosition(msgspec.Struct, frozen=True):
    """Where a request stands in its line.

    Attributes:
        before: how many are served before it among those of its priority and its tenant.
        urgent: how many of its tenant's wait that have a higher priority.
        wait_s: how long it will still wait, in seconds, until a worker takes it; None where no live worker has said how quick it is.
    """

    before: int
    urgent: int
    wait_s: float | None


class QueueCounts(NamedTuple):
    """A request's line, and those that share the queue with it.

    Attributes:
        taken: how many requests have ever been taken from the list in which it waits.
        requests: how many wait in that list.
        rows: their rows.
        urgent: how many wait in the more urgent lists of its tenant.
        urgent_rows: their rows.
        sharing: how many share the queue of whom no more is known.
        others: the rows that wait of each other that shares the queue.
    """

    taken: int
    requests: int
    rows: int
    urgent: int
    urgent_rows: int
    sharing: int = 0
    others: tuple[int, ...] = ()


def depths(core: RedisBackend, models: Sequence[str]) -> Operation[tuple[QueueDepth, ...]]:
    """Read what waits for models: the queue's own line of each, and the line of every tenant that waits.

    Args:
        core: whose Redis to ask.
        models: their names.

    Returns:
        None of a model where the broker is no Redis: nobody can look into its queues.
    """
    if core.settings.foreign or not models:
        return ()
    names = [keyspace.queue(model) for model in models]
    now, *found = yield Command(
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
        for queue, tenant, requests, rows, heads, steps in found
    )


def place(core: RedisBackend, record: JobRecord) -> Operation[QueuePosition | None]:
    """Find a request's place in its line: at the same cost however many wait.

    Args:
        core: whose Redis to ask; how quick the workers are it knows from its copy of the catalogue.
        record: of the job.

    Returns:
        None for a job that does not wait, and where nobody counts: the queue is on another server than the record, a stock client
        submitted it, or kombu's own transport takes requests.
    """
    job = record.job
    if record.status != "QUEUED" or job.line is None or not job.model or not core.settings.engine:
        return None
    known = yield from core.known()
    step = keyspace.STEPS.get(job.priority, keyspace.KOMBU_STEPS[0])  # type: ignore[call-overload]
    args = (keyspace.KOMBU_SEPARATOR, keyspace.queue(job.model), core.line_of(job.owner), step)
    taken, requests, rows, urgent, urgent_rows, sharing, *others = yield Command("broker", "queue_position", (), args)
    line = QueueCounts(taken, requests, rows, urgent, urgent_rows, sharing, tuple(others))
    return placed(job.line, line, known.speed(job.model))


def placed(number: int, line: QueueCounts, speed: float) -> QueuePosition:
    """Tell a request's place.

    Args:
        number: its own number in its list.
        line: what waits.
        speed: rows a second of all workers; 0 where it is not known.
    """
    before = max(0, min(number - line.taken, line.requests - 1))
    rows = before * line.rows / line.requests if line.requests else 0.0
    return QueuePosition(
        before, line.urgent, drain_s(rows_ahead(rows + line.urgent_rows, line.others, line.sharing), speed)
    )


def wait_s(found: Iterable[QueueDepth], tenant: str, priority: str, speed: float) -> float | None:
    """Foretell how long a request will wait that joins a tenant's line now.

    Args:
        found: what waits for its model.
        tenant: whose it is.
        priority: of the request: what is less urgent in the tenant's own line is served after it.
        speed: rows a second of all workers; 0 where it is not known.
    """
    lines = {depth.tenant: depth for depth in found}
    own = lines.pop(tenant, None)
    ahead = own.rows_until(priority) if own else 0
    return drain_s(rows_ahead(ahead, [line.rows for line in lines.values()]), speed)


def rows_ahead(own: float, others: Iterable[int], sharing: int = 0) -> float:
    """Count the rows that are served before a request: lines that share a queue take turns, so no other has more than its own line.

    Args:
        own: the rows before it in its own line.
        others: the rows that wait in each of the other lines.
        sharing: how many more lines there are, of any length.
    """
    return own + sum(min(own, rows) for rows in others) + own * sharing


def drain_s(rows: float, speed: float) -> float | None:
    """Foretell in how many seconds rows will have been served, at so many rows a second; None where the speed is 0: not known."""
    return rows / speed if speed > 0 else None


def oldest_s(heads: Sequence[bytes], now: float) -> float | None:
    """Tell how long the oldest of requests has waited.

    Args:
        heads: when each was queued, b"" where no record says it, and its id, one after the other.
        now: by Redis's clock, in seconds since the epoch.
    """
    times = [
        float(at) if at else keyspace.made_at(id.decode(errors="replace"))
        for at, id in zip(heads[::2], heads[1::2], strict=True)
    ]
    return max((max(0.0, now - at) for at in times if at is not None), default=None)
