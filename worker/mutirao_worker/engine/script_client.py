"""The engine's Lua scripts, each called by its digest, and by its text where Redis does not know it."""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from mutirao import socket_options
from mutirao.redisdb import connection
from mutirao.redisdb.scripts import DIGESTS, SCRIPTS
from mutirao.settings import Settings
from mutirao_worker.engine.background_calls import BackgroundCalls, OnReplies

PIECE = 256 * 1024
# Bytes a second of the slowest link over which a large result is waited for.
SLOWEST = 256 * 1024
ScriptCall = tuple[str, Sequence[Any], Sequence[Any]]
# A call that is to follow others in their round trip, and what takes its reply, or the error that took its place.
Then = tuple[ScriptCall, Callable[[Any], None]]


def connect(url: str, settings: Settings, timeout_s: float | None = None) -> redis.Redis:
    """Make a client that never sends a call twice by itself: only the caller knows whether a call whose reply was lost may run again.

    Args:
        url: the server's.
        settings: for the rest.
        timeout_s: how long an answer may take; the setting by default.
    """
    timeout_s = timeout_s or settings.timeout_s
    return connection.connect(
        url,
        settings,
        retry=Retry(NoBackoff(), 0),
        socket_connect_timeout=timeout_s,
        socket_keepalive=True,
        socket_keepalive_options=socket_options.keepalive(timeout_s),
        socket_timeout=timeout_s,
    )


class ScriptClient:
    """Calls scripts on one Redis.

    Attributes:
        background: runs large calls in threads.
        meanwhile: called between the pieces of what is large and waited for: the loop stands still for as long as a slow link takes.
    """

    def __init__(self, client: redis.Redis) -> None:
        """Take the client; nothing is sent yet."""
        self.client = client
        self.background = BackgroundCalls(client)
        self.meanwhile: list[Callable[[], None]] = []
        self._connection: Any = None
        self._post_connection: Any = None
        self._pending: collections.deque[tuple[Sequence[ScriptCall], OnReplies, float]] = collections.deque()
        self._lock = threading.Lock()

    def call(self, name: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """Run one script.

        Raises:
            redis.RedisError: Redis did not answer, or refused.
        """
        (reply,) = self.call_all([(name, keys, args)])
        return reply

    def call_all(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run scripts one after another, in one round trip.

        Raises:
            redis.RedisError: Redis did not answer, or refused one; those before it have run.
        """
        return _complete(calls, self._send(self._commands(calls)), self._send)

    def post(self, calls: Sequence[ScriptCall], on_replies: OnReplies) -> int:
        """Send calls and do not wait: `read_replies` reads their replies, in the order in which they were posted.

        Args:
            calls: run one after another.
            on_replies: takes their replies, or the error that took their place.

        Returns:
            The descriptor that can be read once there are replies.

        Raises:
            redis.RedisError: they could not be sent.
        """
        if self._post_connection is None:
            self._post_connection = self.client.connection_pool.get_connection()
        try:
            if not self._pending:
                self._post_connection.connect()  # of Sentinel's masters only this asks for the new one
            self._post_connection.send_packed_command(self._post_connection.pack_commands(self._commands(calls)))
        except redis.RedisError as exc:
            self.fail_pending(exc)
            raise
        self._pending.append((calls, on_replies, time.monotonic()))
        return int(self._post_connection._sock.fileno())  # noqa: SLF001 - redis-py has no other way to it

    @property
    def pending(self) -> bool:
        """Whether replies are still to come."""
        return bool(self._pending)

    def read_replies(self, *, wait: bool = False) -> None:
        """Read the replies that have come.

        Args:
            wait: for all that are pending.
        """
        while self._pending:
            calls, on_replies, _ = self._pending[0]
            try:
                if not (wait or self._post_connection.can_read(0)):
                    return
                replies = [reply_of(self._post_connection) for _ in calls]
            except redis.RedisError as exc:
                self.fail_pending(exc)
                return
            self._pending.popleft()
            if not self._pending and _refused(replies):
                self._post_connection.disconnect()
            try:
                outcome: list[Any] | redis.RedisError = _complete(calls, replies, self._send)
            except redis.RedisError as exc:
                outcome = exc
            on_replies(outcome)

    def expire(self, after_s: float) -> None:
        """Give up on what was posted longer ago than this."""
        if self._pending and time.monotonic() - self._pending[0][2] > after_s:
            self.fail_pending(redis.TimeoutError(f"no answer within {after_s:g} s"))

    def fail_pending(self, error: redis.RedisError) -> None:
        """Fail the pending calls; all of them may have run."""
        pending, self._pending = self._pending, collections.deque()
        if self._post_connection is not None:
            self._post_connection.disconnect()
        for _, on_replies, _ in pending:
            on_replies(error)

    def post_large(self, calls: Sequence[ScriptCall], on_replies: OnReplies) -> int:
        """Send calls that may take long on a slow link, and do not wait; in other respects as `post`, and in no order."""
        with contextlib.suppress(
            redis.ResponseError
        ):  # this user may not; where Redis knows the scripts, all is sent but once
            for name in {name for name, _, _ in calls}:
                self.client.script_load(SCRIPTS[name])

        def call(connection: Any) -> list[Any]:
            replies = _exchange(connection, self._commands(calls))
            return _complete(calls, replies, lambda commands: _exchange(connection, commands))

        return self.background.start(call, on_replies)

    def get_large(self, keys: Sequence[str], on_replies: OnReplies) -> int:
        """Read values that may be large, and do not wait; the arguments and what it returns are those of `post`."""
        return self.background.start(lambda connection: _exchange(connection, [("MGET", *keys)]), on_replies)

    def abandon(self) -> None:
        """Give up every connection: what is called next goes over a new one."""
        self.background.abandon()
        self.read_replies()
        self.fail_pending(redis.ConnectionError("the connection to Redis was lost"))
        self.client.connection_pool.disconnect()

    def packed(self, call: ScriptCall) -> bytes:
        """Return a call as bytes, to be sent over another connection."""
        (command,) = self._commands([call])
        return connection.Packer().pack(*command)[0]

    def _commands(self, calls: Sequence[ScriptCall]) -> list[Any]:
        return [("EVALSHA", DIGESTS[name], len(keys), *keys, *args) for name, keys, args in calls]

    def _send(self, commands: Sequence[Any]) -> list[Any]:
        """Send commands over a connection of their own: redis-py's way through its pool and pipeline costs more than a small call."""
        # Where it is busy, this is a signal's handler in the midst of a call (Celery's cold shutdown is one), or a thread (at
        # shutdown Celery runs the loop's timers in one). Neither waits: the one that holds the connection may be waiting for them.
        if not self._lock.acquire(blocking=False):
            other = self.client.connection_pool.get_connection()
            try:
                return _exchange(other, commands)
            finally:
                self.client.connection_pool.release(other)
        try:
            if self._connection is None:
                self._connection = self.client.connection_pool.get_connection()
            return _exchange(self._connection, commands, self.meanwhile)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Close the connections."""
        self.background.close()
        for each in (self._connection, self._post_connection):
            if each is not None:
                each.disconnect()
        self.client.close()


def _complete(calls: Sequence[ScriptCall], replies: list[Any], send: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
    """Call with its text what Redis did not know, which has not run, and that alone; raise what it refused."""
    for place, (name, keys, args) in enumerate(calls):
        if isinstance(replies[place], redis.exceptions.NoScriptError):
            replies[place : place + 1] = send([("EVAL", SCRIPTS[name], len(keys), *keys, *args)])
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _exchange(connection: Any, commands: Sequence[Any], meanwhile: Sequence[Callable[[], None]] = ()) -> list[Any]:
    try:
        connection.connect()  # where it is not; of Sentinel's masters only this asks for the new one
        size = _send(connection, commands, meanwhile)
        # What is large may be in buffers on its way for as long as a slow link takes.
        patience = {"timeout": connection.socket_timeout + size / SLOWEST} if size > PIECE else {}
        replies = [reply_of(connection, **patience) for _ in commands]
    except BaseException:  # half of a reply may be left on it
        connection.disconnect()
        raise
    if _refused(replies):
        connection.disconnect()
    return replies


def _send(connection: Any, commands: Sequence[Any], meanwhile: Sequence[Callable[[], None]]) -> int:
    """Send commands in pieces, and return their size: a time-out is for each piece, thus for silence, and not for a large result."""
    whole = [memoryview(part) for part in connection.pack_commands(commands)]
    size = sum(map(len, whole))
    pieces = [view[at : at + PIECE] for view in whole for at in range(0, len(view), PIECE)]
    if size <= PIECE:
        connection.send_packed_command(pieces)
        return size
    for place, piece in enumerate(pieces):
        connection.send_packed_command(
            [piece], check_health=not place
        )  # a PING in the midst would be part of the result
        for each in meanwhile:
            each()
    return size


def _refused(replies: Iterable[Any]) -> bool:
    """Whether Redis refused something: it may be a replica by now, and the name that led to it may lead to its master."""
    return any(
        isinstance(reply, Exception) and not isinstance(reply, redis.exceptions.NoScriptError) for reply in replies
    )


def reply_of(connection: Any, **options: Any) -> Any:
    """Read one reply; a refusal is a reply too."""
    try:
        return connection.read_response(**options)
    except redis.ResponseError as exc:
        return exc


def warn_once(log: logging.Logger, what: str, exc: Exception, before: str) -> str:
    """Log why something failed, as a warning only where the reason is new; return the reason."""
    why = " ".join(str(exc).split())
    log.log(logging.DEBUG if why == before else logging.WARNING, "%s: %s", what, why)
    return why
