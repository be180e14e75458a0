"""What a caller gives, as arrays by name: lists, arrays, DataFrames, mappings of these, and plain Python objects."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from mutirao import errors
from mutirao.wire import elements, untyped
from mutirao.wire.tensors import Array

_DENSE_MAX = 256 * 1024 * 1024


def arrays(data: Any, *, frame: bool) -> dict[str, Array]:
    """Return a caller's data as arrays by name.

    Args:
        data: an array or nested list (one unnamed matrix, a row a line), a DataFrame, or a mapping of named arrays; an array with
            fields counts as such a mapping.
        frame: the model takes columns; where it does not, a DataFrame counts as its matrix.
    """
    if hasattr(data, "columns") and hasattr(data, "to_numpy"):
        if frame:
            _check_columns([str(name) for name in data.columns])
        return (
            {str(name): as_array(str(name), data[name]) for name in data.columns}
            if frame
            else {"": as_array("", _as_matrix(data))}
        )
    if isinstance(data, np.ndarray) and data.dtype.names:
        data = {name: data[name] for name in data.dtype.names}
    if isinstance(data, Mapping):
        return {str(name): as_array(str(name), values) for name, values in data.items()}
    if frame and isinstance(data, np.ndarray) and data.dtype == object and data.ndim == 2:
        return {"": data}
    table = mixed_rows(data) if frame else None
    return {"": as_array("", data) if table is None else table}


def by_input(data: Any, names: list[str]) -> dict[str, Any]:
    """Return the data of each input, of a model that takes JSON documents."""
    if hasattr(data, "columns") and hasattr(data, "to_dict"):
        is_named = sorted(map(str, data.columns)) == sorted(names)
        data = {str(name): data[name] for name in data.columns} if is_named else data.to_dict("records")
    if isinstance(data, Mapping) and data.keys() == set(names):
        return dict(data)
    shown = ", ".join(map(repr, names))
    if isinstance(data, Mapping) or not isinstance(data, Iterable) or isinstance(data, str | bytes):
        text = f"the model takes a list with a value for each row, as [{{...}}], or a dict with such a list for each of {shown}"
        raise errors.InvalidRequest(f"{text}; got {elements.show(data)}", reason="no rows")
    values = listed(data)
    if len(names) == 1:
        return {names[0]: values}
    for at, value in enumerate(values):
        if not isinstance(value, Mapping) or value.keys() != set(names):
            text = f"row {at} is not a dict with a value for each of the inputs {shown}"
            raise errors.InvalidRequest(text, reason="rows differ")
    return {name: [value[name] for value in values] for name in names}


def listed(values: Any) -> list[Any]:
    """Return the values of an input's rows as a list."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise errors.InvalidRequest(
            f"an input takes a list with a value for each row, got {elements.show(values)}", reason="no rows"
        )
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _check_columns(names: list[str]) -> None:
    if len(set(names)) != len(names):
        twice = next(name for at, name in enumerate(names) if name in names[:at])
        text = f"the DataFrame has {names.count(twice)} columns {twice!r}: each must have a name of its own"
        raise errors.InvalidRequest(text, reason="columns of one name")


def as_array(name: str, values: Any) -> Array:
    """Return values without a datatype as an array: a list, a Series, an array; of rows that mix types, one of objects."""
    if hasattr(values, "to_numpy"):
        values = np.asarray(values.to_numpy())
    if hasattr(values, "toarray"):
        values = _dense(name, values)
    if not isinstance(values, np.ndarray):
        try:
            return untyped.array_from_values(name, values)
        except errors.InvalidTensor:
            table = mixed_rows(values)
            if table is None:
                raise
            return table
    if np.ma.isMaskedArray(values) and np.ma.getmaskarray(values).any():
        masked: Array = np.ma.getmaskarray(values)
        values = np.asarray(np.ma.getdata(values), dtype=object)
        values[masked] = None
    if values.dtype.kind not in "OSUT":
        return np.asarray(values)
    return _mixed(name, values.astype(object))


def _dense(name: str, sparse: Any) -> Array:
    """Return one of scipy's sparse matrices as an array, which is how it travels.

    Raises:
        PayloadTooLarge: it would be over _DENSE_MAX bytes.
    """
    size = math.prod(sparse.shape) * sparse.dtype.itemsize
    if size > _DENSE_MAX:
        shape = " x ".join(map(str, sparse.shape))
        text = f"a sparse matrix of {shape} travels dense, and that is {size:,} bytes, over {_DENSE_MAX:,}: split it by its rows"
        raise errors.PayloadTooLarge(f"{untyped.tensor_prefix(name)}{text}", limit=_DENSE_MAX, size=size)
    return np.asarray(sparse.toarray())


def _as_matrix(data: Any) -> Any:
    """Return a DataFrame's columns of numbers as one matrix: bools become 0 and 1, and large integers stay exact among floats."""
    kinds = {name: getattr(dtype, "kind", "O") for name, dtype in enumerate(data.dtypes)}
    if not set(kinds.values()) <= set("biuf") or len(set(kinds.values())) < 2 or not hasattr(data, "iloc"):
        return data
    columns = [np.asarray(data.iloc[:, at].to_numpy()) for at in kinds]
    return untyped.side_by_side([c.astype(np.uint8) if c.dtype.kind == "b" else c for c in columns])


def _mixed(name: str, values: Array) -> Array:
    """Give an array of objects its own dtype; a matrix whose columns are of several kinds stays as it is until they are known."""
    try:
        return untyped.array_from_objects(name, values)
    except errors.InvalidTensor:
        if values.ndim != 2:
            raise
        return values


def mixed_rows(values: Any) -> Array | None:
    """Return rows that mix types as objects: each column gets its own dtype once the columns are known."""
    if not (isinstance(values, list) and values and all(isinstance(row, list | tuple) for row in values)):
        return None
    if len({len(row) for row in values}) != 1 or len(set(map(type, itertools.chain.from_iterable(values)))) < 2:
        return None
    table = np.asarray(values, dtype=object)
    return table if table.ndim == 2 else None
