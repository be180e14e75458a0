"""The example that is kept with a version: a V2 request in JSON, whose tensors stand as base64 where JSON cannot carry them."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import msgspec

from mutirao import errors
from mutirao.wire import binary_codec, tensors
from mutirao.wire.messages import PredictRequest, Tensor
from mutirao.wire.tensors import Array


def encode(arrays: Mapping[str, Array]) -> bytes:
    """Return rows as a request."""
    heads, raw = binary_codec.detach_raw(_tensor(name, array) for name, array in arrays.items())
    parameters = {binary_codec.INLINE: base64.b64encode(raw).decode()} if raw else None
    return (
        msgspec.json.format(msgspec.json.encode(PredictRequest(inputs=heads, parameters=parameters)), indent=1) + b"\n"
    )


def decode(example: bytes) -> PredictRequest:
    """Return the request that an example is."""
    request = msgspec.json.decode(example, type=PredictRequest)
    inline = (request.parameters or {}).get(binary_codec.INLINE)
    return request if inline is None else binary_codec.request_with(request, base64.b64decode(inline))


def _tensor(name: str, array: Array) -> Tensor:
    try:
        return tensors.encode(name, array, binary=False, nullable=True)
    except errors.InvalidTensor:  # bytes that are no text
        return tensors.encode(name, array, binary=True, nullable=True)
