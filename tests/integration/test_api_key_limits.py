"""Limits of keys: requests a second by Redis's clock, jobs in flight by their records, over any number of gateways."""

import asyncio
import time

import numpy as np
import pytest
import redis

from mutirao import Client, errors, keyspace, settings
from mutirao.api_keys import ApiKeys, KeyLimits
from mutirao.gateway.auth.authenticator import Caller
from mutirao.redisdb.drivers import RedisDriver
from support.key_limits import caller, calls, fits, ids, in_flight, keep, limiter, run, until
from support.redis_servers import RedisServer

SLOW = 0.001  # requests a second: none comes back while a test runs


@pytest.fixture(scope="module")
def server():
    with RedisServer() as started:
        yield started


def test_a_burst_passes_and_then_the_rate_holds(server):
    """As many as the burst pass at once, the next is told when to come, and then it passes."""
    who = caller(rate_per_s=20.0, burst=5)

    async def scenario(counting):
        for id in ids(5):
            await counting.admit(who, [id])
        with pytest.raises(errors.TooManyRequests, match=r"20 requests a second, 5 at once: try again in") as raised:
            await counting.admit(who, ids(1))
        assert 0 < (raised.value.retry_after_s or 0) <= 1 / 20
        assert (raised.value.status, raised.value.limit, raised.value.key) == (429, "rate", who.key_id)
        await until(lambda: fits(counting, who, "later"))

    run(server.url, scenario)


def test_in_the_long_run_no_more_pass_than_the_rate_allows(server):
    """Two gateways that ask without pause for half a second get no more than the burst and the rate between them."""
    who = caller(rate_per_s=200.0, burst=10)

    async def hammer(counting, until):
        passed = 0
        while time.monotonic() < until:
            passed += await fits(counting, who, "x")
        return passed

    async def scenario(one):
        async with limiter(server.url) as other:
            began = time.monotonic()
            passed = sum(await asyncio.gather(*(hammer(each, began + 0.5) for each in (one, other, one, other))))
            took = time.monotonic() - began
        assert 15 <= passed <= 10 + 200 * took + 1

    run(server.url, scenario)


def test_a_call_is_admitted_as_a_whole_or_not_at_all(server):
    """Three requests where two would pass are refused, take nothing, and two pass after them; more than ever fits says so."""
    who = caller(rate_per_s=SLOW, burst=5)

    async def scenario(counting):
        assert await fits(counting, who, *ids(3))
        assert not await fits(counting, who, *ids(3))
        assert await fits(counting, who, *ids(2))
        with pytest.raises(errors.TooManyRequests, match="6 in one call can never fit, split it") as raised:
            await counting.admit(who, ids(6))
        assert raised.value.retry_after_s is None
        assert await counting.admit(who, []) is None

    run(server.url, scenario)
    with pytest.raises(errors.TooManyRequests, match="6 in one call can never fit"):
        run(server.url, lambda counting: counting.admit(caller(in_flight=5), ids(6)))


def test_a_call_that_one_limit_refuses_takes_nothing_of_the_other(server):
    """Where too many are in flight, the rate is not touched; where the rate is used up, nothing is in flight."""
    who = caller(rate_per_s=SLOW, burst=3, in_flight=1)

    async def scenario(counting):
        first, second, third, fourth = ids(4)
        assert await fits(counting, who, first)
        for _ in range(5):
            assert not await fits(counting, who, second)
        assert in_flight(server, who) == {first}
        keep(server, first, "SUCCESS")
        await until(lambda: fits(counting, who, second))
        keep(server, second, "SUCCESS")
        await until(lambda: fits(counting, who, third))
        keep(server, third, "SUCCESS")
        assert not await fits(counting, who, fourth)
        assert fourth not in in_flight(server, who)

    run(server.url, scenario)


def test_jobs_are_in_flight_until_they_end(server):
    """Real jobs: as many as the limit wait, one more is refused; one that is cancelled makes room."""
    who = caller(in_flight=3)

    async def scenario(counting):
        with Client(server.url, check=False) as client:
            names = ids(3)
            await counting.admit(who, names)
            jobs = client.submit_many("iris", np.ones((3, 4)), ids=names)
            text = rf"API key '{who.key_id}' may have 3 jobs in flight, and 3 are: wait for some to end"
            with pytest.raises(errors.TooManyRequests, match=text) as raised:
                await counting.admit(who, ids(1))
            assert (raised.value.limit, raised.value.retry_after_s) == ("in flight", 1.0)
            assert jobs[1].cancel()
            await until(lambda: fits(counting, who, "next"))
            assert in_flight(server, who) == {names[0], names[2], "next"}

    run(server.url, scenario)


@pytest.mark.parametrize(
    ("status", "job", "ended"),
    [
        ("QUEUED", ',"expires_at":99999999999.0', False),
        ("QUEUED", ',"expires_at":1000000000.0', True),
        ("STARTED", ',"expires_at":1000000000.0', False),
        ("RETRY", "", False),
        ("SUCCESS", "", True),
        ("FAILURE", "", True),
        ("REVOKED", "", True),
    ],
)
def test_what_has_ended(server, status, job, ended):
    """Succeeded, failed, cancelled, or waiting past its deadline; one that runs has not, however late it is."""
    who = caller(in_flight=1)

    async def scenario(counting):
        (id,) = ids(1)
        await counting.admit(who, [id])
        keep(server, id, status, job)
        return await fits(counting, who, "next")

    assert run(server.url, scenario) is ended


def test_a_job_without_a_record_counts_while_it_may_still_be_on_its_way(server):
    """Between admission and submission there is no record: it counts; a minute later it was never submitted."""
    who = caller(in_flight=1)
    _, jobs, looked = keyspace.limit_keys(who.key_id)

    async def scenario(counting):
        await counting.admit(who, ["lost"])
        assert not await fits(counting, who, "next")
        server.client().zadd(jobs, {"lost": time.time() - 61})
        await until(lambda: fits(counting, who, "next"))

    run(server.url, scenario)
    assert 0 < server.client().ttl(jobs) <= settings.Settings().expires_s + settings.Settings().result_ttl_s + 60
    assert server.client().pttl(looked) < 1000


def test_the_same_job_counts_once(server):
    """An id that is in flight already takes no room, and giving a later call back leaves it there."""
    who = caller(in_flight=2)

    async def scenario(counting):
        await counting.admit(who, ["one"])
        admitted = await counting.admit(who, ["one", "two"])
        assert admitted.ids == ("two",)
        assert await fits(counting, who, "two", "one")
        await counting.give_back(admitted)
        assert in_flight(server, who) == {"one"}
        assert await fits(counting, who, "three")

    run(server.url, scenario)


def test_what_is_not_submitted_is_given_back(server):
    """A refused submission takes nothing; where nobody knows whether it was queued, it stays counted."""
    who = caller(rate_per_s=SLOW, burst=2, in_flight=2)

    async def scenario(counting):
        async def submitted(error):
            async with counting.admitted(who, ids(2)):
                assert len(in_flight(server, who)) == 2
                raise error

        for _ in range(3):
            with pytest.raises(errors.QueueFull):
                await submitted(errors.QueueFull("full"))
            assert in_flight(server, who) == set()
        with pytest.raises(errors.BrokerUnavailable):
            await submitted(errors.BrokerUnavailable("away"))
        assert len(in_flight(server, who)) == 2
        assert not await fits(counting, who, "next")

    run(server.url, scenario)


@pytest.mark.parametrize("limits", [{"in_flight": 50}, {"rate_per_s": SLOW, "burst": 50}])
def test_two_gateways_share_one_limit(server, limits):
    """Of 400 calls at once through two gateways exactly 50 pass."""
    who = caller(**limits)

    async def scenario(one):
        async with limiter(server.url) as other:
            asked = [fits(counting, who, *ids(1)) for _ in range(200) for counting in (one, other)]
            return sum(await asyncio.gather(*asked))

    assert run(server.url, scenario) == 50


def test_calls_that_come_together_are_admitted_together(server):
    """A hundred calls of a key at once cost two calls of Redis, and each has its own fate."""
    who = caller(in_flight=10)

    async def scenario(counting):
        await counting.admit(who, ids(1))
        before = calls(server)
        passed = await asyncio.gather(*(fits(counting, who, *ids(count)) for count in [1, 20, 5, 5, 3, *[20] * 95]))
        assert passed == [True, False, True, False, True, *[False] * 95]
        assert calls(server) - before <= 2

    run(server.url, scenario)


def test_a_key_without_limits_asks_nobody(server):
    """Neither admission nor an end costs a call of Redis."""
    who = Caller(tenant="crm", key_id="free")

    async def scenario(counting):
        client = server.client()
        client.ping()
        before = client.info("commandstats")
        assert await counting.admit(who, ids(1)) is None
        async with counting.admitted(who, ids(1)):
            counting.ended(who, ids(1))
        counting.ended(caller(rate_per_s=1.0), ids(1))
        await asyncio.sleep(0)
        after = client.info("commandstats")
        assert {name for name in after if after[name] != before.get(name)} == {"cmdstat_info"}

    run(server.url, scenario)


def test_ends_that_the_gateway_hears_of_make_room_without_a_look(server):
    """`ended` forgets jobs, those heard of together in one call."""
    who = caller(in_flight=300)

    async def scenario(counting):
        names = ids(300)
        await counting.admit(who, names)
        before = calls(server, "cmdstat_zrem")
        for name in names:
            counting.ended(who, [name])

        async def gone():
            return not in_flight(server, who)

        await until(gone)
        assert calls(server, "cmdstat_zrem") - before <= 2

    run(server.url, scenario)


def test_no_look_is_long_and_all_are_looked_at_in_the_end(server):
    """Behind more live jobs than one look takes, those that have ended are found within a few tries."""
    who = caller(in_flight=2500)
    live, done = ids(2400), ids(100)
    _, _, looked = keyspace.limit_keys(who.key_id)

    async def scenario(counting):
        await counting.admit(who, live)
        await counting.admit(who, done)
        with server.client().pipeline() as pipe:
            for id in live:
                pipe.set(keyspace.record_key(id), '{"status":"STARTED"}')
            for id in done:
                pipe.set(keyspace.record_key(id), '{"status":"SUCCESS"}')
            pipe.execute()
        before = calls(server, "cmdstat_getrange")
        assert not await fits(counting, who, *ids(50))
        assert calls(server, "cmdstat_getrange") - before <= 1000
        server.client().set(looked, "1")  # as it is for a moment after each look
        before = calls(server, "cmdstat_getrange")
        assert not await fits(counting, who, *ids(50))
        assert calls(server, "cmdstat_getrange") == before
        server.client().delete(looked)
        await until(lambda: fits(counting, who, *ids(50)))
        assert set(live) <= in_flight(server, who)

    run(server.url, scenario)


def test_a_requester_that_goes_leaves_the_others_alone(server):
    """One of several calls that were sent together is cancelled: the others are answered, and the next too."""
    who = caller(in_flight=10)

    async def scenario(counting):
        asked = [asyncio.create_task(fits(counting, who, *ids(1))) for _ in range(5)]
        await asyncio.sleep(0)
        asked[0].cancel()
        asked[3].cancel()
        assert all(await asyncio.gather(asked[1], asked[2], asked[4]))
        assert await fits(counting, who, "next")

    run(server.url, scenario)


def test_where_redis_is_away_nothing_is_admitted(redis_server):
    """All that ask meanwhile are told that Redis does not answer; afterwards they are admitted."""
    who = caller(in_flight=10)

    async def scenario(counting):
        redis_server.pause()
        said = await asyncio.gather(*(counting.admit(who, ids(1)) for _ in range(3)), return_exceptions=True)
        assert [type(each) for each in said] == [errors.BrokerUnavailable] * 3
        redis_server.resume()
        assert await fits(counting, who, "next")

    run(redis_server.url, scenario, timeout_s=0.3)


def test_nobody_waits_for_a_gateway_that_stops(redis_server):
    """Closing ends the calls that wait to be admitted."""
    who = caller(in_flight=10)

    async def scenario(counting):
        redis_server.pause()
        asked = [asyncio.create_task(counting.admit(who, ids(1))) for _ in range(3)]
        await asyncio.sleep(0)
        await counting.close()
        redis_server.resume()
        said = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
        assert [type(each) for each in said] == [asyncio.CancelledError] * 3

    run(redis_server.url, scenario)


def test_keys_and_limits_are_where_results_are(server):
    """Where queues are on another server than records, keys, rates and jobs in flight are counted beside the records."""
    results = f"{server.url.rpartition('/')[0]}/1"
    given = settings.load(broker_url=server.url, result_url=results)
    driver = RedisDriver(given)
    try:
        key, _ = driver.run(ApiKeys(given).add("crm", limits=KeyLimits(rate_per_s=5.0, burst=5, in_flight=1)))
    finally:
        driver.close()
    who = Caller(tenant="crm", key_id=key.id, limits=key.limits)

    async def scenario(counting):
        assert await fits(counting, who, "here")
        there.set(keyspace.record_key("here"), '{"status":"SUCCESS"}')
        await until(lambda: fits(counting, who, "next"))

    names = (keyspace.KEYS, *keyspace.limit_keys(key.id)[:2])
    with redis.Redis.from_url(results) as there:
        run(server.url, scenario, result_url=results)
        assert there.exists(*names) == 3
    assert server.client().exists(*names) == 0
