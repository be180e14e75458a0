"""The body of a submit: JSON, followed by the raw tensors of all its requests."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from mutirao import errors
from mutirao.client.encoding import RowBatch, SubmitOptions, ValidatedRequests
from mutirao.wire import binary_codec, tensors
from mutirao.wire.messages import RequestedOutput, Tensor
from mutirao.wire.tensors import Array


class SubmitBody(msgspec.Struct, frozen=True):
    """The inputs of one request."""

    inputs: tuple[Tensor, ...]


class SubmitManyBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Requests of one model.

    Attributes:
        ids: an id for each.
        inputs: tensors of which each row is a request; or
        requests: each request's own tensors.
        outputs: names of the outputs that each wants; the model's default ones where it is left out.
        parameters: V2 request parameters of each.
    """

    ids: tuple[str, ...] = ()
    inputs: tuple[Tensor, ...] | None = None
    requests: tuple[SubmitBody, ...] | None = None
    outputs: tuple[RequestedOutput, ...] | None = None
    parameters: dict[str, Any] | None = None


def encode(options: SubmitOptions, validated: ValidatedRequests, ids: Sequence[str], limit: int) -> tuple[bytes, int]:
    """Return the body and the length of its JSON.

    Args:
        options: what is the same for each.
        validated: the requests' arrays.
        ids: an id for each.
        limit: the longest body, in bytes.

    Raises:
        PayloadTooLarge: it is longer.
    """
    raws: list[bytes] = []
    if isinstance(validated, RowBatch):
        inputs, requests = _sized(validated.arrays, raws), None
    else:
        inputs, requests = None, tuple(SubmitBody(_sized(arrays, raws) or ()) for arrays in validated)
    body = SubmitManyBody(
        ids=tuple(ids),
        inputs=inputs,
        requests=requests,
        outputs=tuple(RequestedOutput(name) for name in options.outputs) if options.outputs else None,
        parameters=dict(options.parameters) if options.parameters else None,
    )
    head = msgspec.json.encode(body)
    size = len(head) + sum(map(len, raws))
    if size > limit:
        text = f"the call is {size} bytes, the limit is {limit}: split it, or raise MUTIRAO_MAX_REQUEST_BYTES"
        raise errors.PayloadTooLarge(text, limit=limit, size=size)
    return b"".join(itertools.chain((head,), raws)), len(head)


def _sized(arrays: Mapping[str, Array], raws: list[bytes]) -> tuple[Tensor, ...] | None:
    """Append the raw bytes of arrays to `raws`, and return their tensors without data."""
    found: list[Tensor] = []
    for tensor in _raw(arrays.items()):
        raws.append(tensor.data)
        found.append(msgspec.structs.replace(tensor, data=None, parameters={binary_codec.SIZE: len(tensor.data)}))
    return tuple(found)


def _raw(named: Iterable[tuple[str, Array]]) -> Iterable[Tensor]:
    return (tensors.encode(name, array, binary=True, nullable=True) for name, array in named)
