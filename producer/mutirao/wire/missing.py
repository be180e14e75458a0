"""Missing values: None among text, NaN among numbers, whatever their source calls them (null, None, NaN, pd.NA, NaT)."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def is_missing(value: object) -> bool:
    """Return whether a value stands for a missing one."""
    if value is None:
        return True
    if isinstance(value, float | np.floating):
        return bool(np.isnan(value))
    pandas = sys.modules.get("pandas")  # NA and NaT exist only where pandas was imported
    return pandas is not None and (value is pandas.NA or value is pandas.NaT)


def mask(array: Array) -> npt.NDArray[np.bool_] | None:
    """Mark the missing elements of an array; None where there is none."""
    if array.dtype.kind == "f":
        marks = np.isnan(array)
        return marks if np.logical_or.reduce(marks, axis=None) else None
    if array.dtype.kind != "O":
        return None
    elements = array.ravel().tolist()
    kinds = set(map(type, elements))
    if kinds <= {str, bytes, int, bool}:
        return None
    if kinds <= {str, bytes, int, bool, float} and all(element == element for element in elements):  # noqa: PLR0124
        return None
    marks = np.fromiter(map(is_missing, elements), dtype=bool, count=array.size).reshape(array.shape)
    return marks if marks.any() else None


def null_mask(values: Any, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Mark the nulls in nested lists of JSON, for the array of this shape that was made of them."""
    elements = np.asarray(values, dtype=object).ravel().tolist()
    return np.fromiter((element is None for element in elements), dtype=bool, count=len(elements)).reshape(shape)
