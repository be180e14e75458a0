"""From waiting requests to ended ones: fills the pool's free slots with batches, and ends what comes back, each by its own fate.

Everything here runs on the worker's own loop. What Celery and the pool look like is `strategy`'s to know; which requests go
together is `batching`'s; how an end is kept is `commit`'s.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import msgspec
import redis
from celery.worker import state as worker_state

from mutirao import queues
from mutirao.messages import Failure
from mutirao_worker import batching
from mutirao_worker.answered import Answered
from mutirao_worker.asked import Asked
from mutirao_worker.batching import Batcher
from mutirao_worker.commit import Commit, Ending, Run
from mutirao_worker.events import DELAY_S, Events
from mutirao_worker.execution import Ran
from mutirao_worker.hosting import Host
from mutirao_worker.request import Request
from mutirao_worker.transport.scripts import Call

logger = logging.getLogger(__name__)

# A request that was reserved less than this ago was looked at a moment ago.
FRESH_S = 0.05
# Who polls sees a request run once it has run for this long: most are done before anybody could ask.
SHOWN_AFTER_S = 0.25
AGAIN_S = 0.5
# How the reasons begin for which a body cannot be read (see `asked`).
UNREADABLE = ("unreadable body", "damaged body", "not Celery's triple")


class Batch:
    """Requests that go through the model together, in one process of the pool."""

    __slots__ = ("began", "id", "limits", "model", "number", "pid", "requests", "started_at", "stopped", "terminated")

    _numbers = itertools.count(1)

    def __init__(self, requests: list[Request], limits: tuple[float | None, float | None]) -> None:
        """Take the requests, in order, and the hard and soft time limits in seconds."""
        self.number = next(self._numbers)
        self.id = requests[0].id
        self.model = requests[0].model
        self.requests = requests
        self.limits = limits
        self.began = time.monotonic()
        self.started_at = time.time()
        self.pid: int | None = None
        self.stopped = False
        self.terminated: dict[str, int | None] = {}


class Pool(Protocol):
    """The pool's slots."""

    @property
    def slots(self) -> int:
        """How many batches may run at once."""

    def send(self, batch: Batch, asked: list[Asked]) -> None:
        """Run a batch; `Dispatcher.finished` or `Dispatcher.lost` hears how it went."""

    def terminate(self, batch: Batch, signal: Any) -> None:
        """End the process that runs a batch."""

    def unsent(self, batches: list[Batch]) -> list[Batch]:
        """Take batches out of the pool that no process has begun to read."""


class Hold(Protocol):
    """Where requests come from, and where they are given back to."""

    def reserving(self) -> Call | None:
        """Make the call that takes more requests; None where none are wanted."""

    def arrived(self, reply: Any) -> None:
        """Offer what that call brought."""

    def unsure(self) -> None:
        """Note that a call that takes requests may have run unheard."""

    def pull(self) -> None:
        """Take more requests, if more are wanted."""

    def give_back(self, requests: Iterable[Request]) -> None:
        """Put requests back where others can take them."""


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
        running: the batches that are in the pool, by number.
        closing: nothing new is begun.
    """

    def __init__(
        self,
        app: Any,
        hostname: str,
        *,
        pool: Pool,
        commit: Commit,
        events: Events,
        now: Callable[[], float],
        later: Callable[..., Any],
        follow: Callable[[Ending], None],
    ) -> None:
        """Take the parts.

        Args:
            app: Celery's.
            hostname: Celery's.
            pool: the slots.
            commit: how ends are kept.
            events: where they are told.
            now: Redis's clock.
            later: the loop's timer: seconds, function, arguments.
            follow: runs what a stock client wants to be run after a request.
        """
        host: Host = app.host
        self.app = app
        self.aside: set[Request] = set()
        self.hostname = hostname
        self.batcher = Batcher(host.batching)
        self.closing = False
        self.commit = commit
        self.connection_errors: tuple[type[Exception], ...] = ()
        self.events = events
        self.hold: Hold | None = None
        self.later = later
        self.running: dict[int, Batch] = {}
        self._cancelled = 0
        self._counts: dict[str, int] = {}
        self._deadline = math.inf
        self._heard_at = self._doubted_at = 0.0
        self._dispatching = False
        self._flushing = False
        self._follow = follow
        self._host = host
        self._now = now
        self._pool = pool
        self._unkept: list[tuple[Run, list[Ending]]] = []

    @property
    def free(self) -> int:
        """How many slots of the pool are free."""
        return max(0, self._pool.slots - len(self.running))

    @property
    def held(self) -> list[Request]:
        """Every request that must stay reserved: what waits, what runs, and what has ended but could not be kept yet."""
        running = [request for batch in self.running.values() for request in batch.requests]
        return [
            *self.batcher,
            *self.aside,
            *running,
            *(ending.request for _, endings in self._unkept for ending in endings),
        ]

    def received(self, request: Request) -> None:
        """Note a request that has come in: in Celery's registers, and as an event."""
        worker_state.requests[request.id] = request
        if self.events.on:
            self.events.received(request)
            self._flush_soon()

    def heard(self, cancelled: int, deadline: float) -> None:
        """Note what Redis said when it gave requests: how many jobs have ever been cancelled, and the earliest deadline."""
        self._heard_at = time.monotonic()
        self._deadline = min(self._deadline, deadline)
        if cancelled != self._cancelled:
            self._cancelled, self._doubted_at = cancelled, self._heard_at

    def offer(self, request: Request) -> None:
        """Let a request wait for a slot; `dispatch` fills them."""
        if request.ended:  # it was given back while it stood aside
            return
        self.aside.discard(request)
        worker_state.reserved_requests.add(request)
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
                if (ready := self._vetted(batch)) and not self._send(ready):
                    break
        finally:
            self._dispatching = False
        if (wake_at := self.batcher.wake_at(time.monotonic())) is not None and self.free and not self.closing:
            self.later(max(0.001, wake_at - time.monotonic()), self.dispatch)

    def finished(self, batch: Batch, ran: Ran) -> None:
        """End the requests of a batch that came back, each by its own fate."""
        if self._left(batch) is None:
            return
        if ran.rows:  # what was refused unseen says nothing of the model
            self.batcher.line(batch.model).fit.observe(ran.rows, time.monotonic() - batch.began)
        endings, again = [], []
        for request, answer in zip(batch.requests, ran.answers, strict=True):
            if answer.kind == "interrupted":
                again.append(request)
            else:
                endings.append(_ending(request, answer))
        if again:
            self._again(batch.model, again, "the soft time limit passed")
        self.dispatch()  # the process that is free gets its next batch before anything else
        self._end(self._run(batch), endings, ran.predict_s, pull=True)
        self.dispatch()
        logger.info("%s: %d requests in %.1f ms, %s first", batch.model, len(endings), 1000 * ran.predict_s, batch.id)

    def lost(self, batch: Batch, error: BaseException, reason: str) -> None:
        """Find out whose fault it was that a batch's process died or hung: the others run again, apart from each other.

        Args:
            batch: the batch.
            error: what Celery would have reported.
            reason: "process died", "time limit" or "terminated".
        """
        if self._left(batch) is None:
            return
        endings = [_revoked(request, "terminated") for request in batch.requests if request.id in batch.terminated]
        left = [request for request in batch.requests if request.id not in batch.terminated]
        if left and reason != "terminated":
            most = self._host.max_attempts(batch.model)
            if len(left) == 1 and (reason == "time limit" or left[0].attempts + 1 >= most):
                endings.append(_given_up(left[0], error, reason))
                left = []
            for request in left:
                request.attempts += 1
        if left:
            self._again(batch.model, left, repr(error))
        self._end(self._run(batch), endings, 0.0, pull=True)
        for request in batch.requests:
            if request.id in batch.terminated:
                self.events.revoked(request.id, expired=False, terminated=True, signum=batch.terminated[request.id])
        self.dispatch()

    def refuse(self, request: Request, error: Exception, reason: str = "") -> None:
        """End a request that cannot run; with a reason it goes to the dead letters."""
        prepared = self.app.backend.prepare_exception(error, "json")
        result = msgspec.json.encode(prepared, enc_hook=str)
        logger.warning("refused %s: %r", request.id or "a message without id", error)
        self._end(self._run_of([request]), [Ending(request, "FAILURE", result, repr(error), reason=reason)], 0.0)

    def ended(self, request: Request, why: str) -> None:
        """Note that a request ended before it could run; its record says so already."""
        self._forget(request)
        if why in {"expired", "REVOKED"}:
            self.events.revoked(request.id, expired=why == "expired")

    def forget_waiting(self) -> None:
        """Drop every request that has not begun: another worker may have it."""
        for request in self._waiting():
            self._forget(request)

    def give_back(self) -> None:
        """Give back every request that has not begun."""
        waiting = self._waiting()
        for request in waiting:
            self._forget(request)
        if self.hold is not None and waiting:
            self.hold.give_back(waiting)

    def unsent(self) -> list[Request]:
        """Take back the requests of batches that no process has begun to read."""
        requests = []
        for batch in self._pool.unsent(list(self.running.values())):
            self._left(batch)
            requests += batch.requests
        for request in requests:
            self._forget(request)
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
        unkept, self._unkept = self._unkept, []
        for at, (run, endings) in enumerate(unkept):
            self._end(run, endings, 0.0)
            if self._unkept:
                self._unkept += unkept[at + 1 :]
                return

    def terminate(self, request: Request, signal: Any) -> None:
        """End a running request together with its process; the others of its batch run again."""
        if request.batch is not None:
            request.batch.terminated[request.id] = int(signal) if signal else None
            self._pool.terminate(request.batch, signal)

    def stop_running(self, request: Request, signal: Any) -> None:
        """Give a running request back, and all that run beside it, and end its process: Celery's cold shutdown asks for it."""
        batch = request.batch
        if batch is None or batch.stopped:
            return
        batch.stopped = True
        self.give_back()  # first: what runs goes to the head of the line, before what waits
        self.running.pop(batch.number, None)
        if self.hold is not None:
            self.hold.give_back(batch.requests)
        self._pool.terminate(batch, signal)

    def revoked(self, request: Request) -> bool:
        """Whether this worker has been told to drop a request."""
        return request.id in worker_state.revoked

    def describe(self) -> dict[str, Any]:
        """Describe the lines for `celery inspect stats`: what waits, what runs, and the fitted times."""
        lines = {}
        for model, line in self.batcher.lines.items():
            per_row, per_batch = line.fit.line
            lines[model] = {
                "waiting": line.count, "running": line.running, "batch_rows": self.batcher.size(line, max(1, self.free)),
                "ms_per_row": round(per_row * 1000, 4), "ms_per_batch": round(per_batch * 1000, 4),
                "answered": self._counts.get(model, 0),
            }  # fmt: skip
        return lines

    def counts(self) -> dict[str, int]:
        """How many requests of each model have been answered."""
        return dict(self._counts)

    def _vetted(self, batch: list[Request]) -> list[Request]:
        """Drop what must not run any more."""
        now, clock = time.monotonic(), time.time()
        for request in batch:
            if request.id in worker_state.revoked:
                self._end(self._run_of([request]), [_revoked(request)], 0.0)
                self.events.revoked(request.id, expired=False)
            elif request.headers.expires is not None and (request.expires or 0) <= clock:
                self._end(self._run_of([request]), [_revoked(request, "expired")], 0.0)
                self.events.revoked(request.id, expired=True)
        batch = [request for request in batch if not request.ended]
        if not batch or not self._doubted(min(request.received for request in batch), now):
            return batch
        try:
            whys = self.commit.vet(batch)
        except redis.RedisError:
            return batch  # its end is fenced, whatever happened to it meanwhile
        for request, why in zip(batch, whys, strict=True):
            if why:
                self.ended(request, why)
                self.commit.discard([request])
        return [request for request, why in zip(batch, whys, strict=True) if not why]

    def _doubted(self, oldest: float, now: float) -> bool:
        """Whether one of the requests that came since may have been cancelled or have expired meanwhile."""
        if not self.commit.fenced:
            return True
        if now - oldest < FRESH_S:
            return False
        return now - self._heard_at > FRESH_S or oldest < self._doubted_at or self._now() >= self._deadline

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
            Asked(request.id, request.body, request.content_type or "", request.base64, beside.get(request.id))
            for request in requests
        ]
        self.running[batch.number] = batch
        self.batcher.line(batch.model).running += 1
        for request in requests:
            request.batch = batch
        worker_state.active_requests.update(requests)
        if self.events.on:
            for request in requests:
                self.events.started(request.id)
            self._flush_soon()
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

    def _end(self, run: Run, endings: Sequence[Ending], runtime: float, *, pull: bool = False) -> None:
        if not endings:
            if pull and self.hold is not None:
                self.hold.pull()
            return
        call = self.hold.reserving() if pull and self.hold is not None else None
        try:
            said, reply = self.commit.end(run, endings, self.free, call)
        except redis.RedisError as exc:
            logger.warning("cannot keep %d results yet: %s", len(endings), " ".join(str(exc).split()))
            self._unkept.append((run, list(endings)))
            if call is not None and self.hold is not None:
                self.hold.unsure()
            return
        for ending, how in zip(endings, said, strict=True):
            self._noted(ending, how, runtime)
        self._counts[run.model] = self._counts.get(run.model, 0) + len(endings)
        self._flush_soon()
        if reply is not None and self.hold is not None:
            self.hold.arrived(reply)

    def _noted(self, ending: Ending, how: str, runtime: float) -> None:
        request = ending.request
        self._forget(request)
        if how == "REVOKED":
            self.events.revoked(request.id, expired=False)
        if how != "1":
            return
        if ending.status == "SUCCESS":
            worker_state.total_count[queues.TASK] += 1
            worker_state.all_total_count[0] += 1
            self.events.succeeded(request.id, ending.shown, runtime)
        elif ending.status == "FAILURE":
            logger.info("request %s failed: %s", request.id, ending.shown)
            self.events.failed(request.id, ending.shown)
        if ending.embed:
            self._follow(ending)

    def _waiting(self) -> list[Request]:
        """Take out every request that has not begun."""
        return [*self.aside, *(request for line in self.batcher.lines.values() for request in line.clear())]

    def _forget(self, request: Request) -> None:
        self.aside.discard(request)
        request.batch, request.ended = None, True
        worker_state.requests.pop(request.id, None)
        worker_state.reserved_requests.discard(request)
        worker_state.active_requests.discard(request)
        worker_state.scheduled_requests.discard(request)

    def _left(self, batch: Batch) -> Batch | None:
        """Take a batch out of the running ones; None where it was given back."""
        found = self.running.pop(batch.number, None)
        if found is not None:
            line = self.batcher.line(batch.model)
            line.running = max(0, line.running - 1)
        return found

    def _again(self, model: str, requests: list[Request], why: str) -> None:
        most = self._host.max_attempts(model)
        self.batcher.add_again(model, batching.pieces(requests, most - max(request.attempts for request in requests)))
        for request in requests:
            request.batch = None
            worker_state.active_requests.discard(request)
            self.events.retried(request.id, why)

    def _limits(self, requests: list[Request]) -> tuple[float | None, float | None]:
        own = self._host.time_limits(requests[0].model)
        asked = requests[0].limits if len(requests) == 1 else None
        if asked is None:
            return own
        hard, soft = (min((limit for limit in pair if limit), default=None) for pair in zip(own, asked, strict=True))
        return hard, soft

    def _run(self, batch: Batch) -> Run:
        now = self._now()
        return Run(
            batch.model,
            self._host.version(batch.model),
            self.hostname,
            now - (time.monotonic() - batch.began),
            now,
            len(batch.requests),
        )

    def _run_of(self, requests: list[Request]) -> Run:
        now = self._now()
        return Run(requests[0].model, "", self.hostname, now, now, len(requests))

    def _flush_soon(self) -> None:
        if not self._flushing and self.events.on:
            self._flushing = True
            self.later(DELAY_S, self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self.events.flush()


def _ending(request: Request, answer: Answered) -> Ending:
    status = "SUCCESS" if answer.kind == "ok" else "FAILURE"
    reason = _unreadable(answer) if status == "FAILURE" else ""
    return Ending(request, status, answer.result, answer.shown, answer.payload, answer.traceback, answer.embed, reason)


def _unreadable(answer: Answered) -> str:
    """Tell a body that is no request at all, which goes to the dead letters, from a request that is refused."""
    failure = msgspec.json.decode(answer.result, type=Failure)
    said = str((failure.exc_data or {}).get("reason", ""))
    return "not decodable" if failure.ours and said.startswith(UNREADABLE) else ""


def _revoked(request: Request, why: str = "revoked") -> Ending:
    result = {"exc_type": "TaskRevokedError", "exc_message": [why], "exc_module": "celery.exceptions"}
    return Ending(request, "REVOKED", msgspec.json.encode(result), why)


def _given_up(request: Request, error: BaseException, reason: str) -> Ending:
    said = list(error.args) if reason == "time limit" else [f"{error} gave up after {request.attempts + 1} attempts"]
    result = {"exc_type": type(error).__name__, "exc_message": said, "exc_module": type(error).__module__}
    return Ending(
        request, "FAILURE", msgspec.json.encode(result), f"{type(error).__name__}({said[0]!r})", reason=reason
    )
