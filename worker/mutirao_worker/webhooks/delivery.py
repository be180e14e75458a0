"""One attempt at one delivery: from a job's id to its outcome."""

from __future__ import annotations

import logging
import random
import ssl
import time

import msgspec

from mutirao import errors, webhook_policy
from mutirao.settings import Settings
from mutirao.webhook_policy import WebhookTarget
from mutirao.wire.http_schemas import job_view
from mutirao.wire.messages import JobRecord
from mutirao_worker.webhooks import dns, http_post, payload, retry_policy
from mutirao_worker.webhooks.host_limits import HostLimiter
from mutirao_worker.webhooks.outbox import Delivery, Outbox

logger = logging.getLogger(__name__)


class Outcome(msgspec.Struct, frozen=True):
    """The outcome of an attempt.

    Attributes:
        decision: delivered, retry, undeliverable, or busy: not attempted, since its host has all the deliveries that it may have.
        reason: in words that hold nothing of the URL but its host.
        delay_s: for `busy`, how long to wait; for `retry`, what the receiver asked for.
    """

    decision: str
    reason: str
    delay_s: float = 0.0


class Deliverer:
    """Delivers from any thread.

    Args:
        settings: the allowed hosts and the secret.
        outbox: where deliveries come from.
        host_limiter: how many deliveries run to one host.
        worker: the name that dead letters show.
        resolver: finds a host's addresses.
        tls: which certificates are trusted; the system's by default.
    """

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        host_limiter: HostLimiter,
        *,
        worker: str,
        resolver: dns.Resolver = dns.system,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._host_limiter = host_limiter
        self._worker = worker
        self._resolver = resolver
        self._keys = webhook_policy.signing_keys(settings.webhook_secret)
        self._tls = tls or ssl.create_default_context()

    def deliver(self, delivery: Delivery) -> str:
        """Attempt a delivery once, record the outcome, and return it in a few words.

        Raises:
            redis.RedisError: Redis did not answer; the delivery is taken again when its lease expires.
        """
        try:
            record = self._outbox.record(delivery.job_id)
        except msgspec.DecodeError:
            return self._record(delivery, Outcome("undeliverable", "the job's record cannot be read"), "")
        if record is None:
            return self._record(delivery, Outcome("undeliverable", "the job's record has expired"), "")
        if not (record.done and record.job.webhook):
            self._outbox.complete(delivery.envelope)  # the job was replayed, so its next end has a delivery of its own
            return "nothing to deliver"
        return self._record(delivery, self._attempt(record, delivery), record.job.model)

    def _attempt(self, record: JobRecord, delivery: Delivery) -> Outcome:
        try:
            target = webhook_policy.check_url(record.job.webhook, self._settings.webhook_hosts)
        except errors.WebhookRefused as exc:
            return Outcome("undeliverable", str(exc))
        if delay_s := self._host_limiter.acquire(target.origin, time.monotonic()):
            return Outcome("busy", f"{target.origin} is left alone", delay_s)
        responded, began = False, time.monotonic()
        try:
            outcome, responded = self._send(record, target)
        finally:
            duration_s = time.monotonic() - began
            self._host_limiter.release(target.origin, time.monotonic(), duration_s, responded=responded)
        logger.info(
            "webhook of job %s to %s: %s, try %d, %.0f ms",
            delivery.job_id,
            target.origin,
            outcome.reason,
            delivery.failed_attempts + 1,
            duration_s * 1000,
        )
        return outcome

    def _send(self, record: JobRecord, target: WebhookTarget) -> tuple[Outcome, bool]:
        """Send an event; return the outcome, and whether the host responded at all."""
        event = payload.build(record, job_view(record))
        headers = event.headers(self._keys, int(time.time()))
        try:
            address = dns.resolve(target, self._resolver)
            response = http_post.post(target, address, headers, event.body, tls=self._tls)
        except errors.WebhookRefused as exc:
            return Outcome("undeliverable", str(exc)), False
        except dns.Unresolved:
            return Outcome("retry", "its name is not known now"), False
        except http_post.DeliveryError as exc:
            return Outcome("retry", str(exc)), False
        retry_after_s = retry_policy.parse_retry_after(response.retry_after, time.time())
        return Outcome(retry_policy.decide(response.status), f"answered {response.status}", retry_after_s), True

    def _record(self, delivery: Delivery, outcome: Outcome, model: str) -> str:
        if outcome.decision == "delivered":
            self._outbox.complete(delivery.envelope)
            return outcome.reason
        if outcome.decision == "busy":
            delay_s = outcome.delay_s * (0.75 + random.random() / 2)  # noqa: S311 - it spreads, it hides nothing
            self._outbox.reschedule(delivery, delay_s, failed=False)
            return outcome.reason
        attempts = delivery.failed_attempts + 1
        retry_s = retry_policy.delay_s(attempts, random.random(), outcome.delay_s)  # noqa: S311
        if outcome.decision == "retry" and retry_s is not None:
            self._outbox.reschedule(delivery, retry_s, failed=True)
            return f"{outcome.reason}; again in {retry_s:.0f} s"
        reason = f"{outcome.reason}, at try {attempts}"
        logger.warning("webhook of job %s is given up, and is in the dead letters: %s", delivery.job_id, reason)
        self._outbox.dead_letter(delivery, reason, model=model, worker=self._worker)
        return f"{reason}; given up"
