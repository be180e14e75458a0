"""One request that this worker holds: its envelope, its state, and what Celery asks of it. Its body stays packed."""

from __future__ import annotations

import base64
import binascii
import datetime
import functools
import time
from collections.abc import Container, Mapping
from typing import Any, Protocol

import msgspec

from mutirao import errors, keyspace
from mutirao.wire import binary_codec, messages
from mutirao.wire.envelope import TaskEnvelope, TaskHeaders
from mutirao_worker.inference.inputs import TRIPLE, PackedRequest

# A larger body of a stock client is not decoded twice.
_DECODED_MAX_BYTES = 16_384
_OF_A_TENANT = (
    f"{keyspace.TENANT_SEPARATOR!r} stands between a tenant of the HTTP gateway and its job's id; send another"
)

_DECODER = msgspec.json.Decoder(TaskEnvelope)


class Owner(Protocol):
    """Who holds a request: what Celery asks of it is asked of its owner."""

    app: Any
    hostname: str

    @property
    def revoked(self) -> Container[str]:
        """The ids of the requests that the worker has been told to drop."""

    def terminate(self, request: Request, signal: Any) -> None:
        """End a running request together with its process."""

    def stop_running(self, request: Request) -> None:
        """Give a running request back, and end its process."""


class Run(Protocol):
    """The batch in which a request runs."""

    number: int
    pid: int | None
    started_at: float


class Request:
    """A prediction request between its queue and its answer.

    Celery's remote control (`inspect active`, `revoke` and the like) finds it in Celery's own registers, so it has the few
    attributes and methods that these ask for.
    """

    __slots__ = (
        "__weakref__", "_eta_timer_entry", "_owner", "_summary", "acknowledged", "attempts", "base64", "batch", "body",
        "content_type", "ended", "eventer", "headers", "id", "key", "limits", "message", "model", "priority", "raw", "received",
        "reserved_at", "rows", "size", "tag",
    )  # fmt: skip

    name = type = keyspace.TASK
    stamps = None

    def __init__(
        self,
        owner: Owner,
        headers: TaskHeaders,
        body: str | bytes,
        *,
        content_type: str | None,
        base64: bool,
        queue: str,
    ) -> None:
        """Take what the message says; `queue` is the list or queue that it came from."""
        self._eta_timer_entry: Any = None
        self._owner = owner
        self._summary: str | None = None
        self.acknowledged = False
        self.attempts = 0
        self.base64 = base64
        self.batch: Run | None = None
        self.body = body
        self.content_type = content_type
        self.ended = False
        self.eventer: Any = None  # Celery sets it anew after a reconnection
        self.headers = headers
        self.id = headers.id
        self.key: bytes = b""
        # The hard and soft time limits that its client asks for; None for none.
        self.limits = None if headers.timelimit is None else _limits(headers.timelimit)
        self.message: Any = None
        self.model = _model(queue)
        self.priority = 0
        self.raw = b""
        self.received = time.monotonic()
        self.reserved_at = time.time()
        self.rows = max(1, headers.mutirao.rows) if headers.mutirao else 1
        self.size = len(body)
        self.tag = 0

    @property
    def field(self) -> bytes:
        """Its field among the worker's reservations."""
        return b"%d %b" % (self.tag, self.key)

    @property
    def reply(self) -> str:
        """The client process that waits for it; "" for none."""
        return self.headers.mutirao.reply if self.headers.mutirao else ""

    @property
    def is_offloaded(self) -> bool:
        """Whether its tensors are offloaded: they lie under a key of their own."""
        return bool(self.headers.mutirao and self.headers.mutirao.offloaded)

    def packed(self, payload: bytes | None) -> PackedRequest:
        """Make what a process gets of it; `payload` is what was offloaded."""
        return PackedRequest(self.id, self.body, self.content_type or "", self.base64, payload)

    @property
    def deliveries(self) -> int:
        """How often it has been tried, this time included."""
        return self.headers.attempts + self.attempts + 1

    @property
    def refused_by(self) -> frozenset[str]:
        """The digests of the copies of its model that have refused it."""
        digests = self.headers.refused_by
        return frozenset(digests.split()) if isinstance(digests, str) else frozenset()

    @property
    def eta(self) -> float | None:
        """When it may run at the earliest, in seconds since the epoch; None for at once."""
        return _timestamp(self.headers.eta)

    @property
    def expires(self) -> float | None:
        """The deadline that a stock client set, in seconds since the epoch; None for none."""
        return _timestamp(self.headers.expires)

    def envelope(self) -> bytes:
        """The message as kombu keeps it in a Redis list, wherever it came from."""
        if self.message is None:
            return self.raw
        properties = {"body_encoding": "base64", "delivery_tag": self.id, "correlation_id": self.id, "priority": self.priority,
                      "delivery_info": {"exchange": "", "routing_key": keyspace.PREFIX + self.model}}  # fmt: skip
        body = self.body.encode() if isinstance(self.body, str) else self.body
        return msgspec.json.encode(
            {
                "headers": self.message.headers,
                "properties": properties,
                "content-type": self.content_type,
                "content-encoding": self.message.content_encoding,
                "body": base64.b64encode(body).decode(),
            }
        )

    def summary(self) -> str:
        """Describe it by its shape, never by its values: what Flower, logs and events show of it."""
        if self._summary is None:
            own = self.headers.argsrepr if self.headers.mutirao else None
            self._summary = own[:200] if own else f"{self.model}: {self.size} bytes"
        return self._summary

    def read_small_body(self) -> None:
        """Read model and rows from the body, where no header of our own client names them: only a small JSON body of a stock client."""
        if self.size > _DECODED_MAX_BYTES or self.content_type != binary_codec.JSON:
            return
        try:
            raw = base64.b64decode(self.body) if self.base64 else self.body
            args, options, _ = msgspec.json.decode(raw)
            name, content = messages.arguments(args, options)
            model, predict_request = keyspace.model_name(name), messages.read_request(content)
            summary = messages.summary(model, predict_request)
        except (errors.MutiraoError, msgspec.DecodeError, binascii.Error, TypeError, ValueError, LookupError):
            return  # the process that is to run it says what is wrong with it
        self.model, self._summary = model, summary
        if predict_request.inputs:
            self.rows = max(1, messages.rows(predict_request.inputs[0]))

    # What Celery asks of a request in its registers.

    @property
    def task(self) -> Any:
        """The task."""
        return self._owner.app.tasks[keyspace.TASK]

    @property
    def worker_pid(self) -> int | None:
        """The process that runs it."""
        return self.batch.pid if self.batch else None

    @property
    def time_start(self) -> float | None:
        """When it started, in seconds since the epoch."""
        return self.batch.started_at if self.batch else None

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002 - Celery's signature
        """Describe it for `celery inspect`."""
        return {
            "id": self.id, "name": self.name, "args": [self.summary()], "kwargs": {}, "type": self.type,
            "hostname": self._owner.hostname, "time_start": self.time_start, "acknowledged": self.acknowledged,
            "delivery_info": {"exchange": "", "routing_key": keyspace.PREFIX + self.model, "priority": self.priority,
                              "redelivered": self.deliveries > 1},
            "worker_pid": self.worker_pid,
        }  # fmt: skip

    def terminate(self, pool: Any, signal: Any = None) -> None:  # noqa: ARG002 - Celery's signature
        """End it, and the process that runs it; the others of its batch run again."""
        self._owner.terminate(self, signal)

    def cancel(self, pool: Any, **_: Any) -> None:  # noqa: ARG002
        """Stop running it without ending it: the cold shutdown gives it back."""
        self._owner.stop_running(self)

    def revoked(self) -> bool:
        """Whether the worker has been told to drop it."""
        return self.id in self._owner.revoked

    def __repr__(self) -> str:
        """Show the id."""
        return f"Request({self.id!r})"


def of_envelope(owner: Owner, tag: int, key: bytes, raw: bytes) -> Request:
    """Make a request of an envelope that was reserved.

    Raises:
        msgspec.DecodeError: it is no JSON, or no task message of protocol 2.
    """
    envelope = _DECODER.decode(raw)
    request = Request(
        owner,
        envelope.headers,
        envelope.body,
        content_type=envelope.content_type,
        base64=envelope.properties.body_encoding == "base64",
        queue=key.decode(),
    )
    request.tag, request.key, request.raw, request.priority = tag, key, raw, envelope.properties.priority or 0
    return _checked(request)


def unreadable(owner: Owner, tag: int, key: bytes, raw: bytes) -> tuple[Request, errors.InvalidRequest]:
    """Stand in for a request where an envelope is none, and say why; its id is what can be found of one, or ""."""
    id: Any = ""
    try:
        message = _decoded(raw)
        headers = message.get("headers")
        if isinstance(headers, dict) and headers:
            id = headers.get("id")
            reason, text = ("no id", "name no id") if id is None else ("not a task message", "are not a task's")
            if isinstance(id, str) and keyspace.TENANT_SEPARATOR in id:
                reason, text = "id not allowed", f"name an id that none may have: {_OF_A_TENANT}"
            error = errors.InvalidRequest(f"the message's headers {text}", reason=reason)
        else:  # message protocol 1 has its id in the body
            id = msgspec.json.decode(base64.b64decode(message["body"]))["id"]
            error = errors.InvalidRequest(TRIPLE, reason="not a task message")
    except errors.InvalidRequest as exc:
        error = exc
    except (msgspec.DecodeError, binascii.Error, TypeError, ValueError, LookupError):
        error = errors.InvalidRequest(TRIPLE, reason="not a task message")
    named = TaskHeaders(id=id if isinstance(id, str) and _is_id(id) else "", task="")
    request = Request(owner, named, b"", content_type=None, base64=False, queue=key.decode(errors="replace"))
    request.tag, request.key, request.raw = tag, key, raw
    return request, error


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        message = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise errors.InvalidRequest("the message cannot be decoded: it is no JSON", reason="not decodable") from exc
    if not isinstance(message, dict):
        raise errors.InvalidRequest("the message is no task message", reason="not a task message")
    return message


def _checked(request: Request) -> Request:
    """Make sure that a stock client's request does not pass for a tenant's, and read what its headers do not say.

    Raises:
        msgspec.ValidationError: its id names a tenant.
    """
    if request.headers.mutirao is None:
        if keyspace.TENANT_SEPARATOR in request.id:
            raise msgspec.ValidationError(f"its id cannot be used: {_OF_A_TENANT}")
        request.read_small_body()
    return request


def _is_id(id: str) -> bool:
    try:
        return bool(keyspace.job_id(id))
    except errors.InvalidRequest:
        return False


def of_message(owner: Owner, message: Any, headers: Mapping[str, Any]) -> Request:
    """Make a request of a message that kombu delivered.

    Raises:
        msgspec.ValidationError: its headers are not those of a task message of protocol 2.
    """
    request = Request(
        owner,
        msgspec.convert(dict(headers), TaskHeaders),
        message.body,
        content_type=message.content_type,
        base64=False,
        queue=(message.delivery_info or {}).get("routing_key") or "",
    )
    request.message, request.tag = message, message.delivery_tag
    if keyspace.model_of(keyspace.PREFIX + request.model):
        request.key = keyspace.queue_key(request.model, keyspace.KOMBU_STEPS[0]).encode()
    request.priority = (message.properties or {}).get("priority") or 0
    return _checked(request)


@functools.lru_cache(1024)
def _model(queue: str) -> str:
    return keyspace.model_of(keyspace.queue_of(queue)) or queue


def _limits(header: Any) -> tuple[float | None, float | None] | None:
    if not (isinstance(header, list | tuple) and len(header) == 2):
        return None
    hard, soft = (limit if isinstance(limit, int | float) and limit > 0 else None for limit in header)
    return (hard, soft) if hard or soft else None


def _timestamp(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    parsed = datetime.datetime.fromisoformat(value)
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)).timestamp()
