"""The fleet, live: one snapshot a second for however many follow, and none while nobody does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING

import msgspec

from mutirao.gateway.auth.authenticator import Caller
from mutirao.gateway.fleet import FleetSnapshot

if TYPE_CHECKING:
    from mutirao.gateway.state import Gateway  # which holds the feed

EVERY_S = 1.0
# A proxy may cut a connection that says nothing.
KEEP_ALIVE_S = 15.0
_ALIVE = b": still here\n\n"


class Snapshot:
    """One snapshot, written once for all who may see the same."""

    __slots__ = ("_events", "number", "seen")

    def __init__(self, number: int, seen: FleetSnapshot) -> None:
        """Take its number, larger than that of any before, and what was seen."""
        self.number = number
        self.seen = seen
        self._events: dict[tuple[bool, str, tuple[str, ...]], bytes] = {}

    def event(self, caller: Caller) -> bytes:
        """Write it as a server-sent event for a caller."""
        key = (caller.open, caller.tenant, caller.scopes)
        if key not in self._events:
            data = msgspec.json.encode(self.seen.by(caller))
            self._events[key] = b"event: fleet\nid: %d\ndata: %b\n\n" % (self.number, data)
        return self._events[key]


class FleetBroadcaster:
    """One snapshot a second for however many follow, and none while nobody does."""

    def __init__(self, front: Gateway) -> None:
        """Take where to read; nothing is read before somebody follows."""
        self._front = front
        self._followers: set[FleetStream] = set()
        self._latest: Snapshot | None = None
        self._reading: asyncio.Task[None] | None = None

    async def seen(self) -> FleetSnapshot:
        """Read the fleet now.

        Raises:
            BrokerUnavailable: Redis does not answer.
        """
        front = self._front
        catalog = await front.catalog()
        return FleetSnapshot(front.core.now(), catalog, await front.lines.of(tuple(catalog.models)))

    @contextlib.contextmanager
    def followed(self, one: FleetStream) -> Iterator[None]:
        """Have snapshots read meanwhile."""
        self._followers.add(one)
        if self._latest is not None:
            one.take(self._latest)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
            self._reading.add_done_callback(_noticed)
        try:
            yield
        finally:
            self._followers.discard(one)
            if not self._followers and self._reading is not None:
                self._reading.cancel()
                self._reading = self._latest = None

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                began = loop.time()
                # By the clock: the numbers rise over several gateways, and over one that is started again.
                number = max(int(time.time() * 1000), self._latest.number + 1 if self._latest else 0)
                self._latest = Snapshot(number, await self.seen())
                for one in self._followers:
                    one.take(self._latest)
                await asyncio.sleep(began + EVERY_S - loop.time())
        finally:
            if self._reading is asyncio.current_task():
                self._end()

    def _end(self) -> None:
        """End every stream, since Redis is away: who asks again is told so."""
        self._reading = self._latest = None
        for one in self._followers:
            one.give_up()


class FleetStream:
    """One stream: of what it is given while its reader is slow, it keeps the latest."""

    patient = False

    def __init__(self, front: Gateway, caller: Caller) -> None:
        """Take who follows."""
        self._front, self._caller = front, caller
        self._issue: Snapshot | None = None
        self._over = False
        self._news = asyncio.Event()

    def take(self, issue: Snapshot) -> None:
        """Have this issue sent next."""
        self._issue = issue
        self._news.set()

    def give_up(self, why: Exception | None = None) -> None:  # noqa: ARG002 - a stream that has begun tells no error
        """End the stream."""
        self._over = True
        self._news.set()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield events until Redis is away, the gateway stops, or the caller's key is good no more."""
        with self._front.feed.followed(self):
            while True:
                issue = await self._next()
                if self._over:
                    return
                yield issue.event(self._caller) if issue else _ALIVE

    async def _next(self) -> Snapshot | None:
        """Wait for an issue; None where there was none for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KEEP_ALIVE_S):
                await self._news.wait()
        self._news.clear()
        issue, self._issue = self._issue, None
        return issue


def _noticed(reading: asyncio.Task[None]) -> None:
    """Take note of a failure; whoever asks next meets it too, and is told."""
    if not reading.cancelled():
        reading.exception()
