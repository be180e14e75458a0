"""Batches as the pool's processes get them: requests as clients write them, and their answers as clients read them."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from mutirao.wire import binary_codec, messages, tensors
from mutirao.wire.messages import PredictRequest, PredictResult, RequestedOutput
from mutirao_worker.inference.inputs import PackedRequest
from mutirao_worker.inference.outputs import RequestResult

IDS = (f"job-{number}" for number in itertools.count())
MARKED, GOOD = [-1.0, 1.0, 2.0], [3.0, 4.0, 5.0]


def arrays_of(data: Any) -> dict[str, np.ndarray]:
    if isinstance(data, dict):
        return data
    if hasattr(data, "columns"):
        return {name: data[name].to_numpy() for name in data.columns}
    return {"X": np.asarray(data)}


def packed(
    model: str,
    data: Any,
    *,
    outputs: Sequence[str] | None = None,
    inline_bytes: int = 65536,
    encoded: bool = True,
    parameters: dict[str, Any] | None = None,
) -> PackedRequest:
    """A request as our own client writes it."""
    inputs = tuple(tensors.encode(name, array, binary=True) for name, array in arrays_of(data).items())
    wanted = None if outputs is None else tuple(RequestedOutput(name) for name in outputs)
    request = PredictRequest(
        inputs=inputs, outputs=wanted, parameters={"binary_data_output": True, **(parameters or {})}
    )
    body, beside = binary_codec.encode_body(model, request, {}, inline_bytes)
    return PackedRequest(
        next(IDS), base64.b64encode(body).decode() if encoded else body, binary_codec.BINARY, encoded, beside
    )


def packed_json(model: str, data: Any, *, embed: object = None, outputs: Sequence[str] | None = None) -> PackedRequest:
    """A request as a stock client writes it."""
    if hasattr(data, "columns"):
        inputs = [tensors.encode(name, array, binary=False) for name, array in arrays_of(data).items()]
        data = {"inputs": msgspec.to_builtins(inputs)}
    elif outputs is not None:
        data = np.asarray(data)
        data = {"inputs": [{"name": "X", "datatype": "FP64", "shape": data.shape, "data": data.tolist()}]}
    elif isinstance(data, np.ndarray):
        data = data.tolist()
    if outputs is not None:
        data["outputs"] = [{"name": name} for name in outputs]
    body = json.dumps([[model, data], {}, embed]).encode()
    return PackedRequest(next(IDS), base64.b64encode(body).decode(), binary_codec.JSON, True, None)


def outputs_of(answer: RequestResult) -> dict[str, np.ndarray]:
    """The arrays of a response, as a client reads them."""
    assert answer.status == "ok", answer
    packed = binary_codec.unpack_result(msgspec.json.decode(answer.result, type=PredictResult), answer.payload)
    return {tensor.name: tensors.decode(tensor) for tensor in packed.outputs}


def error_of(answer: RequestResult) -> Exception:
    """The error of a failure, as a client reads it."""
    assert answer.status == "failed", answer
    return messages.JobRecord(status="FAILURE", task_id="job", result=msgspec.Raw(answer.result)).error()


class RecordingModel:
    """A loaded model that notes the rows of each call."""

    def __init__(self, loaded: Any, sizes: list[int]) -> None:
        self.info, self.manifest, self._loaded, self._sizes = loaded.info, loaded.manifest, loaded, sizes

    def predict(self, inputs: dict[str, np.ndarray], outputs: Any, parameters: Any) -> Any:
        self._sizes.append(len(next(iter(inputs.values()))))
        return self._loaded.predict(inputs, outputs, parameters)
