"""The script that polls for producers that ring no bell, on a real Redis: it rings for them, and one worker calls it for all."""

import pytest

from mutirao import keyspace
from support import brokers, waiting
from support.reservations import QUEUE

pytestmark = brokers.redis_only

BELL = keyspace.wakeup_key(QUEUE)


def poll(worker, *names, hold_ms=60_000):
    return worker.scripts.call("poll_queues", (), (worker.identity, hold_ms, keyspace.KOMBU_SEPARATOR, *names))


@pytest.mark.parametrize("key", keyspace.stock_lists(QUEUE))
def test_rings_once(redis, worker, key):
    """What waits in any of kombu's lists has the bell rung; while that is not heard, it is not rung again."""
    redis.lpush(key, b"{}")
    w1 = worker("w1")
    assert [poll(w1, QUEUE), redis.llen(BELL), poll(w1, QUEUE), redis.llen(BELL)] == [[2], 1, [1], 1]


def test_rings_for_nothing_else(redis, worker):
    """No bell is rung where nothing waits, or where a bell has rung."""
    redis.lpush(BELL, "1")
    redis.lpush(QUEUE, b"{}")
    assert poll(worker("w1"), QUEUE, "mutirao.forest") == [1, 1]
    assert [redis.llen(BELL), redis.exists(keyspace.wakeup_key("mutirao.forest"))] == [1, 0]


def test_one_worker_polls(redis, worker):
    """While one worker polls a queue another one does not; it does as soon as that one has not for a while."""
    w1, w2 = worker("w1"), worker("w2")
    assert poll(w1, QUEUE, hold_ms=200) == [1]
    redis.lpush(QUEUE, b"{}")
    assert [poll(w2, QUEUE), redis.exists(BELL)] == [[0], 0]
    waiting.until(lambda: poll(w2, QUEUE) == [2])
    assert poll(w1, QUEUE) == [0]
