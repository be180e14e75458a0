"""From a finished job's record to an answer in the form that the client accepts."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from mutirao import codec, errors, tensors
from mutirao.broker.redis import Operation
from mutirao.core import Core
from mutirao.gateway import answers
from mutirao.gateway.answers import Answer
from mutirao.messages import JobRecord, PredictResult, Tensor
from mutirao.tensors import Array

FORMS = (answers.JSON, answers.BINARY, answers.CSV, answers.NPY)
_PLAIN = (b"*/*", b"application/json")


class Form(NamedTuple):
    """How an answer is written.

    Attributes:
        media: one of `FORMS`; JSON and octet-stream are V2's two forms.
        raw: whether outputs are raw bytes where their own word does not say otherwise.
        own: the outputs that say it themselves.
    """

    media: str = answers.JSON
    raw: bool = False
    own: Mapping[str, bool] = {}

    @property
    def text(self) -> bool:
        """Whether the worker's own JSON can be handed on."""
        return self.media == answers.JSON and not self.raw and not any(self.own.values())


PLAIN = Form()


def accepted(accept: bytes | None, default: str = answers.JSON) -> str:
    """Choose the form of an answer that an Accept header likes best.

    Raises:
        NotAcceptable: it likes none; names those there are.
    """
    if accept is None or accept in _PLAIN:
        return default if accept != _PLAIN[1] else answers.JSON
    best, liked = 0.0, ""
    for media, q in _liked(accept.decode("latin-1")):
        found = next((form for form in (default, *FORMS) if _matches(media, form)), "")
        if found and q > best:
            best, liked = q, found
    if not liked:
        raise errors.NotAcceptable(f"answers are {', '.join(FORMS)}: the Accept header takes none of them")
    return liked


def passed(record: JobRecord, id: str | None) -> Answer:
    """Hand on the JSON that the worker wrote, with the request's own name in front.

    Raises:
        JobError: the job ended without a result.
    """
    if record.status != "SUCCESS":
        raise record.error()
    body = bytes(record.result)
    if id is not None:
        body = b'{"id":%b,%b' % (msgspec.json.encode(id), body[1:])
    return Answer(200, body)


def written(core: Core, record: JobRecord, form: Form, id: str | None = None) -> Operation[Answer]:
    """Write a job's result.

    Raises:
        JobError: the job ended without a result.
        ResultExpired: a large result is past its time.
        NotAcceptable: the result has no such form.
    """
    outputs = yield from core.outputs(record)
    if form.media == answers.CSV:
        return Answer(200, _csv(outputs), "text/csv; charset=utf-8")
    if form.media == answers.NPY:
        return Answer(200, _npy(outputs), answers.NPY)
    head = record.response()
    raw = form.raw or form.media == answers.BINARY
    made = [_tensor(name, array, raw=form.own.get(name, raw)) for name, array in outputs.items()]
    result = PredictResult(head.model_name, head.model_version, tuple(made), id)
    return _v2(result)


def _v2(result: PredictResult) -> Answer:
    parts = [bytes(tensor.data) for tensor in result.outputs if isinstance(tensor.data, bytes)]
    if not parts and not any(isinstance(tensor.data, bytes) for tensor in result.outputs):
        return answers.json(result)
    heads = tuple(
        msgspec.structs.replace(tensor, data=None, parameters={codec.SIZE: len(tensor.data)})
        if isinstance(tensor.data, bytes)
        else tensor
        for tensor in result.outputs
    )
    head = msgspec.json.encode(msgspec.structs.replace(result, outputs=heads))
    length = (b"inference-header-content-length", b"%d" % len(head))
    return Answer(200, b"".join([head, *parts]), answers.BINARY, [length])


def _tensor(name: str, array: Array, *, raw: bool) -> Tensor:
    try:
        return tensors.encode(name, array, binary=raw)
    except errors.InvalidTensor as exc:
        raise errors.NotAcceptable(f"{exc}; ask with Accept: {answers.BINARY}") from exc


def _csv(outputs: Mapping[str, Array]) -> bytes:
    """Write a column for each value of a row; text that is no UTF-8 stands as it decodes with replacements."""
    columns: list[tuple[str, Sequence[object]]] = []
    for name, array in outputs.items():
        flat = array.reshape(len(array), -1)
        names = [name] if flat.shape[1] == 1 else [f"{name}.{place}" for place in range(flat.shape[1])]
        columns += [(each, flat[:, place].tolist()) for place, each in enumerate(names)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(name for name, _ in columns)
    table.writerows(itertools.zip_longest(*(map(_cell, values) for _, values in columns)))
    return text.getvalue().encode()


def _cell(value: object) -> object:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _npy(outputs: Mapping[str, Array]) -> bytes:
    """Write the only output.

    Raises:
        NotAcceptable: there are several, or it holds bytes that no npy does.
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


def _liked(accept: str) -> list[tuple[str, float]]:
    found = []
    for part in accept.split(","):
        media, _, rest = part.strip().partition(";")
        q = next((each.partition("=")[2] for each in rest.replace(" ", "").split(";") if each.startswith("q=")), "1")
        try:
            found.append((media.strip().lower(), float(q)))
        except ValueError:
            continue
    return found


def _matches(media: str, form: str) -> bool:
    return media in ("*/*", form, form.partition("/")[0] + "/*")
