"""Redis, blocking and asyncio: one vocabulary of calls, two short drivers.

An operation is a generator: it yields `Call`s and is sent their replies. Written once, it runs under either driver.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator
from typing import Any, Literal, TypeVar

import msgspec
import redis
import redis.asyncio
from redis.backoff import ExponentialBackoff

from mutirao import errors
from mutirao.amqp import Publisher
from mutirao.redisdb import failure
from mutirao.redisdb.connection import Packer, connect, connect_async
from mutirao.redisdb.multiplexed import MultiplexedConnection
from mutirao.redisdb.scripts import DIGESTS, SCRIPTS
from mutirao.redisdb.subscription import Subscription
from mutirao.redisdb.turns import AsyncTurns, Turns
from mutirao.settings import Settings
from mutirao.single_flight import AsyncSingleFlight, SharedCall, SingleFlight
from mutirao.socket_options import keepalive

T = TypeVar("T")
Database = Literal["broker", "results"]


class Command(msgspec.Struct, frozen=True):
    """One command, or one script with its keys and arguments, for the broker's server or the results' server.

    A broker that is no Redis knows one alone: "publish", with the queue for a key, then its limit and the envelopes.
    """

    side: Database
    name: str
    keys: tuple[str, ...] = ()
    args: tuple[Any, ...] = ()


Operation = Generator[Command | SharedCall, Any, T]


# A larger command has a connection to itself: others need not wait until it is sent.
LARGE_BYTES = 64 * 1024
# Such a command is large, whatever it holds.
MANY_ARGS = 10_000
# A server that another has taken the place of meanwhile does not know the scripts either.
LOADS_MAX = 2
# More than calls have turns, pipes and subscriptions there are; threads of a worker have theirs as well.
CONNECTIONS_MAX = 10_000

CLOSED = "the client was closed during a call"


class RedisDriver:
    """Runs operations, blocking."""

    def __init__(self, settings: Settings) -> None:
        """Make the connection pools; nothing connects before the first call."""
        self._settings = settings
        self._clients, self._process = self._connectors(), os.getpid()
        self._publisher = Publisher(settings) if settings.foreign else None
        self._turns = Turns(settings.timeout_s)
        self._flights = SingleFlight()

    def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end.

        Raises:
            BrokerUnavailable: Redis did not answer in time, or refused.
        """
        try:
            call = next(operation)
            while True:
                try:
                    reply = self._reply(call)
                except errors.BrokerUnavailable as exc:
                    call = operation.throw(exc)  # an operation may take back what it has done
                else:
                    call = operation.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def close(self) -> None:
        """Close every connection: that of a call which a thread is about when the call ends."""
        clients, self._clients = self._connected(), self._connectors()
        for client in clients.values():  # what is in use ends with its pool, whose last holder is the call
            client.connection_pool.disconnect(inuse_connections=False)
        if self._publisher is not None:
            self._publisher.close()

    def _connected(self) -> dict[Database, redis.Redis]:
        """Return the pools' clients; a fork has its own, since another thread may have held a lock of its parent's at that moment."""
        if self._process != os.getpid():
            for client in self._clients.values():
                client.auto_close_connection_pool = (
                    False  # which takes that lock; the parent's descriptors end with their pool
                )
            self._clients, self._process = self._connectors(), os.getpid()
        return self._clients

    def _connectors(self) -> dict[Database, redis.Redis]:
        settings = self._settings
        return {side: connect(url, settings, **options(settings)) for side, url in _urls(settings).items()}

    def _reply(self, call: Command | SharedCall) -> Any:
        if isinstance(call, SharedCall):
            return self._flights.join(call.name, lambda: self.run(call.steps()))
        if self._publisher is not None and call.side == "broker":
            return self._publisher.publish(call.keys[0], call.args[0], call.args[1:])
        client = self._connected()[call.side]
        try:
            with self._turns:
                return _answer(client, call)
        except redis.RedisError as exc:
            if _is_suspect(exc):
                client.connection_pool.disconnect(inuse_connections=False)
            raise unavailable(exc, self._settings, call.side) from exc


class AsyncRedisDriver:
    """Runs operations on the running event loop."""

    def __init__(self, settings: Settings) -> None:
        """Make the connection pools; nothing connects before the first call."""
        self._settings = settings
        self._clients = {
            side: connect_async(url, settings, **options(settings, asyncio=True))
            for side, url in _urls(settings).items()
        }
        self._pipes = {
            side: MultiplexedConnection(
                client.connection_pool, options(settings, asyncio=True)["retry"], settings.timeout_s
            )
            for side, client in self._clients.items()
        }
        self._publisher = Publisher(settings) if settings.foreign else None
        self._turns = AsyncTurns(settings.timeout_s)
        self._flights = AsyncSingleFlight()
        self._closed = False

    async def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end.

        Raises:
            BrokerUnavailable: Redis did not answer in time, or refused.
        """
        try:
            call = next(operation)
            while True:
                try:
                    reply = await self._reply(call)
                except errors.BrokerUnavailable as exc:
                    call = operation.throw(exc)  # an operation may take back what it has done
                else:
                    call = operation.send(reply)
        except StopIteration as stop:
            result: T = stop.value
            return result

    def subscription(self) -> Subscription:
        """Open a subscription on the server where results are announced."""
        return Subscription(self._clients["results" if self._settings.split else "broker"].pubsub())

    async def close(self) -> None:
        """Close every connection, for good; calls that wait are told."""
        self._closed = True
        for pipe in self._pipes.values():
            await pipe.close()
        for client in self._clients.values():
            await client.aclose()
        if self._publisher is not None:
            self._publisher.close()  # not in a thread: when the interpreter ends, none can be started any more

    async def _reply(self, call: Command | SharedCall) -> Any:
        if isinstance(call, SharedCall):
            return await self._flights.join(call.name, lambda: self.run(call.steps()))
        if self._publisher is not None and call.side == "broker":
            return await asyncio.to_thread(self._publisher.publish, call.keys[0], call.args[0], call.args[1:])
        client = self._clients[call.side]
        try:
            if call.name not in SCRIPTS:
                async with self._turns.turn():
                    return await client.execute_command(call.name, *call.keys, *call.args)
            return await self._asked(call)
        except Exception as exc:
            if self._closed:  # redis-py stumbles over what is closed while it connects
                raise errors.MutiraoError(CLOSED) from exc
            if not isinstance(exc, redis.RedisError):
                raise
            if _is_suspect(exc):
                await client.connection_pool.disconnect(inuse_connections=False)
            raise unavailable(exc, self._settings, call.side) from exc

    async def _asked(self, call: Command) -> Any:
        command = _script(call)
        packed = b"" if len(command) > MANY_ARGS else Packer().pack(*command)[0]
        client, pipe, large = self._clients[call.side], self._pipes[call.side], not packed or len(packed) > LARGE_BYTES
        for tries in range(LOADS_MAX + 1):
            try:
                if not large:
                    return await pipe.ask(packed)
                async with self._turns.turn():
                    return await client.execute_command(*command)
            except redis.exceptions.NoScriptError:
                if tries == LOADS_MAX:
                    raise
            (load,) = Packer().pack("SCRIPT LOAD", SCRIPTS[call.name])
            if large:  # over a connection that leads where the command will go: older ones may lead elsewhere
                await client.connection_pool.disconnect(inuse_connections=False)
                await client.script_load(SCRIPTS[call.name])
            else:
                await pipe.ask(load)
        raise AssertionError("the last try returns or raises")


def _script(call: Command) -> tuple[Any, ...]:
    return ("EVALSHA", DIGESTS[call.name], len(call.keys), *call.keys, *call.args)


def _answer(client: redis.Redis, call: Command) -> Any:
    if call.name not in SCRIPTS:
        return client.execute_command(call.name, *call.keys, *call.args)
    for tries in range(LOADS_MAX + 1):
        try:
            return _asked(client, _script(call))
        except redis.exceptions.NoScriptError:
            if tries == LOADS_MAX:
                raise
        client.connection_pool.disconnect(
            inuse_connections=False
        )  # older ones may lead elsewhere than the command went
        client.script_load(SCRIPTS[call.name])
    raise AssertionError("the last try returns or raises")


def _asked(client: redis.Redis, command: tuple[Any, ...]) -> Any:
    """Ask as redis-py's client does, without what it does beside: that takes longer than the call."""
    pool = client.connection_pool
    connection = pool.get_connection()

    def ask() -> Any:
        connection.send_packed_command(connection.pack_command(*command))
        try:
            return connection.read_response()
        except redis.ResponseError as exc:
            raise failure.checked(exc) from exc

    try:
        return connection.retry.call_with_retry(ask, lambda _: connection.disconnect())
    finally:
        pool.release(connection)


def _is_suspect(exc: redis.RedisError) -> bool:
    """Whether connections that nobody uses now had better be made anew: this one's server was silent, or is no master any more."""
    return isinstance(exc, redis.TimeoutError) or failure.is_replica(exc)


def options(settings: Settings, *, asyncio: bool = False) -> dict[str, Any]:
    """Choose redis-py's options: a connection that broke is tried again for about a second, which is safe since every script of
    ours may be sent twice; a server that does not answer is not.
    """
    kind = redis.asyncio.retry.Retry if asyncio else redis.retry.Retry
    return {
        "socket_connect_timeout": settings.timeout_s,
        "socket_timeout": settings.timeout_s,
        "socket_keepalive": True,
        "socket_keepalive_options": keepalive(settings.timeout_s),
        "retry": kind(ExponentialBackoff(cap=0.5, base=0.05), retries=4, supported_errors=(redis.ConnectionError,)),
        "health_check_interval": 30,
        # How many there are at once is bounded by the turns of calls, not by an error.
        "max_connections": CONNECTIONS_MAX,
    }


def unavailable(exc: redis.RedisError, settings: Settings, side: Database = "broker") -> errors.BrokerUnavailable:
    """Say in one sentence why Redis could not serve a call."""
    return failure.unavailable(exc, _urls(settings).get(side, settings.broker_url))


def _urls(settings: Settings) -> dict[Database, str]:
    if settings.direct().foreign:
        return {"results": settings.result_url}
    if settings.split:
        return {"broker": settings.broker_url, "results": settings.result_url}
    return {"broker": settings.broker_url}
