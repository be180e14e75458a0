"""A stream of the fleet: each snapshot as a server-sent event."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from mutirao.gateway.auth.authenticator import Caller
from mutirao.gateway.state.fleet_broadcaster import FleetBroadcaster, Snapshot

# A proxy may cut a connection that says nothing.
KEEP_ALIVE_S = 15.0
_ALIVE = b": still here\n\n"


class FleetStream:
    """One stream. While its reader is slow, it keeps the latest snapshot alone."""

    outlasts_stop = False

    def __init__(self, broadcaster: FleetBroadcaster, caller: Caller) -> None:
        """Take what offers the snapshots, and the caller that they are shown to."""
        self._broadcaster, self._caller = broadcaster, caller
        self._next_snapshot: Snapshot | None = None
        self._over = False
        self._changed = asyncio.Event()

    def offer(self, snapshot: Snapshot) -> None:
        """Send this snapshot next."""
        self._next_snapshot = snapshot
        self._changed.set()

    def give_up(self, why: Exception | None = None) -> None:  # noqa: ARG002 - a stream that has begun tells no error
        """End the stream."""
        self._over = True
        self._changed.set()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield events until Redis is away, the gateway stops, or the caller's key is no longer valid."""
        with self._broadcaster.subscribed(self):
            while True:
                snapshot = await self._next()
                if self._over:
                    return
                yield snapshot.event(self._caller) if snapshot else _ALIVE

    async def _next(self) -> Snapshot | None:
        """Wait for a snapshot; return None where none came within `KEEP_ALIVE_S`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(KEEP_ALIVE_S):
                await self._changed.wait()
        self._changed.clear()
        snapshot, self._next_snapshot = self._next_snapshot, None
        return snapshot
