"""JSON documents as the elements of a BYTES tensor: the text of one document each, in arrays as on the wire."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from mutirao import errors
from mutirao.wire import tensors
from mutirao.wire.elements import nth, show
from mutirao.wire.messages import Tensor
from mutirao.wire.tensors import Array
from mutirao.wire.untyped import objects, tensor_prefix

FORMAT = "json"
# Of elements that are bytes, though they may be UTF-8 by chance.
BINARY = "binary"
# Of an output's tensor of either format, so that a client decodes it without the signature.
PARAMETERS = {format: {"content_type": format} for format in (FORMAT, BINARY)}


def encode(name: str, values: Iterable[Any]) -> Array:
    """Return plain Python objects as documents: dicts, lists, text, numbers, bools and None, with what numpy has of these.

    Raises:
        InvalidTensor: an object is none that JSON holds; names its row.
    """
    documents: list[Any] = []
    for at, value in enumerate(values):
        try:
            documents.append(_ENCODER.encode(value))
        except (TypeError, ValueError, RecursionError) as exc:
            reason = "it is nested too deeply, or holds itself" if isinstance(exc, RecursionError) else exc
            raise errors.InvalidTensor(f"{tensor_prefix(name)}row {at} is not JSON: {reason}", tensor=name) from exc
    return objects(documents)


def check(name: str, array: Array) -> Array:
    """Return documents as they are, and a missing value as null.

    Raises:
        InvalidTensor: an element is not a document; names the first.
    """
    documents = ["null" if element is None else element for element in array.ravel().tolist()]
    for at, document in enumerate(documents):
        try:
            _DECODER.decode(document)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            reason = "it is nested too deeply" if isinstance(exc, RecursionError) else exc
            text = f"{nth(array.shape, at)} is {show(document)}, which is not JSON: {reason}"
            raise errors.InvalidTensor(f"{tensor_prefix(name)}{text}", tensor=name) from exc
    return objects(documents).reshape(array.shape)


def decode(array: Array) -> Array:
    """Return documents as plain Python objects."""
    values = [_DECODER.decode(document) for document in array.ravel().tolist()]
    # One by one: numpy would take lists of one length for a matrix.
    return np.fromiter(values, dtype=object, count=len(values)).reshape(array.shape)


def decode_output(tensor: Tensor) -> Array:
    """Decode an output's tensor: documents to objects, and bytes that were marked as such to bytes."""
    array = tensors.decode(tensor)
    content_type = (tensor.parameters or {}).get("content_type") if tensor.datatype == "BYTES" else None
    if content_type == BINARY:
        elements = [each.encode() if isinstance(each, str) else each for each in array.ravel().tolist()]
        return objects(elements).reshape(array.shape)
    return decode(array) if content_type == FORMAT else array


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"it holds a {type(value).__name__}, which JSON lacks: convert it to text, numbers, lists or dicts")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
_DECODER = msgspec.json.Decoder()
