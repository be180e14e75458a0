"""Celery's consumer, which reconnects: the end of its connection is noticed within seconds, logged once, and mended."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import Any

import redis
from celery.utils.threads import bound_open_broker_sockets
from celery.worker import consumer as stock_consumer
from celery.worker.state import maybe_shutdown

from mutirao_worker.celery_adapter.transport import Channel

logger = logging.getLogger(__name__)

# How soon it connects again: at once the first time, then this much later each time, up to the longest.
RETRY_S = 0.5
RETRY_MAX_S = 2.0
# How long the connections of a broker that is no Redis may take to close.
CLOSE_S = 2.0
LOOK_S = 0.5
# What Celery says of each connection is of no use while none lasts.
CHATTER = ("celery.worker.consumer.connection", "celery.worker.consumer.mingle")


class Consumer(stock_consumer.Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery's consumer, for brokers that may be away in any way: out of reach, silent, or refusing.

    On Redis all three raise one of the transport's connection errors, so that there is one way back: every connection is closed and
    made anew.
    """

    connection: Any
    _failures = 0
    _lost_at = 0.0
    _started_at = 0.0
    _why = ""

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long it takes."""
        conn.ensure_connection(
            lambda exc, _: self._on_failure(exc),
            interval_start=RETRY_S,
            interval_step=RETRY_S,
            interval_max=RETRY_MAX_S,
            callback=maybe_shutdown,
        )
        self._started_at = time.monotonic()
        return conn

    def register_with_event_loop(self, hub: Any) -> None:
        """Look whether Redis still answers while the loop runs."""
        super().register_with_event_loop(hub)
        hub.call_repeatedly(LOOK_S, self._check_connection)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Log why there is no connection, and leave the broker alone for a moment."""
        self._on_failure(exc)
        self._pause()

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Log why a connection has ended, close all that belong to it, and leave the broker alone for a moment."""
        self._on_failure(exc)
        connection, self.connection = self.connection, None
        # Or a last heartbeat would be sent over its connection, which is likely to be no better.
        if self.event_dispatcher:
            self.event_dispatcher.disable()
            _abandon(self.event_dispatcher.connection)
        if connection is not None:
            _abandon(connection)
            bound_open_broker_sockets(connection, CLOSE_S)
            with contextlib.suppress(Exception):
                connection.collect(socket_timeout=CLOSE_S)
            with contextlib.suppress(Exception):
                connection.close()
        self._pause()

    def _check_connection(self) -> None:
        channel = self.task_consumer.channel if self.task_consumer else None
        if not isinstance(channel, Channel):
            self._on_answer()
        elif channel.is_overdue():
            raise redis.TimeoutError("no answer")
        elif channel.replied_at > self._started_at:
            self._on_answer()

    def _on_failure(self, exc: Exception) -> None:
        why = " ".join(str(exc).split()) or type(exc).__name__
        if not self._failures:
            self._lost_at = time.monotonic()
        self._failures += 1
        if why != self._why:
            logger.error("%s is away, connecting again until it is back: %s", self.conninfo.as_uri(), why)
        self._why = why
        _mute_chatter(self._failures > 1)

    def _on_answer(self) -> None:
        if self._failures:
            away_s = time.monotonic() - self._lost_at
            logger.warning("%s is back, %.1f s after it was missed", self.conninfo.as_uri(), away_s)
            self._failures, self._why = 0, ""
            _mute_chatter(False)

    def _pause(self) -> None:
        """Wait before the next connection: each time longer while none of them has been of use."""
        until = time.monotonic() + min(RETRY_MAX_S, RETRY_S * (self._failures - 1))
        while (left_s := until - time.monotonic()) > 0:
            maybe_shutdown()
            time.sleep(min(left_s, 0.5))


def _abandon(connection: Any) -> None:
    """Close a connection's sockets without sending anything: a silent one would be waited for."""
    channels = getattr(connection.connection, "channels", ()) if connection.connected else ()
    for channel in tuple(channels):
        if isinstance(channel, Channel):
            channel.abandon()


def _mute_chatter(quiet: bool) -> None:
    for name in CHATTER:
        logging.getLogger(name).disabled = quiet
