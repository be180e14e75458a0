"""Missing values as an estimator takes them: which inputs may have any, by a trial, and None or NaN for missing text."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from mutirao.wire.signature import InputSpec
from mutirao.wire.tensors import Array

# An input that is not tried within this many calls stays unknown.
_MAX_CALLS = 200

Predict = Callable[[Mapping[str, Array]], Any]


def with_nullability(
    inputs: tuple[InputSpec, ...], rows: Mapping[str, Array], predict: Predict
) -> tuple[InputSpec, ...]:
    """Return the inputs, each with whether its values may be missing: whether the model predicts rows that lack one.

    Args:
        inputs: the model's inputs.
        rows: rows that it predicts.
        predict: the model's prediction.
    """
    trial = _Trial(rows, predict)
    if len(inputs) == 1 and rows[inputs[0].name].ndim == 2:
        nullable: Mapping[str, bool | None] = {inputs[0].name: trial.matrix_is_nullable(inputs[0].name)}
    else:
        nullable = trial.nullable_columns([spec.name for spec in inputs])
    return tuple(msgspec.structs.replace(spec, nullable=nullable.get(spec.name)) for spec in inputs)


def replace_missing_text(inputs: Mapping[str, Array], fitted_on_none: Callable[[], set[int]]) -> Mapping[str, Array]:
    """Replace None by NaN in text, but where the estimator was fitted on None.

    Args:
        inputs: arrays by name; a missing text is None.
        fitted_on_none: returns the positions of the columns that were fitted on None.
    """
    lacking = [name for name, array in inputs.items() if array.dtype == object and None in array.ravel().tolist()]
    if not lacking:
        return inputs
    none_columns, replaced = fitted_on_none(), dict(inputs)
    for at, (name, array) in enumerate(inputs.items()):
        if name in lacking:
            absent = np.asarray(array == None)  # noqa: E711 - elementwise
            if array.ndim == 2:
                absent[:, [place for place in none_columns if place < array.shape[1]]] = False
            elif at in none_columns:
                continue
            replaced[name] = array.copy()
            replaced[name][absent] = math.nan
    return replaced


class _Trial:
    """Rows that a model predicts, tried again with values missing."""

    def __init__(self, rows: Mapping[str, Array], predict: Predict) -> None:
        self._rows, self._predict, self._calls = rows, predict, 0

    def matrix_is_nullable(self, name: str) -> bool | None:
        """Whether any column of a matrix may lack a value."""
        columns = range(self._rows[name].shape[1])
        if self._predicts({name: columns}):
            return True
        for column in columns:
            if self._calls >= _MAX_CALLS:
                return None
            if self._predicts({name: range(column, column + 1)}):
                return True
        return False

    def nullable_columns(self, names: list[str]) -> dict[str, bool]:
        """Return whether each of these columns may lack a value: all of them tried at once, else in halves."""
        if self._calls >= _MAX_CALLS or not names:
            return {}
        if self._predicts(dict.fromkeys(names, range(1))):
            return dict.fromkeys(names, True)
        if len(names) == 1:
            return {names[0]: False}
        half = len(names) // 2
        return self.nullable_columns(names[:half]) | self.nullable_columns(names[half:])

    def _predicts(self, lacking: Mapping[str, range]) -> bool:
        """Whether the model predicts its rows when the first lacks these columns."""
        self._calls += 1
        rows = {
            name: _without(array, lacking[name]) if name in lacking else array for name, array in self._rows.items()
        }
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._predict(rows)
        except (Exception, SystemExit):  # noqa: BLE001 - the model's own code runs here
            return False
        return True


def _without(array: Array, columns: range) -> Array:
    if array.dtype.kind == "M":
        lacking = array.copy()
        lacking[0] = np.array("NaT", dtype=array.dtype)
        return lacking
    text = array.dtype == object
    lacking = array.copy() if text or array.dtype.kind == "f" else array.astype(np.float64)
    lacking[(0, list(columns)) if array.ndim == 2 else 0] = None if text else math.nan
    return lacking
