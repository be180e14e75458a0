"""Calls take turns: so many at once have a connection each, the others wait as long as any is answered."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Iterator

import redis

# Calls that have a connection of their own at once. Redis does one after another, so more would wait there.
AT_ONCE = 64


class Turns:
    """The turns of threads; a fork has its own."""

    def __init__(self, timeout_s: float, at_once: int = AT_ONCE) -> None:
        """Take how long a call may take, and how many have their turn at once."""
        self._timeout_s = timeout_s
        self._at_once = at_once
        self._process = os.getpid()
        self._free = threading.Semaphore(at_once)
        self._ended = 0

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and have it meanwhile.

        Raises:
            redis.TimeoutError: none of those who had theirs was answered in time.
        """
        if self._process != os.getpid():
            self._process, self._free = os.getpid(), threading.Semaphore(self._at_once)
        free = self._free
        if not free.acquire(blocking=False):
            before = self._ended
            while not free.acquire(timeout=self._timeout_s):
                if self._ended == before:
                    raise _stuck(self._at_once, self._timeout_s)
                before = self._ended
        try:
            yield
            self._ended += 1
        finally:
            free.release()


class AsyncTurns:
    """The turns of an event loop's tasks."""

    def __init__(self, timeout_s: float, at_once: int = AT_ONCE) -> None:
        """Take how long a call may take, and how many have their turn at once."""
        self._timeout_s = timeout_s
        self._at_once = at_once
        self._free = asyncio.Semaphore(at_once)
        self._ended = 0

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and have it meanwhile.

        Raises:
            redis.TimeoutError: none of those who had theirs was answered in time.
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

    async def _waited(self) -> None:
        while True:
            before = self._ended
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout_s):
                    await self._free.acquire()
                    return
            if self._ended == before:
                raise _stuck(self._at_once, self._timeout_s)


def _stuck(at_once: int, timeout_s: float) -> redis.TimeoutError:
    return redis.TimeoutError(f"none of {at_once} calls before this one was answered within {timeout_s:g} s")
