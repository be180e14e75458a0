"""The broker that tests run on: the Redis that each starts, or, with MUTIRAO_TEST_BROKER=amqp, RabbitMQ beside it.

A test names its system by the
URL of its Redis, whichever it is. With RabbitMQ that Redis keeps the results, and requests go through a virtual host of their
own on the one RabbitMQ of this run.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from typing import Any

import kombu
import msgspec
import pytest

from mutirao import keyspace, settings
from support.rabbitmq_server import MISSING, RabbitServer
from support.redis_servers import RedisServer

AMQP = os.environ.get("MUTIRAO_TEST_BROKER") == "amqp"
HOSTS = 200  # virtual hosts for the tests of a whole run
redis_only = pytest.mark.skipif(AMQP, reason="is about requests in Redis: its lists, scripts, keys")

_server: list[RabbitServer] = []
_hosts: dict[str, str] = {}


def broker_of(url: str) -> dict[str, str]:
    """Choose the settings of the system that is named by a Redis URL: broker_url, and result_url where that is another."""
    if not AMQP or not url.startswith("redis://"):
        return {"broker_url": url}
    if url not in _hosts:
        _hosts[url] = _rabbit().host(len(_hosts))
    return {"broker_url": _hosts[url], "result_url": url}


def environment(url: str) -> dict[str, str]:
    """The same as variables of a process."""
    return {settings.PREFIX + name.upper(): value for name, value in broker_of(url).items()}


def queued(server: RedisServer, model: str) -> int:
    """How many requests wait in a model's queue, over all priorities."""
    if AMQP:
        with _connected(server) as connection:
            queue = connection.default_channel.queue_declare(keyspace.queue(model), durable=True, auto_delete=False)
            return int(queue.message_count)
    return sum(int(server.client().llen(keyspace.queue_key(model, step))) for step in keyspace.KOMBU_STEPS)


def take(server: RedisServer, model: str, count: int) -> list[dict[str, Any]]:
    """Take requests of normal priority from a model's queue, in order, as if no worker ever had them: the headers of each."""
    if AMQP:
        with _connected(server) as connection:
            queue = kombu.Queue(keyspace.queue(model), channel=connection.default_channel)
            return [queue.get(no_ack=True).headers for _ in range(count)]
    key, redis = keyspace.queue_key(model, keyspace.STEPS["normal"]), server.client()
    found: Any = [redis.rpop(key) for _ in range(count)]
    return [msgspec.json.decode(raw)["headers"] for raw in found]


def install() -> None:
    """Have clients of this process that are given the Redis URL of a test use the broker of this run."""
    load = settings.load

    def loaded(env: Mapping[str, str] | None = None, **given: Any) -> settings.Settings:
        url = given.get("broker_url")
        return load(env, **(given | broker_of(url) if url and not given.get("result_url") else given))

    if AMQP:
        settings.load = loaded


def _connected(server: RedisServer) -> kombu.Connection:
    return kombu.Connection(broker_of(server.url)["broker_url"])


def _rabbit() -> RabbitServer:
    assert not MISSING, MISSING
    if not _server:
        _server.append(RabbitServer(HOSTS))
        atexit.register(_server[0].close)
    return _server[0]
