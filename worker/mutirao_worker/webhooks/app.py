"""The Celery app of `mutirao webhooks`: one task, threads, no model; its broker is the Redis that keeps the jobs' records."""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery, Task, signals
from kombu import Exchange, Queue

from mutirao import keyspace, urls
from mutirao.settings import Settings
from mutirao_worker.celery_adapter import reconnection, transport
from mutirao_worker.webhooks.consumer import HEADER, WebhookConsumer
from mutirao_worker.webhooks.delivery import Deliverer
from mutirao_worker.webhooks.host_limits import HostLimiter
from mutirao_worker.webhooks.outbox import Delivery, Outbox

CONSUMER = f"{reconnection.__name__}:Consumer"


def make(settings: Settings, threads: int, name: str) -> Celery:
    """Build the app; nothing connects.

    Args:
        settings: the settings.
        threads: how many deliveries run at a time.
        name: this worker's name, for dead letters.

    Raises:
        SettingsError: the hosts or the secret cannot be used.
    """
    transport.install()
    for module in ("celery.app.trace", "celery.worker.strategy"):  # the deliverer logs each attempt in a line
        logging.getLogger(module).setLevel(logging.WARNING)
    app = Celery("mutirao-webhooks", broker=urls.parse(settings.result_url).explicit(), backend="disabled://")
    app.outbox = Outbox(settings)
    app.deliverer = Deliverer(settings, app.outbox, HostLimiter(threads), worker=name)
    app.conf.update(
        accept_content=["json"],
        broker_transport_options={**transport.options(settings), "priority_steps": [0]},
        event_serializer="json",
        task_ignore_result=True,
        # What is taken is acknowledged by the script that ends it.
        task_queues=[Queue(keyspace.WEBHOOKS, Exchange("", type="direct"), routing_key=keyspace.WEBHOOKS, no_ack=True)],
        task_serializer="json",
        worker_consumer=CONSUMER,
        worker_send_task_events=True,
    )
    app.steps["consumer"].add(WebhookConsumer)
    app.task(name=keyspace.WEBHOOK_TASK, bind=True)(deliver)
    signals.task_revoked.connect(_revoked)
    return app


def deliver(self: Task, job_id: str) -> str:
    """Attempt one delivery."""
    app: Any = self.app
    envelope = _envelope(self.request)
    try:
        outcome: str = app.deliverer.deliver(Delivery(envelope, job_id, self.request.retries))
    finally:
        app.outbox.release(envelope)
    return outcome


def _revoked(sender: Task, request: Any, **_: Any) -> None:
    """End a delivery that an operator has revoked by Celery's remote control: its task never runs."""
    app: Any = sender.app
    app.outbox.complete(_envelope(request))


def _envelope(request: Any) -> bytes:
    envelope: str = (request.headers or {})[HEADER]
    return envelope.encode()
