"""The publisher for RabbitMQ: messages go through kombu, and the broker confirms each.

Redis takes a call in one step; RabbitMQ needs three: read the queue's depth, publish, receive the confirmations. A call may therefore
be queued in part: messages that the broker has not confirmed count as not queued, and the caller deletes their records.
"""

from __future__ import annotations

import base64
import itertools
import os
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from mutirao import errors
from mutirao.settings import Settings, without_password
from mutirao.single_flight import PerProcessLock
from mutirao.urls import scrubbed

# The most messages without a confirmation before the publisher waits for the first of them.
WINDOW = 500


class Published(NamedTuple):
    """What became of a call's messages.

    Attributes:
        depth: how many waited in the queue before, by the broker's count, which leaves out those that workers hold.
        accepted: the places of the messages that the broker has confirmed.
        error: why the others were not confirmed; None where all were.
    """

    depth: int
    accepted: frozenset[int]
    error: errors.BrokerUnavailable | None = None


class Publisher:
    """A connection that is opened at its first use; threads take turns, and a fork opens its own."""

    def __init__(self, settings: Settings) -> None:
        """Take the settings.

        Raises:
            SettingsError: kombu is not installed.
        """
        self._settings = settings
        self._kombu = _kombu(settings)
        self._lock = PerProcessLock()
        self._confirms: _ConfirmChannel | None = None

    def publish(self, queue: str, limit: int, envelopes: Sequence[bytes]) -> Published:
        """Publish messages to a queue, in order; none of them where more than `limit` would wait.

        Raises:
            BrokerUnavailable: the broker cannot be reached, or refuses the queue; nothing is published.
        """
        with self._lock:
            depth = self._depth(queue)
            if depth + len(envelopes) > limit:
                return Published(depth, frozenset())
            assert self._confirms is not None
            try:
                self._confirms.send(queue, envelopes)
            except self._confirms.errors as exc:
                accepted = self._confirms.accepted()
                self._drop()
                return Published(depth, accepted, self._unavailable(exc))
            accepted = self._confirms.accepted()
            refused = len(accepted) < len(envelopes)
            return Published(depth, accepted, self._unavailable("it refused messages") if refused else None)

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._drop()

    def _depth(self, queue: str) -> int:
        """Declare a queue as workers do; a connection that broke while idle is opened again."""
        if self._confirms is not None and self._confirms.pid != os.getpid():
            self._confirms = None  # the parent's
        kept = self._confirms is not None
        while True:
            try:
                if self._confirms is None:
                    self._confirms = _ConfirmChannel(self._kombu, self._settings)
                    # A client that is never closed ends silently with the process, or with its last reference.
                    weakref.finalize(self, self._confirms.close)
                return self._confirms.declare(queue)
            except _errors(self._kombu) as exc:
                self._drop()
                if not kept:
                    raise self._unavailable(exc) from exc
                kept = False

    def _drop(self) -> None:
        confirms, self._confirms = self._confirms, None
        if confirms is not None:
            confirms.close()

    def _unavailable(self, reason: Exception | str) -> errors.BrokerUnavailable:
        url = without_password(self._settings.broker_url)
        detail = " ".join(scrubbed(str(reason), self._settings.broker_url).split()) or type(reason).__name__
        return errors.BrokerUnavailable(f"the broker at {url} is unavailable: {detail}; is it running?", url=url)


class _ConfirmChannel:
    """A connection and its one channel, on which the broker confirms what it has accepted."""

    def __init__(self, kombu: Any, settings: Settings) -> None:
        self.pid = os.getpid()
        self.errors = _errors(kombu)
        self._timeout_s = settings.timeout_s
        self._connection = kombu.Connection(
            settings.broker_url,
            connect_timeout=settings.timeout_s,
            transport_options={"read_timeout": settings.timeout_s, "write_timeout": settings.timeout_s},
        )
        self._exchange = kombu.Exchange("", type="direct")
        self._queue = kombu.Queue
        try:
            self._channel = self._connection.channel()
            self._channel.confirm_select()
        except self.errors:
            self.close()
            raise
        self._channel.events["basic_ack"].add(self._on_ack)
        self._channel.events["basic_nack"].add(self._on_nack)
        self._sent = 0
        self._first = 1
        self._waiting: dict[int, None] = {}
        self._refused: set[int] = set()

    def declare(self, queue: str) -> int:
        """Declare a queue; return how many messages wait in it."""
        declared = self._queue(queue, exchange=self._exchange, routing_key=queue, channel=self._channel).queue_declare()
        return int(declared.message_count)

    def send(self, queue: str, envelopes: Sequence[bytes]) -> None:
        """Publish messages, and wait for the confirmation of each."""
        self._first = self._sent + 1
        self._waiting, self._refused = dict.fromkeys(range(self._first, self._first + len(envelopes))), set()
        for envelope in envelopes:
            self._channel.basic_publish(self._message(envelope), exchange="", routing_key=queue)
            self._sent += 1
            if self._sent - next(iter(self._waiting), self._sent) >= WINDOW:
                self._connection.drain_events(timeout=self._timeout_s)
        while self._waiting:
            self._connection.drain_events(timeout=self._timeout_s)

    def accepted(self) -> frozenset[int]:
        """Return the places of the confirmed messages of the last call."""
        tags = range(self._first, self._sent + 1)
        return frozenset(tag - self._first for tag in tags if tag not in self._waiting and tag not in self._refused)

    def close(self) -> None:
        """Close the connection in any state; may be called again. In a fork this does nothing: the connection is the parent's."""
        if self.pid != os.getpid():
            return
        try:
            self._connection.close()
        except self.errors:
            self._connection.collect()

    def _message(self, envelope: bytes) -> Any:
        message = msgspec.json.decode(envelope)
        properties = {"correlation_id": message["headers"]["id"], "delivery_mode": 2}
        return self._channel.prepare_message(
            base64.b64decode(message["body"]),
            content_type=message["content-type"],
            content_encoding=message["content-encoding"],
            headers=message["headers"],
            properties=properties,
        )

    def _on_ack(self, tag: int, multiple: bool) -> None:
        for each in self._tags(tag, multiple):
            self._waiting.pop(each, None)

    def _on_nack(self, tag: int, multiple: bool) -> None:
        self._refused.update(self._tags(tag, multiple))
        self._on_ack(tag, multiple)

    def _tags(self, tag: int, multiple: bool) -> list[int]:
        return list(itertools.takewhile(lambda each: each <= tag, self._waiting)) if multiple else [tag]


def _errors(kombu: Any) -> tuple[type[Exception], ...]:
    from amqp.exceptions import AMQPError  # noqa: PLC0415 - comes with kombu, which only some have

    return (kombu.exceptions.KombuError, AMQPError, OSError)


def _kombu(settings: Settings) -> Any:
    try:
        import kombu  # noqa: PLC0415 - only some have it, and it takes a while
        import kombu.exceptions  # noqa: PLC0415
    except ImportError as exc:
        shown = without_password(settings.broker_url)
        raise errors.SettingsError(
            f"MUTIRAO_BROKER_URL is {shown!r}: kombu, which speaks with it, is not installed: pip install '.[celery]' in the folder of mutirão's source",
            key="MUTIRAO_BROKER_URL",
            value=shown,
        ) from exc
    return kombu
