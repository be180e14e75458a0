"""Calls take turns: so many at once have a connection each, the others wait as long as any is answered."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import time
from collections.abc import AsyncIterator, Callable

import redis

# Calls that have a connection of their own at once. Redis does one after another, so more would wait there.
AT_ONCE = 64

Error = Callable[[str], Exception]


class Turns:
    """The turns of threads, one each: `with turns: ...`; a fork has its own."""

    def __init__(self, timeout_s: float, at_once: int = AT_ONCE, error: Error = redis.TimeoutError) -> None:
        """Take how long a call may take, how many have their turn at once, and the error to raise where nobody is answered."""
        self._timeout_s = timeout_s
        self._at_once = at_once
        self._error = error
        self._until = 0.0
        self._ended = 0
        self._begin()

    def __enter__(self) -> None:
        """Wait for a turn, and have it until the exit.

        Raises:
            redis.TimeoutError, or the other error: none of those who had theirs was answered in time.
        """
        if self._process != os.getpid():
            self._begin()
        try:
            self._free.get_nowait()
        except queue.Empty:
            self._wait()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave it to the next."""
        self._ended += kind is None
        self._free.put(None)

    def extend(self, longer_s: float) -> None:
        """Have others wait for a call, which has its turn now, so much longer than for any other."""
        self._until = max(self._until, time.monotonic() + self._timeout_s + longer_s)

    def _begin(self) -> None:
        free: queue.SimpleQueue[None] = queue.SimpleQueue()  # a quarter of a semaphore's time
        for _ in range(self._at_once):
            free.put(None)
        self._free, self._process = free, os.getpid()  # in this order: other threads look meanwhile

    def _wait(self) -> None:
        while True:
            before = self._ended
            with contextlib.suppress(queue.Empty):
                return self._free.get(timeout=_timeout_left(self._timeout_s, self._until))
            if self._ended == before:
                raise self._error(_timeout_text(self._at_once, self._timeout_s))


class AsyncTurns:
    """The turns of an event loop's tasks."""

    def __init__(self, timeout_s: float, at_once: int = AT_ONCE, error: Error = redis.TimeoutError) -> None:
        """Take how long a call may take, how many have their turn at once, and the error to raise where nobody is answered."""
        self._timeout_s = timeout_s
        self._at_once = at_once
        self._error = error
        self._until = 0.0
        self._free = asyncio.Semaphore(at_once)
        self._ended = 0

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it meanwhile.

        Raises:
            redis.TimeoutError, or the other error: none of those who had theirs was answered in time.
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
        """Have others wait for a call, which has its turn now, so much longer than for any other."""
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
    """Say how long those who have their turn may take yet; `until` is when the longest of them ends."""
    return max(timeout_s, until - time.monotonic())


def _timeout_text(at_once: int, timeout_s: float) -> str:
    return f"none of {at_once} calls before this one was answered within {timeout_s:g} s"
