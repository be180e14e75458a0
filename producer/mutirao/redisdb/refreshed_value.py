"""A copy of what Redis holds: read again once it is too old, by one reading for all that wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar, cast

from mutirao import single_flight

T = TypeVar("T")


class Refreshed(Generic[T]):
    """The copy.

    Attributes:
        value: what was read last; None before the first reading.
        read_at: when that reading began, by the monotonic clock.
    """

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        """Take what reads it; nothing is read yet."""
        self.value: T | None = None
        self.read_at = float("-inf")
        self._read = read
        self._reading: asyncio.Task[T] | None = None

    @property
    def age_s(self) -> float:
        """Return the copy's age, which is infinite before the first reading."""
        return time.monotonic() - self.read_at

    async def get(self, max_age_s: float) -> T:
        """Return the copy, read again first where it is older than this.

        Raises:
            BrokerUnavailable: Redis does not answer.
        """
        oldest = time.monotonic() - max_age_s
        while self.read_at < oldest:  # a reading that is under way may have begun before that
            await asyncio.shield(self.start())
        return cast("T", self.value)

    def start(self) -> asyncio.Task[T]:
        """Return the reading that is under way, or start one."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._refresh())
            self._reading.add_done_callback(single_flight.retrieve_exception)
        return self._reading

    async def close(self) -> None:
        """Cancel the reading that is under way."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def _refresh(self) -> T:
        began = time.monotonic()
        self.value = await self._read()
        self.read_at = began
        return self.value
