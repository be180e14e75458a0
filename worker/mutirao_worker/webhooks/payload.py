"""The event that a receiver is sent: JSON, signed as Standard Webhooks (standardwebhooks.com) specifies."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

import msgspec

from mutirao.wire.messages import JobRecord


class SignedPayload(msgspec.Struct, frozen=True):
    """An event, the same in each attempt.

    Attributes:
        id: of the event: a job that ends again, because it was replayed, makes another.
        body: the JSON that is signed and sent.
    """

    id: str
    body: bytes

    def headers(self, keys: Sequence[bytes], now: int) -> dict[str, str]:
        """Return the headers of one attempt, signed with each key."""
        signatures = " ".join(sign(key, self.id, now, self.body) for key in keys)
        return {
            "content-type": "application/json",
            "user-agent": "mutirao-webhooks",
            "webhook-id": self.id,
            "webhook-timestamp": str(now),
            "webhook-signature": signatures,
        }


def build(record: JobRecord, data: Any) -> SignedPayload:
    """Return the event of a job that has ended; `data` is the job as the receiver sees it."""
    ended = record.job.finished_at or 0.0
    event = {
        "type": f"job.{record.state}",
        "timestamp": datetime.datetime.fromtimestamp(ended, datetime.UTC).isoformat(timespec="milliseconds"),
        "data": data,
    }
    return SignedPayload(_id(record.task_id, ended), msgspec.json.encode(event))


def sign(key: bytes, id: str, timestamp: int, body: bytes) -> str:
    """Return the signature of one attempt: `v1,` and the base64 of HMAC-SHA256 over id, timestamp and body."""
    signed = f"{id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def _id(job_id: str, ended: float) -> str:
    # The signature covers id.timestamp.body, and a job's own id may hold dots.
    return "msg_" + hashlib.blake2b(f"{job_id} {ended:.4f}".encode(), digest_size=16).hexdigest()
