"""One try of one delivery: from a job's id to what becomes of it."""

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
    """What a try came to.

    Attributes:
        what: delivered, again, undeliverable, or busy: it was not tried, since its host's lane is full.
        why: in words that hold nothing of the URL beside its host.
        wait_s: how long to wait for `busy`, at least; or what the receiver asked for, for `again`.
    """

    what: str
    why: str
    wait_s: float = 0.0


class Deliverer:
    """Delivers from any thread.

    Args:
        settings: for the allowed hosts and the secret.
        outbox: where deliveries come from.
        lanes: how many may be on their way to one host.
        worker: the name that dead letters tell.
        resolver: finds a host's addresses.
        trust: whose certificates are believed; the system's by default.
    """

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        lanes: HostLimiter,
        *,
        worker: str,
        resolver: dns.Resolver = dns.system,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._lanes = lanes
        self._worker = worker
        self._resolver = resolver
        self._keys = webhook_policy.signing_keys(settings.webhook_secret)
        self._trust = trust or ssl.create_default_context()

    def deliver(self, delivery: Delivery) -> str:
        """Try once, and note what came of it; says it in a few words.

        Raises:
            redis.RedisError: Redis did not answer; the delivery is taken again when the hold on it lapses.
        """
        try:
            record = self._outbox.record(delivery.job_id)
        except msgspec.DecodeError:
            return self._settle(delivery, Outcome("undeliverable", "the job's record cannot be read"), "")
        if record is None:
            return self._settle(delivery, Outcome("undeliverable", "the job's record has expired"), "")
        if not (record.done and record.job.webhook):
            self._outbox.done(delivery.envelope)  # it was replayed, so its next end has a delivery of its own
            return "nothing to tell"
        return self._settle(delivery, self._tried(record, delivery), record.job.model)

    def _tried(self, record: JobRecord, delivery: Delivery) -> Outcome:
        try:
            target = webhook_policy.check_url(record.job.webhook, self._settings.webhook_hosts)
        except errors.WebhookRefused as exc:
            return Outcome("undeliverable", str(exc))
        if wait_s := self._lanes.enter(target.origin, time.monotonic()):
            return Outcome("busy", f"{target.origin} is left alone", wait_s)
        answered, began = False, time.monotonic()
        try:
            outcome, answered = self._sent(record, target)
        finally:
            took_s = time.monotonic() - began
            self._lanes.leave(target.origin, time.monotonic(), took_s, answered=answered)
        logger.info(
            "webhook of job %s to %s: %s, try %d, %.0f ms",
            delivery.job_id,
            target.origin,
            outcome.why,
            delivery.tries + 1,
            took_s * 1000,
        )
        return outcome

    def _sent(self, record: JobRecord, target: WebhookTarget) -> tuple[Outcome, bool]:
        """Send an event; the second says whether its host answered at all."""
        told = payload.of(record, job_view(record))
        try:
            address = dns.resolve(target, self._resolver)
            answer = http_post.post(
                target, address, told.headers(self._keys, int(time.time())), told.body, trust=self._trust
            )
        except errors.WebhookRefused as exc:
            return Outcome("undeliverable", str(exc)), False
        except dns.Unresolved:
            return Outcome("again", "its name is not known now"), False
        except http_post.DeliveryError as exc:
            return Outcome("again", str(exc)), False
        asked_s = retry_policy.retry_after_s(answer.retry_after, time.time())
        return Outcome(retry_policy.judge(answer.status), f"answered {answer.status}", asked_s), True

    def _settle(self, delivery: Delivery, outcome: Outcome, model: str) -> str:
        if outcome.what == "delivered":
            self._outbox.done(delivery.envelope)
            return outcome.why
        if outcome.what == "busy":
            wait_s = outcome.wait_s * (0.75 + random.random() / 2)  # noqa: S311 - it spreads, it hides nothing
            self._outbox.postpone(delivery, wait_s, failed=False)
            return outcome.why
        again_s = retry_policy.wait_s(delivery.tries + 1, random.random(), outcome.wait_s)  # noqa: S311
        if outcome.what == "again" and again_s is not None:
            self._outbox.postpone(delivery, again_s, failed=True)
            return f"{outcome.why}; again in {again_s:.0f} s"
        why = f"{outcome.why}, at try {delivery.tries + 1}"
        logger.warning("webhook of job %s is given up, and is in the dead letters: %s", delivery.job_id, why)
        self._outbox.bury(delivery, why, model=model, worker=self._worker)
        return f"{why}; given up"
