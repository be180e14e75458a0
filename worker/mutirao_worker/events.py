"""Celery's task events, for every request in order, from one thread and in groups: what Flower counts is what happened."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
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


class Event(msgspec.Struct):
    """What every task event has; times are this machine's, `clock` is Celery's logical one."""

    type: str
    uuid: str
    timestamp: float
    clock: int
    hostname: str
    pid: int
    utcoffset: int


class Received(Event):
    """A request was taken from its queue."""

    name: str
    args: str
    kwargs: str
    root_id: str
    parent_id: str | None
    retries: int
    eta: str | None
    expires: Any


class Succeeded(Event):
    """A request was answered."""

    result: str
    runtime: float


class Failed(Event):
    """A request failed, or is to run again."""

    exception: str


class Revoked(Event):
    """A request was cancelled, or its deadline passed."""

    expired: bool
    terminated: bool
    signum: int | None


class Events:
    """Collects events and sends them through Celery's dispatcher of this worker, as `task.multi`, which every receiver knows."""

    def __init__(self, dispatcher: Any, later: Callable[..., Any]) -> None:
        """Take Celery's event dispatcher, and the loop's timer: seconds, function."""
        self._later = later
        self._soon = False
        self._waiting: list[Event] = []
        self.attach(dispatcher)

    def attach(self, dispatcher: Any) -> None:
        """Go on with the dispatcher of another connection; what waits goes through it."""
        self._dispatcher = dispatcher
        self._clock = dispatcher.clock
        self._hostname = dispatcher.hostname
        self._offset = utcoffset()
        self._pid = os.getpid()
        self._flush_later()

    @property
    def on(self) -> bool:
        """Whether anybody asked for events (`-E`, or `celery control enable_events`)."""
        # Without -E Celery's dispatcher is enabled all the same, for the events of the worker itself.
        groups = self._dispatcher.groups
        return bool(self._dispatcher.enabled and (not groups or "task" in groups))

    def received(self, request: Request) -> None:
        """A request was taken from its queue."""
        if self.on:
            headers = request.headers
            self._add(
                Received(
                    *self._common("task-received", request.id),
                    queues.TASK,
                    request.summary(),
                    "",
                    headers.root_id or request.id,
                    headers.parent_id,
                    headers.retries or 0,
                    headers.eta,
                    headers.expires,
                )
            )

    def started(self, id: str) -> None:
        """A request went to a process."""
        if self.on:
            self._add(Event(*self._common("task-started", id)))

    def succeeded(self, id: str, shown: str, runtime: float) -> None:
        """A request was answered; `shown` is its answer without a value of it."""
        if self.on:
            self._add(Succeeded(*self._common("task-succeeded", id), shown, runtime))

    def failed(self, id: str, shown: str) -> None:
        """A request failed; `shown` is the error without a word of the payload."""
        if self.on:
            self._add(Failed(*self._common("task-failed", id), shown))

    def revoked(self, id: str, *, expired: bool, terminated: bool = False, signum: int | None = None) -> None:
        """A request was cancelled, or its deadline passed."""
        if self.on:
            self._add(Revoked(*self._common("task-revoked", id), expired, terminated, signum))

    def retried(self, id: str, why: str) -> None:
        """A request is to run again: the process that ran it is gone."""
        if self.on:
            self._add(Failed(*self._common("task-retried", id), why))

    def flush(self) -> None:
        """Send what has been collected; what cannot be sent while the broker is away waits, up to a limit."""
        self._soon = False
        if not self._waiting or self._dispatcher.producer is None:
            return
        waiting, self._waiting, self._offset = self._waiting, [], utcoffset()
        for at in range(0, len(waiting), GROUP):
            try:
                self._send(waiting[at : at + GROUP])
            except self._dispatcher.connection.connection_errors:
                self._waiting = waiting[at:][-20 * GROUP :]
                return

    def _add(self, event: Event) -> None:
        self._waiting.append(event)
        if not self._soon:
            self._flush_later()

    def _flush_later(self) -> None:
        self._soon = True
        self._later(DELAY_S, self.flush)

    def _common(self, type: str, id: str) -> tuple[str, str, float, int, str, int, int]:
        return type, id, time.time(), self._clock.forward(), self._hostname, self._pid, self._offset

    def _send(self, group: list[Event]) -> None:
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
