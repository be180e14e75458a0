"""The records of jobs in Redis, and the scripts by which the engine reads and writes them.

Where requests are reserved and results are kept on the same Redis, a result and its acknowledgement are one step, fenced by the
reservation. Elsewhere (another broker, or a result store of its own) results come first and acknowledgements after: what is lost in
between runs again, and the first result stays.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import logging
import math
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


class JobRecords:
    """The records of one worker's jobs, wherever they and their requests are kept.

    Attributes:
        fenced: results and acknowledgements are one step.
        connection_errors: what an acknowledgement raises where the broker is away.
        results: runs the scripts where the records are.
    """

    def __init__(self, settings: Settings, leases: Leases | None) -> None:
        """Take what this worker has reserved; None where kombu delivers and acknowledges."""
        self.connection_errors: tuple[type[Exception], ...] = ()
        self.fenced = leases is not None and not settings.separate_results
        self._leases = leases
        self._result_ttl_s = math.ceil(settings.result_ttl_s)
        if leases is not None and self.fenced:
            self.results = leases.scripts
        else:
            self.results = ScriptClient(connect(settings.result_url, settings))
        if leases is not None:
            self.results.meanwhile.append(leases.keep_alive)

    def commit(
        self, run: BatchRun, outcomes: Sequence[Outcome], free: int = 0, then: ScriptCall | None = None
    ) -> list[Any]:
        """End requests, and call another script of the broker's, in the same round trip where that is possible.

        Returns:
            For each request "1" where it was committed, or the status in which it had already ended; and the other script's reply.

        Raises:
            redis.RedisError: Redis did not answer; trying again does no harm.
        """
        calls = self.commit_calls(run, outcomes, free, then)
        if self.fenced:
            return self.results.call_all(calls)
        replies = self.results.call_all(calls[:1])
        self.acknowledge([outcome.request for outcome in outcomes])
        return replies if then is None or self._leases is None else [*replies, self._leases.scripts.call(*then)]

    def prerun_check(self, requests: Sequence[Request]) -> list[str]:
        """Check records a last time: for each "" to run it, or why not (expired, or the status in which it has ended).

        Raises:
            redis.RedisError: Redis did not answer.
        """
        jobs = [part for request in requests for part in (request.id, request.reply)]
        _, *whys = self.results.call("prerun_check", (), (self._result_ttl_s, iso_now(), *jobs))
        return [why.decode() for why in whys]

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

    def read_payloads(
        self,
        requests: Sequence[Request],
        on_payloads: Callable[[dict[str, bytes | None] | redis.RedisError], None],
        watch_replies: Callable[[int], None] | None,
    ) -> None:
        """Read the offloaded payloads of requests, in the background where the loop can watch for them.

        Args:
            requests: some of them offloaded.
            on_payloads: takes them by id, None for those that are gone; or the error for which they were not read.
            watch_replies: as `Commit` takes it.
        """
        keys = {request.id: keyspace.payload_key(request.id, "in") for request in requests if request.is_offloaded}

        def on_replies(replies: list[Any] | redis.RedisError) -> None:
            (found,) = [replies] if isinstance(replies, redis.RedisError) else replies
            on_payloads(found if isinstance(found, redis.RedisError) else dict(zip(keys, found, strict=True)))

        if watch_replies is not None:
            watch_replies(self.results.get_large(list(keys.values()), on_replies))
            return
        replies: list[Any] | redis.RedisError
        try:
            replies = [self.results.client.mget(keys.values())]
        except redis.RedisError as exc:
            replies = exc
        on_replies(replies)

    def commit_calls(
        self, run: BatchRun, outcomes: Sequence[Outcome], free: int, then: ScriptCall | None
    ) -> list[ScriptCall]:
        """Make the call that ends requests, and leaves others to so many free slots; `then` is called after it."""
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
            request = outcome.request
            trace = b"null" if outcome.traceback is None else msgspec.json.encode(outcome.traceback)
            if outcome.reason:
                letters += (place, _dead_letter(outcome, run))
            if outcome.payload:
                raws += (place, outcome.payload)
            head = b'{"status":"%b","task_id":"%b","result":%b,"traceback":%b,"date_done":"%b","children":%b,"job":' % (
                outcome.status.encode(), request.id.encode(), outcome.result, trace, date_done, outcome.children or b"[]",
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
        commit = "commit", keys, arguments(first, requests, clients, raws, letters)
        return [commit] if then is None else [commit, then]

    def acknowledge(self, requests: Sequence[Request]) -> None:
        """Take requests that have ended off the queue, or off what is reserved; delivered ones never fail.

        Raises:
            redis.RedisError: Redis did not answer.
        """
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
        id=id or "x-" + hashlib.blake2b(raw, digest_size=16).hexdigest(),
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


def _dead_letter(outcome: Outcome, run: BatchRun) -> bytes:
    request = outcome.request
    letter = dead_letter(
        request.id,
        request.key.decode(),
        request.envelope(),
        reason=outcome.reason,
        message=outcome.letter_text or outcome.shown,
        at=run.finished_at,
        worker=run.worker,
        attempts=request.deliveries,
    )
    return msgspec.json.encode(letter)


def _text(text: str) -> str:
    return msgspec.json.encode(text).decode()
