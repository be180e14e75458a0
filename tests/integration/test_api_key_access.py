"""The doorkeeper: who needs a key, which keys are good, and how soon a revoked one is not."""

import asyncio
import contextlib
import re
import time

import msgspec
import pytest

from mutirao import errors, keyspace, settings
from mutirao.api_keys import KeyLimits
from mutirao.gateway.auth import authenticator
from mutirao.gateway.auth.authenticator import ANYBODY, Authenticator, Caller
from mutirao.redisdb.drivers import AsyncRedisDriver
from mutirao.urls import is_loopback
from support.blocking_keys import BlockingKeys
from support.redis_servers import RedisServer

BEYOND = "0.0.0.0"


@pytest.fixture(scope="module")
def server():
    with RedisServer() as started:
        yield started


@pytest.fixture
def ring(server):
    """A Redis without keys."""
    server.client().flushall()
    with BlockingKeys(server.url) as made:
        yield made


@contextlib.asynccontextmanager
async def keeper(url, host="127.0.0.1", **given):
    redis = AsyncRedisDriver(settings.load(broker_url=url, **given))
    made = Authenticator(settings.load(broker_url=url), redis, host)
    try:
        yield made
    finally:
        await made.close()
        await redis.close()


def bearer(token, scheme="Bearer"):
    return {"authorization": f"{scheme} {token}"}


async def soon(condition, timeout_s=5.0):
    """The same as waiting.until, on an event loop; returns how long it took."""
    began = time.monotonic()
    while not await condition():
        assert time.monotonic() - began < timeout_s
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def refused(door, headers):
    try:
        await door.caller(headers)
    except errors.Unauthorized:
        return True
    return False


def test_a_caller_is_whom_its_key_names(server, ring):
    """Tenant, scopes and limits of a call are those of its key; the scheme's case does not matter."""
    key, token = ring.add("crm", scopes=["predict:iris"], limits=KeyLimits(rate_per_s=5.0, burst=2, in_flight=3))

    async def scenario():
        async with keeper(server.url) as door:
            return await door.caller(bearer(token)), await door.caller(bearer(token, "bEARER"))

    expected = Caller(tenant="crm", key_id=key.id, scopes=("predict:iris",), limits=key.limits)
    assert asyncio.run(scenario()) == (expected, expected)


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({}, "asks for an API key: send the header Authorization: Bearer mutirao_"),
        ({"authorization": ""}, "asks for an API key"),
        ({"authorization": "Basic dXNlcjpwYXNz"}, "asks for an API key"),
        ({"authorization": "Bearer"}, "is not one of this gateway"),
        ({"authorization": f"Bearer mutirao_{'0' * 12}_{'s' * 43}"}, "is not one of this gateway"),
    ],
)
def test_without_a_good_key_nobody_comes_in(server, ring, headers, says):
    """No key, another scheme and an unknown key are refused with what to do, and without a word of what was sent."""
    ring.add("crm")

    async def scenario():
        async with keeper(server.url) as door:
            await door.caller(headers)

    with pytest.raises(errors.Unauthorized, match=says) as raised:
        asyncio.run(scenario())
    assert not {"dXNlcjpwYXNz", "s" * 43} & set(re.findall(r"\w+", f"{raised.value} {raised.value!r}"))


def test_a_revoked_key_is_refused_within_about_a_second(server, ring):
    """A gateway that knows a key by heart refuses it soon after it was revoked; the key's holder alone is told why."""
    key, token = ring.add("crm")

    async def scenario():
        async with keeper(server.url) as door:
            await door.caller(bearer(token))
            ring.revoke(key.id)
            took_s = await soon(lambda: refused(door, bearer(token)))
            with pytest.raises(errors.Unauthorized, match=f"API key '{key.id}' was revoked"):
                await door.caller(bearer(token))
            with pytest.raises(errors.Unauthorized, match="is not one of this gateway"):
                await door.caller(bearer(f"mutirao_{key.id}_{'x' * 43}"))
            return took_s

    assert asyncio.run(scenario()) < authenticator.AGE_S + 1.0


def test_whoever_was_let_in_is_let_in_no_more_once_the_key_is_not_good(server, ring):
    """A key that was revoked, is gone or allows less than it did, and the first key of an open gateway, are noticed once the copy is read."""
    revoked, gone, less, more = (ring.add("crm").key for _ in range(4))
    redis = server.client()

    def rescope(key, *scopes):
        redis.hset(keyspace.KEYS, key.id, msgspec.json.encode(msgspec.structs.replace(key, scopes=scopes)))

    async def scenario():
        async with keeper(server.url) as door:
            await door.refresh()
            callers = {key: authenticator._caller(key) for key in (revoked, gone, less, more)}
            for caller in callers.values():
                door.recheck(caller)
            changed, said = asyncio.Event(), {}
            door.changed = changed.set
            ring.revoke(revoked.id)
            redis.hdel(keyspace.KEYS, gone.id)
            rescope(less, "read:*")
            rescope(more, *more.scopes, "operate:*")
            async with asyncio.timeout(5):
                while not changed.is_set():
                    await door.refresh()
                    await asyncio.sleep(0.01)
            for key, caller in callers.items():
                try:
                    door.recheck(caller)
                except errors.MutiraoError as exc:
                    said[key] = type(exc).__name__, str(exc)
            return said, door

    said, door = asyncio.run(scenario())
    assert said.keys() == {revoked, gone, less}
    assert (said[revoked][0], said[gone][0]) == ("Unauthorized", "Unauthorized")
    assert said[less] == ("Forbidden", f"API key {less.id!r} allows less than when this request began: send it again")
    with pytest.raises(errors.Unauthorized, match="asks for an API key"):
        door.recheck(ANYBODY)


def test_without_keys_this_machine_alone_needs_none(server, ring):
    """No key at all: open to loopback, closed beyond; the first key closes it, and it never opens again, whatever Redis lost."""

    async def scenario():
        async with keeper(server.url) as door, keeper(server.url, BEYOND) as beyond:
            assert await door.caller({}) is ANYBODY
            assert (await door.is_open(), await beyond.is_open()) == (True, False)
            assert await refused(beyond, {})
            key, token = ring.add("crm")
            ring.revoke(key.id)
            await soon(lambda: refused(door, {}))
            assert not await door.is_open()
            server.client().delete(keyspace.KEYS)
            door._copy.read_at = float("-inf")  # the copy is old
            assert await refused(door, {})
            assert await refused(door, bearer(token))
        async with keeper(server.url) as another:
            assert (await another.caller({})).open

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("headers", "local"),
    [
        ({"host": "127.0.0.1:8000"}, True),
        ({"host": "localhost:8000"}, True),
        ({"host": "[::1]:8000", "origin": "http://[::1]:8000"}, True),
        ({"host": "mutirao.localhost:8000", "origin": "http://localhost:3000"}, True),
        ({"host": "rebound.example:8000"}, False),
        ({"host": "localhost.example"}, False),
        ({"host": "127.0.0.1@evil.example"}, False),
        ({"host": "["}, False),
        ({"host": "127.0.0.1:8000", "origin": "https://evil.example"}, False),
        ({"host": "127.0.0.1:8000", "origin": "null"}, False),
    ],
)
def test_pages_of_elsewhere_cannot_use_an_open_gateway(server, ring, headers, local):
    """A browser's call from another site's page, or to a name that was made to lead here, is refused while nobody needs a key."""

    async def scenario():
        async with keeper(server.url) as door:
            return await door.caller(headers)

    if local:
        assert asyncio.run(scenario()).open
    else:
        with pytest.raises(errors.Forbidden, match="answers this machine alone"):
            asyncio.run(scenario())


def test_many_calls_share_one_reading(server, ring):
    """A thousand calls at once ask Redis once for the keys; later ones, also with keys that there are not, twice a second at most."""
    _, token = ring.add("crm")
    client = server.client()

    def readings():
        return client.info("commandstats").get("cmdstat_hgetall", {"calls": 0})["calls"]

    async def scenario():
        async with keeper(server.url) as door:
            before, began = readings(), time.monotonic()
            await asyncio.gather(*(door.caller(bearer(token)) for _ in range(1000)))
            assert readings() - before == 1
            await asyncio.gather(*(refused(door, bearer(f"mutirao_{at:012x}_{'x' * 43}")) for at in range(1000)))
            assert readings() - before <= 2 + (time.monotonic() - began) / authenticator.READ_S

    asyncio.run(scenario())


def test_where_redis_is_away_nobody_comes_in(redis_server):
    """A copy that is too old admits nobody: the call fails as one that Redis could not answer; then all is as before."""
    with BlockingKeys(redis_server.url) as ring:
        _, token = ring.add("crm")

    async def scenario():
        async with keeper(redis_server.url, timeout_s=0.3) as door:
            await door.caller(bearer(token))
            redis_server.pause()
            door._copy.read_at = float("-inf")  # the copy is old
            with pytest.raises(errors.BrokerUnavailable):
                await door.caller(bearer(token))
            redis_server.resume()
            assert (await door.caller(bearer(token))).tenant == "crm"

    asyncio.run(scenario())


def test_what_a_key_does_not_allow_is_refused_with_the_scope_it_takes():
    """`require` names verb, model and remedy; an open gateway's caller may do all."""
    crm = Caller(tenant="crm", key_id="0123", scopes=("predict:iris", "read:*"))
    crm.require("predict", "iris")
    crm.require("read")
    with pytest.raises(errors.Forbidden, match=r"'0123' does not allow this: .* predict:houses \(mutirao keys add crm"):
        crm.require("predict", "houses")
    with pytest.raises(errors.Forbidden, match=r"operate:\*") as raised:
        crm.require("operate")
    assert (raised.value.verb, raised.value.model, raised.value.status) == ("operate", "", 403)
    ANYBODY.require("operate")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("localhost", True), ("::1", True), ("[::1]", True),
        ("0.0.0.0", False), ("::", False), ("", False), ("10.0.0.1", False), ("gateway", False), ("::ffff:10.0.0.1", False),
    ],
)  # fmt: skip
def test_a_gateway_without_keys_does_not_start_beyond_loopback(host, loopback):
    """`refuse_open` lets it listen to loopback alone until there are keys, and names the command that makes one."""
    authenticator.refuse_open(host, has_keys=True)
    assert is_loopback(host) is loopback
    if loopback:
        authenticator.refuse_open(host, has_keys=False)
        return
    with pytest.raises(errors.SettingsError, match=re.escape(f"HOST is {host!r}: ")) as raised:
        authenticator.refuse_open(host, has_keys=False)
    assert raised.value.value == host
    assert "mutirao keys add" in str(raised.value)
