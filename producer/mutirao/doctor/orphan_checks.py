"""Check for jobs whose record says queued though no list and no worker holds their request: a foreign purge removed it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import redis

from mutirao import job_history, keyspace
from mutirao.client.redis_backend import RedisBackend
from mutirao.redisdb.drivers import Operation, RedisDriver
from mutirao.settings import Settings
from mutirao.wire.messages import JobRecord

# At most this many records are read, their state alone; of those queued, this many are searched for, which takes a few calls each.
RECORDS = 50_000
SEARCHED = 50
CHUNK = 1000
QUEUED = b'{"status":"QUEUED"'


class Orphans(msgspec.Struct, frozen=True):
    """Jobs whose requests have vanished.

    Attributes:
        ids: of the jobs.
        looked_at: how many records were looked at.
        whole: whether all records were looked at, and each queued request searched for.
    """

    ids: tuple[str, ...]
    looked_at: int
    whole: bool


def find(client: redis.Redis, settings: Settings) -> Orphans:
    """Search for the requests of queued jobs.

    Args:
        client: of the Redis that keeps records.
        settings: those of this process.
    """
    keys, all_scanned = _scan(client)
    queued = [key.removeprefix(keyspace.record_key("").encode()).decode() for key in _queued(client, keys)]
    backend, lost = RedisBackend(settings, check=False), queued[:SEARCHED]
    with contextlib.closing(RedisDriver(settings)) as driver:
        for _ in range(2):  # a request that a worker was taking during the first search is found by the second
            lost = driver.run(_lost(backend, lost)) if lost else []
    return Orphans(tuple(lost), len(keys), all_scanned and len(queued) <= SEARCHED)


def _scan(client: redis.Redis) -> tuple[list[bytes], bool]:
    """Return the keys of records, and whether these are all."""
    cursor, keys = 0, list[bytes]()
    while len(keys) < RECORDS:
        cursor, some = client.scan(cursor, match=keyspace.record_key("*"), count=CHUNK, _type="string")
        keys += map(bytes, some)  # type: ignore[arg-type]
        if cursor == 0:
            return keys, True
    return keys, False


def _queued(client: redis.Redis, keys: Sequence[bytes]) -> Iterator[bytes]:
    for first in range(0, len(keys), CHUNK):
        some = keys[first : first + CHUNK]
        pipe = client.pipeline(transaction=False)
        for key in some:
            pipe.getrange(key, 0, len(QUEUED) - 1)
        states: list[Any] = pipe.execute()
        yield from (key for key, state in zip(some, states, strict=True) if state == QUEUED)


def _lost(backend: RedisBackend, ids: Sequence[str]) -> Operation[list[str]]:
    records: list[JobRecord | None] = yield from backend.records(ids)
    lost: list[str] = []
    for record in records:
        is_lost = record and record.status == "QUEUED" and (yield from job_history.is_lost(backend, record))
        lost += [record.task_id] if record and is_lost else []
    return lost
