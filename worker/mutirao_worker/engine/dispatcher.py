"""From waiting requests to ended ones: fills the pool's free slots with batches, and ends what comes back, each by its own fate.

Everything here runs on the worker's own loop. What Celery and the pool look like is `strategy`'s to know; which requests go
together is `batching`'s, which must not run any more `vetting`'s, how an end is kept and told `outcomes`'.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Sequence
from typing import Any

import msgspec
import redis

from mutirao_worker.engine import batch_policy, outcome
from mutirao_worker.engine.batch import Batch
from mutirao_worker.engine.batch_policy import Batcher
from mutirao_worker.engine.commit import Commit
from mutirao_worker.engine.commit_queue import CommitQueue
from mutirao_worker.engine.interfaces import FollowUps, Pool, RequestRegistry, RequestSource, TaskEventSink
from mutirao_worker.engine.outcome import BatchRun, Outcome
from mutirao_worker.engine.prerun_check import PrerunCheck
from mutirao_worker.engine.request import Request
from mutirao_worker.engine.script_client import Call
from mutirao_worker.inference.execution import BatchResult
from mutirao_worker.inference.inputs import PackedRequest
from mutirao_worker.models.host import ModelHost

logger = logging.getLogger(__name__)

# Who polls sees a request run once it has run for this long: most are done before anybody could ask.
SHOWN_AFTER_S = 0.25
AGAIN_S = 0.5


class Dispatcher:
    """One worker's requests, from when they are taken until they have ended.

    Attributes:
        app, hostname: Celery's.
        aside: requests that are held, but wait for their time or for the rate limit.
        batcher: what waits.
        commit: how ends are kept.
        connection_errors: the broker's.
        events: where ends are told.
        hold: where requests come from.
        outcomes: what ends requests.
        running: the batches that are in the pool, by number.
        closing: nothing new is begun.
        vetting: the last look at requests before they run.
    """

    def __init__(
        self,
        app: Any,
        hostname: str,
        *,
        pool: Pool,
        commit: Commit,
        events: TaskEventSink,
        registry: RequestRegistry,
        now: Callable[[], float],
        later: Callable[..., Any],
        follow_ups: FollowUps,
        listen: Callable[[int], None] | None = None,
    ) -> None:
        """Take the parts.

        Args:
            app: Celery's.
            hostname: Celery's.
            pool: the slots.
            commit: how ends are kept.
            events: takes their task events.
            registry: where Celery finds requests.
            now: Redis's clock.
            later: the loop's timer: seconds, function, arguments.
            follow_ups: runs what a stock client wants to be run after a request.
            listen: has the replies to what was posted heard, once a descriptor can be read; None to wait for each reply.
        """
        host: ModelHost = app.host
        self.app = app
        self.aside: set[Request] = set()
        self.hostname = hostname
        self.batcher = Batcher(host.batch_limits)
        self.closing = False
        self.commit = commit
        self.connection_errors: tuple[type[Exception], ...] = ()
        self.events = events
        self.hold: RequestSource | None = None
        self.later = later
        self.outcomes = CommitQueue(commit, events, follow_ups, registry, lambda after_s: later(after_s, self.keep))
        self.running: dict[int, Batch] = {}
        self.vetting = PrerunCheck(commit, now, self._end_unrun, self.outcomes.ended, registry.revoked)
        self._dispatching = False
        self._host = host
        self._listen = listen
        self._now = now
        self._pool = pool
        self._registry = registry

    @property
    def free(self) -> int:
        """How many slots of the pool are free."""
        return max(0, self._pool.slots - len(self.running))

    @property
    def idle(self) -> int:
        """How many slots other workers should leave requests for: those that are free, and those that are in a moment."""
        if self.closing:
            return 0
        return self.free if any(self.batcher.lines.values()) else self.free + self._pool.starting

    @property
    def hungry(self) -> bool:
        """Whether a slot is free and nothing waits here for it."""
        return bool(self.free) and not any(self.batcher.lines.values())

    @property
    def revoked(self) -> Container[str]:
        """The ids of the requests that the worker has been told to drop."""
        return self._registry.revoked

    @property
    def held(self) -> list[Request]:
        """Every request that must stay reserved: what waits, what runs, and what has ended but could not be kept yet."""
        running = [request for batch in self.running.values() for request in batch.requests]
        return [*self.batcher, *self._aside(), *running, *self.outcomes.unkept]

    def received(self, requests: Sequence[Request]) -> None:
        """Note requests that have come in: in Celery's registers, and as events."""
        for request in requests:
            self._registry.add(request)
        self.events.received(requests)

    def offer(self, request: Request) -> None:
        """Let a request wait for a slot; `dispatch` fills them."""
        self.aside.discard(request)
        if request.ended:  # it was given back while it stood aside
            return
        self._registry.mark_waiting(request)
        self.batcher.add(request)

    def dispatch(self) -> None:
        """Fill the free slots with what waits."""
        if self._dispatching:  # a pool that runs inline is back here before it has returned
            return
        self._dispatching = True
        try:
            while not self.closing and self.free:
                batch = self.batcher.next(time.monotonic(), self.free, self._pool.slots)
                if not batch:
                    break
                if (ready := self.vetting.passed(batch)) and not self._send(ready):
                    break
        finally:
            self._dispatching = False
        if (wake_at := self.batcher.wake_at(time.monotonic())) is not None and self.free and not self.closing:
            self.later(max(0.001, wake_at - time.monotonic()), self.dispatch)

    def grown(self) -> None:
        """Use a slot that has come up."""
        if self.hold is not None and not self.closing:
            self.hold.pull()
            self.dispatch()

    def finished(self, batch: Batch, ran: BatchResult) -> None:
        """End the requests of a batch that came back, each by its own fate."""
        if self._left(batch) is None:
            return
        if ran.rows:  # what was refused unseen says nothing of the model
            self.batcher.timed(batch.model, ran.rows, time.monotonic() - batch.began, ran.cpu_wait_s)
        pairs = list(zip(batch.requests, ran.results, strict=True))
        refused = [request for request, answer in pairs if answer.other_copy_may_accept]
        handed = self.hold.hand_over(refused) if refused and self.hold is not None else []
        endings, again = [], []
        for request, answer in pairs:
            if answer.status == "interrupted":
                again.append(request)
            elif request not in handed:
                endings.append(outcome.of_answer(request, answer))
        if again:
            self._again(batch.model, again, "what ran with it took the time, or the room, of this run")
        self.dispatch()  # the process that is free gets its next batch before anything else
        self._end(self._run(batch), endings, ran.predict_s)
        self.dispatch()
        logger.info("%s: batch of %d in %.1f ms, %s first", batch.model, len(endings), 1000 * ran.predict_s, batch.id)

    def lost(self, batch: Batch, error: BaseException, reason: str) -> None:
        """Find out whose fault it was that a batch's process died or hung: the others run again, apart from each other.

        Args:
            batch: the batch.
            error: what Celery would have reported.
            reason: "process died", "time limit" or "terminated".
        """
        if self._left(batch) is None:
            return
        endings, left = [], []
        for request in batch.requests:
            if request.id in batch.terminated:
                endings.append(outcome.revoked(request, "terminated", batch.terminated[request.id]))
            else:
                left.append(request)
        if left and reason != "terminated":
            most = self._host.max_attempts(batch.model)
            if len(left) == 1 and (reason == "time limit" or left[0].attempts + 1 >= most):
                endings.append(outcome.given_up(left[0], error, reason))
                left = []
            for request in left:
                request.attempts += 1
        if left:
            self._again(batch.model, left, repr(error))
            try:
                self.commit.retried(self.hostname, reason, left)
            except redis.RedisError as exc:
                logger.debug("could not say that %d requests run again: %s", len(left), exc)
        self._end(self._run(batch), endings, 0.0)
        self.dispatch()

    def refuse(self, request: Request, error: Exception, reason: str = "") -> None:
        """End a request that cannot run; with a reason it goes to the dead letters."""
        result = msgspec.json.encode(self.app.backend.prepare_exception(error, "json"), enc_hook=str)
        logger.warning("refused %s: %r", request.id or "a message without id", error)
        self._end_unrun(Outcome(request, "FAILURE", result, repr(error), reason=reason, said=outcome.in_words(error)))

    def forget_waiting(self) -> None:
        """Drop every request that has not begun: another worker may have it."""
        for request in self._waiting():
            self.outcomes.forget(request)

    def give_back(self) -> None:
        """Give back every request that has not begun, also one that is reserved and still unheard of."""
        if self.hold is not None:
            self.hold.give_back_unheard()
        self._give_back(self._waiting())

    def spare(self, model: str) -> None:
        """Give back the requests of a model that wait for a slot here: elsewhere one is free."""
        self._give_back(self.batcher.line(model).spare())

    def unsent(self) -> list[Request]:
        """Take back the requests of batches that no process has begun to read."""
        requests = []
        for batch in self._pool.unsent(list(self.running.values())):
            self._left(batch)
            requests += batch.requests
        for request in requests:
            self.outcomes.forget(request)
        return requests

    def stop(self) -> None:
        """Give back what runs, too, and hear of it no more."""
        self.closing = True
        self.give_back()
        running = [request for batch in self.running.values() for request in batch.requests]
        for batch in self.running.values():
            batch.stopped = True
        if self.hold is not None and running:
            self.hold.give_back(running)
        self.running.clear()

    def keep(self) -> None:
        """Try again to keep the ends that could not be kept while Redis was away."""
        self.outcomes.keep(self.idle)

    def terminate(self, request: Request, signal: Any) -> None:
        """End a running request together with its process; the others of its batch run again."""
        if (batch := self._running_batch(request)) is not None:
            batch.terminated[request.id] = int(signal) if signal else None
            self._pool.terminate(batch, signal)

    def stop_running(self, request: Request) -> None:
        """Give a running request back, and all that run beside it, and end its process: Celery's cold shutdown asks for it."""
        batch = self._running_batch(request)
        if batch is None:
            return
        batch.stopped = True
        self.give_back()  # first: what runs goes to the head of the line, before what waits
        self.running.pop(batch.number, None)
        if self.hold is not None:
            self.hold.give_back(batch.requests)
        self._pool.stop(batch)

    def describe(self) -> dict[str, Any]:
        """Describe the lines for `celery inspect stats`: what waits, what runs, and the fitted times."""
        lines = {}
        for model, line in self.batcher.lines.items():
            per_row, per_batch = line.fit.line
            lines[model] = {
                "waiting": line.count, "running": line.running, "batch_rows": self.batcher.size(line, max(1, self.free)),
                "ms_per_row": round(per_row * 1000, 4), "ms_per_batch": round(per_batch * 1000, 4),
                "answered": self.outcomes.counts.get(model, 0),
            }  # fmt: skip
        return lines

    def _send(self, requests: list[Request]) -> bool:
        """Send a batch to the pool; False where it has to wait for Redis."""
        try:
            beside = self.commit.payloads(requests) if any(request.beside for request in requests) else {}
        except redis.RedisError as exc:
            logger.warning("cannot read what lies beside %d requests: %s", len(requests), exc)
            self.batcher.add_again(requests[0].model, [requests])
            self.later(AGAIN_S, self.dispatch)
            return False
        batch = Batch(requests, self._limits(requests))
        asked = [
            PackedRequest(request.id, request.body, request.content_type or "", request.base64, beside.get(request.id))
            for request in requests
        ]
        self.running[batch.number] = batch
        self.batcher.line(batch.model).running += 1
        for request in requests:
            request.batch = batch
        self.events.started(requests)
        self._registry.mark_running(requests)
        self.later(SHOWN_AFTER_S, self._show, batch)
        self._pool.send(batch, asked)
        return True

    def _show(self, batch: Batch) -> None:
        """Say of a batch's requests that they run, if they still do."""
        if batch.number in self.running:
            try:
                self.commit.started(self._run(batch), batch.requests)
            except redis.RedisError as exc:
                logger.debug("could not say that %d requests run: %s", len(batch.requests), exc)

    def _end(self, run: BatchRun, endings: Sequence[Outcome], runtime: float) -> None:
        """End what came back, and take more in the same round trip; the loop goes on while Redis works."""
        if self.hold is None:
            return
        if not endings:
            self.hold.pull()
            return
        call = self.hold.reserving()
        if self._listen is None:
            self._heard(call, *self.outcomes.end(run, endings, runtime, self.idle, call))
            return
        descriptor = self.outcomes.post(
            run, endings, runtime, self.idle, call, lambda kept, reply: self._heard(call, kept, reply)
        )
        if descriptor is not None:
            self._listen(descriptor)

    def _heard(self, call: Call | None, kept: bool, reply: Any) -> None:
        if call is None or self.hold is None:
            return
        if kept:
            self.hold.arrived(call, reply)
            self.dispatch()
        else:
            self.hold.unsure()

    def _end_unrun(self, ending: Outcome) -> None:
        now = self._now()
        run = BatchRun(ending.request.model, "", self.hostname, now, now, 1)
        self.outcomes.end(run, [ending], 0.0, self.idle)

    def _aside(self) -> list[Request]:
        return [request for request in self.aside if not request.ended]

    def _give_back(self, requests: list[Request]) -> None:
        for request in requests:
            self.outcomes.forget(request)
        if self.hold is not None and requests:
            self.hold.give_back(requests)

    def _waiting(self) -> list[Request]:
        """Take out every request that has not begun."""
        waiting = [*self._aside(), *(request for line in self.batcher.lines.values() for request in line.clear())]
        self.aside.clear()
        return waiting

    def _running_batch(self, request: Request) -> Batch | None:
        return self.running.get(request.batch.number) if request.batch is not None else None

    def _left(self, batch: Batch) -> Batch | None:
        """Take a batch out of the running ones; None where it was given back."""
        found = self.running.pop(batch.number, None)
        if found is not None:
            line = self.batcher.line(batch.model)
            line.running = max(0, line.running - 1)
        return found

    def _again(self, model: str, requests: list[Request], why: str) -> None:
        most = self._host.max_attempts(model)
        self.batcher.add_again(
            model, batch_policy.isolation_groups(requests, most - max(request.attempts for request in requests))
        )
        for request in requests:
            request.batch = None
            self._registry.unmark_running(request)
            self.events.retried(request.id, why)

    def _limits(self, requests: list[Request]) -> tuple[float | None, float | None]:
        own = self._host.time_limits(requests[0].model)
        asked = requests[0].limits if len(requests) == 1 else None
        if asked is None:
            return own
        hard, soft = (min((limit for limit in pair if limit), default=None) for pair in zip(own, asked, strict=True))
        return hard, soft

    def _run(self, batch: Batch) -> BatchRun:
        now = self._now()
        began = now - (time.monotonic() - batch.began)
        return BatchRun(batch.model, self._host.version(batch.model), self.hostname, began, now, len(batch.requests))
