"""Fills the pool's free slots with batches, and ends the requests of those that come back, each by its own outcome.

All of it runs on the worker's own loop but for the end of the grace period: then the loop has stopped, and a timer's thread gives back
what still runs. `batcher` decides which requests go together, `prerun_check` which must not run any more, `commit` commits their
outcomes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import msgspec
import redis

from mutirao_worker.engine import batcher, outcome
from mutirao_worker.engine.batch import Batch
from mutirao_worker.engine.batcher import Batcher
from mutirao_worker.engine.commit import Commit
from mutirao_worker.engine.interfaces import FollowUps, Pool, RequestRegistry, RequestSource, TaskEventSink
from mutirao_worker.engine.job_records import JobRecords
from mutirao_worker.engine.outcome import BatchRun, Outcome
from mutirao_worker.engine.prerun_check import PrerunCheck
from mutirao_worker.engine.request import Request
from mutirao_worker.inference.execution import BatchResult
from mutirao_worker.models.model_host import ModelHost

logger = logging.getLogger(__name__)

# Who polls sees a request run once it has run for this long: most are done before anybody could ask.
MARK_STARTED_AFTER_S = 0.25
RETRY_S = 0.5


class Dispatcher:
    """One worker's requests, from their reservation to their end.

    Attributes:
        app, hostname: Celery's.
        delayed: requests that wait for their time, or for the rate limit.
        batcher: the requests that wait, by model.
        commit: ends requests.
        events: takes task events.
        prerun_check: the last check of requests before they run.
        records: the jobs' records.
        source: where requests come from.
        running: the batches that are in the pool, by number.
        closing: nothing new is begun.
    """

    def __init__(
        self,
        app: Any,
        hostname: str,
        *,
        pool: Pool,
        records: JobRecords,
        events: TaskEventSink,
        registry: RequestRegistry,
        now: Callable[[], float],
        call_later: Callable[..., Any],
        follow_ups: FollowUps,
        watch_replies: Callable[[int], None] | None = None,
    ) -> None:
        """Take the parts; nothing starts yet.

        `now` is Redis's clock, `call_later` the loop's timer (seconds, function, arguments); `watch_replies` reads the replies to posted
        calls once a descriptor is readable, and is None to wait for each reply.
        """
        host: ModelHost = app.host
        self.app = app
        self.delayed: set[Request] = set()
        self.hostname = hostname
        self.batcher = Batcher(host.batch_limits)
        self.closing = False
        self.events = events
        self.source: RequestSource | None = None
        self.call_later = call_later
        self.commit = Commit(
            records,
            events,
            follow_ups,
            registry,
            idle_slots=lambda: self.idle_slots,
            call_later=call_later,
            on_relieved=self.slot_added,
            watch_replies=watch_replies,
        )
        self.records = records
        self.running: dict[int, Batch] = {}
        self.prerun_check = PrerunCheck(records, self.commit, now, self._end_without_run, registry.revoked)
        self._dispatching = False
        self._host = host
        self._now = now
        self._pool = pool
        self._registry = registry
        self._watch_replies = watch_replies

    @property
    def free_slots(self) -> int:
        """How many slots of the pool are free; none while too many results are still to be sent."""
        return 0 if self.commit.congested else max(0, self._pool.slots - len(self.running))

    @property
    def idle_slots(self) -> int:
        """How many slots other workers should leave requests for: those that are free, and those about to be added."""
        if self.closing:
            return 0
        return self.free_slots if any(self.batcher.queues.values()) else self.free_slots + self._pool.starting

    @property
    def starved(self) -> bool:
        """Whether a slot is free and nothing waits here for it."""
        return bool(self.free_slots) and not any(self.batcher.queues.values())

    @property
    def revoked(self) -> Container[str]:
        """The ids of the requests that the worker has been told to drop."""
        return self._registry.revoked

    @property
    def held(self) -> list[Request]:
        """Every request that must stay reserved: those that wait, run, or have ended without being committed yet."""
        running = [request for batch in self.running.values() for request in batch.requests]
        return [*self.batcher, *self._delayed(), *running, *self.commit.uncommitted]

    def received(self, requests: Sequence[Request]) -> None:
        """Enter requests that have come in into Celery's registers, and send their events."""
        self._registry.add(requests)
        self.events.received(requests)

    def offer(self, request: Request) -> None:
        """Queue a request; `dispatch` fills the slots."""
        self.delayed.discard(request)
        if request.ended:  # it was given back while it was delayed
            return
        self._registry.mark_waiting(request)
        self.batcher.add(request)

    def dispatch(self) -> None:
        """Fill the free slots with batches of the requests that wait."""
        if self._dispatching:  # a pool that runs inline is back here before it has returned
            return
        self._dispatching = True
        try:
            while not self.closing and self.free_slots:
                batch = self.batcher.next(time.monotonic(), self.free_slots, self._pool.slots)
                if not batch:
                    break
                if ready := self.prerun_check.filter(batch):
                    self._send(ready)
        finally:
            self._dispatching = False
        if (wake_at := self.batcher.wake_at(time.monotonic())) is not None and self.free_slots and not self.closing:
            self.call_later(max(0.001, wake_at - time.monotonic()), self.dispatch)

    def slot_added(self) -> None:
        """Fill a slot that was added."""
        if self.source is not None and not self.closing:
            self.source.pull()
            self.dispatch()

    def batch_finished(self, batch: Batch, ran: BatchResult) -> None:
        """End the requests of a batch that came back, each by its own outcome."""
        if self._remove_running(batch) is None:
            return
        if ran.rows:  # what was refused unseen says nothing of the model
            self.batcher.observe(batch.model, ran.rows, time.monotonic() - batch.began, ran.cpu_wait_s)
        pairs = list(zip(batch.requests, ran.results, strict=True))
        refused = [request for request, answer in pairs if answer.other_copy_may_accept]
        handed_over = self.source.hand_over(refused) if refused and self.source is not None else []
        outcomes, isolated = [], []
        for request, answer in pairs:
            if answer.status == "interrupted":
                isolated.append(request)
            elif request not in handed_over:
                outcomes.append(outcome.of_answer(request, answer))
        if isolated:
            self._isolate(batch.model, isolated, "what ran with it took the time, or the room, of this run")
        self.dispatch()  # the process that is free gets its next batch before anything else
        self._end(self._batch_run(batch), outcomes, ran.predict_s)
        self.dispatch()
        logger.info("%s: batch of %d in %.1f ms, %s first", batch.model, len(outcomes), 1000 * ran.predict_s, batch.id)

    def batch_failed(self, batch: Batch, error: BaseException, reason: str) -> None:
        """Run again the requests of a batch whose process died or hung, apart from each other; end those that have no attempt left.

        `error` is what Celery would have reported, `reason` "process died", "time limit" or "terminated".
        """
        if self._remove_running(batch) is None:
            return
        outcomes, left = [], []
        for request in batch.requests:
            if request.id in batch.terminated:
                outcomes.append(outcome.revoked(request, "terminated", batch.terminated[request.id]))
            else:
                left.append(request)
        if left and reason != "terminated":
            most = self._host.max_attempts(batch.model)
            if len(left) == 1 and (reason == "time limit" or left[0].attempts + 1 >= most):
                outcomes.append(outcome.given_up(left[0], error, reason))
                left = []
            for request in left:
                request.attempts += 1
        if left:
            self._isolate(batch.model, left, repr(error))
            try:
                self.records.mark_retried(self.hostname, reason, left)
            except redis.RedisError as exc:
                logger.debug("could not record that %d requests run again: %s", len(left), exc)
        self._end(self._batch_run(batch), outcomes, 0.0)
        self.dispatch()

    def refuse(self, request: Request, error: Exception, reason: str = "") -> None:
        """End a request that cannot run; with a reason it goes to the dead letters."""
        result = msgspec.json.encode(self.app.backend.prepare_exception(error, "json"), enc_hook=str)
        logger.warning("refused %s: %r", request.id or "a message without id", error)
        self._end_without_run(
            Outcome(request, "FAILURE", result, repr(error), reason=reason, letter_text=outcome.in_words(error))
        )

    def forget_waiting(self) -> None:
        """Drop every request that has not begun: another worker may have it."""
        for request in self._take_waiting():
            self.commit.forget(request)

    def return_all_waiting(self) -> None:
        """Give back every request that has not begun, also those reserved in a reply that was lost."""
        if self.source is not None:
            self.source.return_unacknowledged()
        self._return(self._take_waiting())

    def return_waiting(self, model: str) -> None:
        """Give back the requests of a model that wait for a slot here: another worker has one free."""
        self._return(self.batcher.queue(model).take_movable())

    def recall_unsent(self) -> list[Request]:
        """Take back the requests of batches that no process has begun to read."""
        requests = []
        running = list(self.running.values())
        for batch in [*(batch for batch in running if batch.fetching), *self._pool.recall_unsent(running)]:
            self._remove_running(batch)
            requests += batch.requests
        for request in requests:
            self.commit.forget(request)
        return requests

    def terminate(self, request: Request, signal: Any) -> None:
        """End a running request together with its process; the others of its batch run again."""
        if (batch := self._running_batch(request)) is not None:
            batch.terminated[request.id] = int(signal) if signal else None
            self._pool.terminate(batch, signal)

    def stop_running(self, request: Request) -> None:
        """Give back all requests of a running batch, and end its process: Celery's cold shutdown asks for it."""
        batch = self._running_batch(request)
        if batch is None:
            return
        self.return_all_waiting()  # first: what runs goes to the head of the queue, before what waits
        self.running.pop(batch.number, None)
        if self.source is not None:
            self.source.return_requests(batch.requests)
        self._pool.stop(batch)

    def describe(self) -> dict[str, Any]:
        """Describe the queues for `celery inspect stats`: what waits, what runs, and the service times."""
        queues = self.batcher.describe(max(1, self.free_slots))
        return {model: each | {"answered": self.commit.counts.get(model, 0)} for model, each in queues.items()}

    def _send(self, requests: list[Request]) -> None:
        """Send a batch to the pool, once its offloaded payloads have been read."""
        batch = Batch(requests, self._time_limits(requests))
        self.running[batch.number] = batch
        self.batcher.queue(batch.model).running += 1
        for request in requests:
            request.batch = batch
        if any(request.is_offloaded for request in requests):
            batch.fetching = True
            self.records.read_payloads(requests, lambda found: self._on_payloads(batch, found), self._watch_replies)
        else:
            self._run(batch, {})

    def _on_payloads(self, batch: Batch, payloads: Mapping[str, bytes | None] | redis.RedisError) -> None:
        """Send a batch whose offloaded payloads were read, if it is still wanted; where they were not, wait a moment."""
        batch.fetching = False
        if batch.number not in self.running:  # it was given back
            return
        if isinstance(payloads, redis.RedisError):
            logger.warning("cannot read the offloaded payloads of %d requests: %s", len(batch.requests), payloads)
            self._remove_running(batch)
            self.delayed.update(batch.requests)
            self.call_later(RETRY_S, self._send_again, batch)
        elif batch.terminated:
            self.batch_failed(batch, RuntimeError("terminated"), "terminated")
        else:
            self._run(batch, payloads)

    def _send_again(self, batch: Batch) -> None:
        requests = [request for request in batch.requests if request in self.delayed]
        self.delayed.difference_update(requests)
        if requests:
            self.batcher.add_isolated(batch.model, [requests])
            self.dispatch()

    def _run(self, batch: Batch, payloads: Mapping[str, bytes | None]) -> None:
        batch.began = time.monotonic()
        self.events.started(batch.requests)
        self._registry.mark_running(batch.requests)
        self.call_later(MARK_STARTED_AFTER_S, self._mark_started, batch)
        self._pool.send(batch, [request.packed(payloads.get(request.id)) for request in batch.requests])

    def _mark_started(self, batch: Batch) -> None:
        """Mark the records of a batch's requests as started, if they still run."""
        if batch.number in self.running:
            try:
                self.records.mark_started(self._batch_run(batch), batch.requests)
            except redis.RedisError as exc:
                logger.debug("could not record that %d requests run: %s", len(batch.requests), exc)

    def _end(self, run: BatchRun, outcomes: Sequence[Outcome], runtime: float) -> None:
        """Commit outcomes, and reserve more requests in the same round trip; the loop goes on while Redis works."""
        if self.source is None:
            return
        if not outcomes:
            self.source.pull()
            return
        self.commit.end(run, outcomes, runtime, self.source.reserve_call())

    def _end_without_run(self, ended: Outcome) -> None:
        now = self._now()
        run = BatchRun(ended.request.model, "", self.hostname, now, now, 1)
        self.commit.end(run, [ended], wait=True)

    def _delayed(self) -> list[Request]:
        return [request for request in self.delayed if not request.ended]

    def _return(self, requests: list[Request]) -> None:
        for request in requests:
            self.commit.forget(request)
        if self.source is not None and requests:
            self.source.return_requests(requests)

    def _take_waiting(self) -> list[Request]:
        """Remove every request that has not begun."""
        waiting = [*self._delayed(), *(request for queue in self.batcher.queues.values() for request in queue.clear())]
        self.delayed.clear()
        return waiting

    def _running_batch(self, request: Request) -> Batch | None:
        return self.running.get(request.batch.number) if request.batch is not None else None

    def _remove_running(self, batch: Batch) -> Batch | None:
        """Remove a batch from the running ones; None where it was given back."""
        running = self.running.pop(batch.number, None)
        if running is not None:
            queue = self.batcher.queue(batch.model)
            queue.running = max(0, queue.running - 1)
        return running

    def _isolate(self, model: str, requests: list[Request], why: str) -> None:
        most = self._host.max_attempts(model)
        self.batcher.add_isolated(
            model, batcher.isolation_groups(requests, most - max(request.attempts for request in requests))
        )
        for request in requests:
            request.batch = None
            self._registry.unmark_running(request)
            self.events.retried(request.id, why)

    def _time_limits(self, requests: list[Request]) -> tuple[float | None, float | None]:
        own = self._host.time_limits(requests[0].model)
        wanted = requests[0].limits if len(requests) == 1 else None
        if wanted is None:
            return own
        hard, soft = (min((limit for limit in pair if limit), default=None) for pair in zip(own, wanted, strict=True))
        return hard, soft

    def _batch_run(self, batch: Batch) -> BatchRun:
        now = self._now()
        began = now - (time.monotonic() - batch.began)
        return BatchRun(batch.model, self._host.version(batch.model), self.hostname, began, now, len(batch.requests))
