"""Celery's bootstep for deliveries: takes them from Redis while threads are free, and passes them to the task as kombu's messages.

kombu's own transport pops a message first and records it afterwards; a process that dies in between loses it. Here both are one
script (webhook_take.lua), and the engine's channel leaves the list alone.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec
import redis
from celery import bootsteps

from mutirao import keyspace
from mutirao.wire.envelope import WebhookEnvelope
from mutirao_worker.webhooks.outbox import Outbox

logger = logging.getLogger(__name__)

# How soon a delivery is seen without a wake-up token, and one whose retry is due; and how soon while deliveries run.
POLL_S = 0.2
BUSY_POLL_S = 0.04
# The header in which a message carries its own envelope, and the consumer tag whose messages kombu does not acknowledge.
HEADER = "mutirao"


class WebhookConsumer(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Takes deliveries for the free threads, and renews the leases of those that run."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._outbox: Outbox = consumer.app.outbox
        self._pool = consumer.pool
        self._channel: Any = None
        self._timer: Any = None
        self._open = False
        self._polled_at = 0.0

    def start(self, consumer: Any) -> None:
        """Start, or continue on another connection."""
        self._channel = consumer.task_consumer.channel
        self._channel.listener = self
        self._channel.no_ack_consumers = {HEADER}  # a script acknowledges, not kombu
        self._open = True
        self._timer = consumer.timer.call_repeatedly(BUSY_POLL_S, self._tick)

    def stop(self, consumer: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Take no more deliveries; those that run continue."""
        self._open = False
        if self._timer is not None:
            self._timer.cancel()

    def has_room(self, queue: str | None = None) -> bool:  # noqa: ARG002 - the channel's question
        """Whether a thread is free."""
        return self._open and self._free_threads() > 0

    def on_no_room(self, queue: str) -> None:
        """Do nothing: the list is polled before long."""

    def on_wakeup(self, queue: str | None) -> None:
        """Take deliveries, if a wake-up token has come."""
        if queue is not None:
            self.take_deliveries()

    def mark_uncertain(self) -> None:
        """Do nothing for a token that may be lost: the list is polled before long."""

    def next_command(self) -> None:
        """Send no command together with the wait for a token."""

    def on_reply(self, queue: str | None, reply: Any) -> None:
        """Do nothing: no command was sent with the wait for a token."""

    def take_deliveries(self) -> None:
        """Take deliveries for the free threads."""
        if not self._open:
            return
        self._polled_at = time.monotonic()
        try:
            for envelope in self._outbox.take(self._free_threads()):
                self._hand_over(envelope)
        except redis.RedisError as exc:
            logger.warning("cannot take webhooks: %s", " ".join(str(exc).split()))

    def _tick(self) -> None:
        if self._outbox.held or time.monotonic() - self._polled_at >= POLL_S:
            self.take_deliveries()

    def _free_threads(self) -> int:
        return int(self._pool.limit) - len(self._outbox.held)

    def _hand_over(self, envelope: bytes) -> None:
        message = decode_message(envelope)
        if message is None:
            logger.error("dropped a message of %d bytes that is no webhook's", len(envelope))
            self._outbox.complete(envelope)
            return
        message["headers"][HEADER] = envelope.decode()
        message["properties"]["delivery_info"]["consumer_tag"] = HEADER
        self._channel.connection._deliver(message, keyspace.WEBHOOKS)  # noqa: SLF001 - as kombu's own poll does


def decode_message(envelope: bytes) -> dict[str, Any] | None:
    """Decode a message; return None for one that is not a delivery of a job."""
    try:
        body = msgspec.json.decode(envelope, type=WebhookEnvelope).body
        msgspec.json.decode(body, type=tuple[tuple[str], dict[str, Any], Any])
        message: dict[str, Any] = msgspec.json.decode(envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return message
