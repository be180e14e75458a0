"""Parse a request's body into validated arrays: V2 in JSON or with raw tensors, JSON rows, CSV, npy, or one file of a form."""

from __future__ import annotations

import codecs
import itertools
import math
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np

from mutirao import errors
from mutirao.gateway.openapi.route_doc import Param
from mutirao.gateway.requests import body_limits, table_files
from mutirao.gateway.requests.request import Head
from mutirao.registry import ModelInfo
from mutirao.tables.csv_dialect import DELIMITERS, HEADERS, Dialect
from mutirao.wire import binary_codec, signature, tensors
from mutirao.wire.http_schemas import InferBody, RequestInputs
from mutirao.wire.messages import PredictRequest, Tensor
from mutirao.wire.signature import Signature
from mutirao.wire.tensors import Array

HEADER_LENGTH = b"inference-header-content-length"
# Of the query, for a CSV; what is left out is detected.
PARAMS = {
    "delimiter": Param("What stands between the values of a CSV.", {"enum": [*DELIMITERS, *DELIMITERS.values()]}),
    "decimal": Param("The decimal sign of a CSV.", {"enum": [".", ","]}),
    "header": Param("Whether the first line of a CSV names its columns.", {"enum": list(HEADERS)}),
}
# In larger bodies values are counted before any is decoded; smaller ones cannot hold many.
COUNTED_BYTES = 64 * 1024
OUTPUTS_MAX = 1_000
PARAMETERS_MAX = 1_000
# The longest text outside the data, in characters.
TEXT_MAX = 4_096
# Media types other than JSON.
MEDIAS = ("application/octet-stream", "text/csv", "application/x-npy", "multipart/form-data")
_JSON = (
    "application/json",
    "text/json",
    "text/plain",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "",
)


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
_EMPTY = InferBody()
_DECODER = msgspec.json.Decoder(InferBody)
_ANY = msgspec.json.Decoder()


def read(head: Head, body: bytes, info: ModelInfo) -> ParsedBody:
    """Parse a request's body by its content type.

    Raises:
        InvalidRequest: the body is not of that type.
        PayloadTooLarge: it holds more values than are allowed.
        UnsupportedMedia: the content type is not supported.
    """
    length = head.headers.get(HEADER_LENGTH)
    if length is not None:
        return _binary(body, length, info.signature)
    media = head.headers.get(b"content-type", b"")
    if media == b"application/json":
        return _json(body)
    return _of_media(head, body, media.decode("latin-1"), info.signature)


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
    columns = signature.arrays(_columns(data), frame=info.signature.frame)
    return signature.validate(info.name, info.signature, columns)


def decode(body: bytes, kind: type[T]) -> T:
    """Read a JSON body.

    Raises:
        InvalidRequest: it is not of this type.
    """
    try:
        return msgspec.json.decode(body.removeprefix(codecs.BOM_UTF8), type=kind)
    except _DAMAGED as exc:
        raise _damaged(body, exc) from exc


def _json(body: bytes) -> ParsedBody:
    if len(body) > COUNTED_BYTES:
        body_limits.check_json(body)
    try:
        if body[:1] == b"{":
            return ParsedBody(_check_sizes(_DECODER.decode(body)))
        body = body.removeprefix(codecs.BOM_UTF8)
        if body.lstrip()[:1] == b"[":
            return ParsedBody(_EMPTY, _ANY.decode(body))
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


def _binary(body: bytes, length: bytes, takes: Signature) -> ParsedBody:
    """Parse V2's binary form: `length` bytes of JSON, then the raw tensors in the order in which JSON names them."""
    if not length.isdigit() or len(length) > 15 or int(length) > len(body):
        shown = length[:20].decode("latin-1")
        text = f"Inference-Header-Content-Length is {shown!r}, but the body has {len(body)} bytes"
        raise errors.InvalidRequest(text, reason="damaged body")
    size = int(length)
    if size == 0:
        return ParsedBody(_EMPTY, _bare(body, takes), bare=True)
    parsed, raw = _json(body[:size]), memoryview(body)[size:]
    if parsed.data is None and parsed.body.inputs is not msgspec.UNSET:
        return ParsedBody(msgspec.structs.replace(parsed.body, inputs=_filled(parsed.body.inputs, raw)))
    if parsed.data is None and parsed.body.requests is not None:
        return ParsedBody(msgspec.structs.replace(parsed.body, requests=_each_filled(parsed.body.requests, raw)))
    raise errors.InvalidRequest('the JSON before raw tensors has no "inputs"', reason="no inputs")


def _filled(heads: tuple[Tensor, ...], raw: memoryview) -> tuple[Tensor, ...]:
    for tensor in heads:
        if tensor.datatype == "BYTES":
            body_limits.check_text(math.prod(tensor.shape))
        if binary_codec.SIZE in (tensor.parameters or {}) and tensor.data is not None:
            text = f"tensor {tensor.name!r} has both data and {binary_codec.SIZE}"
            raise errors.InvalidTensor(text, tensor=tensor.name)
    return binary_codec.request_with(PredictRequest(inputs=heads), raw).inputs


def _each_filled(requests: tuple[RequestInputs, ...], raw: memoryview) -> tuple[RequestInputs, ...]:
    """Fill in the tensors of a batch's requests, whose bytes stand one after another."""
    heads = [() if request.inputs is msgspec.UNSET else request.inputs for request in requests]
    filled = iter(_filled(tuple(itertools.chain.from_iterable(heads)), raw))
    return tuple(
        msgspec.structs.replace(request, inputs=tuple(itertools.islice(filled, len(own)))) if own else request
        for request, own in zip(requests, heads, strict=True)
    )


def _bare(body: bytes, takes: Signature) -> dict[str, Array]:
    """Parse a body that is one raw tensor: the model's only input, as many rows as there are bytes for."""
    if len(takes.inputs) != 1:
        text = f"a raw body is one tensor, but the model takes {len(takes.inputs)} inputs: send the JSON before them"
        raise errors.InvalidRequest(text, reason="raw body")
    spec = takes.inputs[0]
    if -1 in spec.shape[1:]:
        raise errors.InvalidRequest(f"a raw body does not tell the shape of {spec}: send the JSON", reason="raw body")
    item = 0 if spec.datatype == "BYTES" else tensors.DTYPES[spec.datatype].itemsize * math.prod(spec.shape[1:])
    rows = 1 if item == 0 else len(body) // item
    tensor = Tensor(name=spec.name, datatype=spec.datatype, shape=(rows, *spec.shape[1:]), data=memoryview(body))
    return {spec.name: tensors.decode(tensor)}


def _of_media(head: Head, body: bytes, header: str, takes: Signature) -> ParsedBody:
    media, _, _ = header.partition(";")
    media = media.strip().lower()
    if media in _JSON or media.endswith("+json"):
        return _json(body)
    if media == "multipart/form-data":
        file = table_files.of_form(body, header, takes, _dialect(head, ""))
        return ParsedBody(_EMPTY, file.data, notes=file.notes)
    table = table_files.read(body, media, takes, _dialect(head, header))
    if table is None:
        text = f"Content-Type {media!r} is not read here: send application/json, application/octet-stream with Inference-Header-Content-Length, text/csv, application/x-npy or multipart/form-data"
        raise errors.UnsupportedMedia(text, reason="content type")
    return ParsedBody(_EMPTY, table.data, notes=table.notes)


def _dialect(head: Head, header: str) -> Dialect:
    """Return the dialect of a CSV by the query, and for its header by the content type too (RFC 4180: header=present or absent)."""
    own = table_files.parameter(header, "header")
    return Dialect.checked(head.param("delimiter"), head.param("decimal"), head.param("header") or own)


def _columns(data: Any) -> Any:
    """Turn rows that are objects into columns."""
    if not (isinstance(data, list) and data and isinstance(data[0], dict)):
        return data
    names = list(data[0])
    for at, row in enumerate(data):
        if not isinstance(row, dict) or row.keys() != data[0].keys():
            raise errors.InvalidRequest(f"row {at} has other columns than row 0", reason="rows differ")
    return {name: [row[name] for row in data] for name in names}
