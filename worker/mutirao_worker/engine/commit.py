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
from mutirao_worker.engine.script_client import ScriptCall, ScriptClient, connect

if TYPE_CHECKING:
    from mutirao_worker.engine.request import Request

logger = logging.getLogger(__name__)

# What Redis says while something passes that is not the call's fault: who asks again is answered one day.
_TRANSIENT = re.compile(
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

    def __init__(self, settings: Settings, leases: Leases | None) -> None:
        """Take what this worker has reserved; None where kombu delivers and acknowledges."""
        self.connection_errors: tuple[type[Exception], ...] = ()
        self.fenced = leases is not None and not settings.separate_results
        self._leases = leases
        self._result_ttl_s = math.ceil(settings.result_ttl_s)
        self.results = (
            leases.scripts
            if leases is not None and self.fenced
            else ScriptClient(connect(settings.result_url, settings))
        )
        if leases is not None:
            self.results.meanwhile.append(leases.keep_alive)

    def end(
        self, run: BatchRun, outcomes: Sequence[Outcome], free: int = 0, then: ScriptCall | None = None
    ) -> tuple[list[str], Any]:
        """End requests, and call another script of the broker's in the same round trip.

        Returns:
            For each "1" where it was committed, or the status in which it had already ended; and the other script's reply.

        Raises:
            redis.RedisError: Redis did not answer; trying again does no harm.
        """
        call = self._call(run, outcomes, free)
        if self.fenced:
            replies = self.results.call_all([call] if then is None else [call, then])
            return [said.decode() for said in replies[0]], replies[-1] if then is not None else None
        said = [each.decode() for each in self.results.call(*call)]
        self._acknowledge([outcome.request for outcome in outcomes])
        return said, self._leases.scripts.call(*then) if then is not None and self._leases else None

    def post(
        self,
        run: BatchRun,
        outcomes: Sequence[Outcome],
        free: int,
        then: ScriptCall | None,
        on_outcome: Callable[[Any], None],
    ) -> int:
        """End requests without waiting for Redis; only where results and acknowledgements are one step.

        Args:
            run: as `end` takes it.
            outcomes: as `end` takes it.
            free: as `end` takes it.
            then: as `end` takes it.
            on_outcome: takes what `end` returns, or the error that it raises.

        Returns:
            The descriptor that can be read once there are replies: see `ScriptClient.read_replies`.

        Raises:
            redis.RedisError: it could not be sent.
        """
        call = self._call(run, outcomes, free)

        def read(replies: list[Any] | redis.RedisError) -> None:
            if isinstance(replies, redis.RedisError):
                on_outcome(replies)
            else:
                on_outcome(([said.decode() for said in replies[0]], replies[1] if then is not None else None))

        return self.results.post([call] if then is None else [call, then], read)

    def answers(self) -> bool:
        """Whether Redis answers at all."""
        try:
            return bool(self.results.client.ping())
        except redis.RedisError:
            return False

    def prerun_check(self, requests: Sequence[Request]) -> list[str]:
        """Check records a last time: for each "" to run it, or why not (expired, or the status in which it has ended).

        Raises:
            redis.RedisError: Redis did not answer.
        """
        asked = [part for request in requests for part in (request.id, request.reply)]
        return [
            why.decode() for why in self.results.call("prerun_check", (), (self._result_ttl_s, iso_now(), *asked))[1:]
        ]

    def mark_started(self, run: BatchRun, requests: Sequence[Request]) -> None:
        """Mark the records of requests as started.

        Raises:
            redis.RedisError: Redis did not answer.
        """
        ids = [request.id for request in requests]
        fields = f',"started_at":{run.started_at:.4f},"worker":{_text(run.worker)},"batch":{run.batch}'
        self.results.call("mark_started", (), (self._result_ttl_s, run.model, fields, *ids))

    def mark_retried(self, worker: str, why: str, requests: Sequence[Request]) -> None:
        """Count in the records of requests that they run again, and why.

        Raises:
            redis.RedisError: Redis did not answer.
        """
        self.results.call("count_retry", (), (worker, why, *(request.id for request in requests)))

    def payloads(self, requests: Sequence[Request]) -> dict[str, bytes | None]:
        """Read the offloaded payloads of requests, by id; None for those that are gone.

        Raises:
            redis.RedisError: Redis did not answer.
        """
        ids = [request.id for request in requests if request.is_offloaded]
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

    def _call(self, run: BatchRun, outcomes: Sequence[Outcome], free: int) -> ScriptCall:
        held = self._leases if self.fenced else None
        keys = (held.key if held else "", keyspace.DEAD, keyspace.DEAD_INDEX, keyspace.SLOTS)
        fields = (
            f',"started_at":{run.started_at:.4f},"finished_at":{run.finished_at:.4f},"worker":{_text(run.worker)}'
            f',"version":{_text(run.version)},"batch":{run.batch}'
        )
        date_done = iso_now().encode()
        offloaded = int(any(outcome.request.is_offloaded for outcome in outcomes))
        requests: list[Any] = []
        raws: list[Any] = []
        letters: list[Any] = []
        for place, outcome in enumerate(outcomes, 1):
            request, trace = outcome.request, NULL
            if outcome.traceback is not None or outcome.reason:
                trace, letter = _traceback_and_letter(outcome, run)
                letters += (place, letter) if letter else ()
            if outcome.payload:
                raws += (place, outcome.payload)
            head = b'{"status":"%b","task_id":"%b","result":%b,"traceback":%b,"date_done":"%b","children":%b,"job":' % (
                STATUS[outcome.status], request.id.encode(), outcome.result, trace, date_done, outcome.children or b"[]",
            )  # fmt: skip
            requests += (
                b"%d %b" % (request.tag, request.key) if self.fenced else b"",
                request.id,
                b"" if request.headers.ignore_result else head,
                b',"attempts":%d,"reserved_at":%.4f,"place":%d' % (request.deliveries, request.reserved_at, place),
            )
        clients = [
            part
            for client, same in itertools.groupby(outcome.request.reply for outcome in outcomes)
            for part in (sum(1 for _ in same), client)
        ]
        first = (held.identity if held else "", self._result_ttl_s, run.model, fields, offloaded, free)
        return "commit", keys, arguments(first, requests, clients, raws, letters)

    def _acknowledge(self, requests: Sequence[Request]) -> None:
        if self._leases is not None:
            self._leases.drop(request.field for request in requests)
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
    return isinstance(error, redis.ResponseError) and not _TRANSIENT.search(str(error))


def arguments(
    first: Sequence[Any],
    requests: Sequence[Any],
    clients: Sequence[Any],
    raws: Sequence[Any] = (),
    letters: Sequence[Any] = (),
) -> tuple[Any, ...]:
    """Lay out the arguments of the script `commit`: what it says of requests, 4 each, and of the rest, 2 each, with their numbers."""
    return (*first, len(requests) // 4, len(clients) // 2, len(raws) // 2, *requests, *clients, *raws, *letters)


def dead_letter(
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


def _traceback_and_letter(outcome: Outcome, run: BatchRun) -> tuple[bytes, bytes]:
    """What few endings have: the model's traceback, and a dead letter."""
    if outcome.traceback is None and not outcome.reason:
        return NULL, b""
    trace = msgspec.json.encode(outcome.traceback)
    if not outcome.reason:
        return trace, b""
    request = outcome.request
    letter = dead_letter(
        request.id,
        request.key.decode(),
        request.envelope(),
        reason=outcome.reason,
        message=outcome.said or outcome.shown,
        at=run.finished_at,
        worker=run.worker,
        attempts=request.deliveries,
    )
    return trace, msgspec.json.encode(letter)


def _text(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()
