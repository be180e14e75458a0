"""The drivers of Redis, blocking and asyncio, and the commands that both run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator
from typing import Any, Literal, TypeVar

import msgspec
import redis
import redis.asyncio
from redis.backoff import ExponentialBackoff

from mutirao import errors, operation_loop
from mutirao.amqp import Publisher
from mutirao.redisdb import failure
from mutirao.redisdb.concurrency_limit import AsyncConcurrencyLimit, ConcurrencyLimit
from mutirao.redisdb.connection import Packer, connect, connect_async
from mutirao.redisdb.multiplexed_connection import MultiplexedConnection
from mutirao.redisdb.scripts import DIGESTS, SCRIPTS
from mutirao.redisdb.subscription import Subscription
from mutirao.settings import Settings
from mutirao.single_flight import AsyncSingleFlight, SharedCall, SingleFlight
from mutirao.socket_options import keepalive

T = TypeVar("T")
Database = Literal["broker", "results"]


class Command(msgspec.Struct, frozen=True):
    """A command, or a script with its keys and arguments, for the server of the broker or that of results.

    RabbitMQ takes one command alone: "publish", with the queue as its key, and the queue's limit and the envelopes as arguments.
    """

    database: Database
    name: str
    keys: tuple[str, ...] = ()
    args: tuple[Any, ...] = ()


Operation = Generator[Command | SharedCall, Any, T]


# A larger command has its own connection, so that no other waits until it is sent.
LARGE_BYTES = 64 * 1024
# A command of more arguments counts as large, whatever they hold.
MANY_ARGS = 10_000
# After a failover the new server does not know the scripts either, so one load may not be enough.
LOADS_MAX = 2
# More than turns, multiplexed connections, subscriptions and threads of a worker can need.
CONNECTIONS_MAX = 10_000

CLOSED = "the client was closed during a call"


class RedisDriver:
    """A driver that blocks."""

    def __init__(self, settings: Settings) -> None:
        """Make the connection pools; nothing connects before the first command."""
        self._settings = settings
        self._clients, self._process = self._make_clients(), os.getpid()
        self._publisher = Publisher(settings) if settings.uses_amqp else None
        self._limit = ConcurrencyLimit(settings.timeout_s)
        self._flights = SingleFlight()

    def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end.

        Raises:
            BrokerUnavailable: Redis did not answer in time, or refused.
        """
        return operation_loop.run(operation, self._execute, self._flights)

    def close(self) -> None:
        """Close every connection; one that a thread uses is closed when its command ends."""
        clients, self._clients = self._own_clients(), self._make_clients()
        for client in clients.values():  # a connection in use ends with its pool, which the command holds last
            client.connection_pool.disconnect(inuse_connections=False)
        if self._publisher is not None:
            self._publisher.close()

    def _own_clients(self) -> dict[Database, redis.Redis]:
        """Return the clients of this process. A fork makes its own: a lock of its parent's may have been held at that moment."""
        if self._process != os.getpid():
            for client in self._clients.values():
                # Closing takes that lock; the parent's descriptors end with their pool.
                client.auto_close_connection_pool = False
            self._clients, self._process = self._make_clients(), os.getpid()
        return self._clients

    def _make_clients(self) -> dict[Database, redis.Redis]:
        settings = self._settings
        return {database: connect(url, settings, **options(settings)) for database, url in _urls(settings).items()}

    def _execute(self, command: Command) -> Any:
        if self._publisher is not None and command.database == "broker":
            return self._publisher.publish(command.keys[0], command.args[0], command.args[1:])
        client = self._own_clients()[command.database]
        try:
            with self._limit:
                return _run_command(client, command)
        except redis.RedisError as exc:
            if _is_suspect(exc):
                client.connection_pool.disconnect(inuse_connections=False)
            raise unavailable(exc, self._settings, command.database) from exc


class AsyncRedisDriver:
    """A driver on the running event loop."""

    def __init__(self, settings: Settings) -> None:
        """Make the connection pools; nothing connects before the first command."""
        self._settings = settings
        self._clients = {
            database: connect_async(url, settings, **options(settings, asyncio=True))
            for database, url in _urls(settings).items()
        }
        self._multiplexed = {
            database: MultiplexedConnection(
                client.connection_pool, options(settings, asyncio=True)["retry"], settings.timeout_s
            )
            for database, client in self._clients.items()
        }
        self._publisher = Publisher(settings) if settings.uses_amqp else None
        self._limit = AsyncConcurrencyLimit(settings.timeout_s)
        self._flights = AsyncSingleFlight()
        self._closed = False

    async def run(self, operation: Operation[T]) -> T:
        """Run an operation to its end.

        Raises:
            BrokerUnavailable: Redis did not answer in time, or refused.
        """
        return await operation_loop.run_async(operation, self._execute, self._flights)

    def subscription(self) -> Subscription:
        """Open a subscription on the server where results are announced."""
        return Subscription(self._clients["results" if self._settings.separate_results else "broker"].pubsub())

    async def close(self) -> None:
        """Close every connection for good; commands that wait fail."""
        self._closed = True
        for multiplexed in self._multiplexed.values():
            await multiplexed.close()
        for client in self._clients.values():
            await client.aclose()
        if self._publisher is not None:
            self._publisher.close()  # not in a thread: when the interpreter ends, none can be started any more

    async def _execute(self, command: Command) -> Any:
        if self._publisher is not None and command.database == "broker":
            return await asyncio.to_thread(self._publisher.publish, command.keys[0], command.args[0], command.args[1:])
        client = self._clients[command.database]
        try:
            if command.name not in SCRIPTS:
                async with self._limit.acquired():
                    return await client.execute_command(command.name, *command.keys, *command.args)
            return await self._run_script(command)
        except Exception as exc:
            if self._closed:  # redis-py raises anything where a pool is closed while it connects
                raise errors.MutiraoError(CLOSED) from exc
            if not isinstance(exc, redis.RedisError):
                raise
            if _is_suspect(exc):
                await client.connection_pool.disconnect(inuse_connections=False)
            raise unavailable(exc, self._settings, command.database) from exc

    async def _run_script(self, command: Command) -> Any:
        words = _script_words(command)
        packed = b"" if len(words) > MANY_ARGS else Packer().pack(*words)[0]
        client, multiplexed, large = (
            self._clients[command.database],
            self._multiplexed[command.database],
            not packed or len(packed) > LARGE_BYTES,
        )
        for tries in range(LOADS_MAX + 1):
            try:
                if not large:
                    return await multiplexed.send(packed)
                async with self._limit.acquired():
                    return await client.execute_command(*words)
            except redis.exceptions.NoScriptError:
                if tries == LOADS_MAX:
                    raise
            (load,) = Packer().pack("SCRIPT LOAD", SCRIPTS[command.name])
            if large:  # over a new connection, which leads where the command will go: older ones may lead elsewhere
                await client.connection_pool.disconnect(inuse_connections=False)
                await client.script_load(SCRIPTS[command.name])
            else:
                await multiplexed.send(load)
        raise AssertionError("the last try returns or raises")


def _script_words(command: Command) -> tuple[Any, ...]:
    return ("EVALSHA", DIGESTS[command.name], len(command.keys), *command.keys, *command.args)


def _run_command(client: redis.Redis, command: Command) -> Any:
    if command.name not in SCRIPTS:
        return client.execute_command(command.name, *command.keys, *command.args)
    for tries in range(LOADS_MAX + 1):
        try:
            return _send(client, _script_words(command))
        except redis.exceptions.NoScriptError:
            if tries == LOADS_MAX:
                raise
        # Older connections may lead elsewhere than the command went.
        client.connection_pool.disconnect(inuse_connections=False)
        client.script_load(SCRIPTS[command.name])
    raise AssertionError("the last try returns or raises")


def _send(client: redis.Redis, words: tuple[Any, ...]) -> Any:
    """Send a command as redis-py's client does, without its bookkeeping, which takes longer than the command."""
    pool = client.connection_pool
    connection = pool.get_connection()

    def send() -> Any:
        connection.send_packed_command(connection.pack_command(*words))
        try:
            return connection.read_response()
        except redis.ResponseError as exc:
            raise failure.checked(exc) from exc

    try:
        return connection.retry.call_with_retry(send, lambda _: connection.disconnect())
    finally:
        pool.release(connection)


def _is_suspect(exc: redis.RedisError) -> bool:
    """Return whether idle connections should be replaced: the server of this one was silent, or is no longer master."""
    return isinstance(exc, redis.TimeoutError) or failure.is_replica(exc)


def options(settings: Settings, *, asyncio: bool = False) -> dict[str, Any]:
    """Return redis-py's options. A broken connection is retried for about a second, which is safe since every script here may be
    sent twice; a server that does not answer is not retried.
    """
    kind = redis.asyncio.retry.Retry if asyncio else redis.retry.Retry
    return {
        "socket_connect_timeout": settings.timeout_s,
        "socket_timeout": settings.timeout_s,
        "socket_keepalive": True,
        "socket_keepalive_options": keepalive(settings.timeout_s),
        "retry": kind(ExponentialBackoff(cap=0.5, base=0.05), retries=4, supported_errors=(redis.ConnectionError,)),
        "health_check_interval": 30,
        # The turns of commands bound how many there are at once, not an error.
        "max_connections": CONNECTIONS_MAX,
    }


def unavailable(exc: redis.RedisError, settings: Settings, database: Database = "broker") -> errors.BrokerUnavailable:
    """Say in one sentence why Redis could not serve a command."""
    return failure.unavailable(exc, _urls(settings).get(database, settings.broker_url))


def _urls(settings: Settings) -> dict[Database, str]:
    if settings.direct().uses_amqp:
        return {"results": settings.result_url}
    if settings.separate_results:
        return {"broker": settings.broker_url, "results": settings.result_url}
    return {"broker": settings.broker_url}
