"""The history of a job: what happened to it step by step, and where it is now."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from mutirao import errors, keyspace
from mutirao.client.redis_backend import RedisBackend
from mutirao.dead_letters import DeadLetter, DeadLetters
from mutirao.redisdb.drivers import Command, Operation, T
from mutirao.redisdb.failure import denied
from mutirao.wire.messages import History, JobRecord

# How far from its head a queue is searched; one script reads one chunk, while Redis runs nothing else.
SEARCH_MAX = 10_000
SEARCH_CHUNK = 500


class JobStep(NamedTuple):
    """One step of a job.

    Attributes:
        at: when, in seconds since the epoch by Redis's clock.
        name: what happened, in a word.
        text: the rest of the sentence.
    """

    at: float
    name: str
    text: str


class QueuedAt(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a request waits.

    Attributes:
        queue: the queue.
        priority: its priority; "" for a stock client's own.
        before: how many of its priority and tenant are served before it; None where that is more than `searched`.
        urgent: how many of its tenant wait with a higher priority.
        searched: how many requests were compared.
        tenant: the tenant of the list where it waits; "" for the stock lists.
    """

    queue: str
    priority: str
    before: int | None
    urgent: int
    searched: int
    tenant: str = ""


class Held(msgspec.Struct, frozen=True):
    """The worker that has reserved a request, and the seconds for which its lease still runs; negative once it has lapsed."""

    worker: str
    lease_s: float


class JobHistory(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a job.

    Attributes:
        record: its record.
        waiting: where it waits; None where it does not, or was not found.
        held: the worker that holds it; None where none does.
        letter: its dead letter.
        served: whether a live worker serves its model.
        failures: why those that should serve it cannot, where none serves it.
        hidden: whether queues and reservations cannot be read: the broker is RabbitMQ, or the Redis user lacks the right.
    """

    record: JobRecord
    waiting: QueuedAt | None = None
    held: Held | None = None
    letter: DeadLetter | None = None
    served: bool = True
    failures: tuple[str, ...] = ()
    hidden: bool = False


# How an attempt that was not the last ended.
_RETRIED = {
    "process died": "its process died",
    "time limit": "it ran past its time limit among others",
    "terminated": "its process was ended",
}


def steps(record: JobRecord) -> list[JobStep]:
    """Return the steps of a job in order. Workers know Redis's clock to about a millisecond, so no step is dated before the last."""
    ordered: list[JobStep] = []
    for step in _steps(record):
        ordered.append(step._replace(at=max(step.at, ordered[-1].at if ordered else 0.0)))
    return ordered


def read_history(backend: RedisBackend, id: str) -> Operation[JobHistory]:
    """Read all that is known of a job.

    Raises:
        JobNotFound: no such job.
    """
    record = yield from backend.record(id)
    history = yield from _read(backend, record)
    if not (record.done or history.held or history.waiting or history.hidden):
        # A worker took it during the search.
        newer = yield from backend.record(id)
        history = msgspec.structs.replace(history, record=newer) if newer.done else (yield from _read(backend, newer))
    return history


def is_lost(backend: RedisBackend, record: JobRecord) -> Operation[bool]:
    """Return whether the request of a queued job is in no queue and no reservation."""
    history = yield from _allowed(_locate(backend, record))
    return history is not None and not (history.hidden or history.held or history.waiting)


def _read(backend: RedisBackend, record: JobRecord) -> Operation[JobHistory]:
    history = yield from _allowed(_locate(backend, record))
    history = history if history is not None else JobHistory(record=record, hidden=True)
    if history.record.status == "FAILURE":
        letters = yield from _allowed(DeadLetters(backend.settings).letters([record.task_id]))
        return msgspec.structs.replace(history, letter=letters[0] if letters else None)
    return history


def _locate(backend: RedisBackend, record: JobRecord) -> Operation[JobHistory]:
    if record.done or backend.settings.uses_amqp:
        return JobHistory(record=record, hidden=not record.done)
    model = record.job.model
    registry = yield from backend.catalog()
    served = not model or bool(registry.serving(model))
    held = yield from _holder(record.task_id, backend)
    waiting = (yield from _queued_at(record)) if held is None and record.status == "QUEUED" and model else None
    failures = () if served else registry.failures(model)
    return JobHistory(record=record, waiting=waiting, held=held, served=served, failures=failures)


def _queued_at(record: JobRecord) -> Operation[QueuedAt | None]:
    """Search the lists of its model for a request, in those of its priority."""
    model, priority = record.job.model, record.job.priority
    steps = [step for name, step in keyspace.STEPS.items() if name == priority] or list(keyspace.KOMBU_STEPS)
    tenants = dict.fromkeys((record.job.owner, ""))  # without the engine a tenant's requests wait in the stock lists
    for tenant, step in ((tenant, step) for tenant in tenants for step in steps):
        key = keyspace.queue_key(model, step, tenant)
        length: int = yield Command("broker", "LLEN", (key,))
        searched, place = min(length, SEARCH_MAX), 0
        for first in range(1, searched + 1, SEARCH_CHUNK):
            last = min(first + SEARCH_CHUNK - 1, searched)
            place = yield Command("broker", "find_request", (key,), (record.task_id, first, last))
            if place:
                break
        if place or length > SEARCH_MAX:
            urgent = 0
            for before in (each for each in keyspace.KOMBU_STEPS if each < step):
                urgent += yield Command("broker", "LLEN", (keyspace.queue_key(model, before, tenant),))
            return QueuedAt(keyspace.queue(model), priority, place - 1 if place else None, urgent, searched, tenant)
    return None


def _holder(id: str, backend: RedisBackend) -> Operation[Held | None]:
    """Search the reservations of workers for a request."""
    leases = yield Command("broker", "ZRANGE", (keyspace.LEASES,), (0, -1, "WITHSCORES"))
    for identity, until in _pairs(leases):
        worker = identity.decode()
        if (yield Command("broker", "find_request", (keyspace.reserved_key(worker),), (id, 0, 0))):
            return Held(worker.rpartition("#")[0] or worker, float(until) - backend.now())
    return None


def _pairs(reply: list[object]) -> Iterator[tuple[bytes, bytes]]:
    """Pair members with scores: the protocol's version decides whether Redis sends them in pairs or one after the other."""
    if reply and isinstance(reply[0], list | tuple):
        yield from reply  # type: ignore[misc]
    else:
        yield from zip(reply[::2], reply[1::2], strict=True)


def _allowed(operation: Operation[T]) -> Operation[T | None]:
    """Run an operation; return None where the Redis user has no right to it."""
    try:
        return (yield from operation)
    except errors.BrokerUnavailable as exc:
        if denied(exc.__cause__):
            return None
        raise


def _steps(record: JobRecord) -> Iterator[JobStep]:
    job = record.job
    replayed = any(entry.how == "replayed" for entry in job.history)
    first = keyspace.created_at(record.task_id) if replayed else job.queued_at
    if first is not None:
        yield JobStep(first, "submitted", _submitted(record))
    for entry, after in zip(job.history, (*job.history[1:], None), strict=False):
        given_up = after is not None and after.how == "replayed"
        yield JobStep(entry.at, *(_ended_early(entry) if given_up or entry.how not in _RETRIED else _retried(entry)))
    if job.reserved_at:
        yield JobStep(job.reserved_at, "reserved", f"by {job.worker}")
    ran = job.started_at is not None and bool(job.version or not record.done)
    if job.started_at is not None and ran:
        if job.batch:
            yield JobStep(job.started_at, "batched", _batched(job.batch, job.place))
        yield JobStep(job.started_at, "run", _run(record))
    if record.done and job.finished_at is not None:
        yield JobStep(job.finished_at, *_end(record, ran=ran))


def _submitted(record: JobRecord) -> str:
    job = record.job
    rows = f"{job.rows} row{'' if job.rows == 1 else 's'}" if job.rows else ""
    return ", ".join(
        filter(None, (f"to {job.model}" if job.model else "", rows, job.priority and f"priority {job.priority}"))
    )


def _ended_early(entry: History) -> tuple[str, str]:
    if entry.how == "worker lost":
        return "lost", f"with its worker {entry.worker}; back to the head of its queue"
    if entry.how == "given back":
        return "given back", f"by {entry.worker}, to the head of its queue"
    if entry.how == "handed over":
        return "given back", f"by {entry.worker}, whose copy of the model refuses it, for a worker with another"
    if entry.how == "replayed":
        return "replayed", "from the dead letters, to the end of its queue"
    return "given up", f"on {entry.worker}: {entry.how}; to the dead letters"


def _retried(entry: History) -> tuple[str, str]:
    return "tried", f"on {entry.worker}: {_RETRIED[entry.how]}; it runs again"


def _batched(batch: int, place: int) -> str:
    if batch == 1:
        return "alone"
    others = f"with {batch - 1} other{'' if batch == 2 else 's'}"
    return f"{others}, {ordinal(place)} in order" if place else others


def _run(record: JobRecord) -> str:
    job = record.job
    took = f"for {_ms(job.finished_at - job.started_at)} " if job.finished_at and job.started_at else "since then "
    version = f", version {job.version}" if job.version else ""
    again = f", attempt {job.attempts}" if job.attempts > 1 else ""
    return f"{took}on {job.worker}{version}{again}"


def _end(record: JobRecord, *, ran: bool) -> tuple[str, str]:
    if record.status == "SUCCESS":
        return "committed", "succeeded"
    why = str(record.error()).removeprefix(f"job {record.task_id} ").removeprefix("failed: ")
    if record.status == "REVOKED":
        return record.state, "" if why in {"was cancelled", "expired before it ran"} else why
    return ("committed", f"failed: {why}") if ran else ("failed", why)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.3f} s"


def ordinal(number: int) -> str:
    """Write 17 as 17th."""
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
