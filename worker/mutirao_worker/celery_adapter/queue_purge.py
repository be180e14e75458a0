"""Emptying a queue: `celery purge` removes messages, and their jobs would never end, so they are cancelled."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import redis

from mutirao import errors, keyspace, settings
from mutirao.client.redis_backend import RedisBackend
from mutirao.redisdb.drivers import RedisDriver

# How many are taken or ended at once; Redis runs nothing else meanwhile.
TOGETHER = 200
_ID = re.compile(rb'"id":\s*"([^"]*)"')


def empty(client: redis.Redis, queue: str) -> int:
    """Remove all that waits in a model's queue, and end its jobs as cancelled; return how many messages there were.

    Raises:
        BrokerUnavailable: the jobs' records could not be ended.
    """
    given, count = settings.load(), 0
    with contextlib.closing(RedisDriver(given)) as driver:
        core = RedisBackend(given, check=False)
        for key in list(_lists(client, queue)):
            while envelopes := _taken(client, key):
                count += len(envelopes)
                found = (_ID.search(raw) for raw in envelopes)
                ids = [id for match in found if match and (id := _known(match[1]))]
                driver.run(core.cancel_or_expire(ids, "revoked"))
    return count


def _lists(client: redis.Redis, queue: str) -> Iterator[str]:
    yield from keyspace.stock_lists(queue)
    tenants: Any = client.zrange(keyspace.tenants_key(queue), 0, -1)
    for tenant in filter(None, (raw.decode() for raw in tenants)):
        yield from (keyspace.queue_key(str(keyspace.model_of(queue)), step, tenant) for step in keyspace.KOMBU_STEPS)


def _taken(client: redis.Redis, key: str) -> list[bytes]:
    """Take requests off a list, and count them as taken, so that the places of others stay right."""
    found: Any = client.rpop(key, TOGETHER)
    taken: list[bytes] = found or []
    if taken:
        client.hincrby(keyspace.LIST_COUNTS, key, len(taken))
        client.hdel(keyspace.LIST_COUNTS, f"rows {key}")
    return taken


def _known(raw: bytes) -> str:
    try:
        return keyspace.recorded_id(raw.decode(errors="replace"))
    except errors.InvalidRequest:
        return ""
