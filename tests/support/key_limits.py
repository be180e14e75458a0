"""Limits of keys as a gateway counts them, and whose requests they are, for tests."""

import asyncio
import contextlib
import itertools
import time

from mutirao import errors, keyspace, settings
from mutirao.api_keys import KeyLimits
from mutirao.gateway.auth.authenticator import Caller
from mutirao.gateway.auth.rate_limit import RateLimiter
from mutirao.redisdb.drivers import AsyncRedisDriver

_NUMBERS = itertools.count(1)


def caller(**limits):
    """A caller by a key of its own."""
    return Caller(tenant="crm", key_id=f"key{next(_NUMBERS)}", limits=KeyLimits(**limits))


@contextlib.asynccontextmanager
async def limiter(url, **given):
    """The limits as one gateway counts them."""
    made = settings.load(broker_url=url, **given)
    driver = AsyncRedisDriver(made)
    counting = RateLimiter(made, driver)
    try:
        yield counting
    finally:
        await counting.close()
        await driver.close()


def run(url, scenario, **given):
    """Run a scenario with the limits of one gateway."""

    async def whole():
        async with limiter(url, **given) as counting:
            return await scenario(counting)

    return asyncio.run(whole())


async def fits(counting, who, *ids):
    """Whether these are admitted."""
    try:
        await counting.admit(who, ids)
    except errors.TooManyRequests:
        return False
    return True


async def until(condition, timeout_s=10.0):
    """The same as waiting.until, on an event loop."""
    deadline = time.monotonic() + timeout_s
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def ids(count):
    return [f"job-{next(_NUMBERS)}" for _ in range(count)]


def in_flight(server, who):
    return {id.decode() for id in server.client().zrange(keyspace.limit_keys(who.key_id)[1], 0, -1)}


def keep(server, id, status, job=""):
    document = f'{{"status":"{status}","task_id":"{id}","result":null,"job":{{"model":"iris"{job}}}}}'
    server.client().set(keyspace.record_key(id), document)


def calls(server, command="cmdstat_evalsha"):
    return server.client().info("commandstats").get(command, {"calls": 0})["calls"]
