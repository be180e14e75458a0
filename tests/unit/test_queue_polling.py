"""How often a worker looks for what rang no bell, as a pure function of the time since the last such request."""

import itertools

import pytest

from mutirao_worker.engine.queue_polling import pause


def looks(since_s=0.0):
    """The times of all looks after a request, in seconds."""
    times = []
    while (wait := pause(since_s)) is not None:
        times.append(since_s := since_s + wait)
    return times


def test_a_sequence_waits_for_little():
    """Who sends the next request as soon as the last one is answered waits for at most 5 ms."""
    assert [pause(0.0), pause(0.01), pause(0.04)] == [0.005] * 3


def test_a_pause_costs_in_proportion():
    """Who pauses waits for at most an eighth of the pause more, and never longer than a worker that listens for bells."""
    assert [pause(0.4), pause(1.6)] == pytest.approx([0.05, 0.2])
    assert max(later - sooner for sooner, later in itertools.pairwise(looks())) < 0.25


def test_looks_end():
    """After the last such request there are some forty looks within two seconds, and then none."""
    assert 30 < len(looks()) < 50
    assert looks()[-1] < 2.3
    assert pause(2.0) is None
