"""The environment in which a model loads as it was saved: what to install, and for which Python."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from mutirao import errors

# The first scikit-learn with a wheel for each Python that mutirão runs on, by the tags of the wheels in the package index.
_FIRST_WHEELS = {"3.11": (1, 2, 0), "3.12": (1, 3, 1), "3.13": (1, 5, 2), "3.14": (1, 7, 2)}
# What a scikit-learn below a version works with: numpy 2 is known to 1.4.2 (its release notes), pandas 3 to none before 1.8; solvers of
# scipy take `rtol` for `tol` from 1.12 on, which came after 1.3.
_BOUNDS = (
    ((1, 4, 2), "numpy<2"),
    ((1, 8, 0), "pandas<3"),
    ((1, 4, 0), "scipy<1.12"),
)
_SAVED_WITH = re.compile(r"([\w.-]+) (\d+)\.(\d+)(?:\.(\d+))?\S*")


class Environment(NamedTuple):
    """What to install.

    Attributes:
        requirements: as pip takes them.
        pythons: the Python versions for which there are wheels.
    """

    requirements: tuple[str, ...]
    pythons: tuple[str, ...]


def environment(saved_with: Iterable[str]) -> Environment:
    """Return the environment for what these libraries saved, each with its version: scikit-learn 1.2.2.

    Raises:
        RepositoryError: no Python that mutirão runs on has that library, or there are two versions of one.
    """
    requirements: dict[str, str] = {}
    bounds: list[str] = []
    pythons = tuple(_FIRST_WHEELS)
    for saved in dict.fromkeys(saved_with):
        if (match := _SAVED_WITH.fullmatch(saved)) is None:
            continue
        library, version = match[1], (int(match[2]), int(match[3]), int(match[4] or 0))
        if library in requirements:
            text = (
                f"{requirements[library].replace('==', ' ')} and {saved} saved its steps, and no environment has both"
            )
            raise errors.RepositoryError(f"{text}: save one of them again with the other's version")
        requirements[library] = f"{library}=={saved.removeprefix(f'{library} ')}"
        if library == "scikit-learn":
            pythons = tuple(python for python, first in _FIRST_WHEELS.items() if version >= first)
            bounds = [bound for below, bound in _BOUNDS if version < below]
        if not pythons:
            raise errors.RepositoryError(
                f"it was saved with {saved}, and a worker needs scikit-learn 1.2 or later: load it with that version in a Python of its time, "
                "and fit it anew with a later one"
            )
    return Environment((*requirements.values(), *bounds), pythons)
