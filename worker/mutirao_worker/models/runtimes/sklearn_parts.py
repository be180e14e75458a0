"""Every estimator within another: the steps of a pipeline, the trees of a forest, what a search has found, fitted parts too."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

_PARTS_MAX = 10_000  # a longer list holds no estimators, but words or numbers
_CLOSED = (
    str,
    bytes,
    int,
    float,
    complex,
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    np.generic,
)


def estimators(model: Any) -> Iterator[Any]:
    """Give a model, and every estimator that it holds, also within objects that are none; each once."""
    seen: set[int] = set()
    waiting = [model]
    while waiting:
        found = waiting.pop()
        if found is None or isinstance(found, _CLOSED) or id(found) in seen:
            continue
        seen.add(id(found))
        if hasattr(type(found), "get_params"):
            yield found
        # Reversed, so that they come in the order in which they stand.
        waiting += reversed(list(_within(found)))


def _within(found: Any) -> Iterable[Any]:
    if isinstance(found, np.ndarray):
        return found.ravel().tolist() if found.dtype == object and found.size <= _PARTS_MAX else ()
    if isinstance(found, list | tuple | set | frozenset):
        return found if len(found) <= _PARTS_MAX else ()
    if isinstance(found, dict):
        return found.values() if len(found) <= _PARTS_MAX else ()
    return getattr(found, "__dict__", {}).values()
