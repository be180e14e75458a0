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
    loaded, count = settings.load(), 0
    with contextlib.closing(RedisDriver(loaded)) as driver:
        backend = RedisBackend(loaded, check=False)
        for key in list(_lists(client, queue)):
            while envelopes := _pop(client, key):
                count += len(envelopes)
                ids = [id for raw in envelopes if (id := _id_of(raw))]
                driver.run(backend.cancel_or_expire(ids, "revoked"))
    return count


def _lists(client: redis.Redis, queue: str) -> Iterator[str]:
    yield from keyspace.stock_lists(queue)
    tenants: Any = client.zrange(keyspace.tenants_key(queue), 0, -1)
    for tenant in filter(None, (raw.decode() for raw in tenants)):
        yield from (keyspace.queue_key(str(keyspace.model_of(queue)), step, tenant) for step in keyspace.KOMBU_STEPS)


def _pop(client: redis.Redis, key: str) -> list[bytes]:
    """Take requests off a list, and count them as taken, so that the places of others stay right."""
    envelopes: Any = client.rpop(key, TOGETHER) or []
    if envelopes:
        client.hincrby(keyspace.LIST_COUNTS, key, len(envelopes))
        client.hdel(keyspace.LIST_COUNTS, f"rows {key}")
    return list(envelopes)


def _id_of(envelope: bytes) -> str:
    match = _ID.search(envelope)
    try:
        return keyspace.recorded_id(match[1].decode(errors="replace")) if match else ""
    except errors.InvalidRequest:
        return ""
