"""Fewer warning filters that say the same.

scikit-learn sets up all of a process's filters anew for each member of an ensemble, each time one predicts: with the eleven that
Python, numpy and scipy leave behind, that is a third of what a forest's call costs.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

Filter = tuple[str, Any, Any, Any, int]  # action, message, category, module, line

# What numpy would not have said of modules that were built against another numpy, and of matrices: either is said at import.
_AT_IMPORT = re.compile(r"numpy\.(ndarray|ufunc|dtype) size changed|the matrix subclass is not the recommended way")


def shorten() -> None:
    """Shorten this process's filters, once everything is imported."""
    warnings.filters[:] = joined(warnings.filters)  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]  # noqa: SLF001


def joined(filters: Iterable[Filter]) -> list[Filter]:
    """Leave out what is of no use any more, and make one filter of those that follow each other and differ in the category alone."""
    found: list[Filter] = []
    for (action, *where), alike in itertools.groupby(filter(_of_use, filters), lambda one: (one[0], one[1], *one[3:])):
        same = list(alike)
        if len(same) > 1 and where == [None, None, 0]:
            same = [(action, None, tuple(_categories(same)), None, 0)]
        found += same
    return found


def _of_use(one: Filter) -> bool:
    """Whether a filter can still apply: no model runs as the main program, and imports are done."""
    _, message, _, module, _ = one
    return _text(module) != "__main__" and not _AT_IMPORT.match(_text(message))


def _text(pattern: Any) -> str:
    """Read a pattern: a text, a compiled one, or None for any."""
    return str(getattr(pattern, "pattern", pattern) or "")


def _categories(filters: Iterable[Filter]) -> Iterator[type[Warning]]:
    for _, _, category, _, _ in filters:
        yield from category if isinstance(category, tuple) else (category,)
