"""Celery's side of the deliveries: takes them from Redis while threads are free, and hands them to the task as kombu's messages.

kombu's own transport pops a message first and notes it afterwards; a process that dies in between loses it. Here both are one
script (take.lua), and the engine's channel leaves the list alone.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import redis
from celery import bootsteps
from celery.worker import state

from mutirao import queues
from mutirao_worker.webhooks.outbox import Outbox

logger = logging.getLogger(__name__)

# How soon a delivery is seen for which no bell rang, and one whose time has come.
LOOK_S = 0.2
# The header in which a message carries the envelope that it was.
HEADER = "mutirao"


class Taker(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
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

    def start(self, consumer: Any) -> None:
        """Begin, or go on with another connection."""
        self._channel = consumer.task_consumer.channel
        self._channel.bells = self
        self._open = True
        self._timer = consumer.timer.call_repeatedly(LOOK_S, self.look)

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

    def look(self) -> None:
        """Take what there is room for."""
        if not self._open:
            return
        try:
            for envelope in self._outbox.take(self._room()):
                self._hand_over(envelope)
        except redis.RedisError as exc:
            logger.warning("cannot take webhooks: %s", " ".join(str(exc).split()))

    def _room(self) -> int:
        return int(self._pool.limit) - len(state.reserved_requests)

    def _hand_over(self, envelope: bytes) -> None:
        try:
            message = msgspec.json.decode(envelope)
            message["headers"][HEADER] = envelope.decode()
            self._channel.connection._deliver(message, queues.WEBHOOKS)  # noqa: SLF001 - as kombu's own poll does
        except Exception:
            logger.exception("dropped a message of %d bytes that is no webhook's", len(envelope))
            self._outbox.done(envelope)
