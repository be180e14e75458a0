"""A limit on concurrent calls: the others wait their turn for as long as calls are answered."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import time
from collections.abc import AsyncIterator, Callable

import redis

# Calls that have a connection at once. Redis runs one command after another, so more would wait there.
AT_ONCE = 64

Error = Callable[[str], Exception]


class ConcurrencyLimit:
    """The limit for threads, used as `with limit: ...`; a fork has its own."""

    def __init__(self, timeout_s: float, at_once: int = AT_ONCE, error: Error = redis.TimeoutError) -> None:
        """Take how long a call may take, how many run at once, and the error to raise where none is answered."""
        self._timeout_s = timeout_s
        self._at_once = at_once
        self._error = error
        self._until = 0.0
        self._ended = 0
        self._begin()

    def __enter__(self) -> None:
        """Wait for a turn, which lasts until the exit.

        Raises:
            redis.TimeoutError, or the error given: none of the running calls was answered in time.
        """
        if self._process != os.getpid():
            self._begin()
        try:
            self._free.get_nowait()
        except queue.Empty:
            self._wait()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the turn."""
        self._ended += kind is None
        self._free.put(None)

    def extend(self, longer_s: float) -> None:
        """Let waiting calls wait longer for a call that runs now, as for a long poll."""
        self._until = max(self._until, time.monotonic() + self._timeout_s + longer_s)

    def _begin(self) -> None:
        free: queue.SimpleQueue[None] = queue.SimpleQueue()  # a quarter of a semaphore's time
        for _ in range(self._at_once):
            free.put(None)
        self._free, self._process = free, os.getpid()  # in this order, since other threads read both

    def _wait(self) -> None:
        while True:
            before = self._ended
            with contextlib.suppress(queue.Empty):
                return self._free.get(timeout=_timeout_left(self._timeout_s, self._until))
            if self._ended == before:
                raise self._error(_timeout_text(self._at_once, self._timeout_s))


class AsyncConcurrencyLimit:
    """The limit for the tasks of an event loop."""

    def __init__(self, timeout_s: float, at_once: int = AT_ONCE, error: Error = redis.TimeoutError) -> None:
        """Take how long a call may take, how many run at once, and the error to raise where none is answered."""
        self._timeout_s = timeout_s
        self._at_once = at_once
        self._error = error
        self._until = 0.0
        self._free = asyncio.Semaphore(at_once)
        self._ended = 0

    @contextlib.asynccontextmanager
    async def acquired(self) -> AsyncIterator[None]:
        """Wait for a turn, which lasts until the exit.

        Raises:
            redis.TimeoutError, or the error given: none of the running calls was answered in time.
        """
        if self._free.locked():
            await self._waited()
        else:
            await self._free.acquire()
        try:
            yield
            self._ended += 1
        finally:
            self._free.release()

    def extend(self, longer_s: float) -> None:
        """Let waiting calls wait longer for a call that runs now, as for a long poll."""
        self._until = max(self._until, time.monotonic() + self._timeout_s + longer_s)

    async def _waited(self) -> None:
        while True:
            before = self._ended
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_timeout_left(self._timeout_s, self._until)):
                    await self._free.acquire()
                    return
            if self._ended == before:
                raise self._error(_timeout_text(self._at_once, self._timeout_s))


def _timeout_left(timeout_s: float, until: float) -> float:
    """Return how long the running calls may still take; `until` is when the longest of them ends."""
    return max(timeout_s, until - time.monotonic())


def _timeout_text(at_once: int, timeout_s: float) -> str:
    return f"none of {at_once} calls before this one was answered within {timeout_s:g} s"
