"""A few rows as a model takes them: they show the dtype of each column, and warm the model up."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from mutirao import errors
from mutirao.tables.csv_table import CsvTable
from mutirao.wire import messages, tensors, untyped
from mutirao.wire.signature import MATRIX, InputSpec, Signature
from mutirao.wire.tensors import Array

MAX_ROWS = 8


class Example(msgspec.Struct, frozen=True):
    """At least one row, at most eight, none with a missing value.

    Attributes:
        arrays: by column; one unnamed matrix where the source has no names.
        guessed: the source is text, so the types of its numbers are guessed.
    """

    arrays: dict[str, Array]
    guessed: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names; none where the source has no names."""
        return () if "" in self.arrays else tuple(self.arrays)

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(next(iter(self.arrays.values())))

    def columns(self, names: Iterable[str]) -> dict[str, Array]:
        """Return these columns, without others such as the label.

        Raises:
            RepositoryError: a column is missing.
        """
        if missing := [name for name in names if name not in self.arrays]:
            available = ", ".join(repr(name) for name in self.arrays if name) or "an unnamed matrix"
            raise errors.RepositoryError(
                f"the example lacks the column {missing[0]!r} that the model was fitted on; it has {available}"
            )
        return {name: self.arrays[name] for name in names}

    def matrix(self, features: int | None) -> Array:
        """Return the columns as one matrix; a single column of text for a model without a number of features as it is.

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


def read_example(source: Any, expected: Signature) -> Example:
    """Read an example.

    Args:
        source: a DataFrame, an array, or the path of a .csv (a header line names the columns), .npy or .json file (a V2 request,
            rows, records, or columns).
        expected: what is known of the model's inputs: the names of its columns, or their number.

    Raises:
        RepositoryError: it cannot be read, has no complete row, or has a type that no tensor has.
    """
    try:
        content, guessed = _read_file(Path(source), expected) if isinstance(source, str | Path) else (source, False)
        arrays = _arrays(content)
    except (OSError, ValueError, RecursionError, errors.InvalidRequest) as exc:
        raise errors.RepositoryError(f"the example {_source_name(source)} cannot be read: {exc}") from exc
    complete = _complete_rows(arrays)
    if not complete.any():
        raise errors.RepositoryError(f"the example {_source_name(source)} has no row without a missing value")
    return Example({name: array[complete][:MAX_ROWS] for name, array in arrays.items()}, guessed)


def read_records(source: Any) -> list[dict[str, Any]]:
    """Read an example of a model that takes a dict for each row: a list of these, or whatever has named columns.

    Raises:
        RepositoryError: it cannot be read, or has no names.
    """
    if isinstance(source, str | Path) and Path(source).suffix == ".json":
        with contextlib.suppress(OSError, msgspec.DecodeError):  # said below
            source = msgspec.json.decode(Path(source).read_bytes())
    if isinstance(source, list) and source and all(isinstance(each, dict) for each in source):
        return source[:MAX_ROWS]
    example = read_example(source, Signature(inputs=(InputSpec(MATRIX, "", (-1, -1), True),), outputs=()))
    if not example.names:
        raise errors.RepositoryError(
            f"the example {_source_name(source)} has no names, and the model takes a record for each row: give it as [{{...}}, ...]"
        )
    columns = {name: array.tolist() for name, array in example.arrays.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _read_file(path: Path, expected: Signature) -> tuple[Any, bool]:
    """Read a file; return what it holds, and whether the types of its numbers are guessed."""
    if path.suffix == ".csv":
        return _read_csv(path, expected), True
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False), False
    if path.suffix != ".json":
        raise ValueError("it must be a .csv, .json or .npy file")
    content = msgspec.json.decode(path.read_bytes())
    if isinstance(content, dict) and "inputs" in content:
        return {tensor.name: tensors.decode(tensor) for tensor in messages.read_request(content).inputs}, False
    if isinstance(content, dict) or (isinstance(content, list) and content and isinstance(content[0], dict)):
        return pd.DataFrame(content), True
    return untyped.resolve_objects("example", untyped.array_from_values("example", content)), True


def _read_csv(path: Path, expected: Signature) -> Any:
    rows = CsvTable.read(path.read_bytes(), "it").rows(expected)
    if isinstance(rows.data, dict) or not rows.names or rows.data.ndim == 1:
        one = not isinstance(rows.data, dict) and rows.data.ndim == 1
        return {rows.names[0] if rows.names else expected.inputs[0].name: rows.data} if one else rows.data
    # The columns of a matrix keep types of their own.
    columns = {name: rows.data[:, at].astype(object) for at, name in enumerate(rows.names)}
    return {
        name: untyped.resolve_objects(name, untyped.array_from_objects(name, column))
        for name, column in columns.items()
    }


def _arrays(source: Any) -> dict[str, Array]:
    if isinstance(source, dict):
        return source
    if isinstance(source, pd.DataFrame):
        return {str(name): _column(source[name]) for name in source.columns}
    rows = np.asarray(source)
    return {"": rows.astype(object) if rows.dtype.kind in "SU" else rows}


def _column(column: pd.Series[Any]) -> Array:
    if column.dtype.kind in "biuf" and isinstance(column.dtype, np.dtype):
        return column.to_numpy()
    if column.dtype.kind == "M" and isinstance(column.dtype, np.dtype):
        return column.to_numpy().astype("datetime64[us]")
    if column.dtype.kind in "mM":
        raise ValueError(
            f"column {column.name!r} holds {column.dtype}, which no tensor can: fit the model on numbers, text, or times without a time zone"
        )
    return np.asarray(column.astype(object).where(column.notna(), None), dtype=object)


def _complete_rows(arrays: dict[str, Array]) -> Array:
    rows = len(next(iter(arrays.values()), ()))
    complete = np.ones(rows, dtype=bool)
    for array in arrays.values():
        present = np.isfinite(array) if array.dtype.kind in "fM" else array != None  # noqa: E711 - elementwise
        complete &= np.asarray(present).reshape(rows, math.prod(array.shape[1:])).all(axis=1)
    return complete


def _source_name(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else f"({type(source).__name__})"
