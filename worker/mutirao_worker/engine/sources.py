"""Where a worker's requests come from: reserved under a lease (the engine), or delivered by kombu (any other broker)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import redis

from mutirao import keyspace
from mutirao_worker.engine.leases import Demand, Leases
from mutirao_worker.engine.model_copies import LEAVE_S, Copies
from mutirao_worker.engine.queue_polling import Polling
from mutirao_worker.engine.request import Request, of_envelope, unreadable
from mutirao_worker.engine.script_client import Call, warn_once

if TYPE_CHECKING:
    from mutirao_worker.engine.dispatcher import Dispatcher

logger = logging.getLogger(__name__)

# After a call that failed, Redis is left alone for this long.
AGAIN_S = 0.5
# With more queues than this a worker first hears which bell has rung: to look into all of them would cost more than to ask twice.
FEW_QUEUES = 8
# What has waited in this worker for so long is looked after: another worker may have a slot free by now.
SPARE_S = 0.05


class LeasedSource:
    """Requests that this worker has reserved in Redis."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        reservations: Leases,
        slots: Callable[[], int],
        admit: Callable[[Request], None],
        queues_of: Callable[[], list[str]],
        polling: Polling,
        worker_lost: Callable[[str], Exception],
    ) -> None:
        """Take the parts.

        Args:
            dispatcher: whom to offer requests to.
            reservations: the hold on them.
            slots: the pool's size.
            admit: what each request passes on its way in.
            queues_of: which queues are consumed now.
            polling: what looks after producers that ring no bell.
            worker_lost: makes the error of a request whose workers were lost.
        """
        self.queues = queues_of
        self._first: str | None = None
        self._admit = admit
        self._copies = Copies(dispatcher.app.host, reservations)
        self._asked: Call | None = None  # the call that takes requests and is on its way
        self._dispatcher = dispatcher
        self._following: Call | None = None  # the call that Redis runs once a bell has rung
        self._reservations = reservations
        self._slots = slots
        self._left: set[str] = set()  # queues in which something was left when they were last looked at
        self._paused_until = 0.0
        self._polling = polling
        self._refusal = ""  # why nothing could be taken, as it was last told
        self._sparing = False
        self._unleased = ""  # why the lease could not be renewed, as it was last told
        self._unsure = False
        self._worker_lost = worker_lost

    def wants(self, queue: str | None = None) -> bool:
        """Whether a request could be put to use now: one of this queue, or any."""
        if set(self.queues()) != self._reservations.consumed:
            self._tell()
        rooms = self._rooms()
        return bool(rooms) if queue is None else queue in rooms

    def reserving(self) -> Call | None:
        """Make the call that takes more requests; None where none are wanted, or where none were left: a bell tells of new ones."""
        if (call := self._call(self._promising())) is not None:
            self._asked = call
        return call

    def following(self) -> bytes | None:
        """Make the call that follows a bell, packed, where it is known before one has rung: for a slot that is free then, too."""
        rooms = self._rooms() if self._dispatcher.hungry and not self._unsure else {}
        if not 0 < len(rooms) <= FEW_QUEUES:
            return None
        self._asked = self._following = call = self._call(rooms, late=True)
        return None if call is None else self._reservations.scripts.packed(call)

    def followed(self, queue: str | None, reply: Any) -> None:
        """Take what that call brought."""
        call, self._following = self._following, None
        self._done(call)
        if isinstance(reply, redis.exceptions.NoScriptError):
            self.woken(queue)
        elif isinstance(reply, redis.RedisError):
            self._untaken(reply)
        elif reply is not None and call is not None:
            self._first = queue
            self.arrived(call, reply, rang=queue is not None)
            self._dispatcher.dispatch()

    def pull(self) -> None:
        """Take more requests, if more are wanted."""
        self._take(self._rooms())

    def arrived(self, call: Call, reply: Any, *, rang: bool = True) -> None:
        """Offer what a reserve brought; of what no bell told, and of every request of a stock client, others follow in silence."""
        self._done(call)
        self._refusal = ""
        taken = self._reservations.taken(call, reply)
        if taken.lapsed:
            self.lapsed()
        self._left |= taken.left
        dispatcher, now = self._dispatcher, self._reservations.now()
        dispatcher.vetting.heard(taken.cancelled, taken.deadline)
        for key, envelope, why in taken.gone:
            if (request := self._read(0, key, envelope)) is not None:
                dispatcher.received([request])
                dispatcher.outcomes.ended(request, why)
        read = [request for each in taken.requests if (request := self._read(*each)) is not None]
        dispatcher.received(read)
        if silent := {request.key for request in read if not rang or request.headers.mutirao is None}:
            self._polling.met(keyspace.queue_of(key.decode()) for key in silent)
        handed = self.hand_over(
            [request for request in read if request.headers.refused_by and self._copies.refuse(request)]
        )
        for request in read:
            request.reserved_at = now
            if request not in handed:
                self._admit(request)
        if taken.requests and not self._sparing:
            self._sparing = True
            dispatcher.later(SPARE_S, self._spare)

    def refused(self, queue: str) -> None:
        """Note that something waits for which there was no room."""
        self._left.add(queue)

    def woken(self, queue: str | None) -> None:
        """Take requests because a bell rang, or, where none did, because something waits all the same."""
        if queue is not None:
            self._first = queue
            self._left.add(queue)
            self._take(self._promising())
        elif self._anything():
            self._take(self._rooms(), rang=False)
        else:
            return
        self._dispatcher.dispatch()

    def tend(self) -> bool:
        """Renew the lease, adopt what lost workers held, and settle what could not be settled while Redis was away.

        Returns:
            Whether that was done; why Redis refuses it is told once.

        Raises:
            redis.RedisError: Redis does not answer, so that no connection to it can be trusted; never while the worker is stopping.
        """
        try:
            self._tend()
        except redis.RedisError as exc:
            if not (self._dispatcher.closing or isinstance(exc, redis.ResponseError)):
                raise
            self._unleased = warn_once(logger, "cannot renew this worker's lease", exc, self._unleased)
            return False
        self._unleased = ""
        return True

    def lapsed(self) -> None:
        """Drop what has not begun: the lease lapsed, so others have it."""
        logger.warning("this worker's lease had lapsed: what it had reserved is taken by others")
        self._dispatcher.forget_waiting()

    def unsure(self) -> None:
        """Note that something may have been reserved unheard; `tend` gives it back. Nothing more is taken for a moment."""
        self._asked, self._unsure = None, True
        self._paused_until = time.monotonic() + AGAIN_S
        self._dispatcher.later(AGAIN_S, self._dispatcher.dispatch)

    def give_back(self, requests: Iterable[Request]) -> None:
        """Put requests back to the head of their queues."""
        self._reservations.give_back([request.tag for request in requests])

    def hand_over(self, requests: Sequence[Request]) -> Sequence[Request]:
        """Give back requests that this worker's copy of their model refuses, where another's may take them, and leave them to it."""
        handed = [request for request in requests if self._copies.others(request)]
        for (model, digest), these in self._copies.grouped(handed).items():
            for request in these:
                self._dispatcher.outcomes.forget(request)
            self._copies.leave(keyspace.queue(model))
            try:
                self._reservations.give_back([request.tag for request in these], refused_by=digest)
            except redis.RedisError as exc:
                logger.warning("cannot hand over %d requests of %s: %s", len(these), model, " ".join(str(exc).split()))
                self.unsure()
            self._dispatcher.later(LEAVE_S, self._dispatcher.grown)
        return handed

    def give_back_unheard(self) -> int:
        """Put back what is reserved and not held: what came in a reply that nobody has read. Returns how many."""
        return self._reservations.give_back([request.tag for request in self._dispatcher.held], all_but=True)

    def _tell(self) -> None:
        """Have others know at once what is consumed here: they leave a share of it."""
        try:
            self.tend()
        except redis.RedisError as exc:
            logger.debug("cannot say what is consumed: %s", exc)

    def _tend(self) -> None:
        found = self._reservations.tend(self.queues(), self._dispatcher.idle)
        if found.lapsed:
            self.lapsed()
        if found.adopted:
            logger.warning("adopted %d requests of workers that were lost", found.adopted)
        for key, envelope, worker in found.given_up:
            self._give_up(key, envelope, worker)
        if found.reserved > len(self._dispatcher.held):  # or what is on its way will be heard before the next time
            self._unsure = True
        if self._unsure and not self._asked:
            self._unsure, self._paused_until = False, 0.0
            if back := self.give_back_unheard():
                logger.warning("gave back %d requests that were reserved unheard", back)

    def _spare(self) -> None:
        """Give back what waits for a busy slot while other workers have slots free and nothing to run.

        How long a batch takes is foretold, so what was taken ahead in good faith may turn out to wait here for seconds.
        """
        dispatcher, now = self._dispatcher, time.monotonic()
        lines = {model: line for model, line in dispatcher.batcher.lines.items() if line.count}
        self._sparing = bool(lines) and not dispatcher.closing
        if not self._sparing:
            return
        dispatcher.later(SPARE_S, self._spare)
        late = [model for model, line in lines.items() if line.waits_since(now - SPARE_S)]
        if not late or dispatcher.free or now < self._paused_until:
            return
        try:
            idle = self._reservations.idle(map(keyspace.queue, late))
            for model, slots in zip(late, idle, strict=True):
                if slots:
                    self._left.add(keyspace.queue(model))
                    dispatcher.spare(model)
        except redis.RedisError as exc:
            logger.warning("cannot give back what waits for a slot: %s", " ".join(str(exc).split()))
            self.unsure()

    def _anything(self) -> bool:
        """Whether anything waits that is wanted."""
        try:
            return self._reservations.waiting(self._rooms())
        except redis.RedisError as exc:
            logger.debug("cannot look into the queues: %s", exc)
            self.unsure()
            return False

    def _promising(self) -> dict[str, Demand]:
        """Choose the queues that hold something, as far as is known: a look into the others would be for nothing."""
        return {queue: room for queue, room in self._rooms().items() if queue in self._left or queue in self._polling}

    def _take(self, rooms: dict[str, Demand], *, rang: bool = True) -> None:
        if (call := self._call(rooms)) is None:
            return
        try:
            reply = self._reservations.scripts.call(*call)
        except redis.RedisError as exc:
            self._untaken(exc)
            return
        self.arrived(call, reply, rang=rang)

    def _untaken(self, exc: redis.RedisError) -> None:
        self._refusal = warn_once(logger, "cannot take requests", exc, self._refusal)
        self.unsure()

    def _call(self, rooms: dict[str, Demand], *, late: bool = False) -> Call | None:
        if not rooms:
            return None
        self._left -= rooms.keys()
        free = self._dispatcher.free
        return self._reservations.reserving(rooms, free, self._dispatcher.idle - free, late=late)

    def _done(self, call: Call | None) -> None:
        """Note that a call has been heard of; another may be on its way since, where it was believed to be lost."""
        if self._asked is call:
            self._asked = None

    def _rooms(self) -> dict[str, Demand]:
        dispatcher = self._dispatcher
        if self._asked or dispatcher.closing or time.monotonic() < self._paused_until:
            return {}
        slots, free, rooms = self._slots(), dispatcher.free, {}
        for queue in sorted(self.queues(), key=lambda queue: queue != self._first):
            model = keyspace.model_of(queue) or queue
            cap, ahead = dispatcher.batcher.room(model, free, slots)
            if self._copies.left(queue):
                continue
            if (free and cap) or ahead:
                rooms[queue] = Demand(cap, ahead, dispatcher.batcher.line(model).count)
        return rooms

    def _read(self, tag: int, key: bytes, envelope: bytes) -> Request | None:
        """Make a request of an envelope; what is none goes to the dead letters, and where it has an id, its client is told."""
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
        if self._dispatcher.commit.fenced:
            return
        request = self._read(0, key, envelope) or unreadable(self._dispatcher, 0, key, envelope)[0]
        text = f"gave up after {request.deliveries} deliveries: each worker that took it was lost"
        self._dispatcher.refuse(request, self._worker_lost(text), "worker lost")


class ClosedSource:
    """Listens to no bell: the worker is stopping. What a call still takes is given back before the worker leaves."""

    def unsure(self) -> None:
        """What was taken unheard is given back before the worker leaves."""

    def wants(self, queue: str | None = None) -> bool:  # noqa: ARG002
        return False

    def refused(self, queue: str) -> None:
        """Nothing is taken any more."""

    def woken(self, queue: str | None) -> None:
        """Nothing is taken any more."""

    def following(self) -> None:
        """Nothing is taken any more."""

    def followed(self, queue: str | None, reply: Any) -> None:
        """Nothing is taken any more."""


class BrokerSource:
    """Requests that kombu delivers and acknowledges: it takes them by itself, as many as the prefetch count allows."""

    def __init__(self, dispatcher: Dispatcher, slots: Callable[[], int], prefetch: Callable[[int], None]) -> None:
        """Take whose room counts, and the way to set the prefetch count."""
        self._dispatcher = dispatcher
        self._prefetch = prefetch
        self._slots = slots

    def reserving(self) -> None:
        """Nothing is called: kombu takes them by itself."""

    def arrived(self, call: Call, reply: Any) -> None:
        """Nothing came."""

    def unsure(self) -> None:
        """Nothing is reserved unheard: the broker gives back what is not acknowledged."""

    def pull(self) -> None:
        """Let as many come as there is room for: the next batch of each slot, and no more than about a second of work."""
        slots, batcher = self._slots(), self._dispatcher.batcher
        room = sum(
            sum(batcher.room(model, self._dispatcher.free, slots)) * (1 if line.fit.known else slots)
            for model, line in batcher.lines.items()
        )
        self._prefetch(max(2 * slots, room + len(self._dispatcher.held)))

    def hand_over(self, requests: Sequence[Request]) -> Sequence[Request]:  # noqa: ARG002
        """Nothing is handed over: on the way back to its queue a message keeps no note of who has refused it."""
        return ()

    def give_back_unheard(self) -> int:
        """Nothing is unheard: the broker gives back itself what is not acknowledged."""
        return 0

    def give_back(self, requests: Iterable[Request]) -> None:
        """Put requests back into their queues."""
        for request in requests:
            if not request.acknowledged:
                request.acknowledged = True
                request.message.reject_log_error(logger, self._dispatcher.connection_errors, requeue=True)
