"""What a receiver is sent: the event as JSON, signed as Standard Webhooks (standardwebhooks.com) has it."""

from __future__ import annotations

import base64
import binascii
import datetime
import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

import msgspec

from mutirao import errors
from mutirao.messages import JobRecord

PREFIX = "whsec_"


class Event(msgspec.Struct, frozen=True):
    """An event, the same at each try.

    Attributes:
        id: of the event: a job that ends again, because it was replayed, makes another.
        body: the JSON that is signed and sent.
    """

    id: str
    body: bytes

    def headers(self, keys: Sequence[bytes], now: int) -> dict[str, str]:
        """Make the headers of one try, signed with each key."""
        signatures = " ".join(sign(key, self.id, now, self.body) for key in keys)
        return {
            "content-type": "application/json",
            "user-agent": "mutirao-webhooks",
            "webhook-id": self.id,
            "webhook-timestamp": str(now),
            "webhook-signature": signatures,
        }


def of(record: JobRecord, data: Any) -> Event:
    """Make the event of a job that has ended; `data` is what is told of it."""
    ended = record.job.finished_at or 0.0
    said = {
        "type": f"job.{record.state}",
        "timestamp": datetime.datetime.fromtimestamp(ended, datetime.UTC).isoformat(timespec="milliseconds"),
        "data": data,
    }
    return Event(_id(record.task_id, ended), msgspec.json.encode(said))


def sign(key: bytes, id: str, timestamp: int, body: bytes) -> str:
    """Sign one try: `v1,` and the base64 of HMAC-SHA256 over id, timestamp and body."""
    signed = f"{id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


def keys(secret: str) -> tuple[bytes, ...]:
    """Read the setting `webhook_secret`: one secret, or two with a space between while receivers change to the first.

    Raises:
        SettingsError: it is missing or is none; never quotes it.
    """
    try:
        found = tuple(_key(each) for each in secret.split())
    except (ValueError, binascii.Error) as exc:
        raise _refused("is not a secret that can sign") from exc
    if not found:
        raise _refused("is missing")
    return found


def _key(secret: str) -> bytes:
    key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    if not secret.startswith(PREFIX) or not 24 <= len(key) <= 64:
        raise ValueError
    return key


def _id(job_id: str, ended: float) -> str:
    # The signature covers id.timestamp.body, and a job's own id may hold dots.
    return "msg_" + hashlib.blake2b(f"{job_id} {ended:.4f}".encode(), digest_size=16).hexdigest()


def _refused(what: str) -> errors.SettingsError:
    return errors.SettingsError(
        f'MUTIRAO_WEBHOOK_SECRET {what}: set it to whsec_ and the base64 of 24 to 64 random bytes, as "whsec_$(openssl rand -base64 32)" makes them',
        key="MUTIRAO_WEBHOOK_SECRET",
    )
