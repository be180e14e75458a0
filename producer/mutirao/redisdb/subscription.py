"""A subscription that is asked, when it says nothing, whether it is still there."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import redis
import redis.asyncio

# After so long without a word, or at once where a word was missed, a PING is sent; its answer may take so long.
QUIET_S = 5.0
PONG_S = 2.0
# How often that is looked at; who is told something hears it at once.
LOOK_S = 0.5


class Subscription:
    """Lives on one event loop."""

    def __init__(self, pubsub: redis.asyncio.client.PubSub) -> None:
        """Take redis-py's subscription; nothing connects before the first `subscribe`."""
        self._pubsub = pubsub
        self._check_due = False
        self._closed = False

    async def subscribe(self, *channels: str | bytes) -> None:
        """Ask for what is announced on these channels as well.

        Raises:
            redis.RedisError: Redis does not answer, or refuses.
        """
        await self._pubsub.subscribe(*channels)

    async def unsubscribe(self, *channels: str) -> None:
        """Ask for it no more."""
        await self._pubsub.unsubscribe(*channels)

    def check_soon(self) -> None:
        """Something was missed that should have been heard: ask soon whether it is still there."""
        self._check_due = True

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """Yield what is announced, and what Redis confirms.

        Raises:
            redis.RedisError: the connection broke, or is gone without a word.
        """
        loop = asyncio.get_running_loop()
        received_at, pinged_at = loop.time(), None
        while not self._closed:
            message = await self._pubsub.get_message(timeout=LOOK_S)
            now = loop.time()
            if message is not None:
                received_at, pinged_at = now, None
                yield message
            elif pinged_at is None and (self._check_due or now - received_at > QUIET_S):
                self._check_due, pinged_at = False, now
                await self._pubsub.ping()
            elif pinged_at is not None and now - pinged_at > PONG_S:
                raise redis.TimeoutError("the subscription does not answer")
        raise redis.ConnectionError("the subscription was closed")

    async def close(self) -> None:
        """Close its connection, whatever state that is in."""
        self._closed = True
        with contextlib.suppress(redis.RedisError, OSError):
            await self._pubsub.aclose()
