"""Parse a body of JSON, a V2 inference request or rows, and check its inputs against the model's signature."""

from __future__ import annotations

import codecs
import math
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from mutirao import errors
from mutirao.gateway.requests import body_limits
from mutirao.registry import ModelInfo
from mutirao.wire import signature
from mutirao.wire.http_schemas import InferBody, RequestInputs
from mutirao.wire.messages import PredictRequest, Tensor
from mutirao.wire.signature import Signature
from mutirao.wire.tensors import Array

# In larger bodies values are counted before any is decoded; smaller ones cannot hold many.
COUNTED_BYTES = 64 * 1024
OUTPUTS_MAX = 1_000
PARAMETERS_MAX = 1_000
# The longest text outside the data, in characters.
TEXT_MAX = 4_096


class ParsedBody(NamedTuple):
    """A parsed body: the record around the data, and the data, not yet validated.

    Attributes:
        body: the record around the data; empty for a bare table.
        data: arrays by name, rows, or None where the body's own `inputs`, `rows` or `requests` hold them.
        bare: whether the whole body was one raw tensor, so that the answer's tensors are raw too.
        notes: what the caller should know about how a table was read.
    """

    body: InferBody
    data: Any = None
    bare: bool = False
    notes: tuple[str, ...] = ()


T = TypeVar("T")
_DAMAGED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
EMPTY = InferBody()
_DECODER = msgspec.json.Decoder(InferBody)
_ANY = msgspec.json.Decoder()


def arrays(info: ModelInfo, parsed: ParsedBody) -> dict[str, Array]:
    """Validate a body's data against the model's signature.

    Raises:
        InvalidTensor, SignatureMismatch, PayloadTooLarge: it does not fit.
        InvalidRequest: there is no data.
    """
    if parsed.data is not None:
        return checked(info, parsed.data)
    return of_request(info, parsed.body)


def of_request(info: ModelInfo, body: InferBody | RequestInputs) -> dict[str, Array]:
    """Validate the `inputs` or `rows` of a request."""
    if body.inputs is not msgspec.UNSET:
        if body.rows is not msgspec.UNSET:
            raise errors.InvalidRequest('the body has "inputs" and "rows": leave one out', reason="two kinds of inputs")
        short = _plain(info.signature, body.inputs)
        if short is not None:
            return short
        return signature.decode_request(info.name, info.signature, PredictRequest(inputs=body.inputs))
    if body.rows is msgspec.UNSET:
        raise errors.InvalidRequest(
            'the body has neither "inputs" (a V2 inference request) nor "rows": see /docs', reason="no inputs"
        )
    return checked(info, body.rows)


def _plain(takes: Signature, inputs: tuple[Tensor, ...]) -> dict[str, Array] | None:
    """Decode the commonest request by a fast path: one flat list of floats, of the model's own name, type and shape.

    JSON's floats are finite, so nothing is left to check. Return None for every other request: `signature.decode_request` says what is wrong.
    """
    if len(inputs) != 1 or len(takes.inputs) != 1:
        return None
    tensor, spec = inputs[0], takes.inputs[0]
    same = tensor.name == spec.name and tensor.datatype == spec.datatype == "FP64"
    if not same or spec.shape[0] != -1 or tensor.shape[1:] != spec.shape[1:] or type(tensor.data) is not list:
        return None
    fits = tensor.shape != () and 0 < tensor.shape[0] <= takes.max_rows and math.prod(tensor.shape) == len(tensor.data)
    if not fits or set(map(type, tensor.data)) != {float}:
        return None
    return {spec.name: np.array(tensor.data).reshape(tensor.shape)}


def checked(info: ModelInfo, data: Any) -> dict[str, Array]:
    """Validate rows, or arrays by name."""
    takes = info.signature
    return signature.validate(info.name, takes, signature.read(data if takes.json_inputs else _columns(data), takes))


def decode(body: bytes, kind: type[T]) -> T:
    """Read a JSON body.

    Raises:
        InvalidRequest: it is not of this type.
    """
    try:
        return msgspec.json.decode(body.removeprefix(codecs.BOM_UTF8), type=kind)
    except _DAMAGED as exc:
        raise _damaged(body, exc) from exc


def read(body: bytes) -> ParsedBody:
    """Parse a body of JSON.

    Raises:
        InvalidRequest: it is not a request.
        PayloadTooLarge: it holds more values than are allowed.
    """
    if len(body) > COUNTED_BYTES:
        body_limits.check_json(body)
    try:
        if body[:1] == b"{":
            return ParsedBody(_check_sizes(_DECODER.decode(body)))
        body = body.removeprefix(codecs.BOM_UTF8)
        if body.lstrip()[:1] == b"[":
            return ParsedBody(EMPTY, _ANY.decode(body))
        return ParsedBody(_check_sizes(_DECODER.decode(body)))
    except _DAMAGED as exc:
        raise _damaged(body, exc) from exc


def _check_sizes(body: InferBody) -> InferBody:
    """Limit the sizes of what stands around the data."""
    if body.outputs is not None and len(body.outputs) > OUTPUTS_MAX:
        text = f"the body asks for {len(body.outputs)} outputs, the limit is {OUTPUTS_MAX}"
        raise errors.InvalidRequest(text, reason="too many outputs")
    if body.parameters and len(body.parameters) > PARAMETERS_MAX:
        text = f"the body has {len(body.parameters)} parameters, the limit is {PARAMETERS_MAX}"
        raise errors.InvalidRequest(text, reason="too many parameters")
    for name in ("id", "priority", "webhook"):
        value = getattr(body, name)
        if value is not None and len(value) > TEXT_MAX:
            text = f"{name} has {len(value)} characters, the limit is {TEXT_MAX}"
            raise errors.InvalidRequest(text, reason=f"{name} too long")
    return body


def _damaged(body: bytes, exc: Exception) -> errors.InvalidRequest:
    if not body.strip():
        return errors.InvalidRequest(
            'the body is empty: send a request, {"rows": [[...]]}, see /docs', reason="damaged body"
        )
    said = "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)
    if "invalid character" in said and (b"NaN" in body or b"Infinity" in body):
        said += "; JSON has neither NaN nor Infinity: a missing value is null"
    return errors.InvalidRequest(f"the body is not a request in JSON: {said}", reason="damaged body")


def _columns(data: Any) -> Any:
    """Turn rows that are objects into columns."""
    if not (isinstance(data, list) and data and isinstance(data[0], dict)):
        return data
    names = list(data[0])
    for at, row in enumerate(data):
        if not isinstance(row, dict) or row.keys() != data[0].keys():
            raise errors.InvalidRequest(f"row {at} has other columns than row 0", reason="rows differ")
    return {name: [row[name] for row in data] for name in names}
