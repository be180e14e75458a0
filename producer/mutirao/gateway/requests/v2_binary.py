"""Parse V2's binary form: JSON, then the raw tensors in the order in which JSON names them."""

from __future__ import annotations

import itertools
import math

import msgspec

from mutirao import errors
from mutirao.gateway.requests import body_limits, v2_json
from mutirao.gateway.requests.v2_json import EMPTY, ParsedBody
from mutirao.wire import binary_codec, json_elements, tensors
from mutirao.wire.http_schemas import RequestInputs
from mutirao.wire.messages import PredictRequest, Tensor
from mutirao.wire.signature import Signature
from mutirao.wire.tensors import Array
from mutirao.wire.untyped import objects

HEADER_LENGTH = b"inference-header-content-length"


def read(body: bytes, length: bytes, takes: Signature) -> ParsedBody:
    """Parse V2's binary form: `length` bytes of JSON, then the raw tensors in the order in which JSON names them."""
    if not length.isdigit() or len(length) > 15 or int(length) > len(body):
        shown = length[:20].decode("latin-1")
        text = f"Inference-Header-Content-Length is {shown!r}, but the body has {len(body)} bytes"
        raise errors.InvalidRequest(text, reason="damaged body")
    size = int(length)
    if size == 0:
        if len(takes.inputs) == 1 and takes.inputs[0].format == json_elements.BINARY:
            return ParsedBody(EMPTY, {takes.inputs[0].name: objects([body])})  # a file, as it is
        return ParsedBody(EMPTY, _bare(body, takes), bare=True)
    parsed, raw = v2_json.read(body[:size]), memoryview(body)[size:]
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
        raise errors.InvalidRequest(f"a raw body does not give the shape of {spec}: send the JSON", reason="raw body")
    item = 0 if spec.datatype == "BYTES" else tensors.DTYPES[spec.datatype].itemsize * math.prod(spec.shape[1:])
    rows = 1 if item == 0 else len(body) // item
    tensor = Tensor(name=spec.name, datatype=spec.datatype, shape=(rows, *spec.shape[1:]), data=memoryview(body))
    return {spec.name: tensors.decode(tensor)}
