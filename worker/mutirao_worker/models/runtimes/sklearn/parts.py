"""Every estimator within another: the steps of a pipeline, the trees of a forest, the best of a search, fitted parts too."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

_PARTS_MAX = 10_000  # a longer list holds words or numbers, no estimators
_LEAVES = (
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
    """Yield a model, and every estimator within it, also inside objects that are not estimators; each once."""
    seen: set[int] = set()
    waiting = [model]
    while waiting:
        part = waiting.pop()
        if part is None or isinstance(part, _LEAVES) or id(part) in seen:
            continue
        seen.add(id(part))
        if hasattr(type(part), "get_params"):
            yield part
        # Reversed, so that they come in the order in which they stand.
        waiting += reversed(list(_children(part)))


def _children(part: Any) -> Iterable[Any]:
    if isinstance(part, np.ndarray):
        return part.ravel().tolist() if part.dtype == object and part.size <= _PARTS_MAX else ()
    if isinstance(part, list | tuple | set | frozenset):
        return part if len(part) <= _PARTS_MAX else ()
    if isinstance(part, dict):
        return part.values() if len(part) <= _PARTS_MAX else ()
    return getattr(part, "__dict__", {}).values()
