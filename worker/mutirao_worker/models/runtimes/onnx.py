"""ONNX models, by onnxruntime on the CPU.

Answers are onnxruntime's own. One that a row gets in a batch may differ from the one that it gets alone in the last bits, by what was
measured when the model was added: the manifest names it (`tolerance`). onnxruntime starts a thread when it is imported, which a fork would
lose: each process makes a session of its own, in its warm-up, with its share of the threads, and has its own copy of the weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mutirao import errors
from mutirao.wire.signature import TensorSpec
from mutirao.wire.tensors import Array
from mutirao_worker.models.runtimes.predictor import ModelFiles
from mutirao_worker.models.runtimes.tensor_programs import RowLimits, TensorProgram

_TYPES = {
    "float": "FP32", "double": "FP64", "float16": "FP16", "bool": "BOOL", "string": "BYTES",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
_TENSOR = re.compile(r"tensor\((\w+)\)")
_OWN_CODE = "write a model.py of ten lines that calls it: mutirao models init NAME"
# How exporters name the file of the weights, which lies next to the model.
DATA_SUFFIXES = (".data", "_data")


class OnnxPredictor(TensorProgram):
    """A session of onnxruntime."""

    library = "onnxruntime"
    before_fork = False

    def __init__(self, raw: bytes, data: Mapping[str, bytes]) -> None:
        self._raw, self._data, self._threads = raw, data, 1
        self._session = self._made()
        inputs = [_spec(each) for each in self._session.get_inputs()]
        super().__init__(tuple(inputs), _row_limits(self._session.get_inputs()))

    @classmethod
    def load(cls, files: ModelFiles) -> OnnxPredictor:
        """Make a session of one thread; see `Predictor.load`."""
        data = {name: raw for name, raw in files.contents.items() if name.endswith(DATA_SUFFIXES)}
        return cls(files.raw, data)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the session; a sequence of maps, as classifiers give probabilities, becomes a matrix."""
        names = [output.name for output in self._session.get_outputs()]
        results = self._session.run(names, dict(inputs))
        return {name: _array(name, result) for name, result in zip(names, results, strict=True)}

    def set_threads(self, threads: int) -> None:
        """Make the session anew, with this many threads."""
        if threads != self._threads:
            self._threads = threads
            self._session = self._made()
        self._raw, self._data = b"", {}  # a process sets its threads once

    def _made(self) -> Any:
        import onnxruntime  # noqa: PLC0415 - it starts a thread

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if self._data:
            options.add_external_initializers_from_files_in_memory(
                list(self._data), list(self._data.values()), [len(each) for each in self._data.values()]
            )
        try:
            return onnxruntime.InferenceSession(self._raw, options, providers=["CPUExecutionProvider"])
        except Exception as exc:
            if "external" in str(exc).lower() and not self._data:
                text = str(exc).partition("\n")[0]
                raise errors.RepositoryError(
                    f"its weights are in a file of their own, which is not here: put it next to the model, named as the model with .data ({text})"
                ) from exc
            raise


def _spec(node: Any) -> TensorSpec:
    found = _TENSOR.fullmatch(node.type)
    if found is None or found[1] not in _TYPES:
        raise errors.RepositoryError(
            f"its input {node.name!r} is a {node.type}, which no tensor of V2 holds: {_OWN_CODE}"
        )
    if not node.shape:
        raise errors.RepositoryError(
            f"its input {node.name!r} has no rows: it is a single value, or of unknown shape; {_OWN_CODE}"
        )
    sizes = (size if isinstance(size, int) and size > 0 else -1 for size in node.shape[1:])
    return TensorSpec(node.name, _TYPES[found[1]], (-1, *sizes))


def _row_limits(nodes: Any) -> RowLimits:
    """Return how many rows a session takes: any, or the number that its inputs fix.

    Raises:
        RepositoryError: they fix several.
    """
    fixed = {node.name: node.shape[0] for node in nodes if isinstance(node.shape[0], int) and node.shape[0] > 0}
    if len(set(fixed.values())) > 1 or (fixed and len(fixed) < len(nodes)):
        shown = ", ".join(f"{node.name} {node.shape}" for node in nodes)
        raise errors.RepositoryError(f"its inputs have no common number of rows ({shown}): {_OWN_CODE}")
    number = next(iter(fixed.values()), 0)
    return RowLimits(least=number or 1, most=number)


def _array(name: str, result: Any) -> Array:
    if isinstance(result, np.ndarray):
        return result
    if isinstance(result, list) and result and all(isinstance(each, dict) for each in result):
        return np.array([list(each.values()) for each in result], dtype=np.float32)
    raise errors.RepositoryError(f"its output {name!r} is a {type(result).__name__}, which is no tensor: {_OWN_CODE}")
