"""Celery's consumer: what admits requests to the engine, and answers messages that cannot become one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
from celery import Celery, signals
from celery.exceptions import NotRegistered

from mutirao import errors, keyspace
from mutirao_worker.celery_adapter import rejection
from mutirao_worker.celery_adapter.engine_step import LEAVING_S, EngineStep
from mutirao_worker.celery_adapter.reconnection import Consumer as ReconnectingConsumer
from mutirao_worker.engine.request import Request, of_message
from mutirao_worker.inference.inputs import TRIPLE

NAME = f"{__name__}:receive"
CONSUMER = f"{__name__}:Consumer"


def receive(task: Any, app: Celery, consumer: Any) -> Callable[..., None]:  # noqa: ARG001 - Celery's signature
    """Make the strategy of messages that kombu delivers: they wait for a batch like those that were reserved."""

    def on_message(message: Any, body: Any, *_: Any, **__: Any) -> None:
        engine: EngineStep = consumer.engine
        if body is not None:  # message protocol 1 has its id in the body
            rejection.refuse(
                consumer, message, errors.InvalidRequest(TRIPLE, reason="not a task message"), body.get("id")
            )
            return
        try:
            request = of_message(engine.dispatcher, message, message.headers)
        except msgspec.ValidationError as exc:
            text = f"the message's headers cannot be used: {exc}"
            rejection.refuse(consumer, message, errors.InvalidRequest(text, reason="unusable headers"))
            return
        engine.dispatcher.received([request])
        consumer.admit(request)
        engine.dispatch_soon()

    return on_message


class Consumer(ReconnectingConsumer):
    """Celery's consumer; what it cannot hand to a task is answered too, and its log quotes no message.

    Attributes:
        engine: the step that runs batches.
    """

    engine: EngineStep

    def admit(self, request: Request) -> None:
        """Admit a request: at once, at its time, or by the task's rate limit; refuse one that cannot run at all."""
        headers = request.headers
        if headers.task != keyspace.TASK:
            # It is the client's word, so no more of it is shown than a name may have.
            self.engine.dispatcher.refuse(request, NotRegistered(headers.task[:64]), "unknown task")
            return
        if headers.compression:
            self.engine.dispatcher.refuse(request, rejection.compressed(), "not decodable")
            return
        if signals.task_received.receivers:
            signals.task_received.send(sender=self, request=request)
        try:
            timed = headers.eta is not None or headers.expires is not None
            eta, _ = (request.eta, request.expires) if timed else (None, None)
        except (TypeError, ValueError):
            error = errors.InvalidRequest("eta or expires is no time: send it as ISO 8601", reason="unusable headers")
            self.engine.dispatcher.refuse(request, error)
            return
        bucket = self.task_buckets[keyspace.TASK]
        early_s = 0.0 if eta is None else eta - time.time()
        if early_s > 0 or bucket:
            self.engine.dispatcher.delayed.add(request)
        if early_s > 0:
            request._eta_timer_entry = self.timer.call_after(early_s, self._on_eta, (request,))  # noqa: SLF001 - Celery's name
            self.engine.registry.mark_scheduled(request)
        elif bucket:
            self._limit_task(request, bucket, 1)
        else:
            self.engine.dispatcher.offer(request)

    def process(self, request: Request) -> None:
        """Queue a request for its batch; Celery calls this for those that its rate limit let pass."""
        self.engine.dispatcher.offer(request)
        self.engine.dispatch_soon()

    def cancel_active_requests(self) -> None:
        """Give back what runs: Celery's cold shutdown, which goes on to wait for the pool."""
        self.engine.bound_stop(LEAVING_S)
        super().cancel_active_requests()

    def on_close(self) -> None:
        """Close a broken connection: what is reserved stays so, and what runs goes on."""
        self.engine.disconnected(lost=self.connection is None)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002 - Celery's signature
        """Answer a request for a task that is not ours."""
        name = message.headers.get("task") or message.payload["task"]
        rejection.refuse(self, message, NotRegistered(str(name)[:64]))

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Answer a message that kombu could not unpack."""
        is_compressed = message.headers.get("compression")
        rejection.refuse(self, message, rejection.compressed() if is_compressed else rejection.unreadable(message, exc))

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002
        """Answer a message that Celery could not make a request of."""
        rejection.refuse(self, message, rejection.unreadable(message, exc))

    def on_unknown_message(self, body: Any, message: Any) -> None:  # noqa: ARG002
        """Drop what is no task message at all."""
        rejection.refuse(self, message, errors.InvalidRequest(TRIPLE, reason="not Celery's triple"))

    def _on_eta(self, request: Request) -> None:
        self.engine.registry.unmark_scheduled(request)
        self.process(request)
