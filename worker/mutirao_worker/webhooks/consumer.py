"""Celery's side of the deliveries: takes them from Redis while threads are free, and hands them to the task as kombu's messages.

kombu's own transport pops a message first and notes it afterwards; a process that dies in between loses it. Here both are one
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

# How soon a delivery is seen for which no bell rang, and one whose time has come; and while there is something to do.
LOOK_S = 0.2
BUSY_S = 0.04
# The header in which a message carries the envelope that it was, and the consumer whose messages kombu does not acknowledge.
HEADER = "mutirao"


class WebhookConsumer(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Takes deliveries for the free threads, and holds on to those that are on their way."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        """Take Celery's consumer."""
        super().__init__(consumer, **kwargs)
        self._outbox: Outbox = consumer.app.outbox
        self._pool = consumer.pool
        self._channel: Any = None
        self._timer: Any = None
        self._open = False
        self._looked_at = 0.0

    def start(self, consumer: Any) -> None:
        """Begin, or go on with another connection."""
        self._channel = consumer.task_consumer.channel
        self._channel.bells = self
        self._channel.no_ack_consumers = {HEADER}  # a script acknowledges, not kombu
        self._open = True
        self._timer = consumer.timer.call_repeatedly(BUSY_S, self._tick)

    def stop(self, consumer: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Take no more; what is on its way goes on."""
        self._open = False
        if self._timer is not None:
            self._timer.cancel()

    def wants(self, queue: str | None = None) -> bool:  # noqa: ARG002 - the channel's question
        """Whether a thread is free."""
        return self._open and self._room() > 0

    def refused(self, queue: str) -> None:
        """Leave it: it is looked for again before long."""

    def woken(self, queue: str | None) -> None:
        """Look, if it was a bell that woke us."""
        if queue is not None:
            self.look()

    def unsure(self) -> None:
        """A token that was lost is nothing to look for: the list is looked at before long."""

    def following(self) -> None:
        """Nothing is taken before a bell has rung."""

    def followed(self, queue: str | None, reply: Any) -> None:
        """No call follows a bell."""

    def look(self) -> None:
        """Take what there is room for."""
        if not self._open:
            return
        self._looked_at = time.monotonic()
        try:
            for envelope in self._outbox.take(self._room()):
                self._hand_over(envelope)
        except redis.RedisError as exc:
            logger.warning("cannot take webhooks: %s", " ".join(str(exc).split()))

    def _tick(self) -> None:
        if self._outbox.held or time.monotonic() - self._looked_at >= LOOK_S:
            self.look()

    def _room(self) -> int:
        return int(self._pool.limit) - len(self._outbox.held)

    def _hand_over(self, envelope: bytes) -> None:
        message = read(envelope)
        if message is None:
            logger.error("dropped a message of %d bytes that is no webhook's", len(envelope))
            self._outbox.done(envelope)
            return
        message["headers"][HEADER] = envelope.decode()
        message["properties"]["delivery_info"]["consumer_tag"] = HEADER
        self._channel.connection._deliver(message, keyspace.WEBHOOKS)  # noqa: SLF001 - as kombu's own poll does


def read(envelope: bytes) -> dict[str, Any] | None:
    """Read a message; None where it is not one that tells the task of a job."""
    try:
        known = msgspec.json.decode(envelope, type=WebhookEnvelope)
        msgspec.json.decode(known.body, type=tuple[tuple[str], dict[str, Any], Any])
        message: dict[str, Any] = msgspec.json.decode(envelope)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return message
