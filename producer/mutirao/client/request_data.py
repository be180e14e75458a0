"""The data of a call's requests, read and validated: as the rows of one table where that reads alike, else one by one."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from mutirao import errors
from mutirao.wire import caller_data, signature, untyped
from mutirao.wire.signature import Signature
from mutirao.wire.tensors import Array

# Redis runs nothing else while a call is queued.
REQUESTS_MAX = 100_000


class RowBatch(NamedTuple):
    """Requests of one row each, as the rows of common arrays."""

    arrays: dict[str, Array]
    rows: int

    def requests(self) -> Iterator[dict[str, Array]]:
        """Yield each request's own arrays."""
        return ({name: array[at : at + 1] for name, array in self.arrays.items()} for at in range(self.rows))


ValidatedRequests = RowBatch | Sequence[dict[str, Array]]


def count(many: Any) -> int:
    """Count the requests of a call's data."""
    if len(many) > REQUESTS_MAX:
        text = f"{len(many)} requests in one call, the limit is {REQUESTS_MAX}: split it"
        raise errors.InvalidRequest(text, reason="too many requests in one call")
    return len(many)


def validate(model: str, model_signature: Signature | None, many: Any, *, rows: bool) -> ValidatedRequests:
    """Read the data of each request, and check it against what the model takes.

    Args:
        model: its name, for errors.
        model_signature: the model's signature; None reads without a check.
        many: the data of each request; a DataFrame or array has one a row.
        rows: each item is a row, so a flat one stands for one row.

    Raises:
        InvalidTensor, SignatureMismatch, PayloadTooLarge: a request does not fit; where there are many, the text names it.
    """
    table = _table(many, model_signature) if rows else None
    if table is not None:
        with contextlib.suppress(errors.MutiraoError):  # one at a time the row that does not fit is found, and named
            return RowBatch(_validate_one(model, model_signature, table, max_rows=len(table)), len(table))
    is_row = _flat
    if model_signature is not None and model_signature.json_inputs:
        is_row = functools.partial(_is_object_row, {spec.name for spec in model_signature.inputs})
    requests = []
    for at, data in enumerate(_each(many) if rows else many):
        try:
            requests.append(_validate_one(model, model_signature, [data] if rows and is_row(data) else data))
        except errors.MutiraoError as exc:
            raise type(exc)(f"request {at}: {exc}", **exc.data) if rows else exc from None
    return requests


def _validate_one(
    model: str, model_signature: Signature | None, data: Any, max_rows: int | None = None
) -> dict[str, Array]:
    """Check data against a signature, with another limit of rows where one is given.

    Without a signature it gets arrays of one dtype each: rows that mix text and numbers have none.
    """
    if model_signature is None:
        return {
            name: untyped.resolve_objects(name, untyped.array_from_objects(name, array))
            if array.dtype == object
            else array
            for name, array in caller_data.arrays(data, frame=True).items()
        }
    arrays = signature.read(data, model_signature)
    if max_rows is not None:
        model_signature = msgspec.structs.replace(model_signature, max_rows=max_rows)
    return signature.validate(model, model_signature, arrays)


def _table(many: Any, model_signature: Signature | None) -> Any:
    """Return the one array or DataFrame whose rows are the requests; None where a row alone would be read differently."""
    if model_signature is not None and any(spec.shape[:1] != (-1,) for spec in model_signature.inputs):
        return None
    if _is_frame(many):
        return many if len(many) and all(map(_of_one_type, (many[name] for name in many.columns))) else None
    if isinstance(many, list | tuple):
        floats = model_signature is not None and all(spec.datatype == "FP64" for spec in model_signature.inputs)
        many = _matrix(many, mixed=floats)
    plain = type(many) is np.ndarray and many.ndim == 2 and many.dtype.kind in "biuf" and many.size
    return many if plain else None


def _matrix(many: Sequence[Any], *, mixed: bool) -> Array | None:
    """Stack flat rows of one length and one type; whole and broken numbers may mix where all become float64 anyway."""
    if {type(row) for row in many} == {np.ndarray}:
        return np.array(many) if len({(row.shape, row.dtype) for row in many}) == 1 else None
    if not all(isinstance(row, list | tuple) for row in many) or len({len(row) for row in many}) != 1:
        return None
    kinds = set(map(type, itertools.chain.from_iterable(many)))
    if kinds == {float}:
        return np.asarray(many, dtype=np.float64)
    if kinds != {int} and not (kinds == {int, float} and mixed):
        return None
    matrix = np.asarray(many)
    if matrix.dtype == np.float64:
        return None if (np.abs(matrix) >= untyped.EXACT).any() else matrix
    return matrix if matrix.dtype == np.int64 else None


def _of_one_type(column: Any) -> bool:
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
        return True
    return set(map(type, column.to_numpy())) == {str}


def _each(many: Any) -> Iterator[Any]:
    if _is_frame(many):
        return (many.iloc[at : at + 1] for at in range(len(many)))
    return iter(many)


def _is_frame(many: object) -> bool:
    return hasattr(many, "columns") and hasattr(many, "iloc")


def _is_object_row(names: set[str], data: Any) -> bool:
    """Return whether an item is a row of a model that takes JSON documents: an object, or a list without objects or lists."""
    if isinstance(data, Mapping):
        return data.keys() != names or not all(isinstance(value, list | tuple | np.ndarray) for value in data.values())
    return not isinstance(data, list | tuple) or not any(isinstance(value, list | tuple | Mapping) for value in data)


def _flat(data: Any) -> bool:
    if hasattr(data, "ndim"):
        return bool(data.ndim <= 1)
    if isinstance(data, str | bytes):
        return True
    return (
        isinstance(data, list | tuple)
        and bool(data)
        and not isinstance(data[0], list | tuple)
        and not hasattr(data[0], "ndim")
    )
