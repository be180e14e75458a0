"""Ending requests: each result and its acknowledgement, for a whole batch at once.

Where requests are reserved and results are kept on the same Redis, both are one step, fenced by the reservation. Elsewhere
(another broker, or a result store of its own) results come first and acknowledgements after: what is lost in between runs again,
and the first result stays.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import logging
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import redis

from mutirao import keyspace
from mutirao.dead_letters import DeadLetter
from mutirao.settings import Settings
from mutirao_worker.engine.leases import Leases, iso_now
from mutirao_worker.engine.outcome import BatchRun, Outcome
from mutirao_worker.engine.script_client import Call, ScriptClient, connect

if TYPE_CHECKING:
    from mutirao_worker.engine.request import Request

logger = logging.getLogger(__name__)

# What Redis says while something passes that is not the call's fault: who asks again is answered one day.
_PASSING = re.compile(
    r"\b(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOAUTH|NOGOODSLAVE|NOPERM|NOREPLICAS|READONLY|TRYAGAIN|UNBLOCKED)\b"
)

NULL = b"null"
STATUS = {"SUCCESS": b"SUCCESS", "FAILURE": b"FAILURE", "REVOKED": b"REVOKED"}


class Commit:
    """Ends requests, wherever they and their results are kept.

    Attributes:
        fenced: results and acknowledgements are one step.
        connection_errors: what an acknowledgement raises where the broker is away.
    """

    def __init__(self, settings: Settings, reservations: Leases | None) -> None:
        """Take what this worker has reserved; None where kombu delivers and acknowledges."""
        self.connection_errors: tuple[type[Exception], ...] = ()
        self.fenced = reservations is not None and not settings.separate_results
        self._reservations = reservations
        self._kept = math.ceil(settings.result_ttl_s)
        self.results = (
            reservations.scripts
            if reservations is not None and self.fenced
            else ScriptClient(connect(settings.result_url, settings))
        )
        if reservations is not None:
            self.results.meanwhile.append(reservations.keep)

    def end(
        self, run: BatchRun, endings: Sequence[Outcome], free: int = 0, then: Call | None = None
    ) -> tuple[list[str], Any]:
        """End requests, and call another script of the broker's in the same round trip.

        Returns:
            For each "1" where it was committed, or the status in which it had already ended; and the other script's reply.

        Raises:
            redis.RedisError: Redis did not answer; trying again does no harm.
        """
        call = self._call(run, endings, free)
        if self.fenced:
            replies = self.results.call_all([call] if then is None else [call, then])
            return [said.decode() for said in replies[0]], replies[-1] if then is not None else None
        said = [each.decode() for each in self.results.call(*call)]
        self._acknowledge([ending.request for ending in endings])
        return said, self._reservations.scripts.call(*then) if then is not None and self._reservations else None

    def post(
        self, run: BatchRun, endings: Sequence[Outcome], free: int, then: Call | None, heard: Callable[[Any], None]
    ) -> int:
        """End requests without waiting for Redis; only where results and acknowledgements are one step.

        Args:
            run: as `end` takes it.
            endings: as `end` takes it.
            free: as `end` takes it.
            then: as `end` takes it.
            heard: takes what `end` returns, or the error that it raises.

        Returns:
            The descriptor that can be read once there is something to hear: see `Scripts.hear`.

        Raises:
            redis.RedisError: it could not be sent.
        """
        call = self._call(run, endings, free)

        def read(replies: list[Any] | redis.RedisError) -> None:
            if isinstance(replies, redis.RedisError):
                heard(replies)
            else:
                heard(([said.decode() for said in replies[0]], replies[1] if then is not None else None))

        return self.results.post([call] if then is None else [call, then], read)

    def answers(self) -> bool:
        """Whether Redis answers at all."""
        try:
            return bool(self.results.client.ping())
        except redis.RedisError:
            return False

    def vet(self, requests: Sequence[Request]) -> list[str]:
        """Look at records a last time: for each "" to run it, or why not (expired, or the status in which it has ended).

        Raises:
            redis.RedisError: Redis did not answer.
        """
        asked = [part for request in requests for part in (request.id, request.reply)]
        return [why.decode() for why in self.results.call("prerun_check", (), (self._kept, iso_now(), *asked))[1:]]

    def started(self, run: BatchRun, requests: Sequence[Request]) -> None:
        """Say of requests that they run.

        Raises:
            redis.RedisError: Redis did not answer.
        """
        ids = [request.id for request in requests]
        fields = f',"started_at":{run.started_at:.4f},"worker":{_text(run.worker)},"batch":{run.batch}'
        self.results.call("mark_started", (), (self._kept, run.model, fields, *ids))

    def retried(self, worker: str, why: str, requests: Sequence[Request]) -> None:
        """Say of requests that they are to run again, and why.

        Raises:
            redis.RedisError: Redis did not answer.
        """
        self.results.call("count_retry", (), (worker, why, *(request.id for request in requests)))

    def payloads(self, requests: Sequence[Request]) -> dict[str, bytes | None]:
        """Read the tensors that lie beside requests, by id; None for those that are gone.

        Raises:
            redis.RedisError: Redis did not answer.
        """
        ids = [request.id for request in requests if request.beside]
        found: Any = self.results.client.mget([keyspace.payload_key(id, "in") for id in ids]) if ids else []
        return dict(zip(ids, found, strict=True))

    def discard(self, requests: Sequence[Request]) -> None:
        """Acknowledge requests that ended before they could run.

        Raises:
            redis.RedisError: Redis did not answer.
        """
        self._acknowledge(requests)

    def close(self) -> None:
        """Close the connections."""
        self.results.close()

    def _call(self, run: BatchRun, endings: Sequence[Outcome], free: int) -> Call:
        held = self._reservations if self.fenced else None
        keys = (held.key if held else "", keyspace.DEAD, keyspace.DEAD_INDEX, keyspace.SLOTS)
        fields = (
            f',"started_at":{run.started_at:.4f},"finished_at":{run.finished_at:.4f},"worker":{_text(run.worker)}'
            f',"version":{_text(run.version)},"batch":{run.batch}'
        )
        date_done = iso_now().encode()
        beside = int(any(ending.request.beside for ending in endings))
        requests: list[Any] = []
        raws: list[Any] = []
        letters: list[Any] = []
        for place, ending in enumerate(endings, 1):
            request, trace = ending.request, NULL
            if ending.traceback is not None or ending.reason:
                trace, letter = _rarely(ending, run)
                letters += (place, letter) if letter else ()
            if ending.payload:
                raws += (place, ending.payload)
            head = b'{"status":"%b","task_id":"%b","result":%b,"traceback":%b,"date_done":"%b","children":%b,"job":' % (
                STATUS[ending.status], request.id.encode(), ending.result, trace, date_done, ending.children or b"[]",
            )  # fmt: skip
            requests += (
                b"%d %b" % (request.tag, request.key) if self.fenced else b"",
                request.id,
                b"" if request.headers.ignore_result else head,
                b',"attempts":%d,"reserved_at":%.4f,"place":%d' % (request.deliveries, request.reserved_at, place),
            )
        clients = [
            part
            for client, same in itertools.groupby(ending.request.reply for ending in endings)
            for part in (sum(1 for _ in same), client)
        ]
        first = (held.identity if held else "", self._kept, run.model, fields, beside, free)
        return "commit", keys, arguments(first, requests, clients, raws, letters)

    def _acknowledge(self, requests: Sequence[Request]) -> None:
        if self._reservations is not None:
            self._reservations.drop(request.field for request in requests)
            return
        try:
            for request in requests:
                if not request.acknowledged:
                    request.acknowledged = True
                    request.message.ack()
        except self.connection_errors as exc:
            logger.warning("the broker is away, and will deliver again what has been answered: %s", exc)


def refused_for_good(error: redis.RedisError) -> bool:
    """Whether Redis has refused this very call, and will again: it has no room for it, or the call breaks a rule."""
    if isinstance(error, redis.exceptions.NoPermissionError | redis.exceptions.NoScriptError):
        return False
    return isinstance(error, redis.ResponseError) and not _PASSING.search(str(error))


def arguments(
    first: Sequence[Any],
    requests: Sequence[Any],
    clients: Sequence[Any],
    raws: Sequence[Any] = (),
    letters: Sequence[Any] = (),
) -> tuple[Any, ...]:
    """Lay out the arguments of the script `commit`: what it says of requests, 4 each, and of the rest, 2 each, with their numbers."""
    return (*first, len(requests) // 4, len(clients) // 2, len(raws) // 2, *requests, *clients, *raws, *letters)


def letter(
    id: str, key: str, raw: bytes, *, reason: str, message: str, at: float, worker: str, attempts: int
) -> DeadLetter:
    """Make a dead letter of an envelope; one without an id of its own is named by its content."""
    try:
        envelope, packed = raw.decode(), False
    except UnicodeDecodeError:
        envelope, packed = base64.b64encode(raw).decode(), True
    return DeadLetter(
        id=id or "x-" + _digest(raw),
        task_id=id,
        model=keyspace.model_of(keyspace.queue_of(key)) or "",
        queue=key,
        reason=reason,
        message=message,
        at=at,
        worker=worker,
        attempts=attempts,
        envelope=envelope,
        envelope_base64=packed,
    )


def _rarely(ending: Outcome, run: BatchRun) -> tuple[bytes, bytes]:
    """What few endings have: the model's traceback, and a dead letter."""
    if ending.traceback is None and not ending.reason:
        return NULL, b""
    trace = msgspec.json.encode(ending.traceback)
    if not ending.reason:
        return trace, b""
    request = ending.request
    dead = letter(
        request.id,
        request.key.decode(),
        request.envelope(),
        reason=ending.reason,
        message=ending.said or ending.shown,
        at=run.finished_at,
        worker=run.worker,
        attempts=request.deliveries,
    )
    return trace, msgspec.json.encode(dead)


def _text(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()
