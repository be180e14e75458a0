"""Encode a finished job's result in the format that the client accepts."""

from __future__ import annotations

import asyncio
import csv
import io
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from mutirao import errors
from mutirao.gateway.responses import response
from mutirao.gateway.responses.response import Parts, Response
from mutirao.gateway.responses.response_format import ResponseFormat
from mutirao.wire import binary_codec, tensors
from mutirao.wire.messages import JobRecord, PredictResult, Tensor
from mutirao.wire.tensors import Array

# Values that are encoded at once, in some milliseconds, and bytes after which the event loop runs other tasks.
SLICE = 20_000
PART_BYTES = 256 * 1024
# Stands for data that is encoded apart; it is random, so that no name can contain it.
_MARK_TEXT = os.urandom(16).hex()
_MARK = b'"%b"' % _MARK_TEXT.encode()
_ENCODER = msgspec.json.Encoder()


def is_text(record: JobRecord) -> bool:
    """Return whether the worker encoded all outputs as JSON: what JSON cannot hold it encodes raw, though JSON was asked for."""
    return b'"binary_data' not in bytes(record.result)


def passthrough(record: JobRecord, id: str | None) -> Response:
    """Pass on the JSON that the worker encoded, with the id of the V2 request in front.

    Raises:
        JobError: the job ended without a result.
    """
    if record.status != "SUCCESS":
        raise record.error()
    body = bytes(record.result)
    if id is None:
        return Response(200, body + b"\n")
    return Response(200, b'{"id":%b,%b\n' % (msgspec.json.encode(id), body[1:]))


async def encode(
    outputs: Mapping[str, Array], record: JobRecord, form: ResponseFormat, id: str | None = None
) -> Response:
    """Encode a job's outputs; many values a slice at a time, so that the event loop serves other requests meanwhile.

    Raises:
        NotAcceptable: the result cannot be encoded in this format.
    """
    if form.media == response.CSV:
        return Parts(await _gathered(_csv(outputs)), "text/csv; charset=utf-8")
    if form.media == response.NPY:
        return Response(200, _npy(outputs), response.NPY)
    head = record.response()
    raw = form.raw or form.media == response.BINARY
    kept = {tensor.name: _without_size(tensor.parameters) for tensor in head.outputs}
    made = [
        msgspec.structs.replace(
            tensors.encode(name, array, binary=True)
            if form.by_output.get(name, raw)
            else _with_mark(name, array, form, record.task_id),
            parameters=kept.get(name),
        )
        for name, array in outputs.items()
    ]
    result = PredictResult(head.model_name, head.model_version, tuple(made), id)
    return await _v2(result, outputs, form, record.task_id)


async def _v2(result: PredictResult, outputs: Mapping[str, Array], form: ResponseFormat, id: str) -> Response:
    raws = [bytes(tensor.data) for tensor in result.outputs if isinstance(tensor.data, bytes)]
    heads = tuple(
        msgspec.structs.replace(
            tensor, data=None, parameters={**(tensor.parameters or {}), binary_codec.SIZE: len(tensor.data)}
        )
        if isinstance(tensor.data, bytes)
        else tensor
        for tensor in result.outputs
    )
    own = [outputs[tensor.name] for tensor in heads if tensor.data is not None]
    frames = msgspec.json.encode(msgspec.structs.replace(result, outputs=heads)).split(_MARK)
    try:
        parts = await _gathered(_filled(frames, own, form))
    except errors.InvalidTensor as exc:
        raise errors.NotAcceptable(f"{exc}: ask with Accept: {response.BINARY}", id=id) from exc
    if not any(isinstance(tensor.data, bytes) for tensor in result.outputs):
        return Parts([*parts, b"\n"], response.JSON)
    length = (b"inference-header-content-length", b"%d" % sum(map(len, parts)))
    return Parts([*parts, *raws], response.BINARY, [length])


def _without_size(parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return an output's parameters but for the number of its raw bytes."""
    return {name: value for name, value in (parameters or {}).items() if name != binary_codec.SIZE} or None


def _with_mark(name: str, array: Array, form: ResponseFormat, id: str) -> Tensor:
    """Return an output's tensor with a mark in place of its data, which is encoded in slices.

    Raises:
        NotAcceptable: it holds values that JSON cannot hold; the message names a format that can.
    """
    try:
        if not form.null:
            tensors.check_finite(name, array)
    except errors.InvalidTensor as exc:
        remedy = f"ask with Accept: {response.BINARY}, or for null in its place with ?nan=null"
        raise errors.NotAcceptable(f"{exc}: {remedy}", id=id) from exc
    shape = tuple(int(size) for size in array.shape)
    return Tensor(name=name, datatype=tensors.datatype_of(array), shape=shape, data=_MARK_TEXT)


def _filled(frames: Sequence[bytes], arrays: Sequence[Array], form: ResponseFormat) -> Iterator[bytes]:
    yield frames[0]
    for frame, array in zip(frames[1:], arrays, strict=True):
        yield from _listed(array, form)
        yield frame


def _listed(array: Array, form: ResponseFormat) -> Iterator[bytes]:
    """Encode an array as nested lists, in pieces of at most `SLICE` values."""
    if array.size <= SLICE:
        yield _ENCODER.encode(_values(array, form))
        return
    step = max(1, SLICE // max(1, array.size // len(array)))
    for first in range(0, len(array), step):
        yield b"," if first else b"["
        part = array[first : first + step]
        if part.size <= SLICE:
            yield _ENCODER.encode(_values(part, form))[1:-1]
        else:
            yield from _listed(part[0], form)
    yield b"]"


def _values(array: Array, form: ResponseFormat) -> Any:
    if form.null and array.dtype.kind == "f" and not np.isfinite(array).all():
        return np.where(np.isfinite(array), array.astype(object), np.array(None)).tolist()
    if array.dtype.kind == "O":
        return tensors.encode("", array, binary=False).data
    return array.tolist()


def _csv(outputs: Mapping[str, Array]) -> Iterator[bytes]:
    """Encode a column for each value of a row; bytes that are not UTF-8 are decoded with replacement characters."""
    flat = {name: array.reshape(len(array), -1) for name, array in outputs.items()}
    names = (
        name if array.shape[1] == 1 else f"{name}.{place}"
        for name, array in flat.items()
        for place in range(array.shape[1])
    )
    yield _lines([names])
    rows, width = max(map(len, flat.values())), sum(array.shape[1] for array in flat.values())
    step = max(1, SLICE // max(1, width))
    for first in range(0, rows, step):
        columns = (map(_cell, column) for array in flat.values() for column in array[first : first + step].T.tolist())
        yield _lines(itertools.zip_longest(*columns))


def _lines(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


async def _gathered(pieces: Iterator[bytes]) -> list[bytes]:
    """Join pieces into parts, and let the event loop serve other requests between them."""
    parts, size = [bytearray()], 0
    for piece in pieces:
        if len(parts[-1]) > PART_BYTES:
            parts.append(bytearray())
        parts[-1] += piece
        size += len(piece)
        if size > PART_BYTES:
            size = 0
            await asyncio.sleep(0)
    return [bytes(part) for part in parts]


def _cell(value: object) -> object:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _npy(outputs: Mapping[str, Array]) -> bytes:
    """Encode the only output as npy.

    Raises:
        NotAcceptable: there are several outputs.
    """
    if len(outputs) != 1:
        text = f"npy holds one array, and the result has {', '.join(outputs)}: ask for one output, or for another form"
        raise errors.NotAcceptable(text)
    ((_, array),) = outputs.items()
    if array.dtype.kind == "O":
        array = np.array([_cell(value) for value in array.ravel()], dtype=str).reshape(array.shape)
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
