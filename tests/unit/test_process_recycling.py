"""When a process is worn out: a table."""

import os

import pytest

from mutirao_worker.engine import process_recycling
from mutirao_worker.engine.process_recycling import ProcessRecycler
from mutirao_worker.process.isolation import Leak

SMALL, LARGE = Leak("1 thread", 1), Leak("9 descriptors", process_recycling.LEFT_MOST + 1)


@pytest.mark.parametrize(
    ("limits", "lefts", "expected"),
    [
        ((0, 0), [None] * 5, [False] * 5),
        ((2, 0), [None] * 5, [False, True, False, True, False]),
        ((0, 1), [None] * 2, [True, True]),
        ((0, 2**50), [None] * 2, [False, False]),
        ((0, 0), [None, SMALL], [False, True]),
        ((0, 0), [SMALL] * 5, [True] * process_recycling.REPLACED_MOST + [False] * 2),
        ((0, 0), [*[SMALL] * 4, LARGE], [True] * process_recycling.REPLACED_MOST + [False, True]),
    ],
)
def test_when_a_process_is_replaced(limits, lefts, expected):
    """After so many batches, above a size, or with what a model left: but a model that always leaves a little is let do so."""
    recycler = ProcessRecycler(*limits)
    assert [bool(recycler.reason_to_replace(os.getpid(), "model", left)) for left in lefts] == expected
