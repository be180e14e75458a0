"""What clients do, written once: operations that the blocking and the asyncio client both run."""

from __future__ import annotations

import base64
import datetime
import hashlib
import math
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from mutirao import catalog, codec, errors, messages, queues, signature, tensors
from mutirao.broker.redis import Call, Operation, Side
from mutirao.catalog import Catalog, ModelInfo
from mutirao.messages import JobRecord, PredictRequest, RequestedOutput
from mutirao.settings import Settings
from mutirao.tensors import Array

CATALOG_AGE_S = 5.0


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a caller asks for, the same for each request of a call."""

    model: str
    outputs: Sequence[str] | None = None
    parameters: Mapping[str, Any] | None = None
    expires_s: float | None = None
    priority: str = "normal"


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One request, ready for the wire."""

    id: str
    queue_key: str
    record: bytes
    digest: str
    envelope: bytes
    payload: bytes | None


class Core:
    """Settings, the catalogue's latest copy, and the operations."""

    def __init__(self, settings: Settings, *, check: bool) -> None:
        """Take the settings; `check` says whether requests are held against the served models' signatures before they queue."""
        self.settings = settings
        self._check = check
        self._catalog: Catalog | None = None
        self._catalog_until = 0.0
        self._ahead_s = 0.0  # of Redis's clock before ours
        self._origin = f"{os.getpid()}@{socket.gethostname()}"
        self._results: Side = "results" if settings.split else "broker"

    def submit(
        self, ask: Ask, many: Iterable[Any], ids: Sequence[str] | None = None, *, rows: bool = False
    ) -> Operation[list[str]]:
        """Check, encode and queue requests, in one round trip.

        Args:
            ask: what is the same for each.
            many: the data of each request.
            ids: an id for each; made here where not given.
            rows: each item is a row, so a flat one stands for one row.

        Returns:
            The ids. One that was already known by the same content is not queued again.
        """
        many, step = list(many), queues.step(ask.priority)
        ids = [queues.job_id(id) for id in ids] if ids is not None else [queues.new_id() for _ in many]
        if len(ids) != len(many):
            raise errors.InvalidRequest(f"{len(ids)} ids were given for {len(many)} requests")
        expires_s = self._deadline(ask)
        bound = yield from self._bound(ask, many, rows=rows)
        made = [self._submission(ask, id, arrays, step) for id, arrays in zip(ids, bound, strict=True)]
        if made:
            yield from self._queue(made, expires_s)
        return ids

    def record(self, id: str) -> Operation[JobRecord]:
        """Read a job's record; a queued one whose deadline has passed is ended by whoever looks at it.

        Raises:
            JobNotFound: no such job; ResultExpired where its id tells that it is past the time for which results are kept.
        """
        (record,) = yield from self.records([queues.job_id(id)])
        if record is None:
            raise self.missing(id)
        if record.status == "QUEUED" and record.job.expires_at is not None and record.job.expires_at < self.now():
            record = yield from self.settle(id, "expired")
        return record

    def records(self, ids: Sequence[str]) -> Operation[list[JobRecord | None]]:
        """Read many records in one round trip; None for each that is not there."""
        raws = yield Call(self._results, "MGET", tuple(queues.record_key(id) for id in ids))
        return [msgspec.json.decode(raw, type=JobRecord) if raw else None for raw in raws]

    def settle(self, id: str, how: str) -> Operation[JobRecord]:
        """End a job that still waits: "revoked" cancels it, "expired" ends it only if its deadline has passed.

        Returns:
            The record as it is afterwards: unchanged where the job was running or done.
        """
        keys = (queues.record_key(queues.job_id(id)), queues.payload_key(id, "in"))
        done = datetime.datetime.now(datetime.UTC).isoformat()
        raw = yield Call(self._results, "settle", keys, (how, math.ceil(self.settings.result_ttl_s), done))
        if not raw:
            raise self.missing(id)
        return msgspec.json.decode(raw, type=JobRecord)

    def outputs(self, record: JobRecord) -> Operation[dict[str, Array]]:
        """Read a finished job's outputs.

        Raises:
            JobError: the job ended without a result; the class says how.
        """
        if record.status != "SUCCESS":
            raise record.error()
        response, raw = record.response(), None
        if codec.is_beside(response):
            raw = yield Call(self._results, "GET", (queues.payload_key(record.task_id, "out"),))
            if raw is None:
                raise _gone(record.task_id, self.settings)
        return {tensor.name: tensors.decode(tensor) for tensor in codec.unpack_result(response, raw).outputs}

    def catalog(self) -> Operation[Catalog]:
        """Read which models are served and which workers live."""
        models = yield Call("broker", "HGETALL", (queues.MODELS,))
        workers = yield Call("broker", "HGETALL", (queues.WORKERS,))
        seconds, micros = yield Call("broker", "TIME")
        now = int(seconds) + int(micros) / 1e6
        self._ahead_s = now - time.time()
        self._catalog = catalog.decode(models, workers, now)
        self._catalog_until = time.monotonic() + CATALOG_AGE_S
        return self._catalog

    def now(self) -> float:
        """Redis's clock, as far as this client has seen it: seconds since the epoch."""
        return time.time() + self._ahead_s

    def missing(self, id: str) -> errors.JobNotFound:
        """Build the error for an id without a record."""
        made = queues.made_at(id)
        if made is not None and time.time() - made > self.settings.result_ttl_s:
            return _gone(id, self.settings)
        return errors.JobNotFound(f"job {id!r} is not known: no such id was submitted", id=id)

    def _deadline(self, ask: Ask) -> float:
        expires_s = self.settings.expires_s if ask.expires_s is None else ask.expires_s
        if not 0 < expires_s < 1e9:
            raise errors.InvalidRequest(f"expires_s is {expires_s!r}: it must be a number of seconds, more than 0")
        return expires_s

    def _bound(self, ask: Ask, many: Sequence[Any], *, rows: bool) -> Operation[list[dict[str, Array]]]:
        queues.model_name(ask.model)
        if not self._check:
            return [_arrays(data, rows=rows, frame=True) for data in many]
        fresh = self._catalog is None or time.monotonic() > self._catalog_until
        known = (yield from self.catalog()) if fresh or self._catalog is None else self._catalog
        try:
            return _checked(known, ask, many, rows=rows)
        except errors.MutiraoError:
            if fresh:
                raise
        # The model may have been added or replaced since the copy was read.
        return _checked((yield from self.catalog()), ask, many, rows=rows)

    def _submission(self, ask: Ask, id: str, arrays: dict[str, Array], step: int) -> Submission:
        outputs = tuple(RequestedOutput(name) for name in ask.outputs) if ask.outputs is not None else None
        parameters = {**(ask.parameters or {}), "binary_data_output": True}
        inputs = tuple(tensors.encode(name, array, binary=True) for name, array in arrays.items())
        request = PredictRequest(inputs=inputs, outputs=outputs, parameters=parameters)
        body, payload = codec.encode_body(ask.model, request, {}, self.settings.inline_bytes)
        self._check_size(len(body) + len(payload or b""))
        digest = hashlib.blake2b(body + (payload or b""), digest_size=16).hexdigest()
        return Submission(
            id=id,
            queue_key=queues.queue_key(ask.model, step),
            record=_record(id, ask, signature.rows(arrays), digest),
            digest=digest,
            envelope=_envelope(id, ask.model, body, step, messages.summary(ask.model, request), self._origin),
            payload=payload,
        )

    def _check_size(self, size: int) -> None:
        limit = self.settings.max_request_bytes
        if size > limit:
            text = f"the request is {size} bytes, the limit is {limit}: send fewer rows, or raise MUTIRAO_MAX_REQUEST_BYTES"
            raise errors.PayloadTooLarge(text, limit=limit, size=size)

    def _queue(self, made: Sequence[Submission], expires_s: float) -> Operation[None]:
        keys = [
            key for one in made for key in (queues.record_key(one.id), one.queue_key, queues.payload_key(one.id, "in"))
        ]
        args = [arg for one in made for arg in (one.record, one.digest, expires_s, one.envelope, one.payload or b"")]
        push = "0" if self.settings.split else "1"
        reply = yield Call(self._results, "submit", tuple(keys), (self.settings.result_ttl_s, push, *args))
        if reply[0] == b"taken":
            id = made[int(reply[1]) - 1].id
            raise errors.IdTaken(f"id {id!r} belongs to a job with other content: choose another id", id=id)
        if self.settings.split:
            yield from self._push([one for one, new in zip(made, reply[2:], strict=True) if new])

    def _push(self, made: Sequence[Submission]) -> Operation[None]:
        """Push where the queue is on another server than the records; records of what could not be pushed are taken back."""
        for at, one in enumerate(made):
            try:
                yield Call("broker", "LPUSH", (one.queue_key,), (one.envelope,))
            except errors.BrokerUnavailable:
                left = [
                    key for each in made[at:] for key in (queues.record_key(each.id), queues.payload_key(each.id, "in"))
                ]
                yield Call("results", "DEL", tuple(left))
                raise


def _checked(known: Catalog, ask: Ask, many: Sequence[Any], *, rows: bool) -> list[dict[str, Array]]:
    info: ModelInfo = known.find(ask.model)
    info.signature.chosen(ask.outputs)
    given = (_arrays(data, rows=rows, frame=info.signature.frame) for data in many)
    return [signature.bind(ask.model, info.signature, arrays) for arrays in given]


def _arrays(data: Any, *, rows: bool, frame: bool) -> dict[str, Array]:
    return signature.arrays([data] if rows and _flat(data) else data, frame=frame)


def _flat(data: Any) -> bool:
    if hasattr(data, "ndim"):
        return bool(data.ndim == 1)
    return (
        isinstance(data, list | tuple)
        and bool(data)
        and not isinstance(data[0], list | tuple)
        and not hasattr(data[0], "ndim")
    )


def _record(id: str, ask: Ask, rows: int, digest: str) -> bytes:
    """Make the QUEUED record without its last two braces: the script adds the times by Redis's clock."""
    job = messages.JobInfo(model=ask.model, rows=rows, priority=ask.priority, digest=digest)
    return msgspec.json.encode(JobRecord(status="QUEUED", task_id=id, job=job))[:-2]


def _envelope(id: str, model: str, body: bytes, step: int, summary: str, origin: str) -> bytes:
    """Make a message as kombu writes it. Its deadline is in the record alone, by Redis's clock: workers' clocks may differ."""
    headers = {
        "lang": "py", "task": queues.TASK, "id": id, "shadow": None, "eta": None, "expires": None, "group": None,
        "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": id, "parent_id": None, "argsrepr": summary,
        "kwargsrepr": "", "origin": origin, "ignore_result": False,
    }  # fmt: skip
    properties = {
        "correlation_id": id, "reply_to": None, "delivery_mode": 2, "priority": step, "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": queues.queue(model)}, "delivery_tag": id,
    }  # fmt: skip
    return msgspec.json.encode(
        {
            "body": base64.b64encode(body).decode(),
            "content-encoding": "binary",
            "content-type": codec.BINARY,
            "headers": headers,
            "properties": properties,
        }
    )


def _gone(id: str, settings: Settings) -> errors.ResultExpired:
    kept = f"{settings.result_ttl_s:g} s"
    return errors.ResultExpired(f"the result of job {id!r} has expired: results are kept for {kept}", id=id)
