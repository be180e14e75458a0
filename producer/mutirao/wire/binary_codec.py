"""The binary form: JSON for the structure, raw tensors one after another behind it, as in V2's binary extension.

A message body is Celery's triple `[[model, request], {options}, embed]`: the JSON's length as 4 bytes little-endian, the
JSON, the raw tensors. A result must stay JSON, so that a stock Celery client can read its document: there the raw tensors
stand as base64 in the response's parameters. Either way, tensors over a threshold are offloaded to a key of their own.
"""

from __future__ import annotations

import base64
import binascii
import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np

from mutirao import errors
from mutirao.wire import tensors
from mutirao.wire.messages import PredictRequest, PredictResult, Tensor
from mutirao.wire.tensors import Array

JSON = "application/json"
BINARY = "application/x-mutirao"
SIZE = "binary_data_size"
INLINE = "binary_data"
OFFLOADED = "binary_data_beside"
# A value of a request's `binary_data_output`: JSON, except for tensors that JSON cannot carry.
AUTO = "auto"

_INLINE = b'"binary_data":"'

_Triple = tuple[tuple[str, PredictRequest | list[Any]], dict[str, Any], Any]


def encode_body(
    model: str, request: PredictRequest, options: Mapping[str, Any], inline_bytes: int
) -> tuple[bytes, bytes | None]:
    """Encode a message body.

    Returns:
        The body, and the raw tensors to offload where they are more than `inline_bytes`, else None.
    """
    heads, raw = detach_raw(request.inputs)
    offloaded = len(raw) > inline_bytes
    parameters = {**(request.parameters or {}), OFFLOADED: True} if offloaded else request.parameters
    request = msgspec.structs.replace(request, inputs=heads, parameters=parameters)
    head = msgspec.json.encode([[model, request], options, {}])
    return len(head).to_bytes(4, "little") + head + (b"" if offloaded else raw), raw if offloaded else None


def decode_body(body: bytes | memoryview) -> list[Any]:
    """Decode a message body to Celery's triple; raw tensors are views of `body`.

    Raises:
        InvalidRequest: the lengths in it do not add up, or its head does not parse.
    """
    view = memoryview(body)
    length = int.from_bytes(view[:4], "little")
    if length == 0 or len(view) < 4 + length:
        text = f"the message body is {len(view)} bytes long, but names a head of {length} bytes"
        raise errors.InvalidRequest(text, reason="damaged body")
    try:
        (model, request), options, embed = msgspec.json.decode(view[4 : 4 + length], type=_Triple)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise errors.InvalidRequest(f"the message body's head is not a request: {exc}", reason="damaged body") from exc
    if isinstance(request, PredictRequest) and not is_offloaded(request):
        request = request_with(request, view[4 + length :])
    return [[model, request], options, embed]


def is_offloaded(holder: PredictRequest | PredictResult) -> bool:
    """Return whether the raw tensors are kept under a key of their own."""
    return bool((holder.parameters or {}).get(OFFLOADED))


def request_with(request: PredictRequest, raw: bytes | memoryview) -> PredictRequest:
    """Put the raw tensors back into a request."""
    return msgspec.structs.replace(request, inputs=_attach_raw(request.inputs, raw))


def pack_result(result: PredictResult, inline_bytes: int) -> tuple[PredictResult, bytes | None]:
    """Convert a result for JSON.

    Returns:
        The result with its raw tensors as base64 in its parameters, and None; or, where they are more than `inline_bytes`, the
        result without them, and the raw tensors to offload.
    """
    heads, raw = detach_raw(result.outputs)
    if heads == result.outputs:  # none is raw; an empty one is, and has no bytes
        return result, None
    offloaded = len(raw) > inline_bytes
    where = {OFFLOADED: True} if offloaded else {INLINE: base64.b64encode(raw).decode()}
    packed = msgspec.structs.replace(result, outputs=heads, parameters={**(result.parameters or {}), **where})
    return packed, raw if offloaded else None


def unpack_result(result: PredictResult, raw: bytes | None = None) -> PredictResult:
    """Undo `pack_result`; `raw` holds the offloaded tensors.

    Raises:
        InvalidTensor: the bytes are not those that the result names.
    """
    parameters = dict(result.parameters or {})
    inline = parameters.pop(INLINE, None)
    parameters.pop(OFFLOADED, None)
    try:
        decoded = base64.b64decode(inline, validate=True) if inline is not None else raw or b""
    except (binascii.Error, TypeError) as exc:
        raise errors.InvalidTensor(f"the result's binary data is not base64: {exc}") from exc
    return msgspec.structs.replace(result, outputs=_attach_raw(result.outputs, decoded), parameters=parameters or None)


def inline_outputs(document: msgspec.Raw) -> dict[str, Array] | None:
    """Decode a result's outputs on a fast path: all of them are numbers, and inline as raw bytes.

    Results of one call differ only in these bytes, so the JSON around them is decoded once.

    Returns:
        The arrays by name; None for every other result, which `unpack_result` decodes or refuses.
    """
    head, marker, rest = bytes(document).partition(_INLINE)
    inline, _, tail = rest.partition(b'"')
    if not marker:
        return None
    layout = _layout(head, tail)
    try:
        raw = bytearray(binascii.a2b_base64(inline, strict_mode=True))
    except binascii.Error:
        return None
    if layout is None or len(raw) != layout.size:
        return None
    return {
        name: np.frombuffer(raw, dtype, count, start).reshape(shape)
        for name, dtype, shape, count, start in layout.outputs
    }


class _Layout(NamedTuple):
    """The position of each output's bytes: name, dtype, shape, number of elements, first byte."""

    size: int
    outputs: tuple[tuple[str, np.dtype[Any], tuple[int, ...], int, int], ...]


@functools.lru_cache(maxsize=256)
def _layout(head: bytes, tail: bytes) -> _Layout | None:
    """Decode the JSON around the inline bytes; None where the fast path does not apply, as for text or unaligned numbers."""
    try:
        result = msgspec.json.decode(head + _INLINE + b'"' + tail, type=PredictResult)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    outputs, offset = [], 0
    if (result.parameters or {}).get(INLINE) != "":
        return None
    for tensor in result.outputs:
        dtype = tensors.DTYPES.get(tensor.datatype)
        size = (tensor.parameters or {}).get(SIZE)
        if dtype is None or dtype.kind not in "iuf" or not dtype.isnative or not tensor.shape or min(tensor.shape) < 1:
            return None
        count = math.prod(tensor.shape)
        if tensor.data is not None or size != count * dtype.itemsize or offset % dtype.itemsize:
            return None
        outputs.append((tensor.name, dtype.newbyteorder("="), tensor.shape, count, offset))
        offset += size
    return _Layout(offset, tuple(outputs))


def detach_raw(whole: Iterable[Tensor]) -> tuple[tuple[Tensor, ...], bytes]:
    """Return tensors without their raw data, each with its size in place of it, and the raw data of all."""
    heads, raws = [], []
    for tensor in whole:
        if isinstance(tensor.data, bytes | memoryview):
            raws.append(bytes(tensor.data))
            sized = {**(tensor.parameters or {}), SIZE: len(tensor.data)}
            heads.append(msgspec.structs.replace(tensor, data=None, parameters=sized))
        else:
            heads.append(tensor)
    return tuple(heads), b"".join(raws)


def _attach_raw(heads: Iterable[Tensor], raw: bytes | memoryview) -> tuple[Tensor, ...]:
    view, filled = memoryview(raw), []
    for tensor in heads:
        size = (tensor.parameters or {}).get(SIZE)
        if size is None:
            filled.append(tensor)
            continue
        if type(size) is not int or not 0 <= size <= len(view):
            raise errors.InvalidTensor(
                f"tensor {tensor.name!r} names {size!r} raw bytes, but {len(view)} are left", tensor=tensor.name
            )
        parameters = {key: value for key, value in (tensor.parameters or {}).items() if key != SIZE} or None
        filled.append(msgspec.structs.replace(tensor, data=view[:size], parameters=parameters))
        view = view[size:]
    if len(view):
        raise errors.InvalidTensor(f"{len(view)} raw bytes belong to no tensor")
    return tuple(filled)
