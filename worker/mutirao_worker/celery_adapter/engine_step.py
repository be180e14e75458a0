"""The step of Celery's consumer that runs the engine: starts, stops and drives the dispatcher."""

from __future__ import annotations

import functools
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import redis
from billiard.exceptions import WorkerLostError
from celery import Celery, bootsteps, signals

from mutirao.settings import Settings
from mutirao_worker.celery_adapter import pool
from mutirao_worker.celery_adapter.canvas import Canvas
from mutirao_worker.celery_adapter.pool import WorkerPool
from mutirao_worker.celery_adapter.queue_selection import QueueSelection
from mutirao_worker.celery_adapter.request_registry import CeleryRequestRegistry
from mutirao_worker.celery_adapter.task_events import TaskEventSender
from mutirao_worker.celery_adapter.transport import Channel
from mutirao_worker.engine.dispatcher import Dispatcher
from mutirao_worker.engine.job_records import JobRecords
from mutirao_worker.engine.leases import Leases
from mutirao_worker.engine.live_workers import LiveWorkers
from mutirao_worker.engine.queue_polling import Polling
from mutirao_worker.engine.request_sources import BrokerSource, LeasedSource

logger = logging.getLogger(__name__)

# How long the pool's processes may take to end, once what they ran has been given back.
ENDING_S = 1.0
# How long the worker may then take itself.
LEAVING_S = 5.0
# How often this worker's models are looked at for one that it cannot serve.
SELECT_QUEUES_S = 0.25


class EngineStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs batches while the consumer consumes; kept over reconnections, so that what runs is not lost with a connection."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        """Take Celery's consumer."""
        super().__init__(consumer, **kwargs)
        consumer.engine = self
        self._app: Celery = consumer.app
        self._consumer = consumer
        self._settings: Settings = consumer.app.conf.mutirao
        self._timers: list[Any] = []
        self._channel: Channel | None = None
        self._dispatch_scheduled = False
        self._ends_at = math.inf  # the time by which a stop may have ended
        self.dispatcher: Dispatcher
        self.events: TaskEventSender
        self.source: LeasedSource | BrokerSource
        self.registry = CeleryRequestRegistry()
        self.worker_pool: WorkerPool
        self.leases: Leases | None = None
        self._live_workers: LiveWorkers
        self._queue_selection: QueueSelection
        # Also while there is no connection, when Celery does not stop what it has not started.
        signals.worker_shutting_down.connect(lambda **_: self.bound_stop(self._settings.grace_s), weak=False)

    def start(self, consumer: Any) -> None:
        """Start, or go on with another connection."""
        channel = consumer.task_consumer.channel
        if not hasattr(self, "dispatcher"):
            self._build(consumer, engine=isinstance(channel, Channel))
        self.events.attach(consumer.event_dispatcher)
        self.dispatcher.closing = False
        self._queue_selection = QueueSelection(consumer, self._live_workers)
        self._timers = [consumer.timer.call_repeatedly(SELECT_QUEUES_S, self._select_queues)]
        if hasattr(consumer.pool, "maintain_pool"):
            # Or Celery ends the worker where a process has died in a model's warm-up.
            consumer.pool.did_start_ok = lambda: True
            self._timers.append(consumer.timer.call_repeatedly(0.5, self._look_after_processes))
        if isinstance(self.source, LeasedSource):
            self.dispatcher.records.results.read_replies(wait=True)
            if (
                self.dispatcher.records.results.background.pending
            ):  # Celery's loop begins anew, and has forgotten what it watched
                self._watch_replies(self.dispatcher.records.results.background.descriptor)
            self._channel = channel
            channel.idle_at = time.monotonic()
            self._timers.append(consumer.timer.call_repeatedly(self._settings.lease_s / 3, self.maintain))
            self.source.mark_uncertain()
            self.maintain()
            self._channel.listener = self.source
        else:
            self._timers.append(consumer.timer.call_repeatedly(1.0, self.maintain))
        self._select_queues()
        self.dispatcher.commit.retry()
        self.dispatcher.dispatch()

    def stop(self, consumer: Any) -> None:
        """Give back what has not begun; what runs goes on, and is committed when it ends."""
        if not hasattr(self, "dispatcher"):
            return
        if not self.dispatcher.closing:
            self.dispatcher.closing = True
            self.dispatcher.records.results.read_replies(wait=True)
            _attempt(self.dispatcher.return_all_waiting)
            self._return_unsent()
        if consumer.blueprint.state != bootsteps.RUN:
            self.bound_stop(self._settings.grace_s)

    def shutdown(self, consumer: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Commit what has ended, and deregister."""
        for timer in self._timers:
            timer.cancel()
        if not hasattr(self, "dispatcher"):
            return
        self.worker_pool.drain_results()
        results = self.dispatcher.records.results
        results.read_replies(wait=True)
        # The heartbeat has nothing to announce any more: the pool has ended.
        results.meanwhile[:] = [self.leases.keep_alive] if self.leases is not None else []
        results.background.wait(results.meanwhile)
        _attempt(lambda: self.dispatcher.commit.retry(wait=True))
        _attempt(self.events.flush)
        if (leases := self.leases) is not None:
            _attempt(lambda: leases.requeue([], all_but=True))
            _attempt(leases.deregister)
            leases.close()
        results.close()

    def disconnected(self, *, lost: bool) -> None:
        """Close the connection: reserved requests stay reserved; delivered ones are the broker's again."""
        for timer in self._timers:
            timer.cancel()
        if not hasattr(self, "dispatcher"):
            return
        self._channel = None
        if isinstance(self.source, BrokerSource):
            self.dispatcher.forget_waiting()
        if self.leases is not None and lost:  # what were sent now would be waited for in vain
            self.dispatcher.closing = True
            self.leases.scripts.abandon()
            self.dispatcher.recall_unsent()  # they are given back over the next connection, as unacknowledged
        else:
            self._return_unsent()
        self.worker_pool.flush()

    def maintain(self) -> None:
        """Do what is due every few seconds: the lease, other workers' lapsed leases, results that could not be committed."""
        source = self.source
        self.dispatcher.records.results.expire(self._settings.timeout_s)
        if isinstance(source, LeasedSource) and self._is_alive():
            if source.renew_and_adopt() and self.dispatcher.free_slots and not self.dispatcher.closing:
                source.on_wakeup(None)
        elif isinstance(source, BrokerSource) and not self.dispatcher.closing:
            source.pull()
        self.dispatcher.commit.retry()
        self.dispatcher.dispatch()

    def bound_stop(self, seconds: float) -> None:
        """Bound the time that a stop may take: Celery waits for each process of the pool for ever.

        The end of that time is a thread's timer, not the loop's: Celery's shutdown stops the loop, and may block in this thread.
        """
        at = time.monotonic() + seconds
        if at < self._ends_at:
            self._ends_at = at
            timer = threading.Timer(seconds, self._on_grace_over)
            timer.daemon = True
            timer.start()

    def dispatch_soon(self) -> None:
        """Fill free slots once the loop has taken in what has come."""
        if not self._dispatch_scheduled:
            self._dispatch_scheduled = True
            self._consumer.call_soon(self._dispatch)

    def info(self, consumer: Any) -> dict[str, Any]:  # noqa: ARG002 - Celery's signature
        """Describe the batches for `celery inspect stats`."""
        return {"batching": self.dispatcher.describe()} if hasattr(self, "dispatcher") else {}

    def _build(self, consumer: Any, *, engine: bool) -> None:
        def call_later(seconds: float, function: Callable[..., Any], *args: Any) -> Any:
            return consumer.timer.call_after(seconds, function, args)

        self.worker_pool = worker_pool = WorkerPool(
            consumer.pool, consumer.hub, self._settings, lambda: self.dispatcher
        )
        self.leases = Leases(self._settings, consumer.hostname) if engine else None
        records = JobRecords(self._settings, self.leases)
        self._live_workers = LiveWorkers(
            self.leases.scripts.client if self.leases else records.results.client,
            self.leases.now if self.leases else time.time,
        )
        watch_replies = self._watch_replies if records.fenced and not worker_pool.inline else None
        self.events = TaskEventSender(consumer.event_dispatcher, call_later)
        self.dispatcher = Dispatcher(
            self._app,
            consumer.hostname,
            pool=worker_pool,
            records=records,
            events=self.events,
            registry=self.registry,
            now=self.leases.now if self.leases else time.time,
            call_later=call_later,
            follow_ups=Canvas(self._app),
            watch_replies=watch_replies,
        )
        records.connection_errors = consumer.connection_errors
        if self.leases is not None:
            polling = Polling(self.leases.scripts, self.leases.identity, call_later, watch_replies)
            self.source = LeasedSource(
                self.dispatcher,
                self.leases,
                lambda: worker_pool.slots,
                consumer.admit,
                self._queues,
                polling,
                self._live_workers,
                WorkerLostError,
            )
        else:
            self.source = BrokerSource(self.dispatcher, lambda: worker_pool.slots, self._prefetch)
        self.dispatcher.source = self.source
        consumer.on_task_request = consumer.process
        if worker_pool.inline and self.leases is not None:
            args = (self.leases,)
            threading.Thread(target=self._renew_while_inline, args=args, name="mutirao-lease", daemon=True).start()

    def _prefetch(self, count: int) -> None:
        qos = self._consumer.qos
        if qos is not None and abs(count - qos.value) > qos.value / 4:
            qos.value = count

    def _queues(self) -> list[str]:
        return list(self._channel.active_queues) if self._channel is not None else []

    def _is_alive(self) -> bool:
        """Whether this worker still does its work: one that is connected, but neither listens nor runs anything, must lose its lease."""
        if self._channel is None or self.dispatcher.closing:
            return bool(self.dispatcher.running)
        if not self._channel.active_queues:  # it has nothing to listen to
            return True
        return bool(self.dispatcher.running) or time.monotonic() - self._channel.last_active_at < self._settings.lease_s

    def _renew_while_inline(self, leases: Leases) -> None:
        """Renew the lease from a thread while a prediction runs in the loop's own: that is long work, not a loop that hangs."""
        while True:
            time.sleep(self._settings.lease_s / 3)
            batch = next(iter(self.dispatcher.running.values()), None)
            limit = (batch.limits[0] if batch else None) or 3600.0
            if batch and time.monotonic() - batch.began < limit:
                _attempt(lambda: leases.renew_and_adopt(self._queues()))

    def _watch_replies(self, descriptor: int) -> None:
        """Read the replies to posted calls when they come; only while some are pending, or the loop would spin on a closed connection."""
        results, hub = self.dispatcher.records.results, self._consumer.hub
        calls = results.background if descriptor == results.background.descriptor else results

        def read() -> None:
            calls.read_replies()
            if not calls.pending:
                hub.remove_reader(descriptor)

        hub.add_reader(descriptor, read)

    def _look_after_processes(self) -> None:
        self._app.host.check_warm_ups()
        self.worker_pool.look_after()
        self._consumer.pool.maintain_pool()

    def _select_queues(self) -> None:
        """Leave the queues of models that others can serve and this worker cannot, with the requests that wait here."""
        if self.dispatcher.closing or not self._queue_selection.refresh():
            return
        for model in self._queue_selection.left:
            _attempt(functools.partial(self.dispatcher.return_waiting, model))
        self.maintain()  # other workers are to know at once who shares a queue with them

    def _dispatch(self) -> None:
        self._dispatch_scheduled = False
        self.dispatcher.dispatch()

    def _return_unsent(self) -> None:
        """Take batches back that no process has begun to read."""
        if requests := self.dispatcher.recall_unsent():
            _attempt(lambda: self.source.return_requests(requests))

    def _on_grace_over(self) -> None:
        """Give back what still runs, and end its processes: the time that a stop may take is over."""
        running = list(self.dispatcher.running.values()) if hasattr(self, "dispatcher") else []
        if running:
            logger.warning("%d batches still ran after %g s: they are given back", len(running), self._settings.grace_s)
        for batch in running:
            for request in batch.requests:
                self.dispatcher.stop_running(request)
        time.sleep(ENDING_S)
        pool.end(self._consumer.pool)
        time.sleep(LEAVING_S)
        logger.error("this worker does not come to its end: it leaves as it is")
        if self.leases is not None:
            _attempt(self.leases.deregister)
        os._exit(os.EX_SOFTWARE)


def _attempt(work: Callable[[], Any]) -> None:
    """Run work that is repeated later where Redis is away."""
    try:
        work()
    except redis.RedisError as exc:
        logger.warning("Redis is away: %s", " ".join(str(exc).split()))
