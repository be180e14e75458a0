"""Elements of an array as error messages name them: position, value and type."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np

_SHOWN = 40


def show(value: object) -> str:
    """Return a value with its type, shortened: int 3, text 'a', Decimal('1.5'), None; for other types the type alone."""
    kind = "text" if isinstance(value, str) else type(value).__name__
    if value is None:
        return "None"
    if not isinstance(value, str | bytes | int | float | Decimal):
        return f"of type {kind}"
    text = repr(value)
    text = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    return text if text.startswith(kind) else f"{kind} {text}"


def place(shape: tuple[int, ...], index: Sequence[int]) -> str:
    """Return where an element is: row 3; row 3, column 1; or the whole index of an array of more dimensions."""
    if not shape:
        return "the value"
    if len(shape) == 1:
        return f"row {index[0]}"
    if len(shape) == 2:
        return f"row {index[0]}, column {index[1]}"
    return f"element {[int(at) for at in index]}"


def nth(shape: tuple[int, ...], count: int) -> str:
    """Return where an element is, by the number of elements before it."""
    return place(shape, [int(at) for at in np.unravel_index(count, shape)] if shape else [])
