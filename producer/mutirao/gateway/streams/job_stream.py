"""Stream a job's steps as server-sent events: each once, in order, with an id from which a client can resume."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from mutirao import job_history, keyspace
from mutirao.client.job import JobHandle
from mutirao.client.waiter import Completions, Waiter
from mutirao.gateway.auth.authenticator import Caller
from mutirao.gateway.responses import response
from mutirao.gateway.responses.response import EventStream, Response
from mutirao.gateway.state.gateway import Gateway
from mutirao.wire.messages import JobRecord

KEEP_ALIVE_S = 15.0
_ALIVE = b": still here\n\n"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a job.

    Attributes:
        id: the job.
        step: what happened: submitted, reserved, batched, run, committed, ...
        at: when, in seconds since the epoch by Redis's clock.
        says: the rest of the sentence.
        status: the job's state as of now.
    """

    id: str
    step: str
    at: float
    says: str
    status: str


Mark = tuple[int, int]
_RANKS = {"submitted": 0, "reserved": 1, "batched": 2, "run": 3}
_END_RANK, _OVER_RANK = 4, 5
# Steps that end a delivery; the next step belongs to the next one.
_OVER = frozenset({"lost", "given back", "given up", "replayed"})


def answer(gateway: Gateway, caller: Caller, record: JobRecord, last_seen: str) -> Response:
    """Return the stream of a job's steps after the last event that the client saw."""
    last = _parse_mark(last_seen)
    if record.done and last_seen and not any(mark > last for mark, _ in steps(record)):
        return response.nothing()
    stream = JobStream(record)
    return EventStream(stream.pieces(gateway, last), gateway.hold_open(stream, caller))


def steps(record: JobRecord) -> list[tuple[Mark, Step]]:
    """Number a job's steps by their delivery and their place in it: a step keeps its number, whatever is recorded later."""
    numbered: list[tuple[Mark, Step]] = []
    delivery = 0
    for moment in job_history.steps(record):
        over = moment.name in _OVER
        mark = (delivery, _OVER_RANK if over else _RANKS.get(moment.name, _END_RANK))
        step = Step(
            id=keyspace.unqualified(record.task_id),
            step=moment.name,
            at=moment.at,
            says=moment.text,
            status=record.state,
        )
        numbered.append((mark, step))
        delivery += over
    return numbered


def event(mark: Mark, step: Step) -> bytes:
    """Encode one event."""
    name = step.step.replace(" ", "-")
    return b"id: %d.%d\nevent: %b\ndata: %b\n\n" % (*mark, name.encode(), msgspec.json.encode(step))


class JobStream:
    """One stream: it is given its job's records, and yields the steps that are new."""

    def __init__(self, record: JobRecord) -> None:
        """Take the job as it is now."""
        self.id = record.task_id
        self._records: asyncio.Queue[JobRecord | None] = asyncio.Queue()
        self._records.put_nowait(record)

    def give_up(self, why: Exception | None = None) -> None:
        """End the stream: the client resumes from its last event at another gateway. With an error, the steps that are left are dropped."""
        while why is not None and not self._records.empty():
            self._records.get_nowait()
        self._records.put_nowait(None)

    def on_record(self, record: JobRecord) -> None:
        """Take the job's latest record."""
        self._records.put_nowait(record)

    async def pieces(self, gateway: Gateway, last: Mark) -> AsyncIterator[bytes]:
        """Yield events until the job has ended."""
        wait = Waiter([JobHandle(self.id)], self._on_ended)
        sent: set[Mark] = set()  # the record of a running job does not say yet when it was reserved
        gateway.listener.add(wait)
        gateway.record_poller.add(self)
        try:
            while True:
                try:
                    async with asyncio.timeout(KEEP_ALIVE_S):
                        record = await self._records.get()
                except TimeoutError:
                    yield _ALIVE
                    continue
                if record is None:
                    return
                for mark, step in steps(record):
                    if mark > last and mark not in sent:
                        sent.add(mark)
                        yield event(mark, step)
                if record.done:
                    gateway.recent.forget([self.id])
                    return
        finally:
            gateway.record_poller.discard(self)
            gateway.listener.remove(wait)

    def _on_ended(self, ended: Completions) -> None:
        ((_, found),) = ended
        self._records.put_nowait(found if isinstance(found, JobRecord) else None)


def _parse_mark(text: str) -> Mark:
    """Parse the id of an event; an id of another form counts as before all events."""
    at, _, rank = text.partition(".")
    if at.isascii() and at.isdigit() and rank.isascii() and rank.isdigit() and len(text) < 40:
        return int(at), int(rank)
    return (-1, 0)
