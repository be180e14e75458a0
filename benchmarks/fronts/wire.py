"""Requests and answers of the Open Inference Protocol, as both sides take and give them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
from workload import Workload

from fronts.load import HOST, Answer

# As `mutirao models add` names the input of an estimator that knows no columns; MLServer takes any name.
INPUT = "X"


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    data: list[Any]  # flat, or nested as the shape says


class _Response(msgspec.Struct):
    outputs: list[_Tensor]


_DECODER = msgspec.json.Decoder(_Response)


def requests(workload: Workload, port: int) -> list[bytes]:
    """Encode one whole HTTP request for each row: JSON, one row, the output by its name."""
    return [_request(f"/v2/models/{workload.name}/infer", port, _body(row, workload.output)) for row in workload.rows]


def missing(workload: Workload, answers: Iterable[Answer], sent: int) -> tuple[int, int, str]:
    """Hold every answer against the model's own: how many are lost or refused, how many wrong, and what one of them said."""
    good = [answer for answer in answers if answer.status == 200]
    bad = next((answer for answer in answers if answer.status != 200), None)
    said = f"{bad.status} {bad.body[:200].decode(errors='replace')}" if bad else ""
    wrong = workload.wrong([_row(answer.body, workload.output) for answer in good], [answer.row for answer in good])
    return sent - len(good), wrong, said


def _body(row: np.ndarray, output: str) -> bytes:
    tensor = {"name": INPUT, "shape": [1, len(row)], "datatype": "FP64", "data": row.tolist()}
    return msgspec.json.encode({"inputs": [tensor], "outputs": [{"name": output}]})


def _request(path: str, port: int, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nAccept: */*\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _row(body: bytes, output: str) -> np.ndarray:
    """Read the only row of an answer; one that cannot be read is a row of no length, which is wrong."""
    try:
        found = next(tensor for tensor in _DECODER.decode(body).outputs if tensor.name == output)
        row: np.ndarray = np.asarray(found.data).reshape(found.shape)[0]
    except (msgspec.MsgspecError, StopIteration, ValueError, IndexError):
        return np.empty(0)
    return row
