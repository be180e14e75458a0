"""One connection for all calls of an event loop: each gets its own reply, whatever becomes of its neighbours and of the server."""

import asyncio
import contextlib

import hiredis
import pytest
import redis

from mutirao import settings
from mutirao.redisdb.connection import connect_async
from mutirao.redisdb.drivers import options
from mutirao.redisdb.multiplexed_connection import MultiplexedConnection
from support.event_loop_thread import EventLoopThread

COUNT = 300


@pytest.fixture
def loop():
    made = EventLoopThread()
    yield made
    made.close()


@pytest.fixture
def piped(loop, redis_server):
    """Run work(ask, pipe) on an event loop; ask(*words) sends a command."""

    @contextlib.asynccontextmanager
    async def opened(timeout_s):
        given = settings.load(broker_url=redis_server.url)
        client = connect_async(redis_server.url, given, **options(given, asyncio=True))
        pipe = MultiplexedConnection(client.connection_pool, options(given, asyncio=True)["retry"], timeout_s)
        try:
            yield pipe
        finally:
            await pipe.close()
            await client.aclose()

    async def main(work, timeout_s):
        async with opened(timeout_s) as pipe:
            return await work(lambda *words: pipe.send(hiredis.pack_command(words)), pipe)

    return lambda work, timeout_s=5.0: loop.run(main(work, timeout_s), 30)


def test_each_call_gets_its_own_reply(piped, redis_server):
    """Many calls at once, some of which nobody waits for any more, and some of which are refused: over one connection."""

    async def work(ask, _):
        calls = [asyncio.create_task(ask("ECHO" if at % 10 else "EVIL", str(at))) for at in range(COUNT)]
        await asyncio.sleep(0)
        for call in calls[5::10]:
            call.cancel()
        return await asyncio.gather(*calls, return_exceptions=True)

    before = redis_server.client().info("stats")["total_connections_received"]
    replies = piped(work)
    for at, reply in enumerate(replies):
        if at % 10 == 0:
            assert isinstance(reply, redis.ResponseError)
            assert f"'{at}'" in str(reply)
        elif at % 10 == 5:
            assert isinstance(reply, asyncio.CancelledError)
        else:
            assert reply == str(at).encode()
    assert redis_server.client().info("stats")["total_connections_received"] <= before + 2  # one of them asks this


def test_a_server_that_hangs(piped, redis_server):
    """Calls to a server that does not answer fail in time, all of them; what it says later is nobody's reply."""

    async def work(ask, _):
        assert await ask("ECHO", "before") == b"before"
        redis_server.pause()
        try:
            late = await asyncio.gather(*(ask("ECHO", f"late {at}") for at in range(20)), return_exceptions=True)
        finally:
            redis_server.resume()
        return late, await asyncio.gather(*(ask("ECHO", str(at)) for at in range(20)))

    late, after = piped(work, timeout_s=0.3)
    assert all(isinstance(reply, redis.TimeoutError) for reply in late), late
    assert after == [str(at).encode() for at in range(20)]


@pytest.mark.parametrize("kill", [False, True])
def test_a_server_that_is_restarted(kill, piped, redis_server):
    """A broken connection is made anew, by as many calls as want one at once, and its callers see nothing of it."""

    async def work(ask, _):
        assert await ask("ECHO", "before") == b"before"
        await asyncio.to_thread(redis_server.restart, kill=kill)
        return await asyncio.gather(*(ask("ECHO", str(at)) for at in range(20)))

    assert piped(work) == [str(at).encode() for at in range(20)]


def test_closed_while_a_call_waits(piped, redis_server):
    """Who still waits when the pipe is closed is told at once."""

    async def work(ask, pipe):
        assert await ask("ECHO", "before") == b"before"
        redis_server.pause()
        try:
            waits = asyncio.create_task(ask("ECHO", "late"))
            await asyncio.sleep(0)
            await pipe.close()
            return await asyncio.gather(waits, return_exceptions=True)
        finally:
            redis_server.resume()

    (said,) = piped(work)
    assert isinstance(said, redis.RedisError)
    assert str(said) == "the client was closed"
