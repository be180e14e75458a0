"""Scripts of the transport that Redis stops half-way, as it does at a key of another type: each request is where it was, once."""

import pytest
from redis import ResponseError

from mutirao import keyspace
from support import brokers
from support.reservations import OTHER, QUEUE, age, end, ids, queued, requests, reserve

pytestmark = brokers.redis_only

# Keys that are written after something has been taken: counters, who consumes the second queue, its bell, its own list.
LATER = [keyspace.LIST_COUNTS, keyspace.SLOTS, keyspace.consumers_key(OTHER), keyspace.wakeup_key(OTHER), OTHER]


@pytest.fixture
def spoil(redis):
    """Have a key hold what it never should, until the test calls what comes back."""

    def spoiled(key):
        before = redis.dump(key)
        redis.delete(key)
        redis.rpush(key, "x") if key == keyspace.SLOTS else redis.setrange(key, 0, "x")

        def mend():
            redis.delete(key)
            if before:
                redis.restore(key, 0, before)

        return mend

    return spoiled


@pytest.mark.parametrize("key", LATER)
def test_nothing_is_taken(worker, submit, redis, spoil, key):
    """A call that takes requests and is stopped puts back what it had taken, of every queue and in order, and reserves nothing."""
    submit("a", "b", "c")
    submit("d", "e", model="forest")
    held = worker("w", QUEUE, OTHER)
    mend = spoil(key)
    with pytest.raises(ResponseError):
        reserve(held, 1, free=3, names=[QUEUE, OTHER])
    mend()
    assert queued(redis) == ["a", "b", "c"]
    assert not redis.exists(held.key)
    assert ids(reserve(held, 9, free=9, names=[QUEUE, OTHER])) == ["a", "b", "c", "d", "e"]


def test_what_ended_stays_reserved(server, worker, submit, redis, spoil):
    """A commit that is stopped drops no reservation, so that the worker may send it again, or be lost."""
    submit("a", "b")
    held = worker("w")
    taken = requests(reserve(held))
    mend = spoil(keyspace.SLOTS)
    with pytest.raises(ResponseError):
        end(held, server, taken)
    assert redis.hlen(held.key) == 2
    mend()
    assert end(held, server, taken) == ["1", "1"]
    assert not redis.exists(held.key)


def test_what_a_lost_worker_held_is_there_once(worker, submit, redis, spoil):
    """An adoption that is stopped, as often as it may be, neither loses a request nor doubles it."""
    submit("a", "b")
    lost, other = worker("w1"), worker("w2")
    assert ids(reserve(lost)) == ["a", "b"]
    age(redis, lost)
    mend = spoil(keyspace.LIST_COUNTS)
    for _ in range(3):
        with pytest.raises(ResponseError):
            other.renew_and_adopt([QUEUE])
    assert (redis.hlen(lost.key), queued(redis)) == (2, [])
    mend()
    assert other.renew_and_adopt([QUEUE]).adopted == 2
    assert queued(redis) == ["a", "b"]
