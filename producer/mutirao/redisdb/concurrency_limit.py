"""A limit on concurrent calls: the others wait their turn for as long as calls are answered."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable

import redis

# Calls that have a connection at once. Redis runs one command after another, so more would wait there.
AT_ONCE = 64

Error = Callable[[str], Exception]


class _Limit(ABC):
    """What both limits share: how long a call may wait for its turn, and what it raises then."""

    def __init__(self, timeout_s: float, at_once: int = AT_ONCE, error: Error = redis.TimeoutError) -> None:
        """Take how long a call may take, how many run at once, and the error to raise where none is answered."""
        self._timeout_s = timeout_s
        self._at_once = at_once
        self._error = error
        self._until = 0.0
        self._ended = 0
        self._begin()

    def extend(self, longer_s: float) -> None:
        """Let waiting calls wait longer for a call that runs now, as for a long poll."""
        self._until = max(self._until, time.monotonic() + self._timeout_s + longer_s)

    @abstractmethod
    def _begin(self) -> None:
        """Make all turns free."""

    def _timeout_left(self) -> float:
        """Return how long the running calls may still take; `_until` is when the longest of them ends."""
        return max(self._timeout_s, self._until - time.monotonic())

    def _stuck(self) -> Exception:
        return self._error(f"none of {self._at_once} calls before this one was answered within {self._timeout_s:g} s")


class ConcurrencyLimit(_Limit):
    """The limit for threads, used as `with limit: ...`; a fork has its own."""

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

    def _begin(self) -> None:
        free: queue.SimpleQueue[None] = queue.SimpleQueue()  # a quarter of a semaphore's time
        for _ in range(self._at_once):
            free.put(None)
        self._free, self._process = free, os.getpid()  # in this order, since other threads read both

    def _wait(self) -> None:
        while True:
            before = self._ended
            with contextlib.suppress(queue.Empty):
                return self._free.get(timeout=self._timeout_left())
            if self._ended == before:
                raise self._stuck()


class AsyncConcurrencyLimit(_Limit):
    """The limit for the tasks of an event loop."""

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

    def _begin(self) -> None:
        self._free = asyncio.Semaphore(self._at_once)

    async def _waited(self) -> None:
        while True:
            before = self._ended
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_left()):
                    await self._free.acquire()
                    return
            if self._ended == before:
                raise self._stuck()
