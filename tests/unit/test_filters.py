"""Fewer warning filters that say the same."""

import warnings

import pytest
from numpy.exceptions import ComplexWarning, RankWarning

from mutirao_worker import filters
from mutirao_worker.hosting import Host
from mutirao_worker.repository import Repository


class Own(UserWarning):
    """A model's own."""


def add_those_of_libraries():
    """Add what Python, numpy and scipy leave behind: pytest has put its own in their place."""
    warnings.resetwarnings()
    warnings.simplefilter("always", ComplexWarning)
    warnings.filterwarnings("ignore", message="the matrix subclass is not the recommended way")
    for name in ("ndarray", "ufunc", "dtype"):
        warnings.filterwarnings("ignore", message=f"numpy.{name} size changed")
    warnings.simplefilter("always", RankWarning)
    warnings.filterwarnings("default", category=DeprecationWarning, module="__main__", append=True)
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category, append=True)


def add_those_of_a_model():
    """Add what a model's module may."""
    warnings.filterwarnings("ignore", message="of no interest", category=Own)
    warnings.filterwarnings("error", category=RuntimeWarning, module="sums")
    warnings.simplefilter("ignore", FutureWarning)


def said(message, category, module):
    """Tell how often a warning is shown that is given twice, or that it raises."""
    registry: dict[str | tuple[str, type[Warning], int], int] = {}
    with warnings.catch_warnings(record=True) as caught:
        try:
            for _ in range(2):
                warnings.warn_explicit(message, category, "model.py", 1, module, registry)
        except category:
            return "raises"
    return len(caught)


@pytest.mark.parametrize("own", [False, True], ids=["libraries", "and a model"])
def test_fewer_say_the_same(own):
    """What is shown, ignored or raised stays so; libraries' eleven filters become two, and a model's own stay."""
    with warnings.catch_warnings():
        add_those_of_libraries()
        if own:
            add_those_of_a_model()
        asked = [
            (message, category, module)
            for message in ("of no interest", "of interest")
            for category in (Own, UserWarning, FutureWarning, DeprecationWarning, PendingDeprecationWarning, ResourceWarning,
                             RuntimeWarning, RankWarning, ComplexWarning)
            for module in ("sums", "other")
        ]  # fmt: skip
        before = [said(*each) for each in asked]
        filters.shorten()
        assert [said(*each) for each in asked] == before
        assert {0, 1, 2} <= set(before)
        assert len(warnings.filters) == (2 + 3 if own else 2)


def test_what_a_person_asks_for_stays():
    """A filter of the command line or of PYTHONWARNINGS stands before libraries', and keeps its place."""
    with warnings.catch_warnings():
        add_those_of_libraries()
        warnings.simplefilter("error", DeprecationWarning)
        filters.shorten()
        with pytest.raises(DeprecationWarning):
            warnings.warn_explicit("old", DeprecationWarning, "model.py", 1)


def test_a_worker_has_few(tmp_path):
    """Once its models are loaded a worker has no more filters than it needs."""
    with warnings.catch_warnings():
        add_those_of_libraries()
        Host().load(Repository(tmp_path), [])
        assert len(warnings.filters) == 2
