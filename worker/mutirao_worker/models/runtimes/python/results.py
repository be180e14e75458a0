"""What predict returns, as outputs: a column of elements for each name, and the rows that it refuses."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mutirao import errors
from mutirao.wire import json_elements, tensors
from mutirao.wire.signature import OutputSpec
from mutirao.wire.tensors import Array
from mutirao.wire.untyped import objects
from mutirao_worker.models.runtimes.predictor import RowsRefused
from mutirao_worker.models.runtimes.python.predict_plan import BINARY, JSON, Value

PREDICT = "predict"


def named(returned: Any) -> dict[str, Any]:
    """Return outputs by name; one without a name is called predict."""
    if hasattr(returned, "columns") and hasattr(returned, "to_numpy"):
        return {str(name): returned[name].to_numpy() for name in returned.columns}
    if isinstance(returned, Mapping):
        return {str(name): _sequence(str(name), column) for name, column in returned.items()}
    return {PREDICT: _sequence(PREDICT, returned)}


def specs(columns: Mapping[str, Any], annotated: Value | None, *, rows: int) -> tuple[OutputSpec, ...]:
    """Return what outputs are, by what a trial returned.

    Raises:
        InvalidOutput: an output has no datatype, or not an element for each row.
    """
    if not columns:
        raise errors.InvalidOutput("returned no output")
    for name, column in columns.items():
        is_single = isinstance(column, np.ndarray) and column.ndim == 0
        if is_single or len(column) != rows:
            count = "a single value" if is_single else f"{len(column)} elements"
            raise errors.InvalidOutput(f"returned {count} of {name!r} for {rows} rows")
    return tuple(_spec(name, column, annotated if name == PREDICT else None) for name, column in columns.items())


def annotated_spec(annotated: Value) -> tuple[OutputSpec, ...]:
    """Return the only output as its annotation says."""
    return (OutputSpec(PREDICT, annotated.datatype, (-1,), default=True, format=annotated.format),)


def encoded(columns: Mapping[str, Any], outputs: Sequence[OutputSpec]) -> dict[str, Array]:
    """Return outputs as arrays.

    Raises:
        InvalidOutput: one is missing, or its elements are not what the model gave in its trial, nor anything else that can be sent.
        RowsRefused: some rows are refused; it holds the others' outputs.
    """
    refused: dict[int, errors.InvalidInput] = {}
    arrays = {}
    for spec in outputs:
        if spec.name not in columns:
            raise errors.InvalidOutput(f"returned {', '.join(columns) or 'nothing'}, and no {spec.name!r}")
        column = columns[spec.name]
        if isinstance(column, list):
            own = {at: each for at, each in enumerate(column) if isinstance(each, errors.InvalidInput)}
            if own:
                refused |= own
                rest = (each for each in column if not isinstance(each, errors.InvalidInput))
                filler = next(rest, None)
                column = [filler if at in own else each for at, each in enumerate(column)]
                if filler is None:
                    arrays[spec.name] = np.zeros(len(column))
                    continue
        arrays[spec.name] = _array(spec, column)
    if refused:
        raise RowsRefused(refused, arrays)
    return arrays


def _sequence(name: str, column: Any) -> Any:
    if isinstance(column, np.ndarray):
        return column
    if hasattr(column, "to_numpy"):
        return np.asarray(column.to_numpy())
    if isinstance(column, list | tuple):
        return list(column)
    if hasattr(column, "__array__"):  # of another library
        return np.asarray(column)
    raise errors.InvalidOutput(
        f"returned a {type(column).__name__} for {name!r}: return an array, a list with an element for each row, a DataFrame, or a "
        "dict of these by name"
    )


def _spec(name: str, column: Any, annotated: Value | None) -> OutputSpec:
    if annotated is not None and (annotated.format or annotated.datatype):
        return OutputSpec(name, annotated.datatype, (-1,), default=True, format=annotated.format)
    format = "" if isinstance(column, np.ndarray) and column.dtype != object else _format(list(column))
    if format:
        return OutputSpec(name, "BYTES", (-1,), default=True, format=format)
    array = np.asarray(column)
    try:
        return OutputSpec(name, tensors.datatype_of(array), (-1, *array.shape[1:]), default=True)
    except errors.InvalidTensor as exc:
        raise errors.InvalidOutput(f"returned what cannot be sent for {name!r}: {exc}") from exc


def _format(elements: list[Any]) -> str:
    """Return the format of a list's elements: "" for numbers, texts, and rows of as many numbers."""
    kinds = set(map(type, elements))
    if kinds and all(issubclass(kind, str | bytes) for kind in kinds):
        return "" if kinds == {str} else BINARY
    if all(issubclass(kind, bool | int | float | np.number | np.bool_) for kind in kinds):
        return ""
    if kinds and all(issubclass(kind, list | tuple | np.ndarray) for kind in kinds):
        flat = list(itertools.chain.from_iterable(elements))
        is_matrix = len(set(map(len, elements))) == 1 and all(
            isinstance(each, int | float | np.number | np.ndarray) for each in flat
        )
        if is_matrix and np.asarray(elements).dtype.kind in "biuf":
            return ""
    return JSON


def _array(spec: OutputSpec, column: Any) -> Array:
    try:
        if spec.format == JSON:
            return json_elements.encode(spec.name, column.tolist() if isinstance(column, np.ndarray) else column)
        if spec.datatype == "BYTES":
            return column if isinstance(column, np.ndarray) else objects(list(column))
        array = np.asarray(column)
        return array if tensors.DTYPES[spec.datatype] == array.dtype else tensors.cast(spec.name, array, spec.datatype)
    except errors.InvalidTensor as exc:
        if spec.format != JSON and isinstance(column, np.ndarray):
            return column
        raise errors.InvalidOutput(f"returned what cannot be sent: {exc}") from exc
    except (TypeError, ValueError) as exc:
        raise errors.InvalidOutput(f"returned what cannot be sent for {spec.name!r}: {exc}") from exc
