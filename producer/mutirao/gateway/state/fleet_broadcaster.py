"""The fleet, live: one snapshot a second for all streams together, and none while no stream is open."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import msgspec

from mutirao import single_flight
from mutirao.gateway.auth.authenticator import Caller
from mutirao.gateway.state.fleet import FleetSnapshot

EVERY_S = 1.0


class Snapshot:
    """One snapshot, encoded once for all callers that may see the same."""

    __slots__ = ("_events", "fleet", "number")

    def __init__(self, number: int, fleet: FleetSnapshot) -> None:
        """Take its number, larger than that of any before, and the fleet as it was read."""
        self.number = number
        self.fleet = fleet
        self._events: dict[tuple[bool, str, tuple[str, ...]], bytes] = {}

    def event(self, caller: Caller) -> bytes:
        """Encode it as a server-sent event for a caller."""
        key = (caller.open, caller.tenant, caller.scopes)
        if key not in self._events:
            data = msgspec.json.encode(self.fleet.shown_to(caller))
            self._events[key] = b"event: fleet\nid: %d\ndata: %b\n\n" % (self.number, data)
        return self._events[key]


class Subscriber(Protocol):
    """A stream that takes the snapshots."""

    def offer(self, snapshot: Snapshot) -> None:
        """Send this snapshot next."""

    def give_up(self, why: Exception | None = None) -> None:
        """End the stream."""


class FleetBroadcaster:
    """Reads the fleet once a second while a stream is open, and offers each snapshot to every stream."""

    def __init__(self, read: Callable[[], Awaitable[FleetSnapshot]]) -> None:
        """Take what reads the fleet; nothing is read before a stream is open."""
        self._read = read
        self._streams: set[Subscriber] = set()
        self._latest: Snapshot | None = None
        self._reading: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def subscribed(self, stream: Subscriber) -> Iterator[None]:
        """Offer every snapshot to a stream meanwhile, the latest one at once."""
        self._streams.add(stream)
        if self._latest is not None:
            stream.offer(self._latest)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_every_second())
            self._reading.add_done_callback(single_flight.retrieve_exception)
        try:
            yield
        finally:
            self._streams.discard(stream)
            if not self._streams and self._reading is not None:
                self._reading.cancel()
                self._reading = self._latest = None

    async def _read_every_second(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                began = loop.time()
                # By the clock: the numbers rise over several gateways, and over one that is started again.
                number = max(int(time.time() * 1000), self._latest.number + 1 if self._latest else 0)
                self._latest = Snapshot(number, await self._read())
                for stream in self._streams:
                    stream.offer(self._latest)
                await asyncio.sleep(began + EVERY_S - loop.time())
        finally:
            if self._reading is asyncio.current_task():
                self._end()

    def _end(self) -> None:
        """End every stream, since Redis is away: a client that asks again gets the error."""
        self._reading = self._latest = None
        for stream in self._streams:
            stream.give_up()
