"""Calls that carry megabytes: each in a thread, over a connection of its own, so that the loop goes on however slow the link is."""

from __future__ import annotations

import os
import queue
import select
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis

THREADS = 4

Call = Callable[[Any], list[Any]]
OnReplies = Callable[[list[Any] | redis.RedisError], None]


class BackgroundCalls:
    """Large calls to one Redis. A call that fails may have run; it is not sent again.

    Its connections are none of the pool's: who abandons the pool closes those, and half of a call must not go on over a new one.

    Attributes:
        descriptor: can be read once a call is done; -1 where there has been none.
        pending: how many calls have not been reported yet.
    """

    def __init__(self, client: redis.Redis) -> None:
        """Take the client whose server is called."""
        self._client = client
        self._executor: ThreadPoolExecutor | None = None
        self._idle: list[Any] = []
        self._done: queue.SimpleQueue[tuple[Any, list[Any] | redis.RedisError, OnReplies]] = queue.SimpleQueue()
        self._wakeup_w = -1
        self.descriptor = -1
        self.pending = 0

    def start(self, call: Call, on_replies: OnReplies) -> int:
        """Start a call.

        Args:
            call: takes a connection, and returns the replies or raises; it runs in a thread.
            on_replies: takes the replies, or the error that took their place, from `read_replies`.

        Returns:
            The descriptor that can be read once a call is done.
        """
        if self._executor is None:
            self._executor = ThreadPoolExecutor(THREADS, "mutirao-large-call")
            self.descriptor, self._wakeup_w = os.pipe()
            os.set_blocking(self.descriptor, False)
        connection = self._idle.pop() if self._idle else self._client.connection_pool.make_connection()
        self.pending += 1
        self._executor.submit(self._run, connection, call, on_replies)
        return self.descriptor

    def read_replies(self) -> None:
        """Report the calls that are done."""
        if self._executor is not None and select.select([self.descriptor], [], [], 0)[0]:
            os.read(self.descriptor, 1024)
        while not self._done.empty():
            connection, replies, on_replies = self._done.get()
            self.pending -= 1
            self._idle.append(connection)
            on_replies(replies)

    def wait(self, meanwhile: Sequence[Callable[[], None]]) -> None:
        """Wait for all that is pending; each call is bounded by the time-outs of its connection."""
        while self.pending:
            select.select([self.descriptor], [], [], 1.0)
            self.read_replies()
            for each in meanwhile:
                each()

    def abandon(self) -> None:
        """Close the connections that no call uses: the next call opens a new one."""
        for connection in self._idle:
            connection.disconnect()

    def close(self) -> None:
        """Close the connections that no call uses, and let the threads end."""
        self.abandon()
        if self._executor is not None:
            self._executor.shutdown(wait=False)

    def _run(self, connection: Any, call: Call, on_replies: OnReplies) -> None:
        replies: list[Any] | redis.RedisError
        try:
            replies = call(connection)
        except redis.RedisError as exc:
            replies = exc
        except Exception as exc:  # noqa: BLE001 - of whatever kind: no call may stay without an end
            replies = redis.ConnectionError(repr(exc))
        self._done.put((connection, replies, on_replies))
        os.write(self._wakeup_w, b"1")
