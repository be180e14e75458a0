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


def make(given: Settings, threads: int, name: str) -> Celery:
    """Build the app; nothing connects.

    Args:
        given: the settings.
        threads: how many deliveries run at once.
        name: of this worker, for dead letters.

    Raises:
        SettingsError: the hosts or the secret cannot be used.
    """
    transport.install(engine=True)
    for name_of in ("celery.app.trace", "celery.worker.strategy"):  # the courier's line says it all
        logging.getLogger(name_of).setLevel(logging.WARNING)
    app = Celery("mutirao-webhooks", broker=urls.parse(given.result_url).explicit(), backend="disabled://")
    app.outbox = Outbox(given)
    app.courier = Deliverer(given, app.outbox, HostLimiter(threads), worker=name)
    app.conf.update(
        accept_content=["json"],
        broker_transport_options={**transport.options(given), "priority_steps": [0]},
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
    """Tell a receiver of a job's end: one try."""
    app: Any = self.app
    envelope = _envelope(self.request)
    try:
        said: str = app.courier.deliver(Delivery(envelope, job_id, self.request.retries))
    finally:
        app.outbox.forget(envelope)
    return said


def _revoked(sender: Task, request: Any, **_: Any) -> None:
    """End a delivery that an operator has revoked by Celery's remote control: its task is never run."""
    app: Any = sender.app
    app.outbox.done(_envelope(request))


def _envelope(request: Any) -> bytes:
    found: str = (request.headers or {})[HEADER]
    return found.encode()
