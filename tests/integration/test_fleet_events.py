"""The fleet, live, from a real Redis: one snapshot a second for all who follow, none while nobody does, and an end that is seen."""

import asyncio
import contextlib
import json

import pytest

from mutirao import errors, settings
from mutirao.gateway.state import fleet_broadcaster
from mutirao.gateway.state.gateway import Gateway
from mutirao.gateway.streams import fleet_stream
from mutirao.gateway.streams.fleet_stream import FleetStream
from support.blocking_keys import BlockingKeys
from support.redis_servers import RedisServer

LOCAL = {"host": "127.0.0.1"}


@pytest.fixture(scope="module")
def server():
    with RedisServer() as started:
        yield started


@pytest.fixture
def run(server):
    """Run a coroutine function of (gateway), in a gateway of this Redis without its HTTP."""

    def in_gateway(work, **given):
        async def whole():
            gateway = Gateway(settings.load(broker_url=server.url, **given))
            async with gateway.running(), asyncio.timeout(30):
                return await work(gateway)

        return asyncio.run(whole())

    server.client().flushall()
    return in_gateway


@contextlib.asynccontextmanager
async def following(gateway, headers=LOCAL):
    """A stream, which is closed as when its client goes."""
    caller = await gateway.authenticator.caller(headers)
    one = FleetStream(gateway.fleet_broadcaster, caller)
    with gateway.hold_open(one, caller):
        async with contextlib.aclosing(one.pieces()) as pieces:
            yield one, pieces


def reading():
    """How many tasks read snapshots and are not told to end."""
    tasks = [task for task in asyncio.all_tasks() if "FleetBroadcaster._read_every_second" in repr(task)]
    return len([task for task in tasks if not task.cancelling()])


def number(piece):
    """The id of an event."""
    return int(piece.split(b"id: ")[1].split(b"\n")[0])


def test_all_who_follow_are_given_the_same_snapshot(run):
    """Two streams get the same snapshots, numbered upwards; who comes later begins with the latest at once."""

    async def work(gateway):
        async with following(gateway) as (_, one), following(gateway) as (_, other), following(gateway) as (_, late):
            first = [await anext(one), await anext(other)]
            late_first = await anext(late)
            second = await asyncio.gather(anext(one), anext(other), anext(late))
            assert first[0] == first[1] == late_first
            assert len({*second}) == 1
            assert number(second[0]) > number(first[0])
            assert json.loads(first[0].split(b"data: ")[1])["models"] == []

    run(work)


def test_nothing_is_read_while_nobody_follows(run):
    """Snapshots begin with the first who follows, and end with the last."""

    async def work(gateway):
        assert reading() == 0
        async with following(gateway) as (_, one), following(gateway) as (_, other):
            await asyncio.gather(anext(one), anext(other))
            await one.aclose()
            assert reading() == 1
            await anext(other)
            await other.aclose()
            assert reading() == 0
        async with following(gateway) as (_, again):
            assert number(await anext(again))

    run(work)


def test_a_slow_reader_gets_the_latest(run, monkeypatch):
    """Of what comes while its client reads nothing, a stream keeps the last snapshot alone."""
    monkeypatch.setattr(fleet_broadcaster, "EVERY_S", 0.01)

    async def work(gateway):
        async with following(gateway) as (_, slow), following(gateway) as (_, quick):
            first = number(await anext(slow))
            seen = {number(await anext(quick)) for _ in range(10)}
            assert number(await anext(slow)) >= sorted(seen)[-2] > first

    run(work)


def test_a_quiet_stream_says_that_it_lives(run, monkeypatch):
    """Where there is nothing new for long, a comment keeps the connection open."""
    monkeypatch.setattr(fleet_broadcaster, "EVERY_S", 60.0)
    monkeypatch.setattr(fleet_stream, "KEEP_ALIVE_S", 0.05)

    async def work(gateway):
        async with following(gateway) as (_, pieces):
            said = [await anext(pieces) for _ in range(5)]
            assert sum(piece.startswith(b"event: ") for piece in said) <= 1
            quiet = {piece for piece in said if piece.startswith(b":")}
            assert len(quiet) == 1
            assert quiet.pop().endswith(b"\n\n")

    run(work)


def test_streams_end_when_redis_goes(run, server):
    """Redis away ends every stream, so that who asks again is told why; with Redis back it can be followed again."""

    async def work(gateway):
        async with following(gateway) as (_, pieces):
            await anext(pieces)
            server.kill()
            async for _ in pieces:
                pass
        with pytest.raises(errors.BrokerUnavailable):
            await gateway.fleet()
        server.start()
        async with following(gateway) as (_, pieces):
            assert number(await anext(pieces))

    run(work, timeout_s=1)


def test_a_stream_ends_when_the_gateway_stops(run):
    """A gateway that stops ends its streams at once."""

    async def work(gateway):
        async with following(gateway) as (_, pieces):
            await anext(pieces)
            gateway.give_up()
            async for _ in pieces:
                pass

    run(work)


def test_a_revoked_key_follows_no_longer(run, server):
    """A stream ends within about a second of the end of its key; until then it shows what that key may see."""
    with BlockingKeys(server.url) as ring:
        added = ring.add("crm")

        async def work(gateway):
            async with following(gateway, {"authorization": f"Bearer {added.token}"}) as (_, pieces):
                assert json.loads((await anext(pieces)).split(b"data: ")[1])["workers"] is None
                ring.revoke(added.key.id)
                async for _ in pieces:
                    pass

        run(work)


def test_the_fleet_is_for_those_who_may_see_any_of_it(gateway, fleet):
    """One snapshot and the stream answer alike, in an open gateway with everything."""
    with gateway.client() as client:
        once = client.get("/v1/fleet").json()
        assert {model["name"] for model in once["models"]} == set(fleet.repository.names())
        assert [worker["name"] for worker in once["workers"]] == [fleet.worker.name]
        with client.stream("GET", "/v1/fleet/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            lines = stream.iter_lines()
            event = dict(line.split(": ", 1) for line in (next(lines), next(lines), next(lines)))
        assert event["event"] == "fleet"
        assert json.loads(event["data"]).keys() == once.keys()
