"""Deliveries in Redis: the list that jobs' ends push to, what is held while it is tried, what waits for another try."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from mutirao import keyspace
from mutirao.redisdb import drivers as broker
from mutirao.redisdb.connection import connect
from mutirao.redisdb.scripts import SCRIPTS
from mutirao.settings import Settings
from mutirao.wire.messages import JobRecord
from mutirao_worker.engine import commit

REASON = "webhook undelivered"


class Delivery(msgspec.Struct, frozen=True):
    """One event on its way to one receiver.

    Attributes:
        envelope: the message as it lies in Redis; it is what names the delivery there.
        job_id: whose end is told.
        tries: how many tries have failed.
    """

    envelope: bytes
    job_id: str
    tries: int = 0


class Outbox:
    """The deliveries of one Redis. Threads may share it.

    Attributes:
        held: what this process has taken and not yet ended.
    """

    def __init__(self, settings: Settings) -> None:
        """Take the settings; nothing is sent yet."""
        self.held: set[bytes] = set()
        self._lease_s = settings.lease_s
        self._lock = threading.Lock()
        self._renewed_at = 0.0
        self._client = connect(settings.result_url, settings, **broker.options(settings))
        self._take, self._end = (
            self._client.register_script(SCRIPTS[name]) for name in ("webhook_take", "webhook_settle")
        )

    def take(self, room: int) -> list[bytes]:
        """Take deliveries, `room` of them at most, and hold on to those that are on their way.

        Raises:
            redis.RedisError: Redis did not answer; what it may have given is taken again when the hold on it lapses.
        """
        due = time.monotonic() - self._renewed_at > self._lease_s / 3
        if room < 1 and not due:
            return []
        with self._lock:
            held = tuple(self.held) if due else ()
        found: Any = self._take(keys=(keyspace.WEBHOOKS, keyspace.WEBHOOKS_HELD), args=(room, self._lease_s, *held))
        if due:
            self._renewed_at = time.monotonic()
        with self._lock:
            fresh = [envelope for envelope in found if envelope not in self.held]
            self.held.update(fresh)
        return fresh

    def record(self, job_id: str) -> JobRecord | None:
        """Read a job's record; None where there is none any more.

        Raises:
            redis.RedisError: Redis did not answer.
        """
        raw: Any = self._client.get(keyspace.record_key(job_id))
        return msgspec.json.decode(raw, type=JobRecord) if raw else None

    def done(self, envelope: bytes) -> None:
        """End a delivery.

        Raises:
            redis.RedisError: Redis did not answer; the hold lapses, and it is tried again.
        """
        self._ended(envelope, b"", 0.0, "", b"")

    def postpone(self, delivery: Delivery, wait_s: float, *, failed: bool) -> None:
        """Have a delivery wait; a try that failed is counted.

        Raises:
            redis.RedisError: as `done`.
        """
        later = tried(delivery.envelope, delivery.tries + 1) if failed else delivery.envelope
        self._ended(delivery.envelope, later, wait_s, "", b"")

    def bury(self, delivery: Delivery, why: str, *, model: str, worker: str) -> None:
        """Give a delivery up: it becomes a dead letter, which can be replayed.

        Raises:
            redis.RedisError: as `done`.
        """
        id = f"webhook-{delivery.job_id}"
        letter = commit.letter(
            id,
            keyspace.WEBHOOKS,
            tried(delivery.envelope, 0),
            reason=REASON,
            message=why,
            at=time.time(),
            worker=worker,
            attempts=delivery.tries + 1,
        )
        letter = msgspec.structs.replace(letter, model=model)
        self._ended(delivery.envelope, b"", 0.0, id, msgspec.json.encode(letter))

    def forget(self, envelope: bytes) -> None:
        """Hold on to it no longer; where it was not ended, it is taken again when the hold lapses."""
        with self._lock:
            self.held.discard(envelope)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ended(self, envelope: bytes, later: bytes, wait_s: float, letter_id: str, letter: bytes) -> None:
        self.forget(envelope)  # first, or the hold would be renewed on what waits for another time
        keys: Sequence[str] = (keyspace.WEBHOOKS_HELD, keyspace.DEAD_INDEX)
        self._end(keys=keys, args=(envelope, later, wait_s, letter_id, letter, keyspace.DEAD_MAX, keyspace.DEAD))


def tried(envelope: bytes, tries: int) -> bytes:
    """Write into an envelope how many tries have failed, where Celery has it: in the header `retries`."""
    message = msgspec.json.decode(envelope)
    message["headers"] |= {"retries": tries, "ignore_result": True}
    return msgspec.json.encode(message)
