"""Where a worker's requests come from: reserved in Redis under a lease, or delivered by another broker through kombu."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import redis

from mutirao import keyspace
from mutirao_worker.engine.leases import Demand, Leases
from mutirao_worker.engine.live_workers import LiveWorkers
from mutirao_worker.engine.model_copies import LEAVE_S, ModelCopies
from mutirao_worker.engine.queue_polling import Polling
from mutirao_worker.engine.request import Request, of_envelope, unreadable
from mutirao_worker.engine.script_client import ScriptCall, Then, warn_once

if TYPE_CHECKING:
    from mutirao_worker.engine.dispatcher import Dispatcher

logger = logging.getLogger(__name__)

# After a call that failed, Redis is left alone for this long.
RETRY_S = 0.5
# With more queues than this a worker first waits for a wakeup token: to look into all of them would cost more than to ask twice.
FEW_QUEUES = 8
# What has waited in this worker for this long is given back where another worker has a slot free.
RETURN_AFTER_S = 0.05


class LeasedSource:
    """Requests that this worker has reserved in Redis."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        leases: Leases,
        slots: Callable[[], int],
        admit: Callable[[Request], None],
        consumed: Callable[[], list[str]],
        polling: Polling,
        live_workers: LiveWorkers,
        worker_lost: Callable[[str], Exception],
    ) -> None:
        """Take the parts.

        Args:
            dispatcher: whom to offer requests to.
            leases: the reservations.
            slots: the pool's size.
            admit: called with each request that has come in.
            consumed: which queues are consumed now.
            polling: polls for producers that leave no wakeup token.
            live_workers: who else serves a model.
            worker_lost: makes the error of a request whose workers were lost.
        """
        self.queues = consumed
        self._token_queue: str | None = None
        self._admit = admit
        self._copies = ModelCopies(dispatcher.app.host, live_workers)
        self._pending_call: ScriptCall | None = None  # the reserving call that is on its way
        self._dispatcher = dispatcher
        self._next_call: ScriptCall | None = None  # the call that Redis runs after a wakeup token
        self._leases = leases
        self._slots = slots
        self._nonempty: set[str] = set()  # queues in which something was left when they were last looked at
        self._paused_until = 0.0
        self._polling = polling
        self._reserve_failure = ""  # why nothing could be reserved, as it was last logged
        self._return_scheduled = False
        self._renew_failure = ""  # why the lease could not be renewed, as it was last logged
        self._uncertain = False
        self._worker_lost = worker_lost

    def has_room(self, queue: str | None = None) -> bool:
        """Whether a request could be put to use now: one of this queue, or any."""
        if set(self.queues()) != self._leases.consumed:  # announced at once: other workers leave a share of its queues
            try:
                self.renew_and_adopt()
            except redis.RedisError as exc:
                logger.debug("cannot announce what is consumed: %s", exc)
        demands = self._demands()
        return bool(demands) if queue is None else queue in demands

    def reserve_call(self) -> Then | None:
        """Make the call that reserves more requests; None where none are wanted, or none were left: new ones come with a wakeup token."""
        if (call := self._make_call(self._promising_demands())) is None:
            return None
        self._pending_call = call

        def on_reply(reply: Any) -> None:
            if isinstance(reply, redis.RedisError):
                self.mark_uncertain()
            else:
                self.on_reserved(call, reply)
                self._dispatcher.dispatch()

        return call, on_reply

    def next_command(self) -> bytes | None:
        """Make the call that follows a wakeup token, packed, where it is known beforehand: for a slot that is free then, too."""
        demands = self._demands() if self._dispatcher.starved and not self._uncertain else {}
        if not 0 < len(demands) <= FEW_QUEUES:
            return None
        self._pending_call = self._next_call = call = self._make_call(demands, late=True)
        return None if call is None else self._leases.scripts.packed(call)

    def on_reply(self, queue: str | None, reply: Any) -> None:
        """Handle the reply to that call; what it reserved for a worker that is closing is given back before that leaves."""
        call, self._next_call = self._next_call, None
        self._call_done(call)
        if isinstance(reply, redis.exceptions.NoScriptError):
            self.on_wakeup(queue)
        elif isinstance(reply, redis.RedisError):
            self._on_reserve_failed(reply)
        elif reply is not None and call is not None and not self._dispatcher.closing:
            self._token_queue = queue
            self.on_reserved(call, reply, has_token=queue is not None)
            self._dispatcher.dispatch()

    def pull(self) -> None:
        """Take more requests, if more are wanted."""
        self._reserve(self._demands())

    def on_reserved(self, call: ScriptCall, reply: Any, *, has_token: bool = True) -> None:
        """Admit reserved requests; queues of those that came without a wakeup token, as stock clients send them, are polled from now on."""
        self._call_done(call)
        self._reserve_failure = ""
        reserved = self._leases.parse_reserved(call, reply)
        if reserved.lapsed:
            self.on_lease_lapsed()
        self._nonempty |= reserved.left
        dispatcher, now = self._dispatcher, self._leases.now()
        dispatcher.prerun_check.observe(reserved.cancelled, reserved.deadline)
        for key, envelope, why in reserved.gone:
            if (request := self._parse(0, key, envelope)) is not None:
                dispatcher.received([request])
                dispatcher.commit.ended(request, why)
        requests = [request for each in reserved.requests if (request := self._parse(*each)) is not None]
        dispatcher.received(requests)
        if silent := {request.key for request in requests if not has_token or request.headers.mutirao is None}:
            self._polling.note_silent(keyspace.queue_of(key.decode()) for key in silent)
        handed_over = self.hand_over(
            [request for request in requests if request.headers.refused_by and self._copies.has_refused(request)]
        )
        for request in requests:
            request.reserved_at = now
            if request not in handed_over:
                self._admit(request)
        if reserved.requests and not self._return_scheduled:
            self._return_scheduled = True
            dispatcher.call_later(RETURN_AFTER_S, self._return_to_idle_workers)

    def on_no_room(self, queue: str) -> None:
        """Note that requests wait in a queue for which there was no room."""
        self._nonempty.add(queue)

    def on_wakeup(self, queue: str | None) -> None:
        """Reserve requests because of a wakeup token, or, where none came, because some wait all the same."""
        if queue is not None:
            self._token_queue = queue
            self._nonempty.add(queue)
            self._reserve(self._promising_demands())
        elif self._has_requests():
            self._reserve(self._demands(), has_token=False)
        else:
            return
        self._dispatcher.dispatch()

    def renew_and_adopt(self) -> bool:
        """Renew the lease, adopt what lost workers held, and give back what was reserved in replies that were lost.

        Returns:
            Whether that was done; why Redis refuses it is logged once.

        Raises:
            redis.RedisError: Redis does not answer, so that no connection to it can be trusted; never while the worker is stopping.
        """
        try:
            self._renew_and_adopt()
        except redis.RedisError as exc:
            if not (self._dispatcher.closing or isinstance(exc, redis.ResponseError)):
                raise
            self._renew_failure = warn_once(logger, "cannot renew this worker's lease", exc, self._renew_failure)
            return False
        self._renew_failure = ""
        return True

    def on_lease_lapsed(self) -> None:
        """Drop what has not begun: the lease lapsed, so others have it."""
        logger.warning("this worker's lease had lapsed: what it had reserved is taken by others")
        self._dispatcher.forget_waiting()

    def mark_uncertain(self) -> None:
        """Note that a call may have reserved requests although its reply was lost; `renew_and_adopt` gives them back. Pause for a moment."""
        self._pending_call, self._uncertain = None, True
        self._paused_until = time.monotonic() + RETRY_S
        self._dispatcher.call_later(RETRY_S, self._dispatcher.dispatch)

    def return_requests(self, requests: Iterable[Request]) -> None:
        """Put requests back to the head of their queues."""
        self._leases.requeue([request.tag for request in requests])

    def hand_over(self, requests: Sequence[Request]) -> Sequence[Request]:
        """Give back requests that this worker, or its copy of their model, cannot answer where another's may, and leave them to it."""
        handed_over = [request for request in requests if self._copies.another_may_take(request)]
        for (model, digest), these in self._copies.grouped(handed_over).items():
            for request in these:
                self._dispatcher.commit.forget(request)
            self._copies.leave_to_others(keyspace.queue(model))
            try:
                self._leases.requeue([request.tag for request in these], refused_by=digest)
            except redis.RedisError as exc:
                logger.warning("cannot hand over %d requests of %s: %s", len(these), model, " ".join(str(exc).split()))
                self.mark_uncertain()
            self._dispatcher.call_later(LEAVE_S, self._dispatcher.slot_added)
        return handed_over

    def return_unacknowledged(self) -> int:
        """Put back what is reserved but not held: it came in a reply that was lost. Returns how many."""
        return self._leases.requeue([request.tag for request in self._dispatcher.held], all_but=True)

    def _renew_and_adopt(self) -> None:
        renewal = self._leases.renew_and_adopt(self.queues(), self._dispatcher.idle_slots)
        if renewal.lapsed:
            self.on_lease_lapsed()
        if renewal.adopted:
            logger.warning("adopted %d requests of workers that were lost", renewal.adopted)
        for key, envelope, worker in renewal.given_up:
            self._give_up(key, envelope, worker)
        if renewal.reserved > len(self._dispatcher.held):  # where a reply is on its way, it comes before the next time
            self._uncertain = True
        if self._uncertain and not self._pending_call:
            self._uncertain, self._paused_until = False, 0.0
            if returned := self.return_unacknowledged():
                logger.warning("gave back %d requests whose reservation was unacknowledged", returned)

    def _return_to_idle_workers(self) -> None:
        """Give back what waits for a busy slot while other workers have slots free and nothing to run.

        How long a batch takes is a prediction, so what was taken ahead in good faith may turn out to wait here for seconds.
        """
        dispatcher, now = self._dispatcher, time.monotonic()
        queues = {model: queue for model, queue in dispatcher.batcher.queues.items() if queue.count}
        self._return_scheduled = bool(queues) and not dispatcher.closing
        if not self._return_scheduled:
            return
        dispatcher.call_later(RETURN_AFTER_S, self._return_to_idle_workers)
        late = [model for model, queue in queues.items() if queue.waits_since(now - RETURN_AFTER_S)]
        if not late or dispatcher.free_slots or now < self._paused_until:
            return
        try:
            idle = self._leases.idle_slots(map(keyspace.queue, late))
            for model, slots in zip(late, idle, strict=True):
                if slots:
                    self._nonempty.add(keyspace.queue(model))
                    dispatcher.return_waiting(model)
        except redis.RedisError as exc:
            logger.warning("cannot give back what waits for a slot: %s", " ".join(str(exc).split()))
            self.mark_uncertain()

    def _has_requests(self) -> bool:
        """Whether anything waits that is wanted."""
        try:
            return self._leases.waiting(self._demands())
        except redis.RedisError as exc:
            logger.debug("cannot look into the queues: %s", exc)
            self.mark_uncertain()
            return False

    def _promising_demands(self) -> dict[str, Demand]:
        """Choose the queues that are known to hold something: a look into the others would be for nothing."""
        return {
            queue: demand
            for queue, demand in self._demands().items()
            if queue in self._nonempty or queue in self._polling
        }

    def _reserve(self, demands: dict[str, Demand], *, has_token: bool = True) -> None:
        if (call := self._make_call(demands)) is None:
            return
        try:
            reply = self._leases.scripts.call(*call)
        except redis.RedisError as exc:
            self._on_reserve_failed(exc)
            return
        self.on_reserved(call, reply, has_token=has_token)

    def _on_reserve_failed(self, exc: redis.RedisError) -> None:
        self._reserve_failure = warn_once(logger, "cannot take requests", exc, self._reserve_failure)
        self.mark_uncertain()

    def _make_call(self, demands: dict[str, Demand], *, late: bool = False) -> ScriptCall | None:
        if not demands:
            return None
        self._nonempty -= demands.keys()
        free = self._dispatcher.free_slots
        return self._leases.reserve_call(demands, free, self._dispatcher.idle_slots - free, late=late)

    def _call_done(self, call: ScriptCall | None) -> None:
        """Note that a call has been answered; another may be on its way since, where it was believed to be lost."""
        if self._pending_call is call:
            self._pending_call = None

    def _demands(self) -> dict[str, Demand]:
        dispatcher = self._dispatcher
        if self._pending_call or dispatcher.closing or time.monotonic() < self._paused_until:
            return {}
        slots, free, demands = self._slots(), dispatcher.free_slots, {}
        for queue in sorted(self.queues(), key=lambda queue: queue != self._token_queue):
            model = keyspace.model_of(queue) or queue
            cap, ahead = dispatcher.batcher.room(model, free, slots)
            if self._copies.is_left_to_others(queue):
                continue
            if (free and cap) or ahead:
                demands[queue] = Demand(cap, ahead, dispatcher.batcher.queue(model).count)
        return demands

    def _parse(self, tag: int, key: bytes, envelope: bytes) -> Request | None:
        """Make a request of an envelope; a message that is not one becomes a dead letter, and a failed job where it has an id."""
        try:
            return of_envelope(self._dispatcher, tag, key, envelope)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if tag:
                request, error = unreadable(self._dispatcher, tag, key, envelope)
                self._dispatcher.refuse(request, error, error.reason)
            return None

    def _give_up(self, key: bytes, envelope: bytes, worker: str) -> None:
        """End a request that had been delivered too often, where the script that found it could not: records are elsewhere."""
        logger.error("a request of %s was delivered too often; it is in the dead letters", worker)
        if self._dispatcher.records.fenced:
            return
        request = self._parse(0, key, envelope) or unreadable(self._dispatcher, 0, key, envelope)[0]
        text = f"gave up after {request.deliveries} deliveries: each worker that took it was lost"
        self._dispatcher.refuse(request, self._worker_lost(text), "worker lost")


class BrokerSource:
    """Requests that kombu delivers and acknowledges: it takes them by itself, as many as the prefetch count allows."""

    def __init__(self, dispatcher: Dispatcher, slots: Callable[[], int], prefetch: Callable[[int], None]) -> None:
        """Take whose room counts, and the way to set the prefetch count."""
        self._dispatcher = dispatcher
        self._prefetch = prefetch
        self._slots = slots

    def reserve_call(self) -> None:
        """Nothing is called: kombu takes them by itself."""

    def pull(self) -> None:
        """Set the prefetch count to what there is room for: the next batch of each slot, at most about a second of work."""
        slots, batcher = self._slots(), self._dispatcher.batcher
        room = sum(
            sum(batcher.room(model, self._dispatcher.free_slots, slots)) * (1 if queue.service_time.has_data else slots)
            for model, queue in batcher.queues.items()
        )
        self._prefetch(max(2 * slots, room + len(self._dispatcher.held)))

    def hand_over(self, requests: Sequence[Request]) -> Sequence[Request]:  # noqa: ARG002
        """Nothing is handed over: on the way back to its queue a message keeps no note of who has refused it."""
        return ()

    def return_unacknowledged(self) -> int:
        """Nothing is given back: the broker does it with what is not acknowledged."""
        return 0

    def return_requests(self, requests: Iterable[Request]) -> None:
        """Put requests back into their queues."""
        for request in requests:
            if not request.acknowledged:
                request.acknowledged = True
                request.message.reject_log_error(logger, self._dispatcher.records.connection_errors, requeue=True)
