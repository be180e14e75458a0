"""The scripts of the transport on a real Redis: tenants that share a queue are served alike, and find everything where they left it."""

import json

import msgspec
import numpy as np
import pytest

from mutirao import Client, errors, keyspace, settings
from mutirao.client.encoding import SubmitOptions
from mutirao.client.redis_backend import RedisBackend
from mutirao.dead_letters import DeadLetter, DeadLetters
from mutirao.redisdb.drivers import RedisDriver
from support import brokers
from support.reservations import OTHER, QUEUE, age, end, ids, record, requests, reserve

pytestmark = brokers.redis_only

RING = keyspace.tenants_key(QUEUE)
ENVELOPE = b'{"headers":{"id":"a%d","task":"mutirao.predict"},"properties":{},"body":"W10="}'


@pytest.fixture
def send(server, redis):
    """Submit as a gateway does: send("a", 3) queues three of tenant a's, a0 to a2; of "" as a client without a tenant does."""
    driver = RedisDriver(settings.load({}, broker_url=server.url))
    counts: dict[str, int] = {}

    def submit(tenant, count=1, *, rows=1, model="iris", limit=1_000_000, **asked):
        first = counts.get(tenant, 0)
        counts[tenant] = first + count
        names = [f"{tenant or 'stock'}{number}" for number in range(first, first + count)]
        core = RedisBackend(settings.load({}, broker_url=server.url, queue_limit=limit), check=False)
        driver.run(core.submit(SubmitOptions(model=model, tenant=tenant, **asked), [np.ones((rows, 4))] * count, names))
        return names

    yield submit
    driver.close()


def whose(taken):
    """Count what was taken by whose it is."""
    found: dict[str, int] = {}
    for id in ids(taken):
        tenant = id.rstrip("0123456789")
        found[tenant] = found.get(tenant, 0) + 1
    return found


def about(count):
    """Whoever joins comes one turn after who is there."""
    return pytest.approx(count, abs=1.1)


def ring(redis):
    return {tenant.decode(): score for tenant, score in redis.zrange(RING, 0, -1, withscores=True)}


def test_a_tenant_s_first_is_next(worker, send, redis):
    """Of 100,000 requests of one tenant and one of another, the other's one is in the very next reserve, and at its head."""
    send("a")
    redis.lpush(keyspace.queue_key("iris", 3, "a"), *(ENVELOPE % number for number in range(100_000)))
    held = worker("w")
    assert whose(reserve(held, 100)) == {"a": 100}
    send("b")
    taken = reserve(held, 100)
    assert whose(taken) == {"a": 99, "b": 1}
    assert ids(taken)[0] == "b0"


def test_all_are_served_alike(worker, send):
    """Tenants and those without one share what is taken, whoever came first and however much of each waits; what one leaves the others get."""
    send("a", 1000)
    send("", 500)
    send("b", 40)
    held = worker("w")
    assert whose(reserve(held, 30)) == {"a": about(10), "stock": about(10), "b": about(10)}
    assert whose(reserve(held, 120)) == {"a": about(45), "stock": about(45), "b": about(30)}
    send("c", 100)
    assert whose(reserve(held, 30)) == {"a": about(10), "stock": about(10), "c": about(10)}


def test_one_at_a_time_they_take_turns(worker, send):
    """Where one request is taken at a time, whoever comes and goes is served as often as whoever stays, never oftener."""
    send("b", 50)
    send("a")
    held, served = worker("w"), ""
    for _ in range(20):
        served += ids(reserve(held, 1))[0][0]
        if served.endswith("a"):
            send("a")  # it never has more than one in line, so it leaves and joins all the time
    assert abs(served.count("a") - 10) <= 1
    assert "aa" not in served


def test_rows_count(worker, send):
    """A tenant whose requests have many rows gets as many rows as another, not as many requests."""
    send("many", 400, rows=10)
    send("one", 4000)
    held = worker("w")
    got: dict[str, int] = {}
    for _ in range(40):
        for tenant, count in whose(reserve(held, 20)).items():
            got[tenant] = got.get(tenant, 0) + count * (10 if tenant == "many" else 1)
    assert got["many"] == pytest.approx(got["one"], rel=0.4)


def test_priorities_are_kept_within_a_tenant(worker, send):
    """A tenant's own urgent requests go before its others, whatever another tenant's priorities are."""
    send("a", 20, priority="low")
    send("a", 2, priority="high")
    send("b", 20, priority="high")
    taken = reserve(worker("w"), 8)
    assert whose(taken) == {"a": about(4), "b": about(4)}
    assert [id for id in ids(taken) if id.startswith("a")][:2] == ["a20", "a21"]


def test_the_ring_holds_who_waits(worker, send, redis):
    """A tenant is in the ring while something of it waits; without tenants there is none, and stock requests need none."""
    held = worker("w", QUEUE, OTHER)
    send("", 10)
    reserve(held, 5)
    assert not redis.exists(RING)
    send("a", 3)
    send("b", 8)
    assert set(ring(redis)) == {"a", "b"}
    reserve(held, 9)
    assert set(ring(redis)) == {"", "b"}
    reserve(held, 100)
    assert not redis.exists(RING)
    assert whose(reserve(held, 100)) == {}
    send("c")
    redis.delete(keyspace.queue_key("iris", 3, "c"))  # purged by hand
    assert whose(reserve(held, 100)) == {}
    assert not redis.exists(RING)


def test_many_tenants(worker, send):
    """Hundreds of tenants with a request each are all served, in as many takes as their number needs."""
    for number in range(300):
        send("t" + "abcdefghij"[number % 10] * (1 + number // 10))
    held = worker("w")
    taken = [whose(reserve(held, 100)) for _ in range(3)]
    assert [len(each) for each in taken] == [100, 100, 100]
    assert len({tenant for each in taken for tenant in each}) == 300


def test_work_is_found_among_tenants_alone(worker, send, redis):
    """A worker that no bell has woken sees that a tenant's request waits; another's free slots are no reason to give it back."""
    held, other = worker("w1"), worker("w2")
    assert not held.waiting([QUEUE])
    reserve(other, 0, free=1)
    assert held.idle_slots([QUEUE]) == [1]
    send("a")
    redis.delete(keyspace.wakeup_key(QUEUE))
    assert held.waiting([QUEUE])
    assert held.idle_slots([QUEUE]) == [0]
    assert reserve(held, 1, free=1).left == set()


@pytest.mark.parametrize("how", ["given back", "worker lost"])
def test_back_to_its_own_line(worker, send, redis, how):
    """What is given back or adopted goes to the head of its tenant's line, in order, and the tenant is in the ring again."""
    send("a", 3)
    held = worker("w1")
    taken = reserve(held, 3)
    assert not redis.exists(RING)
    if how == "given back":
        held.requeue([tag for tag, _, _ in taken.requests])
    else:
        age(redis, held)
        worker("w2")
    assert set(ring(redis)) == {"a"}
    assert ids(reserve(worker("w3"), 2)) == ["a0", "a1"]
    assert record(redis, "a0")["job"]["history"][0]["how"] == how
    assert record(redis, "a0")["job"]["owner"] == "a"


@pytest.mark.parametrize("forgotten", [False, True])
def test_a_dead_letter_s_way_back(worker, send, redis, server, forgotten):
    """A tenant's dead letter is replayed into the tenant's line and stays the tenant's, also where its record is gone."""
    send("a", priority="low")
    for place in range(2):
        held = worker(f"w{place}", max_deliveries=2)
        reserve(held)
        age(redis, held)
        worker(f"o{place}", max_deliveries=2)
    letter = msgspec.json.decode(redis.hget(keyspace.DEAD, "a0"), type=DeadLetter)
    assert (letter.queue, letter.model) == (keyspace.queue_key("iris", 6, "a"), "iris")
    assert not redis.exists(RING)
    if forgotten:
        redis.delete(keyspace.record_key("a0"))
    driver = RedisDriver(settings.load({}, broker_url=server.url))
    assert driver.run(DeadLetters(settings.load({}, broker_url=server.url)).replay([letter])) == {"a0": None}
    driver.close()
    assert set(ring(redis)) == {"a"}
    job = record(redis, "a0")["job"]
    assert (job["owner"], job["priority"], job["line"]) == ("a", "low", 1)
    assert redis.get(keyspace.record_key("a0")).count(b'"line":') == 1
    held = worker("w9")
    assert end(held, server, requests(reserve(held))) == ["1"]
    assert record(redis, "a0")["job"]["owner"] == "a"


def test_each_has_a_limit_of_its_own(send, server, submit):
    """A tenant that has filled its line locks out neither another tenant nor those without one; the error says whose line is full."""
    send("a", 8, limit=10)
    with pytest.raises(errors.QueueFull, match="8 of 10 requests of tenant 'a' wait, 3 more do not fit"):
        send("a", 3, limit=10)
    send("b", 10, limit=10)
    send("", 10, limit=10)
    with pytest.raises(errors.QueueFull, match="10 of 10 requests wait"):
        send("", limit=10)
    with pytest.raises(errors.QueueFull):
        send("b", priority="high", limit=10)


def test_an_id_is_one_tenant_s(server, redis):
    """An id that one tenant has used is taken for another, whatever content comes with it; for itself it is the same job."""
    driver = RedisDriver(settings.load({}, broker_url=server.url))
    core = RedisBackend(settings.load({}, broker_url=server.url), check=False)
    for _ in range(2):
        driver.run(core.submit(SubmitOptions(model="iris", tenant="a"), [np.ones((1, 4))], ["same"]))
    for tenant in ("b", ""):
        with pytest.raises(errors.IdTaken):
            driver.run(core.submit(SubmitOptions(model="iris", tenant=tenant), [np.ones((1, 4))], ["same"]))
    driver.close()


def test_stock_tools_see_the_stock_lists(send, redis, server):
    """LLEN of the stock lists counts those without a tenant alone, and a client without a tenant reads a tenant's job as ever."""
    send("a", 3)
    send("", 2)
    assert redis.llen(keyspace.queue_key("iris", 3)) == 2
    assert json.loads(redis.lindex(keyspace.queue_key("iris", 3, "a"), -1))["headers"]["id"] == "a0"
    with Client(server.url, check=False) as client:
        assert client.job("a0").status == "queued"
