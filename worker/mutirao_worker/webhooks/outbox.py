"""Deliveries in Redis: the list that jobs' ends push to, those that are leased while they run, those that wait for a retry."""

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
from mutirao_worker.engine import job_records

REASON = "webhook undelivered"


class Delivery(msgspec.Struct, frozen=True):
    """One event on its way to one receiver.

    Attributes:
        envelope: the message as it lies in Redis, where it identifies the delivery.
        job_id: the job that has ended.
        failed_attempts: how many attempts have failed.
    """

    envelope: bytes
    job_id: str
    failed_attempts: int = 0


class Outbox:
    """The deliveries in one Redis. Threads may share it.

    Attributes:
        held: what this process has taken and not yet completed.
    """

    def __init__(self, settings: Settings) -> None:
        self.held: set[bytes] = set()
        self._lease_s = settings.lease_s
        self._lock = threading.Lock()
        self._renewed_at = 0.0
        self._client = connect(settings.result_url, settings, **broker.options(settings))
        self._take, self._end = (
            self._client.register_script(SCRIPTS[name]) for name in ("webhook_take", "webhook_settle")
        )

    def take(self, max_count: int) -> list[bytes]:
        """Take at most `max_count` deliveries, and renew the leases of those that run.

        Raises:
            redis.RedisError: Redis did not answer; what it may have handed out is taken again when its lease expires.
        """
        due = time.monotonic() - self._renewed_at > self._lease_s / 3
        if max_count < 1 and not due:
            return []
        with self._lock:
            held = tuple(self.held) if due else ()
        taken: Any = self._take(
            keys=(keyspace.WEBHOOKS, keyspace.WEBHOOKS_HELD), args=(max_count, self._lease_s, *held)
        )
        if due:
            self._renewed_at = time.monotonic()
        with self._lock:
            fresh = [envelope for envelope in taken if envelope not in self.held]
            self.held.update(fresh)
        return fresh

    def record(self, job_id: str) -> JobRecord | None:
        """Return a job's record; None where it has expired.

        Raises:
            redis.RedisError: Redis did not answer.
        """
        raw: Any = self._client.get(keyspace.record_key(job_id))
        return msgspec.json.decode(raw, type=JobRecord) if raw else None

    def complete(self, envelope: bytes) -> None:
        """Remove a delivery.

        Raises:
            redis.RedisError: Redis did not answer; the lease expires, and the delivery is attempted again.
        """
        self._end_lease(envelope, b"", 0.0, "", b"")

    def reschedule(self, delivery: Delivery, delay_s: float, *, failed: bool) -> None:
        """Return a delivery to wait for a retry, and count the attempt where it failed.

        Raises:
            redis.RedisError: as `complete`.
        """
        later = with_retries(delivery.envelope, delivery.failed_attempts + 1) if failed else delivery.envelope
        self._end_lease(delivery.envelope, later, delay_s, "", b"")

    def dead_letter(self, delivery: Delivery, reason: str, *, model: str, worker: str) -> None:
        """Give a delivery up as a dead letter, which can be replayed.

        Raises:
            redis.RedisError: as `complete`.
        """
        id = f"webhook-{delivery.job_id}"
        letter = job_records.dead_letter(
            id,
            keyspace.WEBHOOKS,
            with_retries(delivery.envelope, 0),
            reason=REASON,
            message=reason,
            at=time.time(),
            worker=worker,
            attempts=delivery.failed_attempts + 1,
        )
        letter = msgspec.structs.replace(letter, model=model)
        self._end_lease(delivery.envelope, b"", 0.0, id, msgspec.json.encode(letter))

    def release(self, envelope: bytes) -> None:
        """Renew a delivery's lease no longer; one that was not completed is taken again when that expires."""
        with self._lock:
            self.held.discard(envelope)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _end_lease(self, envelope: bytes, later: bytes, delay_s: float, letter_id: str, letter: bytes) -> None:
        self.release(envelope)  # first: else the lease of what waits for a retry would be renewed
        keys: Sequence[str] = (keyspace.WEBHOOKS_HELD, keyspace.DEAD_INDEX)
        self._end(keys=keys, args=(envelope, later, delay_s, letter_id, letter, keyspace.DEAD_MAX, keyspace.DEAD))


def with_retries(envelope: bytes, count: int) -> bytes:
    """Return an envelope with the number of failed attempts where Celery keeps it, in the header `retries`."""
    message = msgspec.json.decode(envelope)
    message["headers"] |= {"retries": count, "ignore_result": True}
    return msgspec.json.encode(message)
