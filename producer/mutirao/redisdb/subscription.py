"""A Redis subscription that is pinged while it is silent, so that a lost connection is noticed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import redis
import redis.asyncio

# The silence after which a PING is sent, and how long its reply may take. A missed message causes a PING at once.
QUIET_S = 5.0
PONG_S = 2.0
# How often silence is checked; messages are yielded at once.
LOOK_S = 0.5


class Subscription:
    """A subscription on one event loop."""

    def __init__(self, pubsub: redis.asyncio.client.PubSub) -> None:
        """Take redis-py's subscription; nothing connects before the first `subscribe`."""
        self._pubsub = pubsub
        self._check_due = False
        self._closed = False

    async def subscribe(self, *channels: str | bytes) -> None:
        """Subscribe to more channels.

        Raises:
            redis.RedisError: Redis does not answer, or refuses.
        """
        await self._pubsub.subscribe(*channels)

    async def unsubscribe(self, *channels: str) -> None:
        """Unsubscribe from channels."""
        await self._pubsub.unsubscribe(*channels)

    def check_soon(self) -> None:
        """Send a PING soon: a message that should have arrived was missed."""
        self._check_due = True

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """Yield messages, and the confirmations of subscriptions.

        Raises:
            redis.RedisError: the connection broke, or does not answer.
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
        """Close its connection in any state."""
        self._closed = True
        with contextlib.suppress(redis.RedisError, OSError):
            await self._pubsub.aclose()
