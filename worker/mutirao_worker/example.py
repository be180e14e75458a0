"""A few rows as the model takes them: they tell the dtype of each column, and warm the model up."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from mutirao import errors, messages, tensors
from mutirao.tensors import Array

MAX_ROWS = 8


class Example(msgspec.Struct, frozen=True):
    """Rows by column; one unnamed matrix where the source has no names. At least one row, at most eight, none missing."""

    arrays: dict[str, Array]

    def columns(self, names: Iterable[str]) -> dict[str, Array]:
        """Choose columns; others are left out, such as the label.

        Raises:
            RepositoryError: a column is missing.
        """
        if missing := [name for name in names if name not in self.arrays]:
            has = ", ".join(repr(name) for name in self.arrays if name) or "an unnamed matrix"
            raise errors.RepositoryError(
                f"the example lacks the column {missing[0]!r} that the model was fitted on; it has {has}"
            )
        return {name: self.arrays[name] for name in names}

    def matrix(self, features: int | None) -> Array:
        """Make one matrix of the columns; of a single column of text for a model that counts no features, that column.

        Raises:
            RepositoryError: text among numbers, or another number of columns than the model was fitted on.
        """
        arrays = list(self.arrays.values())
        text = {array.dtype == object for array in arrays}
        if len(text) > 1:
            raise errors.RepositoryError(
                "the example mixes text and numbers, but the model has no column names: fit it on a DataFrame"
            )
        matrix = arrays[0] if "" in self.arrays or (features is None and text == {True}) else np.column_stack(arrays)
        if features is not None and matrix.shape[1:] != (features,):
            raise errors.RepositoryError(
                f"the example has shape {list(matrix.shape)}, but the model was fitted on {features} features"
            )
        return matrix


def read(source: Any) -> Example:
    """Read an example.

    Args:
        source: a DataFrame, an array, or the path of a .csv (a header line names the columns), .npy or .json file (a V2 request,
            rows, records, or columns).

    Raises:
        RepositoryError: it cannot be read, has no complete row, or has a type that no tensor has.
    """
    try:
        arrays = _arrays(_opened(Path(source)) if isinstance(source, str | Path) else source)
    except (OSError, ValueError, errors.InvalidRequest) as exc:
        raise errors.RepositoryError(f"the example {_shown(source)} cannot be read: {exc}") from exc
    kept = _complete(arrays)
    if not kept.any():
        raise errors.RepositoryError(f"the example {_shown(source)} has no row without a missing value")
    return Example({name: array[kept][:MAX_ROWS] for name, array in arrays.items()})


def request(arrays: dict[str, Array]) -> bytes:
    """Write rows as a V2 request in JSON."""
    inputs = tuple(tensors.encode(name, array, binary=False) for name, array in arrays.items())
    return msgspec.json.format(msgspec.json.encode(messages.PredictRequest(inputs=inputs)), indent=1) + b"\n"


def _opened(path: Path) -> Any:
    if path.suffix == ".csv":
        return _csv(path)
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix != ".json":
        raise ValueError("it must be a .csv, .json or .npy file")
    found = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(found, dict) and "inputs" in found:
        return {tensor.name: tensors.decode(tensor) for tensor in messages.read_request(found).inputs}
    if isinstance(found, dict) or (isinstance(found, list) and found and isinstance(found[0], dict)):
        return _whole_to_real(pd.DataFrame(found))
    return (
        tensors.natural("example", found).astype(np.float64) if _numeric(found) else tensors.natural("example", found)
    )


def _csv(path: Path) -> pd.DataFrame | Array:
    frame = pd.read_csv(path)
    if all(_is_number(name) for name in frame.columns):
        return pd.read_csv(path, header=None).to_numpy(dtype=np.float64)
    return _whole_to_real(frame)


def _whole_to_real(frame: pd.DataFrame) -> pd.DataFrame:
    # A column that happens to hold whole numbers in these few rows must not make the model refuse 37.5.
    whole = [name for name in frame.columns if frame[name].dtype.kind in "iu"]
    return frame.astype(dict.fromkeys(whole, "float64"))


def _arrays(source: Any) -> dict[str, Array]:
    if isinstance(source, dict):
        return source
    if isinstance(source, pd.DataFrame):
        return {str(name): _column(source[name]) for name in source.columns}
    return {"": np.asarray(source)}


def _column(column: pd.Series[Any]) -> Array:
    if column.dtype.kind in "biuf" and isinstance(column.dtype, np.dtype):
        return column.to_numpy()
    if column.dtype.kind in "mM":
        raise ValueError(
            f"column {column.name!r} holds {column.dtype}, which no tensor can: fit the model on numbers or text"
        )
    return np.asarray(column.astype(object).where(column.notna(), None), dtype=object)


def _complete(arrays: dict[str, Array]) -> Array:
    rows = len(next(iter(arrays.values()), ()))
    kept = np.ones(rows, dtype=bool)
    for array in arrays.values():
        present = np.isfinite(array) if array.dtype.kind == "f" else array != None  # noqa: E711 - elementwise
        kept &= np.asarray(present).reshape(rows, math.prod(array.shape[1:])).all(axis=1)
    return kept


def _numeric(values: Any) -> bool:
    return tensors.natural("example", values).dtype.kind in "iuf"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else f"({type(source).__name__})"
