"""Dead letters: requests that could not be served, kept to be inspected, replayed or removed."""

from __future__ import annotations

import base64
import binascii
import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from mutirao import errors, keyspace
from mutirao.amqp import Published
from mutirao.redisdb.drivers import Command, Database, Operation
from mutirao.registry import Registry
from mutirao.settings import Settings
from mutirao.wire import binary_codec, messages, tensors, untyped
from mutirao.wire.envelope import Envelope
from mutirao.wire.tensors import Array

# Why a message became a dead letter; one that was never a request cannot be replayed.
NO_REQUEST = ("not decodable", "not a task message", "no id", "id not allowed")
REASONS = ("worker lost", "process died", "time limit", *NO_REQUEST, "unknown task", "webhook undelivered")
# Letters hold whole envelopes, and Redis runs nothing else during a script.
READ_MAX = 200
WRITE_MAX = 200

T = TypeVar("T")


class DeadLetter(msgspec.Struct, frozen=True):
    """A request that could not be served.

    Attributes:
        id: the request's id, or one made of its content where it has none.
        task_id: the request's id; "" where it has none.
        model: the model of its queue; "" for a queue that is not a model's.
        queue: the Redis list that it came from.
        reason: one of `REASONS`.
        message: what happened, without any of the request's values.
        at: when it was given up, in seconds since the epoch by Redis's clock.
        worker: the worker that gave it up, or that held it when it was lost.
        attempts: how often it was tried.
        envelope: the whole message; as base64 where it is not text.
        envelope_base64: whether the envelope is base64.
    """

    id: str
    task_id: str
    model: str
    queue: str
    reason: str
    message: str
    at: float
    worker: str
    attempts: int
    envelope: str
    envelope_base64: bool = False

    @property
    def summary(self) -> str | None:
        """The request's shape, as this project's client wrote it; None for a stock client, whose text may hold values."""
        envelope = self._read_envelope()
        return envelope.headers.argsrepr if envelope is not None and envelope.headers.mutirao else None

    @property
    def is_offloaded(self) -> bool:
        """Whether its tensors are kept under a key of their own."""
        envelope = self._read_envelope()
        return bool(envelope is not None and envelope.headers.mutirao and envelope.headers.mutirao.offloaded)

    @property
    def replayable(self) -> bool:
        """Whether it is a request that can be replayed, unless its offloaded tensors are gone."""
        queue = self.queue.partition(keyspace.KOMBU_SEPARATOR)[0]
        is_own_queue = queue == keyspace.WEBHOOKS or keyspace.model_of(queue) is not None
        return bool(is_own_queue and self.task_id and self.reason not in NO_REQUEST and not self.envelope_base64)

    def inputs(self, raw: bytes | None = None) -> dict[str, Array]:
        """Decode the request's inputs, by name.

        Args:
            raw: the offloaded tensors.

        Raises:
            InvalidRequest: the message is not a request that can be decoded.
        """
        envelope = self._read_envelope()
        if envelope is None:
            raise errors.InvalidRequest(f"dead letter {self.id!r} is no task message: its text is in its envelope")
        try:
            body = (
                base64.b64decode(envelope.body)
                if envelope.properties.body_encoding == "base64"
                else envelope.body.encode()
            )
            payload = (
                binary_codec.decode_body(body)
                if envelope.content_type == binary_codec.BINARY
                else msgspec.json.decode(body)
            )[0][1]
            request = messages.read_request(payload)
            if raw is not None and binary_codec.is_offloaded(request):
                request = binary_codec.request_with(request, raw)
            return {tensor.name: tensors.decode(tensor) if tensor.datatype else untyped.array_from_values(tensor.name, tensor.data)
                    for tensor in request.inputs}  # fmt: skip
        except (errors.MutiraoError, msgspec.DecodeError, binascii.Error, ValueError, TypeError, LookupError) as exc:
            raise errors.InvalidRequest(f"the request in dead letter {self.id!r} cannot be read: {exc}") from exc

    def _read_envelope(self) -> Envelope | None:
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return msgspec.json.decode(self.envelope, type=Envelope)
        return None


class DeadLetters:
    """Operations on the dead letters, which are kept where results are."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database: Database = "results" if settings.separate_results else "broker"

    def ids(self) -> Operation[list[str]]:
        """Return every letter's id, the oldest first."""
        ids = yield Command(self._database, "ZRANGE", (keyspace.DEAD_INDEX,), (0, -1))
        return [id.decode() for id in ids]

    def letters(self, ids: Sequence[str]) -> Operation[list[DeadLetter | None]]:
        """Read letters; None for each that does not exist."""
        letters: list[DeadLetter | None] = []
        for chunk in _chunks(ids, READ_MAX):
            raws = yield Command(self._database, "HMGET", (keyspace.DEAD,), tuple(chunk))
            letters += [raw and letter_from_json(raw) for raw in raws]
        return letters

    def find(self, id: str) -> Operation[DeadLetter]:
        """Read one letter.

        Raises:
            JobNotFound: there is none of this id.
        """
        (letter,) = yield from self.letters([id])
        if letter is None:
            raise letter_not_found(id)
        return letter

    def matching(
        self, ids: Sequence[str], model: str | None, reason: str | None, most: int | None = None
    ) -> Operation[list[DeadLetter]]:
        """Read the letters among `ids` of a model and with a reason, at most `most` of them."""
        letters: list[DeadLetter] = []
        for chunk in _chunks(ids, READ_MAX):
            letters += [
                letter
                for letter in (yield from self.letters(chunk))
                if letter is not None and model in {None, letter.model} and reason in {None, letter.reason}
            ]
            if most is not None and len(letters) >= most:
                return letters[:most]
        return letters

    def tensors(self, letter: DeadLetter) -> Operation[bytes | None]:
        """Read the offloaded tensors of a letter; None where it has none, or they are gone."""
        raw: bytes | None = None
        if letter.is_offloaded:
            raw = yield Command(self._database, "GET", (keyspace.payload_key(letter.id, "in"),))
        return raw

    def replay(self, letters: Sequence[DeadLetter]) -> Operation[dict[str, errors.MutiraoError | None]]:
        """Replay letters, each under its own id, to the end of its queue.

        Returns:
            By id None where it was replayed, or why it was not: `NotReplayable`, or `JobNotFound` where another call was quicker.

        Raises:
            BrokerUnavailable: Redis did not answer; letters that could not be pushed to another server are put back.
        """
        outcomes: dict[str, errors.MutiraoError | None] = {
            letter.id: None if letter.replayable else _not_a_request(letter) for letter in letters
        }
        for chunk in _chunks([id for id, why in outcomes.items() if why is None], WRITE_MAX):
            mode = "records" if self._settings.separate_results else "all"
            args = (mode, self._settings.result_ttl_s, self._settings.expires_s, *chunk)
            replies = yield Command(self._database, "dead_letters_replay", (keyspace.DEAD, keyspace.DEAD_INDEX), args)
            outcomes.update(
                {id: _replay_error(id, reply[0].decode()) for id, reply in zip(chunk, replies, strict=True)}
            )
            if self._settings.separate_results:
                sent = [(id, reply) for id, reply in zip(chunk, replies, strict=True) if outcomes[id] is None]
                yield from self._push(sent)
        return outcomes

    def purge(self, ids: Sequence[str]) -> Operation[list[str]]:
        """Remove letters for good, and return those that existed; the jobs' records stay as they are."""
        removed = []
        for chunk in _chunks(ids, WRITE_MAX):
            replies = yield Command(
                self._database, "dead_letters_purge", (keyspace.DEAD, keyspace.DEAD_INDEX), tuple(chunk)
            )
            removed += [id for id, reply in zip(chunk, replies, strict=True) if reply]
        return removed

    def _push(self, sent: Sequence[tuple[str, Any]]) -> Operation[None]:
        """Push requests whose queues are on another server than letters; what cannot be pushed becomes a letter again."""
        for at, (_, (_, key, envelope, *_)) in enumerate(sent):
            try:
                if key.decode() == keyspace.WEBHOOKS:  # webhooks are on the letters' server
                    yield Command("results", "LPUSH", (keyspace.WEBHOOKS,), (envelope,))
                    continue
                if self._settings.uses_amqp:
                    yield from self._publish(key, envelope)
                    continue
                yield Command("broker", "push", (key.decode(),), (envelope,))
            except errors.BrokerUnavailable:
                for left, reply in sent[at:]:
                    yield from self._put_back(left, *reply[3:])
                raise

    def _publish(self, key: bytes, envelope: bytes) -> Operation[None]:
        queue = key.decode().partition(keyspace.KOMBU_SEPARATOR)[0]
        done: Published = yield Command("broker", "publish", (queue,), (self._settings.queue_limit, envelope))
        if not done.accepted:
            raise done.error or errors.BrokerUnavailable(f"queue {queue!r} is full: {done.depth:,} requests wait")

    def _put_back(self, id: str, raw: bytes, score: bytes, record: bytes | None) -> Operation[None]:
        yield Command("results", "HSET", (keyspace.DEAD,), (id, raw))
        yield Command("results", "ZADD", (keyspace.DEAD_INDEX,), (score, id))
        if record is not None:
            kept = math.ceil(self._settings.result_ttl_s)
            yield Command("results", "SETEX", (keyspace.record_key(id),), (kept, record))
        else:
            yield Command("results", "DEL", (keyspace.record_key(id),))


def letter_from_json(raw: bytes) -> DeadLetter:
    """Decode a letter; bytes that are not UTF-8 become replacement characters."""
    return msgspec.json.decode(raw.decode(errors="replace"), type=DeadLetter)


def check_version(letters: Iterable[DeadLetter], registry: Registry, version: str) -> None:
    """Check that all workers serve every letter's model in this version.

    Raises:
        NotReplayable: they do not; the message names both versions and the remedy.
    """
    for model in sorted({letter.model for letter in letters}):
        info = registry.models.get(model)
        served = {worker.models[model] for worker in registry.serving(model)} | ({info.version} if info else set())
        if served == {version}:
            continue
        others = " and ".join(sorted(served - {version}))
        text = f"workers serve version {others}" if others else "no worker has announced it"
        remedy = (
            f"run mutirao models activate {model} {version}, and restart the workers"
            if others
            else "start one with mutirao worker"
        )
        raise errors.NotReplayable(f"nothing was replayed to version {version} of model {model!r}: {text}; {remedy}")


def letter_not_found(id: str) -> errors.JobNotFound:
    """Return the error for an id without a letter."""
    text = f"there is no dead letter {id!r}: it was replayed or purged, or never was; mutirao dead list shows all there are"
    return errors.JobNotFound(text, id=id)


def _not_a_request(letter: DeadLetter) -> errors.NotReplayable:
    text = f"dead letter {letter.id!r} is no request ({letter.reason}), so it cannot be replayed: look at it with mutirao dead show {letter.id} --payload, or remove it with mutirao dead purge {letter.id}"
    return errors.NotReplayable(text, id=letter.id)


def _replay_error(id: str, outcome: str) -> errors.MutiraoError | None:
    if outcome == "replayed":
        return None
    if outcome == "gone":
        return letter_not_found(id)
    if outcome == "payload gone":
        text = f"dead letter {id!r} cannot be replayed: its tensors, which lay beside it, are gone; submit the request again, and remove the letter with mutirao dead purge {id}"
        return errors.NotReplayable(text, id=id)
    state = messages.JobRecord(status=outcome, task_id=id).state
    state = {"queued": "is queued again", "running": "is running", "succeeded": "has succeeded since"}.get(
        state, "was cancelled or has expired"
    )
    return errors.NotReplayable(
        f"dead letter {id!r} cannot be replayed: its job {state}; remove the letter with mutirao dead purge {id}", id=id
    )


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[first : first + size] for first in range(0, len(items), size))
