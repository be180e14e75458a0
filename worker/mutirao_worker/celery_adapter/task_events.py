"""Celery's task events, for every request in order, from one thread and in groups: what Flower counts is what happened."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from celery.utils.time import utcoffset

from mutirao import keyspace
from mutirao_worker.celery_adapter.transport import Channel

if TYPE_CHECKING:
    from mutirao_worker.engine.request import Request

# One message carries as many events as this; Celery's own limit of 24 costs a message per 8 requests.
GROUP = 500
# Nobody sees an event later than this.
DELAY_S = 0.1
# How long nobody is believed to listen before it is tried again.
ASK_S = 2.0


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


class PendingEvents(NamedTuple):
    """Something that happened to several requests: when, the events' class and type, and of each its id and what else its event says."""

    at: float
    kind: type[Event]
    type: str
    each: Iterable[tuple[str, tuple[Any, ...]]]


class TaskEventSender:
    """Collects events and sends them through Celery's dispatcher of this worker, as `task.multi`, which every receiver knows.

    What happened is only noted; it becomes events when they are sent. While nobody listens to any, it is forgotten instead.
    """

    def __init__(self, dispatcher: Any, call_later: Callable[..., Any]) -> None:
        """Take Celery's event dispatcher, and the loop's timer: seconds, function."""
        self._call_later = call_later
        self._flush_scheduled = False
        self._pattern_count = -1  # how many are listened to
        self._no_listeners_until = 0.0
        self._unsent: list[Event] = []
        self._pending: list[PendingEvents] = []
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

    def received(self, requests: Sequence[Request]) -> None:
        """Requests were taken from their queue."""
        self._collect(Received, "task-received", ((each.id, _of_request(each)) for each in requests))

    def started(self, requests: Sequence[Request]) -> None:
        """Requests went to a process."""
        self._collect(Event, "task-started", ((each.id, ()) for each in requests))

    def succeeded(self, answers: Sequence[tuple[str, str]], runtime: float) -> None:
        """Requests were answered: the id of each, and its answer without a value of it."""
        self._collect(Succeeded, "task-succeeded", ((id, (shown, runtime)) for id, shown in answers))

    def failed(self, id: str, shown: str) -> None:
        """A request failed; `shown` is the error without a word of the payload."""
        self._collect(Failed, "task-failed", ((id, (shown,)),))

    def revoked(self, id: str, *, expired: bool, terminated: bool = False, signum: int | None = None) -> None:
        """A request was cancelled, or its deadline passed."""
        self._collect(Revoked, "task-revoked", ((id, (expired, terminated, signum)),))

    def retried(self, id: str, why: str) -> None:
        """A request is to run again: the process that ran it is gone."""
        self._collect(Failed, "task-retried", ((id, (why,)),))

    def flush(self) -> None:
        """Send what has been collected; what cannot be sent while the broker is away waits, up to a limit."""
        self._flush_scheduled = False
        if not (self._pending or self._unsent) or self._dispatcher.producer is None:
            return
        pending, self._pending, self._offset = self._pending, [], utcoffset()
        events: list[Event] = []
        at = 0
        try:
            if not self._has_listeners():
                return
            events = [*self._unsent, *(event for each in pending for event in self._events(each))]
            for at in range(0, len(events), GROUP):
                self._send(events[at : at + GROUP])
            self._unsent = []
        except self._dispatcher.connection.connection_errors:
            self._unsent = events[at:][-20 * GROUP :]

    def _has_listeners(self) -> bool:
        """Whether anybody may listen: somebody has come or gone since a group reached nobody, or that is a while ago."""
        channel = self._dispatcher.producer.channel
        if not isinstance(channel, Channel):
            return True
        # Counted before anything is sent: who comes in between changes the count of the next time.
        before, self._pattern_count = self._pattern_count, channel.pattern_count()
        return self._pattern_count != before or time.monotonic() > self._no_listeners_until

    def _collect(self, kind: type[Event], type: str, each: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
        if not self.on:
            return
        self._pending.append(PendingEvents(time.time(), kind, type, each))
        if not self._flush_scheduled:
            self._flush_later()

    def _flush_later(self) -> None:
        self._flush_scheduled = True
        self._call_later(DELAY_S, self.flush)

    def _events(self, pending: PendingEvents) -> Iterator[Event]:
        own = (self._hostname, self._pid, self._offset)
        return (
            pending.kind(pending.type, id, pending.at, self._clock.forward(), *own, *says) for id, says in pending.each
        )

    def _send(self, group: list[Event]) -> None:
        channel = self._dispatcher.producer.channel
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
        if isinstance(channel, Channel):
            self._no_listeners_until = time.monotonic() + ASK_S if channel.subscribers_reached == 0 else 0.0


def _of_request(request: Request) -> tuple[Any, ...]:
    headers = request.headers
    return (
        keyspace.TASK, request.summary(), "", headers.root_id or request.id, headers.parent_id, headers.retries or 0,
        headers.eta, headers.expires,
    )  # fmt: skip
