"""What workers have in their hands: the scripts that take and end requests, called one at a time, and what they leave in Redis."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from servers import RedisServer

from mutirao import queues, settings
from mutirao.messages import JobRecord
from mutirao_worker.commit import Commit
from mutirao_worker.ending import Ending, Run
from mutirao_worker.request import Request, of_envelope
from mutirao_worker.transport.reservations import Reservations, Room, Taken

QUEUE, OTHER = queues.queue("iris"), queues.queue("forest")


def reserve(
    worker: Reservations, count: int = 100, *, free: int = 1, ahead: int = 0, names: Iterable[str] = (QUEUE,)
) -> Taken:
    call = worker.reserving({name: Room(count, ahead) for name in names}, free)
    return worker.taken(call, worker.scripts.call(*call))


def ids(taken: Taken) -> list[str]:
    return [json.loads(envelope)["headers"]["id"] for _, _, envelope in taken.requests]


def requests(taken: Taken) -> list[Request]:
    nobody: Any = None  # only what stands in an envelope is asked for
    return [of_envelope(nobody, tag, key, envelope) for tag, key, envelope in taken.requests]


def age(redis: Any, worker: Reservations) -> None:
    """Have a worker's lease lapse."""
    redis.zincrby(queues.LEASES, -60, worker.identity)


def end(worker: Reservations, server: RedisServer, found: Sequence[Request]) -> list[str]:
    """End requests as succeeded; say for each what Redis says of that."""
    commit = Commit(settings.load({}, broker_url=server.url), worker)
    run = Run("iris", "1", "w@host", 1.0, 2.0, len(found))
    said, _ = commit.end(run, [Ending(each, "SUCCESS", b'{"id":"x"}') for each in found])
    return said


def queued(redis: Any) -> list[str]:
    """The ids in the queue, the next to be served first."""
    return [json.loads(raw)["headers"]["id"] for raw in reversed(redis.lrange(queues.queue_key("iris", 3), 0, -1))]


def record(redis: Any, id: str) -> dict[str, Any]:
    """A record as it is, and as it must be laid out."""
    raw = redis.get(queues.record_key(id)).decode()
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
