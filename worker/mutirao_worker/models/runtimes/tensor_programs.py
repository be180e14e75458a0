"""Models that are programs on tensors, as ONNX and PyTorch export them: named inputs of fixed types, of which the first dimension is the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np

from mutirao import errors
from mutirao.wire import signature, tensors
from mutirao.wire.signature import MATRIX, InputSpec, OutputSpec, Signature, TensorSpec
from mutirao.wire.tensors import Array
from mutirao_worker.models.runtimes import example_request, example_rows
from mutirao_worker.models.runtimes.predictor import NO_PARAMETERS, Description, Predictor

_LARGE_ROW = 10_000  # elements, of which the example keeps one row
_TOLERANCE_MAX = 1e-3  # a program whose answers differ by more mixes its rows
_COMPARED_ELEMENTS = 1_000_000
_COMPARED_ROWS = 64
_ALONE = 4


class RowLimits(msgspec.Struct, frozen=True):
    """How many rows a program takes at once.

    Attributes:
        least: fewer are filled up with copies of the last one.
        most: more are predicted in pieces; 0 for any number.
    """

    least: int = 1
    most: int = 0


class TensorProgram(Predictor):
    """A program on tensors.

    Args:
        inputs: what it takes, each with its own shape; -1 stands for any size, the first is the rows.
        rows: how many of them at once.
    """

    def __init__(self, inputs: tuple[TensorSpec, ...], rows: RowLimits) -> None:
        self._takes = inputs
        self._limits = rows
        # Several inputs of one value a row are the columns of a table.
        self._frame = len(inputs) > 1 and all(math.prod(spec.shape[1:]) == 1 for spec in inputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the program on as many rows as it takes; return its outputs by name."""
        raise NotImplementedError

    def describe(self, example: Any) -> Description:
        """Return the inputs that the program declares, and the outputs by a trial run.

        Raises:
            RepositoryError: it does not run, or rows cannot be made up for it; or it gives a row no answer of its own.
        """
        specs = tuple(self._spec(spec) for spec in self._takes)
        trials = self._made_up(specs) if example is None else iter([self._read(specs, example)])
        failure = ""
        for rows in trials:
            try:
                outputs = self._call(rows)
            except errors.MutiraoError:
                raise
            except Exception as exc:  # noqa: BLE001 - the program runs here
                failure = failure or f"{type(exc).__name__}: {exc}"
                continue
            count = signature.rows(rows)
            kept = {name: array[: self._kept()] for name, array in rows.items()}
            gives = tuple(self._output(name, array, count) for name, array in outputs.items())
            tolerance = batch_difference(self._call, rows)
            return Description(
                inputs=specs,
                outputs=gives,
                frame=self._frame,
                example=example_request.encode(kept),
                by_row=tolerance <= _TOLERANCE_MAX,
                tolerance=tolerance if tolerance <= _TOLERANCE_MAX else 0.0,
            )
        tried = "the example" if example is not None else "rows made up for it: give it real ones with --example"
        raise errors.RepositoryError(f"it does not predict {tried} ({failure})")

    def predict(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[OutputSpec, ...],
        *,
        frame: bool,  # noqa: ARG002
        parameters: Mapping[str, Any] = NO_PARAMETERS,  # noqa: ARG002
    ) -> dict[str, Array]:
        """Run the program, in pieces where it takes a fixed number of rows."""
        results = self._call(inputs)
        if absent := [output.name for output in outputs if output.name not in results]:
            raise errors.InvalidOutput(f"returned {', '.join(results)}, but no {absent[0]!r}, which it announced")
        return {output.name: results[output.name] for output in outputs}

    def _call(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if list(inputs) == [MATRIX] and len(self._takes) == 1:  # after steps that transform
            inputs = {self._takes[0].name: inputs[MATRIX]}
        shaped = {
            spec.name: np.asarray(inputs[spec.name], dtype=tensors.DTYPES[spec.datatype]).reshape(
                len(inputs[spec.name]), *(spec.shape[1:] if self._frame else inputs[spec.name].shape[1:])
            )
            for spec in self._takes
        }
        count, most = signature.rows(shaped), self._limits.most
        if not most or count <= most:
            return self._run_filled(shaped)
        pieces = [
            self._run_filled({name: array[start : start + most] for name, array in shaped.items()})
            for start in range(0, count, most)
        ]
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def _run_filled(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        count = signature.rows(inputs)
        lacking = self._limits.least - count
        if lacking > 0:
            inputs = {
                name: np.concatenate([array, np.repeat(array[-1:], lacking, axis=0)]) for name, array in inputs.items()
            }
        return {name: array[:count] for name, array in self.run(inputs).items()} if lacking > 0 else self.run(inputs)

    def _spec(self, spec: TensorSpec) -> InputSpec:
        nullable = None if spec.datatype.startswith("FP") else False
        return InputSpec(spec.name, spec.datatype, spec.shape[:1] if self._frame else spec.shape, nullable=nullable)

    def _output(self, name: str, array: Array, count: int) -> OutputSpec:
        if array.ndim == 0 or len(array) != count:
            raise errors.RepositoryError(
                f"its output {name!r} has the shape {list(array.shape)} for {count} rows: each row must have its own answer. "
                "Write a model.py of ten lines that gives it: mutirao models init NAME"
            )
        free = any(-1 in spec.shape[1:] for spec in self._takes)
        shape = (-1, *(-1 for _ in array.shape[1:])) if free else (-1, *array.shape[1:])
        return OutputSpec(name, tensors.datatype_of(array), shape, default=True)

    def _read(self, specs: tuple[InputSpec, ...], source: Any) -> dict[str, Array]:
        expected = Signature(inputs=specs, outputs=(), frame=self._frame)
        example = example_rows.read_example(source, expected)
        if len(specs) > 1:
            arrays = example.columns([spec.name for spec in specs])
        elif specs[0].name in example.names:
            arrays = example.columns([specs[0].name])
        else:
            features = specs[0].shape[1] if len(specs[0].shape) == 2 and specs[0].shape[1] > 0 else None
            whole = "" in example.arrays or features is None
            arrays = {specs[0].name: next(iter(example.arrays.values())) if whole else example.matrix(features)}
        try:
            return signature.validate("", expected, arrays)
        except errors.InvalidRequest as exc:
            raise errors.RepositoryError(f"the example does not fit the model's inputs: {exc}") from exc

    def _made_up(self, specs: tuple[InputSpec, ...]) -> Iterator[dict[str, Array]]:
        """Return rows for a trial: numbers of a normal distribution, then zeros.

        Raises:
            RepositoryError: a size is not known.
        """
        if unknown := [spec for spec in specs if -1 in spec.shape[1:]]:
            raise errors.RepositoryError(
                f"its input {unknown[0]} has sizes that it leaves open (-1), so no rows can be made up: give it some with --example rows.json"
            )
        count = _compared(sum(math.prod(spec.shape[1:]) for spec in specs))
        generator = np.random.default_rng(0)
        yield {spec.name: _random(generator, spec, count) for spec in specs}
        yield {spec.name: np.zeros((count, *spec.shape[1:]), tensors.DTYPES[spec.datatype]) for spec in specs if spec.datatype != "BYTES"}  # fmt: skip

    def _kept(self) -> int:
        return 1 if sum(math.prod(spec.shape[1:]) for spec in self._takes) > _LARGE_ROW else 2


def batch_difference(call: Callable[[Mapping[str, Array]], Mapping[str, Array]], rows: Mapping[str, Array]) -> float:
    """Return by how much answers to rows among many differ from those to the rows alone, of the larger of 1 and the answer; 0.0 for no bit.

    Args:
        call: predicts.
        rows: distinct rows; they are repeated to make a larger batch.
    """
    count = signature.rows(rows)
    size = _compared(sum(math.prod(array.shape[1:]) for array in rows.values()))
    many = {name: np.concatenate([array] * -(-size // count))[: max(size, 2)] for name, array in rows.items()}
    together = call(many)
    worst = 0.0
    for at in range(min(count, _ALONE)):
        alone = call({name: array[at : at + 1] for name, array in rows.items()})
        worst = max([worst, *(_difference(alone[name], together[name][at : at + 1]) for name in alone)])
    return worst


def _compared(elements: int) -> int:
    return max(2, min(_COMPARED_ROWS, _COMPARED_ELEMENTS // max(1, elements)))


def _difference(alone: Array, among: Array) -> float:
    if alone.shape != among.shape or alone.dtype.kind != "f":
        return 0.0 if np.array_equal(alone, among) else 1.0
    wide, other = alone.astype(np.float64), among.astype(np.float64)
    if np.array_equal(wide, other, equal_nan=True):
        return 0.0
    with np.errstate(invalid="ignore"):
        found = float(np.max(np.abs(wide - other) / np.maximum(1.0, np.abs(wide))))
    return found if math.isfinite(found) else 1.0


def _random(generator: np.random.Generator, spec: TensorSpec, count: int) -> Array:
    shape = (count, *spec.shape[1:])
    if spec.datatype == "BYTES":
        return np.full(shape, "a", dtype=object)
    if spec.datatype.startswith("FP"):
        return generator.standard_normal(shape).astype(tensors.DTYPES[spec.datatype])
    return generator.integers(0, 2, shape).astype(tensors.DTYPES[spec.datatype])
