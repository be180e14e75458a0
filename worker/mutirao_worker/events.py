"""Celery's task events, for every request in order, from one thread and in groups: what Flower counts is what happened."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import msgspec
from celery.utils.time import utcoffset

from mutirao import queues

if TYPE_CHECKING:
    from mutirao_worker.request import Request

# One message carries as many events as this; Celery's own limit of 24 costs a message per 8 requests.
GROUP = 500
# Nobody sees an event later than this.
DELAY_S = 0.1


class Events:
    """Collects events and sends them through Celery's dispatcher of this worker, as `task.multi`, which every receiver knows."""

    def __init__(self, dispatcher: Any) -> None:
        """Take Celery's event dispatcher."""
        self._dispatcher = dispatcher
        self._waiting: list[dict[str, Any]] = []
        self._common = {"hostname": dispatcher.hostname, "pid": os.getpid()}

    @property
    def on(self) -> bool:
        """Whether anybody asked for events (`-E`, or `celery control enable_events`)."""
        groups = self._dispatcher.groups  # without -E Celery's dispatcher still sends those of the worker itself
        return bool(self._dispatcher.enabled and (not groups or "task" in groups))

    def received(self, request: Request) -> None:
        """A request was taken from its queue."""
        headers = request.headers
        self._add(
            "task-received", request.id, name=queues.TASK, args=request.summary(), kwargs="", root_id=headers.root_id or request.id,
            parent_id=headers.parent_id, retries=headers.retries or 0, eta=headers.eta, expires=headers.expires,
        )  # fmt: skip

    def started(self, id: str) -> None:
        """A request went to a process."""
        self._add("task-started", id)

    def succeeded(self, id: str, shown: str, runtime: float) -> None:
        """A request was answered; `shown` is its answer without a value of it."""
        self._add("task-succeeded", id, result=shown, runtime=runtime)

    def failed(self, id: str, shown: str) -> None:
        """A request failed; `shown` is the error without a word of the payload."""
        self._add("task-failed", id, exception=shown)

    def revoked(self, id: str, *, expired: bool, terminated: bool = False, signum: int | None = None) -> None:
        """A request was cancelled, or its deadline passed."""
        self._add("task-revoked", id, expired=expired, terminated=terminated, signum=signum)

    def retried(self, id: str, why: str) -> None:
        """A request is to run again: the process that ran it is gone."""
        self._add("task-retried", id, exception=why)

    def flush(self) -> None:
        """Send what has been collected; what cannot be sent while the broker is away waits, up to a limit."""
        if not self._waiting or self._dispatcher.producer is None:
            return
        waiting, self._waiting = self._waiting, []
        offset = utcoffset()
        for event in waiting:
            event["utcoffset"] = offset
        while waiting:
            group = waiting[:GROUP]
            try:
                self._send(group)
            except self._dispatcher.connection.connection_errors:
                self._waiting = waiting[-20 * GROUP :]
                return
            waiting = waiting[GROUP:]

    def _add(self, type: str, id: str, **fields: Any) -> None:
        if self.on:
            event = {
                "type": type, "uuid": id, "timestamp": time.time(), "clock": self._dispatcher.clock.forward(),
                **self._common, **fields,
            }  # fmt: skip
            self._waiting.append(event)

    def _send(self, group: list[dict[str, Any]]) -> None:
        self._dispatcher.producer.publish(
            msgspec.json.encode(group),
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=self._dispatcher.delivery_mode,
            exchange=self._dispatcher.exchange.name,
            headers=self._dispatcher.headers,
            routing_key="task.multi",
            retry=False,
        )
