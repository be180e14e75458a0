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

# Of each record no more is read than its state; of those queued so many are looked for, which takes some calls each.
RECORDS = 50_000
LOOKED_FOR = 50
TOGETHER = 1000
QUEUED = b'{"status":"QUEUED"'


class Orphans(msgspec.Struct, frozen=True):
    """What a look at the records found.

    Attributes:
        ids: of jobs whose request has vanished.
        looked_at: how many records were looked at.
        whole: all records were looked at, and each queued one looked for.
    """

    ids: tuple[str, ...]
    looked_at: int
    whole: bool


def find(client: redis.Redis, given: Settings) -> Orphans:
    """Look for the requests of queued jobs.

    Args:
        client: of the Redis that keeps records.
        given: the settings.
    """
    keys, ended = _scanned(client)
    ids = [key.removeprefix(keyspace.record_key("").encode()).decode() for key in _queued(client, keys)]
    with contextlib.closing(RedisDriver(given)) as driver:
        core = RedisBackend(given, check=False)
        lost: Sequence[str] = ids[:LOOKED_FOR]
        for _ in range(2):  # what was being taken meanwhile is found the second time
            lost = driver.run(_lost(core, lost)) if lost else ()
    return Orphans(tuple(lost), len(keys), ended and len(ids) <= LOOKED_FOR)


def _scanned(client: redis.Redis) -> tuple[list[bytes], bool]:
    cursor, keys = 0, list[bytes]()
    while len(keys) < RECORDS:
        cursor, found = client.scan(cursor, match=keyspace.record_key("*"), count=TOGETHER, _type="string")
        keys += map(bytes, found)  # type: ignore[arg-type]
        if cursor == 0:
            return keys, True
    return keys, False


def _queued(client: redis.Redis, keys: Sequence[bytes]) -> Iterator[bytes]:
    for first in range(0, len(keys), TOGETHER):
        some = keys[first : first + TOGETHER]
        pipe = client.pipeline(transaction=False)
        for key in some:
            pipe.getrange(key, 0, len(QUEUED) - 1)
        states: list[Any] = pipe.execute()
        yield from (key for key, state in zip(some, states, strict=True) if state == QUEUED)


def _lost(core: RedisBackend, ids: Sequence[str]) -> Operation[list[str]]:
    found: list[JobRecord | None] = yield from core.records(ids)
    lost = []
    for record in found:
        is_lost = record is not None and record.status == "QUEUED" and (yield from job_history.is_lost(core, record))
        lost += [record.task_id] if record is not None and is_lost else []
    return lost
