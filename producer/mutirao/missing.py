"""Missing values: None among text, NaN among numbers, whatever they were called before (null, None, NaN, pd.NA, NaT)."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def is_missing(value: object) -> bool:
    """Tell whether a single value stands for one that is missing."""
    if value is None:
        return True
    if isinstance(value, float | np.floating):
        return bool(np.isnan(value))
    pandas = sys.modules.get("pandas")  # its NA and NaT exist only where it was imported
    return pandas is not None and (value is pandas.NA or value is pandas.NaT)


def mask(array: Array) -> npt.NDArray[np.bool_] | None:
    """Mark the missing elements of an array; None where there is none."""
    if array.dtype.kind == "f":
        found = np.isnan(array)
    elif array.dtype.kind == "O":
        elements = array.ravel().tolist()
        if set(map(type, elements)) <= {str, bytes}:
            return None
        found = np.fromiter(map(is_missing, elements), dtype=bool, count=array.size).reshape(array.shape)
    else:
        return None
    return found if found.any() else None


def nulls(values: Any, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Mark what was null in the nested lists of a JSON document, of which an array of this shape was made."""
    elements = np.asarray(values, dtype=object).ravel().tolist()
    return np.fromiter((element is None for element in elements), dtype=bool, count=len(elements)).reshape(shape)
