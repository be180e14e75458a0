"""What workers have in their hands: the scripts that take and end requests, called one at a time, and what they leave in Redis."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from mutirao import keyspace, settings
from mutirao.wire.messages import JobRecord
from mutirao_worker.engine.job_records import JobRecords
from mutirao_worker.engine.leases import Demand, Leases, Reserved
from mutirao_worker.engine.outcome import BatchRun, Outcome
from mutirao_worker.engine.request import Request, of_envelope
from support.redis_servers import RedisServer

QUEUE, OTHER = keyspace.queue("iris"), keyspace.queue("forest")


def reserve(
    worker: Leases, count: int = 100, *, free: int = 1, ahead: int = 0, names: Iterable[str] = (QUEUE,)
) -> Reserved:
    call = worker.reserve_call({name: Demand(count, ahead) for name in names}, free)
    return worker.parse_reserved(call, worker.scripts.call(*call))


def ids(taken: Reserved) -> list[str]:
    return [json.loads(envelope)["headers"]["id"] for _, _, envelope in taken.requests]


def requests(taken: Reserved) -> list[Request]:
    nobody: Any = None  # only what stands in an envelope is asked for
    return [of_envelope(nobody, tag, key, envelope) for tag, key, envelope in taken.requests]


def age(redis: Any, worker: Leases) -> None:
    """Have a worker's lease lapse."""
    redis.zincrby(keyspace.LEASES, -60, worker.identity)


def end(worker: Leases, server: RedisServer, found: Sequence[Request]) -> list[str]:
    """End requests as succeeded; say for each what Redis says of that."""
    records = JobRecords(settings.load({}, broker_url=server.url), worker)
    run = BatchRun("iris", "1", "w@host", 1.0, 2.0, len(found))
    (said,) = records.commit(run, [Outcome(each, "SUCCESS", b'{"id":"x"}') for each in found])
    return [each.decode() for each in said]


def queued(redis: Any) -> list[str]:
    """The ids in the queue, the next to be served first."""
    return [json.loads(raw)["headers"]["id"] for raw in reversed(redis.lrange(keyspace.queue_key("iris", 3), 0, -1))]


def record(redis: Any, id: str) -> dict[str, Any]:
    """A record as it is, and as it must be laid out."""
    raw = redis.get(keyspace.record_key(id)).decode()
    assert raw.startswith('{"status":"'), raw
    assert raw.endswith("}}"), raw
    document: dict[str, Any] = json.loads(raw)
    assert list(document)[-1] == "job", raw
    names = list(document["job"])
    if "started_at" in names:
        base = names[: names.index("started_at")]
        assert not {"worker", "version", "attempts", "place", "batch", "finished_at"} & set(base), raw
    msgspec.json.decode(raw, type=JobRecord)
    return document
