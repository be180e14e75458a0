"""A connection to Redis that all commands of an event loop share: each is sent at once, and replies come in the same order.

redis-py lends a connection to one command at a time, and waits for each write and each read in a task of its own, which takes longer
than the command. Its connections are used all the same, since they implement TLS, passwords and Sentinel.
"""

from __future__ import annotations

import asyncio
import collections
import math
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry

from mutirao.redisdb import failure


class MultiplexedConnection:
    """A connection on one event loop; it connects at its first command, and again after each failure."""

    def __init__(self, pool: redis.asyncio.ConnectionPool, retry: Retry, timeout_s: float) -> None:
        """Take redis-py's pool, its retry policy for a broken connection, and how long a reply may take."""
        self._pool = pool
        self._retry = retry
        self._timeout_s = timeout_s
        self._connecting = asyncio.Lock()
        self._connection: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._awaited: collections.deque[asyncio.Future[Any]] = collections.deque()
        self._closed = False

    async def send(self, packed: bytes) -> Any:
        """Send a command that may be sent twice, and wait for its reply.

        Raises:
            redis.RedisError: Redis did not answer in time, or refused.
        """
        return await self._retry.call_with_retry(lambda: self._send(packed), _no_cleanup)

    async def close(self) -> None:
        """Close the connection for good; commands that still wait fail."""
        self._closed = True
        reader = self._reader
        self._drop(_closed())
        if reader is not None:
            await asyncio.wait([reader])

    async def _send(self, packed: bytes) -> Any:
        connection = self._connection or await self._connect_once()
        reply = asyncio.get_running_loop().create_future()
        try:
            connection._writer.write(packed)  # noqa: SLF001 - redis-py waits for each write
        except (AttributeError, RuntimeError) as exc:  # it broke, and its reader has not noticed yet
            raise redis.ConnectionError("the connection broke") from exc
        self._awaited.append(reply)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await reply
        except TimeoutError:
            # A late reply would be taken for the reply to the next command.
            late = redis.TimeoutError(f"no answer within {self._timeout_s:g} s")
            if connection is self._connection:
                self._drop(late)
            raise late from None
        except redis.ResponseError as exc:
            error = failure.checked(exc)
            if isinstance(error, failure.NotMaster) and connection is self._connection:
                self._drop(error)
            raise error from exc

    async def _connect_once(self) -> Any:
        async with self._connecting:
            if self._connection is None:
                connection = await self._pool.get_connection()
                if self._closed:
                    await connection.disconnect(nowait=True)
                    await self._pool.release(connection)
                    raise _closed()
                self._connection, self._reader = connection, asyncio.create_task(self._read(connection))
            return self._connection

    async def _read(self, connection: Any) -> None:
        error: Exception = redis.RedisError("the event loop ends")
        try:
            while True:
                try:
                    reply = await connection.read_response(timeout=math.inf)
                except redis.ResponseError as exc:
                    reply = exc
                awaited = self._awaited.popleft()
                if awaited.done():  # its caller has given up
                    continue
                if isinstance(reply, Exception):
                    awaited.set_exception(reply)
                else:
                    awaited.set_result(reply)
        except (redis.RedisError, OSError) as exc:
            error = exc
        finally:
            if connection is self._connection:
                self._drop(error)
            await connection.disconnect(nowait=True)
            await self._pool.release(connection)

    def _drop(self, error: Exception) -> None:
        """Stop using this connection; its reader closes it."""
        reader, self._connection, self._reader = self._reader, None, None
        awaited, self._awaited = self._awaited, collections.deque()
        if reader is not None and reader is not asyncio.current_task():
            reader.cancel()
        for each in awaited:
            if not each.done():
                each.set_exception(error)


def _closed() -> redis.RedisError:
    return redis.RedisError("the client was closed")


async def _no_cleanup(_: Exception) -> None:
    """Do nothing before a retry: the broken connection has already been dropped."""
