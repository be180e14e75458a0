"""What clients do with Redis, written once: operations that the blocking and the asyncio client both run."""

from __future__ import annotations

import datetime
import functools
import math
import os
import time
from collections.abc import Sequence

import msgspec
import redis

from mutirao import errors, keyspace, registry
from mutirao.amqp import Published
from mutirao.client import encoding
from mutirao.client.backend import Backend, Submitted
from mutirao.client.encoding import EncodedGroup, Prepared, RequestEncoder, SubmitOptions
from mutirao.client.request_data import ValidatedRequests
from mutirao.redisdb.drivers import Command, Database, Operation
from mutirao.registry import Registry
from mutirao.settings import Settings
from mutirao.wire import binary_codec, json_elements, tensors
from mutirao.wire.messages import JobRecord
from mutirao.wire.tensors import Array

READ_MAX = 1_000  # keys in one command
# A time-out with this many requests or more is reported as a call that is too large, not as a Redis that is away.
MANY = 10_000


class RedisBackend(Backend):
    """The operations of clients on Redis."""

    def __init__(self, settings: Settings, *, check: bool) -> None:
        """Take the settings; `check` says whether requests are held against the served models' signatures before they queue."""
        super().__init__(settings, check=check)
        self._ahead_s = 0.0  # of Redis's clock before ours
        self._encoder, self._process = _encoder(settings), os.getpid()
        self._results: Database = "results" if settings.separate_results else "broker"
        self._registry_database: Database = "results" if settings.uses_amqp else "broker"

    @property
    def client(self) -> str:
        """The name by which workers answer this process; a fork has its own."""
        return self._own_encoder().reply

    def encoded(self, options: SubmitOptions, requests: Prepared, ids: Sequence[str]) -> list[EncodedGroup]:
        """Encode checked requests for `queue`.

        Raises:
            PayloadTooLarge: one of them is, or all of them together are.
        """
        return encoding.encode_groups(options, requests, ids, self._own_encoder())

    def queue(self, options: SubmitOptions, ids: Sequence[str], groups: Sequence[EncodedGroup]) -> Operation[Submitted]:
        """Queue encoded requests of one model, priority, deadline and tenant, in one round trip.

        Where the queue is on another server than the records, these are written first.

        Raises:
            IdTaken, QueueFull: nothing of the call is queued.
        """
        expires_s, split = self._expires_s(options), self.settings.separate_results
        command = self._submit_command("records" if split else "all", options, groups, expires_s)
        try:
            reply = yield command
        except errors.BrokerUnavailable as exc:
            if len(ids) < MANY or not isinstance(exc.__cause__, redis.TimeoutError):
                raise
            timeout_s = self.settings.timeout_s
            text = f"{len(ids):,} requests in one call were not queued within {timeout_s:g} s: submit fewer at once, or raise MUTIRAO_TIMEOUT_S where Redis is called; they may be queued by now, and the same ids can be sent again"
            raise errors.SlowCall(text, count=len(ids), timeout_s=timeout_s) from exc
        if reply[0] == b"taken":
            id = ids[int(reply[1]) - 1]
            raise errors.IdTaken(f"id {id!r} belongs to a job with other content: choose another id", id=id)
        if reply[0] == b"full":
            raise (yield from self._queue_full(options, int(reply[1]), int(reply[2])))
        self._ahead_s = float(reply[1]) - time.time()
        repeated = frozenset(place - 1 for place in reply[2:])
        if split and len(repeated) < len(ids):
            yield from self._push(options, encoding.without(groups, repeated) if repeated else groups, expires_s)
        return Submitted(list(ids), repeated, expires_s)

    def record(self, id: str) -> Operation[JobRecord]:
        """Read a job's record; a queued one whose deadline has passed is expired by this read.

        Raises:
            JobNotFound: no such job; ResultExpired where its id tells that it is past the time for which results are kept.
        """
        (record,) = yield from self.records([keyspace.recorded_id(id)])
        if record is None:
            raise self.not_found_error(id)
        if record.status == "QUEUED" and record.job.expires_at is not None and record.job.expires_at < self.now():
            record = (yield from self.cancel_or_expire([id], "expired"))[0] or record
        return record

    def records(self, ids: Sequence[str]) -> Operation[list[JobRecord | None]]:
        """Read many records in one round trip; None for each that is not there."""
        raws = yield Command(self._results, "MGET", tuple(keyspace.record_key(id) for id in ids))
        return [msgspec.json.decode(raw, type=JobRecord) if raw else None for raw in raws]

    def cancel_or_expire(self, ids: Sequence[str], outcome: str) -> Operation[list[JobRecord | None]]:
        """Cancel or expire jobs that still wait: "revoked" cancels them, "expired" ends those only whose deadlines have passed.

        Returns:
            The records as they are afterwards, unchanged where a job was running or done; None for each that is not there.
        """
        keys = [
            key for id in ids for key in (keyspace.record_key(keyspace.recorded_id(id)), keyspace.payload_key(id, "in"))
        ]
        done = datetime.datetime.now(datetime.UTC).isoformat()
        args = (outcome, math.ceil(self.settings.result_ttl_s), done, keyspace.reply_channel(self.client))
        raws = yield Command(self._results, "cancel_or_expire", tuple(keys), args)
        return [msgspec.json.decode(raw, type=JobRecord) if raw else None for raw in raws]

    def cancel(self, id: str) -> Operation[bool]:
        """Cancel a job if it still waits; False where it runs or has ended.

        Raises:
            JobNotFound: no such job.
        """
        (record,) = yield from self.cancel_or_expire([id], "revoked")
        if record is None:
            raise self.not_found_error(id)
        return record.state == "cancelled"

    def outputs(self, record: JobRecord, *, as_text: bool = False) -> Operation[dict[str, Array]]:
        """Read a finished job's outputs; JSON documents as plain Python objects, or as text where that is wanted.

        Raises:
            JobError: the job ended without a result; the class says how.
        """
        if record.status != "SUCCESS":
            raise record.error()
        inline = binary_codec.inline_outputs(record.result)
        if inline is not None:
            return inline
        response, raw = record.response(), None
        if binary_codec.is_offloaded(response):
            raw = yield Command(self._results, "GET", (keyspace.payload_key(record.task_id, "out"),))
            if raw is None:
                raise _expired(record.task_id, self.settings)
        decode = tensors.decode if as_text else json_elements.decode_output
        return {tensor.name: decode(tensor) for tensor in binary_codec.unpack_result(response, raw).outputs}

    def catalog(self) -> Operation[Registry]:
        """Read which models are served and which workers live."""
        started_at, database = time.monotonic(), self._registry_database
        models = yield Command(database, "HGETALL", (keyspace.MODELS,))
        workers = yield Command(database, "HGETALL", (keyspace.WORKERS,))
        seconds, micros = yield Command(database, "TIME")
        now = int(seconds) + int(micros) / 1e6
        leases = yield Command(database, "ZRANGEBYSCORE", (keyspace.LEASES,), (now, "+inf"))
        self._ahead_s = now - time.time()
        return self._keep_copy(registry.decode_registry(models, workers, now, leases), started_at)

    def withdraw(self, names: Sequence[str], *, old: bool = False) -> Operation[list[tuple[str, ...]]]:
        """Remove models from the registry, those that no live worker has in its repository.

        Args:
            names: the models.
            old: only where nobody has announced them for a day, and nothing waits for them.

        Returns:
            For each ("withdrawn",), ("unknown",), or ("kept",) and the names of the live workers that have it.
        """
        keys = (keyspace.MODELS, keyspace.WORKERS, keyspace.LEASES)
        args = ("old" if old else "now", keyspace.KOMBU_SEPARATOR, *map(keyspace.model_name, names))
        replies = yield Command(self._registry_database, "withdraw_model", keys, args)
        return [tuple(part.decode() for part in reply) for reply in replies]

    def list_tenant(self, tenant: str) -> str:
        """Return the tenant in whose lists a tenant's requests wait: without the engine all wait in those of ""."""
        return "" if self.settings.uses_amqp else tenant

    def now(self) -> float:
        """Return the time by Redis's clock, as far as this client has seen it, in seconds since the epoch."""
        return time.time() + self._ahead_s

    def not_found_error(self, id: str) -> errors.JobNotFound:
        """Build the error for an id without a record."""
        created_at = keyspace.created_at(id)
        if created_at is not None and time.time() - created_at > self.settings.result_ttl_s:
            return _expired(id, self.settings)
        return errors.JobNotFound(f"job {id!r} is not known: no such id was submitted", id=id)

    def _own_encoder(self) -> RequestEncoder:
        if self._process != os.getpid():
            self._encoder, self._process = _encoder(self.settings), os.getpid()
        return self._encoder

    def _send(self, options: SubmitOptions, requests: ValidatedRequests, ids: list[str]) -> Operation[frozenset[int]]:
        return (yield from self.queue(options, ids, self.encoded(options, requests, ids))).repeated

    def _push(self, options: SubmitOptions, groups: Sequence[EncodedGroup], expires_s: float) -> Operation[None]:
        """Push where the queue is on another server than the records; records of what could not be pushed are taken back."""
        if self.settings.uses_amqp:
            yield from self._publish(options, groups)
            return
        try:
            reply = yield self._submit_command("push", options, groups, expires_s)
        except errors.BrokerUnavailable:
            yield from self._delete_records(groups)
            raise
        if reply[0] == b"full":
            yield from self._delete_records(groups)
            raise (yield from self._queue_full(options, int(reply[1]), int(reply[2])))

    def _publish(self, options: SubmitOptions, groups: Sequence[EncodedGroup]) -> Operation[None]:
        """Push to a broker that is no Redis: it takes one message after another, so a part of them may be queued when it fails."""
        envelopes = [envelope for group in groups for envelope in group.envelopes()]
        args = (self.settings.queue_limit, *envelopes)
        try:
            done: Published = yield Command("broker", "publish", (keyspace.queue(options.model),), args)
        except errors.BrokerUnavailable:
            yield from self._delete_records(groups)
            raise
        if len(done.accepted) == len(envelopes):
            return
        yield from self._delete_records(encoding.without(groups, done.accepted))
        if done.error is None:
            raise (yield from self._queue_full(options, done.depth, len(envelopes)))
        if not done.accepted:
            raise done.error
        text = (
            f"{done.error}; {len(done.accepted)} of the call's {len(envelopes)} requests are queued, the others are not"
        )
        raise errors.BrokerUnavailable(text, **done.error.data) from done.error

    def _submit_command(
        self, mode: str, options: SubmitOptions, groups: Sequence[EncodedGroup], expires_s: float
    ) -> Command:
        keys = _keys(options.model, options.priority, self.list_tenant(options.tenant))
        limits = (self.settings.result_ttl_s, expires_s, self.settings.queue_limit)
        names = (keyspace.record_key(""), *keyspace.payload_key("|", "in").split("|"))
        args = [arg for group in groups for arg in group.args()]
        return Command("broker" if mode == "push" else self._results, "submit", keys, (mode, *limits, *names, *args))

    def _delete_records(self, groups: Sequence[EncodedGroup]) -> Operation[None]:
        ids = [id for group in groups for id in group.ids()]
        for first in range(0, len(ids), READ_MAX):
            part = ids[first : first + READ_MAX]
            keys = [key for id in part for key in (keyspace.record_key(id), keyspace.payload_key(id, "in"))]
            yield Command("results", "DEL", tuple(keys))

    def _queue_full(self, options: SubmitOptions, depth: int, count: int) -> Operation[errors.QueueFull]:
        model, limit = options.model, self.settings.queue_limit
        registry = yield from self.cached_registry()
        rate = registry.rate(model)
        after_s = (depth + count - limit) / rate if rate and count <= limit else None
        if count > limit:
            remedy = f"{count:,} in one call can never fit: split it"
        elif not registry.serving(model):
            remedy = "no live worker serves it (start one with: mutirao worker)"
        elif after_s is None:
            remedy = "try again later"
        else:
            remedy = f"try again in about {math.ceil(after_s):,} s"
        more = f", {count:,} more do not fit" if depth < limit else ""
        whose = f" of tenant {options.tenant!r}" if self.list_tenant(options.tenant) else ""
        return errors.QueueFull(
            f"queue of model {model!r} is full: {depth:,} of {limit:,} requests{whose} wait{more}; {remedy}",
            model=model,
            depth=depth,
            limit=limit,
            retry_after_s=after_s,
        )


@functools.lru_cache(maxsize=1024)
def _keys(model: str, priority: str, tenant: str) -> tuple[str, ...]:
    """Name the keys of the submit script: the list that requests go to, the wake-up token, and all lists of the submitter."""
    lists = [keyspace.queue_key(model, step, tenant) for step in keyspace.KOMBU_STEPS]
    wakeup = keyspace.wakeup_key(keyspace.queue(model))
    return (keyspace.queue_key(model, keyspace.step(priority), tenant), wakeup, *lists)


def _encoder(settings: Settings) -> RequestEncoder:
    return RequestEncoder(os.urandom(12).hex(), settings)


def _expired(id: str, settings: Settings) -> errors.ResultExpired:
    kept = f"{settings.result_ttl_s:g} s"
    return errors.ResultExpired(f"the result of job {id!r} has expired: results are kept for {kept}", id=id)
