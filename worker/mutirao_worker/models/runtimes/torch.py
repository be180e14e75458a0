"""PyTorch programs of torch.export (.pt2), on the CPU.

Answers are torch's own. One that a row gets in a batch may differ from the one that it gets alone in the last bits, by what was measured
when the model was added: the manifest names it (`tolerance`). torch has threads: each process loads the program in its warm-up, with its
share of them, and has its own copy of the weights.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mutirao import errors
from mutirao.wire.signature import InputSpec, TensorSpec
from mutirao.wire.tensors import Array
from mutirao_worker.models.runtimes.predictor import ModelFiles
from mutirao_worker.models.runtimes.tensor_programs import RowLimits, TensorProgram

_TYPES = {
    "torch.float16": "FP16", "torch.float32": "FP32", "torch.float64": "FP64", "torch.bool": "BOOL",
    **{f"torch.{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
_OWN_CODE = "write a model.py of ten lines that calls it: mutirao models init NAME"


class TorchPredictor(TensorProgram):
    """A program of torch.export."""

    library = "torch"
    before_fork = False

    def __init__(self, program: Any) -> None:
        nodes = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
        names = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
        values = {name: nodes[name] for name in names}
        inputs = tuple(_spec(name, value) for name, value in values.items())
        super().__init__(inputs, _row_limits(values, program.range_constraints))
        self._names = names
        self._module = program.module()
        self._samples = _samples(program, names)

    @classmethod
    def load(cls, files: ModelFiles) -> TorchPredictor:
        """Load a program; see `Predictor.load`."""
        import torch  # noqa: PLC0415 - it takes seconds

        return cls(torch.export.load(io.BytesIO(files.raw)))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the program; its outputs have the keys of a dict, or `output`, `output.0`, `output.1`, ..."""
        import torch  # noqa: PLC0415

        with torch.inference_mode():
            result = self._module(*(torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in self._names))
        return {name: _array(name, each) for name, each in _named(result)}

    def set_threads(self, threads: int) -> None:
        """Cap torch's threads, which are those of the whole process."""
        import torch  # noqa: PLC0415

        torch.set_num_threads(threads)

    def _made_up(self, specs: tuple[InputSpec, ...]) -> Iterator[dict[str, Array]]:
        """Return the rows with which the program was exported; others where it does not keep them."""
        if self._samples:
            yield {spec.name: self._samples[spec.name].reshape(-1, *spec.shape[1:]) for spec in specs}
        yield from super()._made_up(specs)


def _spec(name: str, value: Any) -> TensorSpec:
    datatype = _TYPES.get(str(getattr(value, "dtype", "")))
    if datatype is None or not value.shape:
        raise errors.RepositoryError(f"its input {name!r} is no tensor with rows of a type of V2: {_OWN_CODE}")
    return TensorSpec(name, datatype, (-1, *(size if isinstance(size, int) else -1 for size in value.shape[1:])))


def _row_limits(values: Mapping[str, Any], constraints: Mapping[Any, Any]) -> RowLimits:
    """Return how many rows a program takes: what its export fixed, or the range that it found.

    Raises:
        RepositoryError: its inputs fix several numbers.
    """
    sizes = [value.shape[0] for value in values.values()]
    if len(set(map(str, sizes))) > 1:
        shown = ", ".join(f"{name} {list(value.shape)}" for name, value in values.items())
        raise errors.RepositoryError(f"its inputs have no common number of rows ({shown}): {_OWN_CODE}")
    if isinstance(sizes[0], int):
        return RowLimits(least=sizes[0], most=sizes[0])
    found = constraints.get(sizes[0].node.expr)
    least, most = (str(found.lower), str(found.upper)) if found is not None else ("1", "")
    return RowLimits(least=int(least) if least.isdecimal() else 1, most=int(most) if most.isdecimal() else 0)


def _samples(program: Any, names: list[str]) -> dict[str, Array]:
    arguments, keywords = program.example_inputs or ((), {})
    tensors = [*arguments, *keywords.values()]
    if len(tensors) != len(names) or not all(hasattr(each, "detach") for each in tensors):
        return {}
    return {name: each.detach().cpu().numpy() for name, each in zip(names, tensors, strict=True)}


def _named(result: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(result, Mapping):
        yield from ((str(name), each) for name, each in result.items())
    elif isinstance(result, list | tuple):
        yield from ((f"output.{at}", each) for at, each in enumerate(result))
    else:
        yield "output", result


def _array(name: str, value: Any) -> Array:
    if not hasattr(value, "detach"):
        raise errors.RepositoryError(
            f"its output {name!r} is a {type(value).__name__}, which is no tensor: {_OWN_CODE}"
        )
    array: Array = value.detach().cpu().numpy()
    return array
