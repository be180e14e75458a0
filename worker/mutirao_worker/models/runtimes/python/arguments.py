"""The arguments of predict, made of a request's arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mutirao import errors
from mutirao.wire import json_elements
from mutirao.wire.tensors import Array
from mutirao_worker.models.runtimes.python.predict_plan import BINARY, JSON, Plan, Value


def of_batch(plan: Plan, inputs: Mapping[str, Array]) -> dict[str, Any]:
    """Return the arguments for all rows.

    Raises:
        InvalidInput: an element is not the text that the model takes.
    """
    if plan.frame:
        import pandas as pd  # noqa: PLC0415 - only a model that takes a DataFrame needs it

        (name,) = plan.inputs
        return {name: pd.DataFrame({column: _cells(array) for column, array in inputs.items()})}
    return {name: _argument(name, value, inputs[name]) for name, value in plan.inputs.items()}


def of_rows(plan: Plan, inputs: Mapping[str, Array]) -> Iterator[dict[str, Any]]:
    """Yield the arguments for each row."""
    columns = of_batch(plan, inputs)
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def _argument(name: str, value: Value, array: Array) -> Any:
    if value.kind == "array":
        return array
    if value.format == JSON:
        return json_elements.decode(array).tolist()
    elements = array.tolist()
    if value.format == BINARY:
        return [element.encode() if isinstance(element, str) else element for element in elements]
    if (
        value.datatype == "BYTES"
        and (at := next((at for at, each in enumerate(elements) if isinstance(each, bytes)), -1)) >= 0
    ):
        raise errors.InvalidInput(f"input {name!r}: row {at} is not UTF-8 text")
    if value.nullable and array.dtype.kind == "f":
        whole = value.datatype == "INT64"
        return [None if np.isnan(each) else int(each) if whole else each for each in elements]
    return elements


def _cells(array: Array) -> Any:
    return array if array.ndim == 1 else list(array)
