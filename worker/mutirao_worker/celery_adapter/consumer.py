"""The glue to Celery's consumer and pool: with `reconnection`, what touches Celery's internals."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import redis
from billiard.exceptions import WorkerLostError
from celery import Celery, bootsteps, signals
from celery.exceptions import NotRegistered

from mutirao import errors, keyspace
from mutirao.settings import Settings
from mutirao_worker.celery_adapter import pool, rejection
from mutirao_worker.celery_adapter.canvas import Canvas
from mutirao_worker.celery_adapter.pool import WorkerPool
from mutirao_worker.celery_adapter.reconnection import Consumer as ReconnectingConsumer
from mutirao_worker.celery_adapter.registry import CeleryRequestRegistry
from mutirao_worker.celery_adapter.task_events import TaskEventSender
from mutirao_worker.celery_adapter.transport import Channel
from mutirao_worker.engine.commit import Commit
from mutirao_worker.engine.dispatcher import Dispatcher
from mutirao_worker.engine.leases import Leases
from mutirao_worker.engine.queue_polling import Polling
from mutirao_worker.engine.request import Request, of_message
from mutirao_worker.engine.sources import BrokerSource, ClosedSource, LeasedSource
from mutirao_worker.inference.inputs import TRIPLE

logger = logging.getLogger(__name__)

NAME = f"{__name__}:receive"
CONSUMER = f"{__name__}:Consumer"
# How long processes that have been told to end may take, once what they ran has been given back.
ENDING_S = 1.0
# How long the worker may then take itself.
LEAVING_S = 5.0


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
        """Let a request in: at once, at its time, or by the task's rate limit; refuse what cannot be run at all."""
        headers = request.headers
        if headers.task != keyspace.TASK:
            # It is the client's word, so no more of it is shown than a name may have.
            self.engine.dispatcher.refuse(request, NotRegistered(headers.task[:64]), "unknown task")
            return
        if headers.compression:
            text = "compressed bodies are not accepted: send it plain"
            self.engine.dispatcher.refuse(
                request, errors.InvalidRequest(text, reason="compressed body"), "not decodable"
            )
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
            self.engine.dispatcher.aside.add(request)
        if early_s > 0:
            request._eta_timer_entry = self.timer.call_after(early_s, self._due, (request,))  # noqa: SLF001 - Celery's name
            self.engine.registry.mark_scheduled(request)
        elif bucket:
            self._limit_task(request, bucket, 1)
        else:
            self.engine.dispatcher.offer(request)

    def process(self, request: Request) -> None:
        """Let a request wait for its batch; Celery calls this for those that its rate limit let pass."""
        self.engine.dispatcher.offer(request)
        self.engine.dispatch_soon()

    def cancel_active_requests(self) -> None:
        """Give back what runs: Celery's cold shutdown, which goes on to wait for the pool."""
        self.engine.bound(LEAVING_S)
        super().cancel_active_requests()

    def on_close(self) -> None:
        """Let go of a broken connection: what is reserved stays so, and what runs goes on."""
        self.engine.disconnected(lost=self.connection is None)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002 - Celery's signature
        """Answer a request for a task that is not ours."""
        name = message.headers.get("task") or message.payload["task"]
        rejection.refuse(self, message, NotRegistered(str(name)[:64]))

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Answer a message that kombu could not unpack."""
        if message.headers.get("compression"):
            rejection.refuse(
                self,
                message,
                errors.InvalidRequest("compressed bodies are not accepted: send it plain", reason="compressed body"),
            )
        else:
            rejection.refuse(self, message, rejection.unreadable(message, exc))

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:  # noqa: ARG002
        """Answer a message that Celery could not make a request of."""
        rejection.refuse(self, message, rejection.unreadable(message, exc))

    def on_unknown_message(self, body: Any, message: Any) -> None:  # noqa: ARG002
        """Drop what is no task message at all."""
        rejection.refuse(self, message, errors.InvalidRequest(TRIPLE, reason="not Celery's triple"))

    def _due(self, request: Request) -> None:
        self.engine.registry.unmark_scheduled(request)
        self.process(request)


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
        self._soon = False
        self._ends_at = math.inf  # the time by which a stop may have ended
        self._thread: threading.Thread | None = None
        self.dispatcher: Dispatcher
        self.events: TaskEventSender
        self.hold: LeasedSource | BrokerSource
        self.registry = CeleryRequestRegistry()
        self.slots: WorkerPool
        self.reservations: Leases | None = None
        # Also while there is no connection, when Celery does not stop what it has not started.
        signals.worker_shutting_down.connect(lambda **_: self.bound(self._settings.grace_s), weak=False)

    def start(self, consumer: Any) -> None:
        """Begin, or go on with another connection."""
        channel = consumer.task_consumer.channel
        if not hasattr(self, "dispatcher"):
            self._build(consumer, engine=isinstance(channel, Channel))
        self.events.attach(consumer.event_dispatcher)
        self.dispatcher.closing = False
        self._timers = []
        if hasattr(consumer.pool, "maintain_pool"):
            consumer.pool.did_start_ok = lambda: (
                True
            )  # or Celery ends the worker where one has died in a model's warm-up
            self._timers.append(consumer.timer.call_repeatedly(0.5, self._look_after_processes))
        if isinstance(self.hold, LeasedSource):
            self.dispatcher.commit.results.hear(wait=True)
            self._channel = channel
            channel.idle_at = time.monotonic()
            self._timers.append(consumer.timer.call_repeatedly(self._settings.lease_s / 3, self.tend))
            self.hold.unsure()
            self.tend()
            channel.bells = self.hold
        else:
            self._timers.append(consumer.timer.call_repeatedly(1.0, self.tend))
        self.dispatcher.keep()
        self.dispatcher.dispatch()

    def stop(self, consumer: Any) -> None:
        """Give back what has not begun; what runs goes on, and is kept when it ends."""
        if not hasattr(self, "dispatcher"):
            return
        if not self.dispatcher.closing:
            self.dispatcher.closing = True
            if self._channel is not None:
                self._channel.bells = ClosedSource()
            self.dispatcher.commit.results.hear(wait=True)
            _attempt(self.dispatcher.give_back)
            self._give_back_unsent()
        if consumer.blueprint.state != bootsteps.RUN:
            self.bound(self._settings.grace_s)

    def terminate(self, consumer: Any) -> None:
        """Give back everything: the cold shutdown."""
        self.stop(consumer)
        if hasattr(self, "dispatcher"):
            _attempt(self.dispatcher.stop)

    def shutdown(self, consumer: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Keep what has ended, and leave."""
        for timer in self._timers:
            timer.cancel()
        if not hasattr(self, "dispatcher"):
            return
        self.slots.hear()
        self.dispatcher.commit.results.hear(wait=True)
        _attempt(self.dispatcher.keep)
        _attempt(self.events.flush)
        if (reservations := self.reservations) is not None:
            _attempt(lambda: reservations.give_back([], all_but=True))
            _attempt(reservations.leave)
            reservations.close()
        self.dispatcher.commit.close()

    def disconnected(self, *, lost: bool) -> None:
        """Let go of the connection: reserved requests stay reserved; delivered ones are the broker's again."""
        for timer in self._timers:
            timer.cancel()
        if not hasattr(self, "dispatcher"):
            return
        self._channel = None
        if isinstance(self.hold, BrokerSource):
            self.dispatcher.forget_waiting()
        if self.reservations is not None and lost:  # what were sent now would be waited for in vain
            self.dispatcher.closing = True
            self.reservations.scripts.abandon()
            self.dispatcher.unsent()  # they are given back over the next connection, as unheard
        else:
            self._give_back_unsent()
        self.slots.flush()

    def tend(self) -> None:
        """What is done every few seconds: the lease, other workers' lapsed leases, results that could not be kept."""
        hold = self.hold
        self.dispatcher.commit.results.overdue(self._settings.timeout_s)
        if isinstance(hold, LeasedSource) and self._alive():
            if hold.tend() and self.dispatcher.free and not self.dispatcher.closing:
                hold.woken(None)
        elif isinstance(hold, BrokerSource) and not self.dispatcher.closing:
            hold.pull()
        self.dispatcher.keep()
        self.dispatcher.dispatch()

    def bound(self, seconds: float) -> None:
        """Have a stop end, whatever the pool's processes do: Celery waits for each of them for ever."""
        at = time.monotonic() + seconds
        if at < self._ends_at:
            self._ends_at = at
            timer = threading.Timer(seconds, self._out_of_grace)
            timer.daemon = True
            timer.start()

    def answered(self) -> dict[str, int]:
        """How many requests of each model this worker has answered."""
        return dict(self.dispatcher.outcomes.counts) if hasattr(self, "dispatcher") else {}

    def dispatch_soon(self) -> None:
        """Fill free slots once the loop has taken in what has come."""
        if not self._soon:
            self._soon = True
            self._consumer.call_soon(self._dispatch)

    def info(self, consumer: Any) -> dict[str, Any]:  # noqa: ARG002 - Celery's signature
        """Describe the batches for `celery inspect stats`."""
        return {"batching": self.dispatcher.describe()} if hasattr(self, "dispatcher") else {}

    def _build(self, consumer: Any, *, engine: bool) -> None:
        def later(seconds: float, function: Callable[..., Any], *args: Any) -> Any:
            return consumer.timer.call_after(seconds, function, args)

        self.slots = slots = WorkerPool(consumer.pool, consumer.hub, self._settings, lambda: self.dispatcher)
        self.reservations = Leases(self._settings, consumer.hostname) if engine else None
        commit = Commit(self._settings, self.reservations)
        listen = self._listen if commit.fenced and not slots.inline else None
        self.events = TaskEventSender(consumer.event_dispatcher, later)
        self.dispatcher = Dispatcher(
            self._app,
            consumer.hostname,
            pool=slots,
            commit=commit,
            events=self.events,
            registry=self.registry,
            now=self.reservations.now if self.reservations else time.time,
            later=later,
            follow_ups=Canvas(self._app),
            listen=listen,
        )
        self.dispatcher.connection_errors = self.dispatcher.commit.connection_errors = consumer.connection_errors
        if self.reservations is not None:
            polling = Polling(self.reservations.scripts, self.reservations.identity, later, listen)
            self.hold = LeasedSource(
                self.dispatcher,
                self.reservations,
                lambda: slots.slots,
                consumer.admit,
                self._queues,
                polling,
                WorkerLostError,
            )
        else:
            self.hold = BrokerSource(self.dispatcher, lambda: slots.slots, self._prefetch)
        self.dispatcher.hold = self.hold
        consumer.on_task_request = consumer.process
        if slots.inline and self.reservations is not None:
            self._thread = threading.Thread(
                target=self._tend_while_inline, args=(self.reservations,), name="mutirao-lease", daemon=True
            )
            self._thread.start()

    def _prefetch(self, count: int) -> None:
        qos = self._consumer.qos
        if qos is not None and abs(count - qos.value) > qos.value / 4:
            qos.value = count

    def _queues(self) -> list[str]:
        return list(self._channel.active_queues) if self._channel is not None else []

    def _alive(self) -> bool:
        """Whether this worker still does its work: one that is connected, but neither listens nor runs anything, must lose its lease."""
        if self._channel is None or self.dispatcher.closing:
            return bool(self.dispatcher.running)
        return bool(self.dispatcher.running) or time.monotonic() - self._channel.turned_at < self._settings.lease_s

    def _tend_while_inline(self, reservations: Leases) -> None:
        """Renew the lease from a thread while a prediction runs in the loop's own: that is long work, not a loop that hangs."""
        while True:
            time.sleep(self._settings.lease_s / 3)
            batch = next(iter(self.dispatcher.running.values()), None)
            limit = (batch.limits[0] if batch else None) or 3600.0
            if batch and time.monotonic() - batch.began < limit:
                _attempt(lambda: reservations.tend(self._queues()))

    def _listen(self, descriptor: int) -> None:
        """Hear the replies to what was posted when there are any; for as long alone, or the loop would spin on a closed connection."""
        results, hub = self.dispatcher.commit.results, self._consumer.hub

        def heard() -> None:
            results.hear()
            if not results.posted:
                hub.remove_reader(descriptor)

        hub.add_reader(descriptor, heard)

    def _look_after_processes(self) -> None:
        self._app.host.check_warm_ups()
        self.slots.look_after()
        self._consumer.pool.maintain_pool()

    def _dispatch(self) -> None:
        self._soon = False
        self.dispatcher.dispatch()

    def _give_back_unsent(self) -> None:
        """Take batches back that no process has begun to read."""
        if unsent := self.dispatcher.unsent():
            _attempt(lambda: self.hold.give_back(unsent))

    def _out_of_grace(self) -> None:
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
        if self.reservations is not None:
            _attempt(self.reservations.leave)
        os._exit(os.EX_SOFTWARE)


def _attempt(work: Callable[[], Any]) -> None:
    """Do what another time will do where Redis is away."""
    try:
        work()
    except redis.RedisError as exc:
        logger.warning("Redis is away: %s", " ".join(str(exc).split()))
