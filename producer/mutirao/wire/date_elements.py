"""Dates and times as the elements of a BYTES tensor: ISO 8601 text, without a time zone, in arrays as on the wire."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np

from mutirao import errors
from mutirao.wire import missing
from mutirao.wire.elements import nth, show
from mutirao.wire.tensors import Array
from mutirao.wire.untyped import objects, tensor_prefix

FORMAT = "date-time"


def encode(values: Any) -> Array:
    """Return a column as text, as far as it holds dates: datetime64, datetime, date and pandas' Timestamp; what is missing is None."""
    array = np.asarray(values.to_numpy() if hasattr(values, "to_numpy") else values)
    if array.dtype.kind == "M":
        return objects([None if text == "NaT" else text for text in np.datetime_as_string(array).tolist()])
    elements = (None if missing.is_missing(each) else each for each in array.ravel().tolist())
    return objects([each.isoformat() if isinstance(each, datetime.date) else each for each in elements])


def check(name: str, array: Array) -> Array:
    """Return dates as they are.

    Raises:
        InvalidTensor: an element is no date, or has a time zone; names the first.
    """
    for at, element in enumerate(array.ravel().tolist()):
        if element is None:
            continue
        try:
            zone = datetime.datetime.fromisoformat(element).tzinfo
        except (TypeError, ValueError):
            text = (
                f"{nth(array.shape, at)} is {show(element)}, which is no date or time: write it as 2026-11-29T08:30:00"
            )
            raise errors.InvalidTensor(f"{tensor_prefix(name)}{text}", tensor=name) from None
        if zone is not None:
            text = f"{nth(array.shape, at)} is {show(element)}: the model takes times without a time zone: leave it out, in the zone that the model was fitted in"
            raise errors.InvalidTensor(f"{tensor_prefix(name)}{text}", tensor=name)
    return array


def decode(array: Array) -> Array:
    """Return dates as datetime64 in microseconds; what is missing is NaT."""
    return np.array(
        ["NaT" if each is None else datetime.datetime.fromisoformat(each) for each in array.tolist()], "datetime64[us]"
    )
