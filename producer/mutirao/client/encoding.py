"""Encode validated requests for the queue, in groups that share a template."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from mutirao import errors, keyspace
from mutirao.client.request_data import RowBatch, ValidatedRequests
from mutirao.settings import Settings
from mutirao.wire import binary_codec, messages, tensors
from mutirao.wire.messages import JobInfo, JobRecord, PredictRequest, RequestedOutput, Tensor
from mutirao.wire.tensors import Array

# Redis takes no command of more than 1 GiB.
BYTES_MAX = 512 * 1024 * 1024
TEMPLATES_MAX = 256

# Stands for what differs between requests of one template; random, so that no text of a user contains it.
_PLACEHOLDER = os.urandom(16).hex()


class SubmitOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a submit, the same for each request of the call.

    Attributes:
        model: its name.
        outputs: the outputs that are wanted; the model's default ones where none is named.
        parameters: V2 parameters of each request.
        expires_s: how long a request may wait, in seconds; None for the settings' value.
        priority: high, normal or low.
        tenant: who owns the requests: they wait in the tenant's own lists, and their records name it as owner.
        webhook: the URL that is called when each job ends; empty for none.
        binary: whether the worker writes outputs as raw bytes; False asks it for JSON, where JSON can carry them.
    """

    model: str
    outputs: Sequence[str] | None = None
    parameters: Mapping[str, Any] | None = None
    expires_s: float | None = None
    priority: str = "normal"
    tenant: str = ""
    webhook: str = ""
    binary: bool = True


class Packed(NamedTuple):
    """Requests' inputs as raw tensors, laid out so that moving many of them from one process to another costs little.

    Attributes:
        heads: the inputs of requests of each shape, without their data, and how many bytes each has.
        which: of each request, which of these it has.
        raws: each request's raw tensors, one after another.
    """

    heads: list[tuple[tuple[str, str, tuple[int, ...], int], ...]]
    which: list[int]
    raws: list[bytes]

    @classmethod
    def pack(cls, requests: Iterable[tuple[Tensor, ...]]) -> Packed:
        """Pack requests' inputs."""
        places: dict[Any, int] = {}
        which, raws = [], []
        for inputs in requests:
            head = tuple((tensor.name, tensor.datatype, tensor.shape, len(tensor.data)) for tensor in inputs)
            which.append(places.setdefault(head, len(places)))
            raws.append(b"".join(tensor.data for tensor in inputs))
        return cls(list(places), which, raws)

    def requests(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield each request's own inputs."""
        for place, raw in zip(self.which, self.raws, strict=True):
            inputs, at = [], 0
            for name, datatype, shape, size in self.heads[place]:
                inputs.append(Tensor(name, datatype, shape, raw[at : at + size]))
                at += size
            yield tuple(inputs)


Prepared = ValidatedRequests | Packed | Sequence[tuple[Tensor, ...]]


class RequestTemplate:
    """What requests of the same shapes have in common: their record, their envelope and their body's head."""

    def __init__(self, options: SubmitOptions, inputs: Sequence[Tensor], encoder: RequestEncoder) -> None:
        """Build the template from one such request's raw tensors."""
        request = PredictRequest(
            inputs=tuple(inputs),
            outputs=tuple(RequestedOutput(name) for name in options.outputs) if options.outputs else None,
            parameters={**(options.parameters or {}), "binary_data_output": options.binary or binary_codec.AUTO},
        )
        body, beside = binary_codec.encode_body(options.model, request, {}, encoder.inline_bytes)
        size = sum(len(tensor.data) for tensor in inputs)
        _check_size(len(body) + len(beside or b""), encoder.max_request_bytes)
        head = body if beside is not None else body[: len(body) - size]
        # The envelope holds the body as base64, which is the same for the same 3 bytes: what is left over goes with the values.
        common = len(head) if beside is not None else len(head) // 3 * 3
        self.size = size
        self.rows = inputs[0].shape[0]
        self._offloaded = beside is not None
        self._rest = head[common:]
        # An id that another tenant has taken is taken, whatever is sent under it.
        self._digest = hashlib.blake2b(head, digest_size=16, key=options.tenant.encode())
        record = _record(options, self.rows).split(_PLACEHOLDER)
        own = {"rows": self.rows, "reply": encoder.reply} | ({"beside": True} if self._offloaded else {})
        summary = messages.summary(options.model, request)
        envelope = _envelope(options, head[:common], summary, encoder.origin, own).split(_PLACEHOLDER)
        self.texts = (*record, *envelope, "1" if self._offloaded else "0", str(max(0, self.rows - 1)))

    def fill(self, id: str, raw: bytes) -> tuple[str, str, bytes]:
        """Return what the submit script takes of one request: its id, digest and values."""
        digest = self._digest.copy()
        digest.update(raw)
        values = raw if self._offloaded else binascii.b2a_base64(self._rest + raw, newline=False)
        return id, digest.hexdigest(), values


class RequestEncoder:
    """Encodes the requests of one submitter; caches their templates."""

    def __init__(self, reply: str, settings: Settings) -> None:
        """Take the name of the reply channel's client, and the settings."""
        self.origin = f"{os.getpid()}@{socket.gethostname()}"
        self.reply = reply
        self.inline_bytes = settings.inline_bytes
        self.max_request_bytes = settings.max_request_bytes
        self._templates: dict[Any, RequestTemplate] = {}

    def template(self, options: SubmitOptions, inputs: Sequence[Tensor]) -> RequestTemplate:
        """Return the template of a request with these raw tensors."""
        shapes = tuple((tensor.name, tensor.datatype, tensor.shape, len(tensor.data)) for tensor in inputs)
        outputs = tuple(options.outputs or ())
        # As JSON 1, 1.0 and True differ, but not as parts of a key.
        parameters = msgspec.json.encode(options.parameters) if options.parameters else b""
        key = (
            options.model,
            options.priority,
            options.tenant,
            options.webhook,
            options.binary,
            outputs,
            parameters,
            shapes,
        )
        template = self._templates.get(key)
        if template is None:
            if len(self._templates) >= TEMPLATES_MAX:
                self._templates.clear()
            template = self._templates[key] = RequestTemplate(options, inputs, self)
        return template


class EncodedGroup(NamedTuple):
    """Consecutive requests of a call that share a template: three items of `fill` each."""

    template: RequestTemplate
    items: list[str | bytes]

    def ids(self) -> list[Any]:
        """List the requests' ids."""
        return self.items[::3]

    def envelopes(self) -> list[bytes]:
        """Write its messages, as the submit script does."""
        head, second, body, tail = (text.encode() for text in self.template.texts[3:7])
        messages = []
        for id, values in zip(self.items[::3], self.items[2::3], strict=True):
            named, inside = _bytes(id), b"" if self.template.texts[7] == "1" else _bytes(values)
            messages.append(head + named + second + named + body + inside + tail)
        return messages

    def args(self) -> list[str | bytes | int]:
        """Write it as the submit script reads it."""
        return [*self.template.texts, len(self.items) // 3, *self.items]


def encode_groups(
    options: SubmitOptions, requests: Prepared, ids: Sequence[str], encoder: RequestEncoder
) -> list[EncodedGroup]:
    """Encode requests.

    Raises:
        PayloadTooLarge: one of them is, or all of them together are.
    """
    groups = _of_table(options, requests, ids, encoder) if isinstance(requests, RowBatch) else None
    if groups is None:
        groups = _of_each(
            options, requests.requests() if isinstance(requests, RowBatch | Packed) else requests, ids, encoder
        )
    size = sum(group.template.size * (len(group.items) // 3) for group in groups)
    if size > BYTES_MAX:
        text = f"the call holds {size} bytes, the limit is {BYTES_MAX}: split it"
        raise errors.PayloadTooLarge(text, limit=BYTES_MAX, size=size)
    return groups


def without(groups: Iterable[EncodedGroup], places: frozenset[int]) -> list[EncodedGroup]:
    """Return the groups without the requests at these places of the call."""
    kept, first = [], 0
    for group in groups:
        count = len(group.items) // 3
        left = [at for at in range(count) if first + at not in places]
        first += count
        if left:
            kept.append(
                EncodedGroup(group.template, [item for at in left for item in group.items[3 * at : 3 * at + 3]])
            )
    return kept


def _of_table(
    options: SubmitOptions, table: RowBatch, ids: Sequence[str], encoder: RequestEncoder
) -> list[EncodedGroup] | None:
    """Encode rows of fixed size all at once; None where values differ in size, or there are none."""
    inputs = encoded({name: array[:1] for name, array in table.arrays.items()})
    if not all(tensor.data and tensor.datatype != "BYTES" for tensor in inputs):
        return None
    template, size = encoder.template(options, inputs), sum(len(tensor.data) for tensor in inputs)
    raw = _raw(table, inputs)
    items: list[str | bytes] = []
    for id, at in zip(ids, range(0, size * table.rows, size), strict=True):
        items += template.fill(id, raw[at : at + size])
    return [EncodedGroup(template, items)]


def _raw(table: RowBatch, inputs: Sequence[Tensor]) -> bytes:
    parts = [
        np.ascontiguousarray(array, dtype=tensors.DTYPES[tensor.datatype]).reshape(table.rows, -1).view(np.uint8)
        for tensor, array in zip(inputs, table.arrays.values(), strict=True)
    ]
    return (parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)).tobytes()


def _of_each(
    options: SubmitOptions,
    requests: Iterable[dict[str, Array] | tuple[Tensor, ...]],
    ids: Sequence[str],
    encoder: RequestEncoder,
) -> list[EncodedGroup]:
    groups: list[EncodedGroup] = []
    for id, request in zip(ids, requests, strict=True):
        inputs = request if isinstance(request, tuple) else encoded(request)
        template = encoder.template(options, inputs)
        if not groups or groups[-1].template is not template:
            groups.append(EncodedGroup(template, []))
        groups[-1].items.extend(template.fill(id, b"".join(tensor.data for tensor in inputs)))
    return groups


def encoded(arrays: Mapping[str, Array]) -> tuple[Tensor, ...]:
    """Encode checked arrays as raw tensors."""
    return tuple(tensors.encode(name, array, binary=True, nullable=True) for name, array in arrays.items())


def _bytes(item: str | bytes) -> bytes:
    return item.encode() if isinstance(item, str) else item


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        text = f"the request is {size} bytes, the limit is {limit}: send fewer rows, or raise MUTIRAO_MAX_REQUEST_BYTES"
        raise errors.PayloadTooLarge(text, limit=limit, size=size)


def _record(options: SubmitOptions, rows: int) -> str:
    """Write the QUEUED record without its last two braces: the script adds the times by Redis's clock."""
    job = JobInfo(
        model=options.model,
        rows=rows,
        priority=options.priority,
        owner=options.tenant,
        webhook=options.webhook,
        digest=_PLACEHOLDER,
    )
    return msgspec.json.encode(JobRecord(status="QUEUED", task_id=_PLACEHOLDER, job=job))[:-2].decode()


def _envelope(options: SubmitOptions, head: bytes, summary: str, origin: str, own: dict[str, Any]) -> str:
    """Write a message as kombu does, without the headers that say nothing. Its deadline is in the record alone, by Redis's clock: workers' clocks may differ."""
    headers = {
        "id": _PLACEHOLDER, "task": keyspace.TASK, "lang": "py", "argsrepr": summary, "origin": origin, "mutirao": own,
    }  # fmt: skip
    properties = {
        "delivery_tag": _PLACEHOLDER, "priority": keyspace.step(options.priority), "body_encoding": "base64",
        "delivery_info": {"exchange": "", "routing_key": keyspace.queue(options.model)},
    }  # fmt: skip
    message = {
        "headers": headers,
        "properties": properties,
        "content-type": binary_codec.BINARY,
        "content-encoding": "binary",
        "body": base64.b64encode(head).decode() + _PLACEHOLDER,
    }
    return msgspec.json.encode(message).decode()
