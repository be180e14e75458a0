"""Requests as the parent hands them to a pool child, and the arrays that are read from them.

Requests that one call of our client made differ in their raw tensors alone: the JSON before them is the same to the byte. It is
decoded once, and the tensors of all of them are read and checked as those of one request with all the rows.
"""

from __future__ import annotations

import binascii
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from mutirao import errors, keyspace
from mutirao.wire import binary_codec, messages, signature
from mutirao.wire.messages import PredictRequest, RequestedOutput, Tensor
from mutirao.wire.signature import OutputSpec
from mutirao.wire.tensors import DTYPES, MISSING, Array
from mutirao_worker.inference import interruption
from mutirao_worker.models.loaded_model import LoadedModel

TRIPLE = "the body must be Celery's triple [[model, request], {options}, embed], message protocol 2"

_MISSING = int.from_bytes(MISSING, "little")
_FOLLOWING = ("callbacks", "errbacks", "chain", "chord")
_DECODER = msgspec.json.Decoder(tuple[tuple[str, PredictRequest | list[Any]], dict[str, Any], Any])
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class PackedRequest(NamedTuple):
    """One request as the parent hands it over.

    Attributes:
        id: the job's.
        body: the message's body; base64 text if `base64`.
        content_type: codec.JSON or codec.BINARY.
        base64: whether the body is still base64.
        beside: the raw tensors that were kept beside, if the request says that there are any.
    """

    id: str
    body: bytes | str
    content_type: str
    base64: bool
    beside: bytes | None


class OutputSpecification(NamedTuple):
    """What a request asks for, beside its tensors; `binary` says of each output whether it goes back as raw bytes, see `wants_raw`."""

    loaded: LoadedModel
    wanted: tuple[OutputSpec, ...]
    binary: tuple[bool | None, ...]
    id: str | None
    embed: dict[str, Any] | None


class Stack(NamedTuple):
    """Requests of one form and size, their rows one after another.

    Attributes:
        form: what each asks for.
        members: their places in the batch.
        rows: of each.
        size: of each, in bytes on the wire.
        inputs: as `signature.bind` leaves them, of all members.
    """

    form: OutputSpecification
    members: Sequence[int]
    rows: int
    size: int
    inputs: dict[str, Array]

    @property
    def kind(self) -> tuple[Any, ...]:
        """Equal for stacks that one predict call can answer."""
        shapes = [(name, array.dtype, array.shape[1:]) for name, array in self.inputs.items()]
        return (id(self.form.loaded), self.form.wanted, *shapes)

    def cut(self, start: int, stop: int) -> Stack:
        """The members from `start` to before `stop`; their arrays are views."""
        if stop - start == len(self.members):
            return self
        rows = slice(start * self.rows, stop * self.rows)
        inputs = {name: array[rows] for name, array in self.inputs.items()}
        return self._replace(members=self.members[start:stop], inputs=inputs)


class RejectedRequest(NamedTuple):
    """A request that does not reach the model; `by_copy` says that a copy of the model with another signature may take it."""

    member: int
    error: Exception
    embed: dict[str, Any] | None
    by_copy: bool


class InputReader:
    """Reads the requests of a batch; the same one again gives new arrays, so a model cannot spoil them for its next call.

    Args:
        find: finds a loaded model, or raises ModelNotFound or ModelUnavailable.
        asked: the batch.
    """

    def __init__(self, find: Callable[[str], LoadedModel], asked: Sequence[PackedRequest]) -> None:
        self._find = find
        self._asked = asked

    def read(self, members: Iterable[int]) -> Iterator[Stack | RejectedRequest]:
        """Decode and check requests, those that are alike together."""
        alike: defaultdict[tuple[bytes, int], tuple[list[int], list[bytes]]] = defaultdict(lambda: ([], []))
        for at in members:
            one = self._asked[at]
            try:
                body = binascii.a2b_base64(one.body) if one.base64 else one.body
            except ValueError:
                body = ""
            if one.content_type != binary_codec.BINARY or one.beside is not None or isinstance(body, str):
                yield self._read_one(at)
                continue
            end = 4 + int.from_bytes(body[:4], "little")
            places, raws = alike[body[:end], len(body)]
            places.append(at)
            raws.append(body[end:])
        for (head, size), (places, raws) in alike.items():
            stack = self._read_alike(head, size, places, raws)
            yield from (self._read_one(at) for at in places) if stack is None else (stack,)

    def _read_alike(self, head: bytes, size: int, members: list[int], raws: list[bytes]) -> Stack | None:
        """Read requests as one; None where one of them may be wrong, or where this would not tell."""
        if len(head) != 4 + int.from_bytes(head[:4], "little"):
            return None
        try:
            (model, request), options, embed = _DECODER.decode(head[4:])
            if isinstance(request, list) or options or not isinstance(embed, dict | None):
                return None
            form = self._form(model, request, embed)
            takes = form.loaded.info.signature
            rows = _rows(request, size - len(head), takes.max_rows)
            joined = _joined(request.inputs, raws) if rows else None
            if joined is None:
                return None
            unlimited = msgspec.structs.replace(takes, max_rows=sys.maxsize)
            inputs = signature.decode_request(model, unlimited, PredictRequest(inputs=joined))
        except interruption.TIME_LIMIT:
            raise
        except Exception:  # noqa: BLE001 - one by one, the guilty one alone is refused, by name
            return None
        return Stack(form, members, rows, size, inputs)

    def _read_one(self, at: int) -> Stack | RejectedRequest:
        one = self._asked[at]
        embed: dict[str, Any] | None = None
        readable = False
        try:
            args, options, embed = _triple(one)
            model, request = _request(args, options)
            self._find(model)
            if binary_codec.is_offloaded(request):
                request = binary_codec.request_with(request, _beside(one))
            readable = True
            form = self._form(model, request, embed)
            inputs = signature.decode_request(model, form.loaded.info.signature, request)
        except interruption.TIME_LIMIT:
            raise
        except Exception as exc:  # noqa: BLE001 - whatever a client sent, it costs its own request alone
            return RejectedRequest(at, exc, _told(embed), readable and isinstance(exc, errors.InvalidRequest))
        return Stack(form, [at], signature.rows(inputs), len(one.body) + len(one.beside or b""), inputs)

    def _form(self, model: str, request: PredictRequest, embed: dict[str, Any] | None) -> OutputSpecification:
        loaded, asked = self._find(keyspace.model_name(model)), request.outputs
        wanted = loaded.info.signature.chosen(None if asked is None else [output.name for output in asked])
        binary = tuple(wants_raw(request, spec.name) for spec in wanted)
        return OutputSpecification(loaded, wanted, binary, request.id, _told(embed))


def _rows(request: PredictRequest, size: int, max_rows: int) -> int:
    """How many rows each of some like requests has, if all are whole: raw tensors of `size` bytes in all; 0 where that is not plain."""
    rows = {tensor.shape[0] if tensor.shape else 0 for tensor in request.inputs}
    sizes = [_raw_size(tensor) for tensor in request.inputs]
    if len(rows) != 1 or binary_codec.is_offloaded(request) or 0 in sizes or sum(sizes) != size:
        return 0
    count = rows.pop()
    return count if 0 < count <= max_rows else 0


def _raw_size(tensor: Tensor) -> int:
    """How many raw bytes a tensor has; 0 where it has none, or where they may not be as many as its shape says."""
    size, elements = (tensor.parameters or {}).get(binary_codec.SIZE), math.prod(tensor.shape)
    if type(size) is not int or min(tensor.shape, default=0) < 1 or tensor.datatype not in DTYPES:
        return 0
    if tensor.datatype == "BYTES":
        return size if elements == 1 and size >= 4 else 0
    return size if size == elements * DTYPES[tensor.datatype].itemsize else 0


def _joined(tensors: tuple[Tensor, ...], raws: list[bytes]) -> tuple[Tensor, ...] | None:
    """Make the tensors of one request of those of many; None where a text is not as long as its request says."""
    count, joined = len(raws), b"".join(raws)
    if len(tensors) == 1 and tensors[0].datatype != "BYTES":
        return (_times(tensors[0], count, joined),)
    table, start, made = np.frombuffer(joined, np.uint8).reshape(count, -1), 0, []
    for tensor in tensors:
        size = (tensor.parameters or {})[binary_codec.SIZE]
        part = np.ascontiguousarray(table[:, start : start + size])
        lengths = part[:, :4].copy().view("<u4") if tensor.datatype == "BYTES" else None
        if lengths is not None and not ((lengths == size - 4) | ((size == 4) & (lengths == _MISSING))).all():
            return None
        made.append(_times(tensor, count, part.tobytes()))
        start += size
    return tuple(made)


def _times(tensor: Tensor, count: int, raw: bytes) -> Tensor:
    shape = (count * tensor.shape[0], *tensor.shape[1:])
    return Tensor(name=tensor.name, datatype=tensor.datatype, shape=shape, data=raw)


def _triple(one: PackedRequest) -> tuple[Any, Any, Any]:
    found = _decoded(one)
    if not (isinstance(found, list | tuple) and len(found) == 3):
        raise errors.InvalidRequest(TRIPLE, reason="not Celery's triple")
    args, options, embed = found
    if not (isinstance(args, list | tuple) and isinstance(options, dict) and isinstance(embed, dict | None)):
        raise errors.InvalidRequest(TRIPLE, reason="not Celery's triple")
    return args, options, embed


def _request(args: Any, options: dict[str, Any]) -> tuple[str, PredictRequest]:
    model, request = messages.arguments(args, options)
    return keyspace.model_name(model), messages.read_request(request)


def _decoded(one: PackedRequest) -> Any:
    if one.content_type not in (binary_codec.JSON, binary_codec.BINARY):
        raise _unreadable(one, "ContentDisallowed")
    try:
        body = binascii.a2b_base64(one.body) if one.base64 else one.body
        body = body.encode() if isinstance(body, str) else body
        if one.content_type == binary_codec.JSON:
            return _from_json(body)
        return binary_codec.decode_body(body) if body else None
    except errors.InvalidRequest as exc:
        raise _unreadable(one, str(exc)) from exc
    except (ValueError, RecursionError) as exc:
        raise _unreadable(one, "DecodeError") from exc


def _from_json(body: bytes) -> Any:
    try:
        return _DECODER.decode(body)
    except _UNDECODABLE:
        # Of other shape, or with the NaN that Python's own module writes: what is wrong can then be said by name.
        return json.loads(body.decode())


def _unreadable(one: PackedRequest, said: str) -> errors.InvalidRequest:
    text = f"the body ({one.content_type}) cannot be read: {said}; send {binary_codec.JSON} or {binary_codec.BINARY}"
    kind = "ContentDisallowed" if said == "ContentDisallowed" else "DecodeError"
    return errors.InvalidRequest(text, reason=f"unreadable body, {kind}")


def _beside(one: PackedRequest) -> bytes:
    if one.beside is None:
        text = f"the tensors of job {one.id!r} are gone: its payload key does not exist"
        raise errors.InvalidRequest(text, reason="payload gone")
    return one.beside


def _told(embed: dict[str, Any] | None) -> dict[str, Any] | None:
    """What is to follow a job's end, where a stock client named any of it."""
    return embed if embed and any(embed.get(key) for key in _FOLLOWING) else None


def wants_raw(request: PredictRequest, output: str) -> bool | None:
    """Whether an output goes back as raw bytes: the output's own word, else the request's, else no (V2's rule).

    Returns:
        None where it goes as JSON, and raw only if JSON cannot carry it.
    """
    named: tuple[RequestedOutput, ...] = request.outputs or ()
    own: dict[str, Any] = next((one.parameters or {} for one in named if one.name == output), {})
    asked = own.get("binary_data", (request.parameters or {}).get("binary_data_output", False))
    return None if asked == binary_codec.AUTO else bool(asked)
