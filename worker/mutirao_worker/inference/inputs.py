"""Requests as the parent passes them to a pool child, and the arrays that are decoded from them.

Requests of one submission by our client differ in their raw tensors alone: the JSON before them is the same to the byte. It is
decoded once, and the tensors of all of them are decoded and checked as those of one request with all the rows.
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
_CALLBACK_FIELDS = ("callbacks", "errbacks", "chain", "chord")
_DECODER = msgspec.json.Decoder(tuple[tuple[str, PredictRequest | list[Any]], dict[str, Any], Any])
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class PackedRequest(NamedTuple):
    """One request as the parent passes it on.

    Attributes:
        id: the job's id.
        body: the message's body; base64 text if `base64`.
        content_type: codec.JSON or codec.BINARY.
        base64: whether the body is still base64.
        offloaded: the raw tensors that were offloaded, where the request refers to any.
    """

    id: str
    body: bytes | str
    content_type: str
    base64: bool
    offloaded: bytes | None


class OutputSpecification(NamedTuple):
    """What a request asks for.

    Attributes:
        loaded: of which model.
        outputs: which outputs.
        binary: of each output whether it goes back as raw bytes, see `wants_binary`.
        id: V2's name of the request.
        embed: Celery's callbacks.
        parameters: the value of each parameter that the model takes.
    """

    loaded: LoadedModel
    outputs: tuple[OutputSpec, ...]
    binary: tuple[bool | None, ...]
    id: str | None
    embed: dict[str, Any] | None
    parameters: dict[str, Any]


class StackedRequests(NamedTuple):
    """Requests of one specification and size, their rows one after another.

    Attributes:
        specification: what each asks for.
        members: their positions in the batch.
        rows: how many each has.
        size: bytes of each on the wire.
        inputs: as `signature.bind` leaves them, of all members.
    """

    specification: OutputSpecification
    members: Sequence[int]
    rows: int
    size: int
    inputs: dict[str, Array]

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """Equal for stacks that one predict call can answer."""
        shapes = [(name, array.dtype, array.shape[1:]) for name, array in self.inputs.items()]
        specification = self.specification
        return (id(specification.loaded), specification.outputs, *specification.parameters.values(), *shapes)

    def subset(self, start: int, stop: int) -> StackedRequests:
        """Return the members from `start` to before `stop`; their arrays are views."""
        if stop - start == len(self.members):
            return self
        rows = slice(start * self.rows, stop * self.rows)
        inputs = {name: array[rows] for name, array in self.inputs.items()}
        return self._replace(members=self.members[start:stop], inputs=inputs)


class RejectedRequest(NamedTuple):
    """A request that does not reach the model; another worker's copy of the model may accept it where that is said."""

    member: int
    error: Exception
    embed: dict[str, Any] | None
    other_copy_may_accept: bool


class InputReader:
    """Decodes the requests of a batch, into new arrays each time: a model may change those of its last call.

    Args:
        find: returns a loaded model, or raises ModelNotFound or ModelUnavailable.
        requests: the batch.
    """

    def __init__(self, find: Callable[[str], LoadedModel], requests: Sequence[PackedRequest]) -> None:
        self._find = find
        self._requests = requests

    def read(self, members: Iterable[int]) -> Iterator[StackedRequests | RejectedRequest]:
        """Decode and check requests, uniform ones together."""
        uniform: defaultdict[tuple[bytes, int], tuple[list[int], list[bytes]]] = defaultdict(lambda: ([], []))
        for index in members:
            packed = self._requests[index]
            try:
                body = binascii.a2b_base64(packed.body) if packed.base64 else packed.body
            except ValueError:
                body = ""
            if packed.content_type != binary_codec.BINARY or packed.offloaded is not None or isinstance(body, str):
                yield self._read_one(index)
                continue
            end = 4 + int.from_bytes(body[:4], "little")
            places, payloads = uniform[body[:end], len(body)]
            places.append(index)
            payloads.append(body[end:])
        for (head, size), (places, payloads) in uniform.items():
            stack = self._read_uniform(head, size, places, payloads)
            yield from (self._read_one(index) for index in places) if stack is None else (stack,)

    def _read_uniform(
        self, head: bytes, size: int, members: list[int], payloads: list[bytes]
    ) -> StackedRequests | None:
        """Decode requests as one; None where one of them may be wrong, or where this would not show it."""
        if len(head) != 4 + int.from_bytes(head[:4], "little"):
            return None
        try:
            (model, request), options, embed = _DECODER.decode(head[4:])
            if isinstance(request, list) or options or not isinstance(embed, dict | None):
                return None
            specification = self._specification(model, request, embed)
            expected = specification.loaded.info.signature
            rows = _rows(request, size - len(head), expected.max_rows)
            concatenated = _concatenated(request.inputs, payloads) if rows else None
            if concatenated is None:
                return None
            unlimited = msgspec.structs.replace(expected, max_rows=sys.maxsize)
            inputs = signature.decode_request(model, unlimited, PredictRequest(inputs=concatenated))
        except interruption.TIME_LIMIT:
            raise
        except Exception:  # noqa: BLE001 - decoded one by one, the faulty request alone is refused
            return None
        return StackedRequests(specification, members, rows, size, inputs)

    def _read_one(self, index: int) -> StackedRequests | RejectedRequest:
        packed = self._requests[index]
        embed: dict[str, Any] | None = None
        readable = False
        try:
            args, options, embed = _decode_triple(packed)
            model, request = messages.arguments(args, options)
            model, request = keyspace.model_name(model), messages.read_request(request)
            self._find(model)
            if binary_codec.is_offloaded(request):
                request = binary_codec.request_with(request, _offloaded_payload(packed))
            readable = True
            specification = self._specification(model, request, embed)
            inputs = signature.decode_request(model, specification.loaded.info.signature, request)
        except interruption.TIME_LIMIT:
            raise
        except Exception as exc:  # noqa: BLE001 - what a client sent fails its own request alone
            other_copy_may_accept = isinstance(exc, errors.ModelUnavailable) or (
                readable and isinstance(exc, errors.InvalidRequest)
            )
            return RejectedRequest(index, exc, _callbacks(embed), other_copy_may_accept)
        return StackedRequests(
            specification, [index], signature.rows(inputs), len(packed.body) + len(packed.offloaded or b""), inputs
        )

    def _specification(self, model: str, request: PredictRequest, embed: dict[str, Any] | None) -> OutputSpecification:
        loaded, requests = self._find(keyspace.model_name(model)), request.outputs
        outputs = loaded.info.signature.select_outputs(
            None if requests is None else [output.name for output in requests]
        )
        binary = tuple(wants_binary(request, spec.name) for spec in outputs)
        parameters = loaded.info.signature.read_parameters(request.parameters)
        return OutputSpecification(loaded, outputs, binary, request.id, _callbacks(embed), parameters)


def _rows(request: PredictRequest, size: int, max_rows: int) -> int:
    """Return how many rows each of some uniform requests has, if its raw tensors are `size` bytes in all; else 0."""
    rows = {tensor.shape[0] if tensor.shape else 0 for tensor in request.inputs}
    sizes = [_binary_size(tensor) for tensor in request.inputs]
    if len(rows) != 1 or binary_codec.is_offloaded(request) or 0 in sizes or sum(sizes) != size:
        return 0
    count = rows.pop()
    return count if 0 < count <= max_rows else 0


def _binary_size(tensor: Tensor) -> int:
    """Return how many raw bytes a tensor has; 0 where it has none, or where they may not match its shape."""
    size, elements = (tensor.parameters or {}).get(binary_codec.SIZE), math.prod(tensor.shape)
    if type(size) is not int or min(tensor.shape, default=0) < 1 or tensor.datatype not in DTYPES:
        return 0
    if tensor.datatype == "BYTES":
        return size if elements == 1 and size >= 4 else 0
    return size if size == elements * DTYPES[tensor.datatype].itemsize else 0


def _concatenated(tensors: tuple[Tensor, ...], payloads: list[bytes]) -> tuple[Tensor, ...] | None:
    """Concatenate the tensors of many requests to those of one; None where a text is not as long as its request says."""
    count, concatenated = len(payloads), b"".join(payloads)
    if len(tensors) == 1 and tensors[0].datatype != "BYTES":
        return (_repeated(tensors[0], count, concatenated),)
    table, start, repeated = np.frombuffer(concatenated, np.uint8).reshape(count, -1), 0, []
    for tensor in tensors:
        size = (tensor.parameters or {})[binary_codec.SIZE]
        part = np.ascontiguousarray(table[:, start : start + size])
        lengths = part[:, :4].copy().view("<u4") if tensor.datatype == "BYTES" else None
        if lengths is not None and not ((lengths == size - 4) | ((size == 4) & (lengths == _MISSING))).all():
            return None
        repeated.append(_repeated(tensor, count, part.tobytes()))
        start += size
    return tuple(repeated)


def _repeated(tensor: Tensor, count: int, payload: bytes) -> Tensor:
    shape = (count * tensor.shape[0], *tensor.shape[1:])
    return Tensor(name=tensor.name, datatype=tensor.datatype, shape=shape, data=payload)


def _decode_triple(packed: PackedRequest) -> tuple[Any, Any, Any]:
    body = _decode_body(packed)
    match body:
        case [list() | tuple() as args, dict() as options, dict() | None as embed]:
            return args, options, embed
    raise errors.InvalidRequest(TRIPLE, reason="not Celery's triple")


def _decode_body(packed: PackedRequest) -> Any:
    if packed.content_type not in (binary_codec.JSON, binary_codec.BINARY):
        raise _unreadable_body(packed, "ContentDisallowed")
    try:
        body = binascii.a2b_base64(packed.body) if packed.base64 else packed.body
        body = body.encode() if isinstance(body, str) else body
        if packed.content_type == binary_codec.JSON:
            return _from_json(body)
        return binary_codec.decode_body(body) if body else None
    except errors.InvalidRequest as exc:
        raise _unreadable_body(packed, str(exc)) from exc
    except (ValueError, RecursionError) as exc:
        raise _unreadable_body(packed, "DecodeError") from exc


def _from_json(body: bytes) -> Any:
    try:
        return _DECODER.decode(body)
    except _UNDECODABLE:
        # Of another structure, or with the NaN that Python's own module writes: decoded, the error can name what is wrong.
        return json.loads(body.decode())


def _unreadable_body(packed: PackedRequest, reason: str) -> errors.InvalidRequest:
    text = (
        f"the body ({packed.content_type}) cannot be read: {reason}; send {binary_codec.JSON} or {binary_codec.BINARY}"
    )
    kind = "ContentDisallowed" if reason == "ContentDisallowed" else "DecodeError"
    return errors.InvalidRequest(text, reason=f"unreadable body, {kind}")


def _offloaded_payload(packed: PackedRequest) -> bytes:
    if packed.offloaded is None:
        text = f"the tensors of job {packed.id!r} are gone: its payload key does not exist"
        raise errors.InvalidRequest(text, reason="payload gone")
    return packed.offloaded


def _callbacks(embed: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the callbacks that a stock client has named, if any."""
    return embed if embed and any(embed.get(key) for key in _CALLBACK_FIELDS) else None


def wants_binary(request: PredictRequest, output: str) -> bool | None:
    """Whether an output goes back as raw bytes: by its own parameter, else the request's, else not (V2's rule).

    Returns:
        None where it goes as JSON, and raw only if JSON cannot carry it.
    """
    requested: tuple[RequestedOutput, ...] = request.outputs or ()
    own: dict[str, Any] = next((each.parameters or {} for each in requested if each.name == output), {})
    binary = own.get("binary_data", (request.parameters or {}).get("binary_data_output", False))
    return None if binary == binary_codec.AUTO else bool(binary)
