"""Job outputs as tables and as JSON."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from mutirao import errors
from mutirao.cli import console
from mutirao.wire.messages import JobRecord
from mutirao.wire.tensors import Array

ROWS = 20
VALUES = 10


def document(record: JobRecord, outputs: dict[str, Array]) -> dict[str, Any]:
    """Return the JSON document of a result.

    Raises:
        InvalidTensor: an output holds bytes that are not text.
    """
    return {"id": record.task_id, "model": record.job.model, "version": record.job.version, "outputs": plain(outputs)}


def plain(arrays: dict[str, Array]) -> dict[str, Any]:
    """Return arrays as nested lists.

    NaN and infinities, which JSON lacks, become "NaN", "Infinity" and "-Infinity": float() of Python and Number() of JavaScript
    read them back.

    Raises:
        InvalidTensor: one holds bytes that are not text.
    """
    return {name: _nested(name, array) for name, array in arrays.items()}


def show(outputs: dict[str, Array]) -> None:
    """Print outputs as a table, a line for each row; on a terminal as many as fit."""
    cut = console.terminal()
    count = len(next(iter(outputs.values()), ()))
    shown = min(count, ROWS) if cut else count
    rows = ((row, *(_cell(array[row], cut=cut) for array in outputs.values())) for row in range(shown))
    console.table(("row", *outputs), rows)
    if shown < count:
        console.note(f"{shown} of {count} rows; --json prints all")


def _cell(values: Any, *, cut: bool) -> str:
    """Format one row of an output: its value, or its values side by side."""
    if isinstance(values, dict | list):  # an object of JSON
        return msgspec.json.encode(values).decode()
    flat = np.ravel(values)
    text = " ".join(_value(value, cut=cut) for value in (flat[:VALUES] if cut else flat))
    return f"{text} ... ({len(flat)} values)" if cut and len(flat) > VALUES else text


def _value(value: Any, *, cut: bool) -> str:
    return f"{value:.6g}" if cut and isinstance(value, float | np.floating) else str(value)


def _nested(name: str, array: Array) -> Any:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return _named(array.tolist())
    if array.dtype.kind == "O" and any(isinstance(element, bytes) for element in array.flat):
        raise errors.InvalidTensor(
            f"output {name!r} holds bytes that are not text, and JSON cannot carry them: read it with mutirao.Client",
            tensor=name,
        )
    return array.tolist()


def _named(values: Any) -> Any:
    if isinstance(values, list):
        return [_named(value) for value in values]
    if math.isfinite(values):
        return values
    return "NaN" if math.isnan(values) else "Infinity" if values > 0 else "-Infinity"
