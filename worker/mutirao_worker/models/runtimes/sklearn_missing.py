"""Missing values as an estimator takes them: which inputs may have any, by a trial, and what stands for them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from mutirao.wire.signature import InputSpec
from mutirao.wire.tensors import Array

# An input that is not tried within so many calls is left as unknown.
_CALLS_MAX = 200

Predict = Callable[[Mapping[str, Array]], Any]


def learned(inputs: tuple[InputSpec, ...], rows: Mapping[str, Array], predict: Predict) -> tuple[InputSpec, ...]:
    """Say of each input whether values may be missing: the model answers rows that lack one.

    Args:
        inputs: the model's inputs.
        rows: that it answers.
        predict: asks it.
    """
    trial = _Trial(rows, predict)
    if len(inputs) == 1 and rows[inputs[0].name].ndim == 2:
        nullable: Mapping[str, bool | None] = {inputs[0].name: trial.of_matrix(inputs[0].name)}
    else:
        nullable = trial.of_columns([spec.name for spec in inputs])
    return tuple(msgspec.structs.replace(spec, nullable=nullable.get(spec.name)) for spec in inputs)


def known(inputs: Mapping[str, Array], nones: Callable[[], set[int]]) -> Mapping[str, Array]:
    """Write NaN for None in text, but where the estimator was fitted on None.

    Args:
        inputs: arrays by name; a missing text is None.
        nones: finds the columns, by position, of which the estimator knows None.
    """
    lacking = [name for name, array in inputs.items() if array.dtype == object and None in array.ravel().tolist()]
    if not lacking:
        return inputs
    kept, made = nones(), dict(inputs)
    for at, (name, array) in enumerate(inputs.items()):
        if name in lacking:
            absent = np.asarray(array == None)  # noqa: E711 - elementwise
            if array.ndim == 2:
                absent[:, [place for place in kept if place < array.shape[1]]] = False
            elif at in kept:
                continue
            made[name] = array.copy()
            made[name][absent] = math.nan
    return made


class _Trial:
    """Rows that a model answers, tried again with values missing."""

    def __init__(self, rows: Mapping[str, Array], predict: Predict) -> None:
        self._rows, self._predict, self._calls = rows, predict, 0

    def of_matrix(self, name: str) -> bool | None:
        """Whether any column of a matrix may lack a value."""
        columns = range(self._rows[name].shape[1])
        if self._answers({name: columns}):
            return True
        for column in columns:
            if self._calls >= _CALLS_MAX:
                return None
            if self._answers({name: range(column, column + 1)}):
                return True
        return False

    def of_columns(self, names: list[str]) -> dict[str, bool]:
        """Whether each of these may lack a value: all of them at once, else in halves."""
        if self._calls >= _CALLS_MAX or not names:
            return {}
        if self._answers(dict.fromkeys(names, range(1))):
            return dict.fromkeys(names, True)
        if len(names) == 1:
            return {names[0]: False}
        half = len(names) // 2
        return self.of_columns(names[:half]) | self.of_columns(names[half:])

    def _answers(self, lacking: Mapping[str, range]) -> bool:
        """Ask the model for its rows, of which the first lacks these columns."""
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
    text = array.dtype == object
    lacking = array.copy() if text or array.dtype.kind == "f" else array.astype(np.float64)
    lacking[(0, list(columns)) if array.ndim == 2 else 0] = None if text else math.nan
    return lacking
