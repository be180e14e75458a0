"""How long a batch takes, fitted to timings."""

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mutirao_worker.engine.service_time import GROWTH, ServiceTimeModel


@given(st.floats(1e-5, 0.05), st.floats(0.0, 0.2), st.integers(0, 2**32))
def test_fit_recovers_the_line(per_row, per_batch, seed):
    """From timings that are off by 2 % the costs of a row and of a batch are found again, and so is a batch's length."""
    noise, fit = random.Random(seed), ServiceTimeModel()
    for _ in range(200):
        rows = noise.choice([1, 8, 64, 256])
        fit.observe(rows, (per_row * rows + per_batch) * noise.uniform(0.98, 1.02))
    whole = 256 * per_row + per_batch
    assert fit.seconds(256) == pytest.approx(whole, rel=0.03)
    assert fit.coefficients[0] == pytest.approx(per_row, abs=0.05 * whole / 256)
    assert fit.coefficients[1] == pytest.approx(per_batch, abs=0.05 * whole)


@pytest.mark.parametrize("rows", [1, 7, 256])
def test_fit_of_one_size(rows):
    """From batches of one size all of the time is put on the rows: nothing is promised of larger ones."""
    fit = ServiceTimeModel()
    for _ in range(5):
        fit.observe(rows, 0.5)
    assert fit.coefficients == pytest.approx((0.5 / rows, 0.0))
    assert fit.seconds(2 * rows) == pytest.approx(1.0)


def test_fit_knows_nothing_at_first():
    """Before the first timing nothing is foretold, and nothing is forbidden."""
    fit = ServiceTimeModel()
    assert not fit.has_data
    assert fit.coefficients == (0.0, 0.0)
    assert fit.seconds(100) == 0.0
    assert fit.rows_within(1.0) > 10**6


@example([(1, 0.0), (1, 1.0), (4, 2.2e-311)])
@given(st.lists(st.tuples(st.integers(1, 300), st.floats(0, 100)), min_size=1, max_size=30))
def test_fit_stays_sane(timings):
    """Whatever was timed, no cost is negative, and at least one row fits into any time."""
    fit = ServiceTimeModel()
    for rows, seconds in timings:
        fit.observe(rows, seconds)
    per_row, per_batch = fit.coefficients
    assert per_row >= 0
    assert per_batch >= -1e-6
    assert fit.rows_within(0.001) >= 1


@given(st.lists(st.floats(0.02, 0.06), min_size=1, max_size=8))
def test_fit_does_not_leap(timings):
    """From a few small batches, whose times tell more of noise than of rows, no batch follows that is many times larger."""
    fit = ServiceTimeModel()
    for place, seconds in enumerate(timings):
        fit.observe(1 + place % 2, seconds)
    assert fit.rows_within(1.0) <= GROWTH * 2


def test_fit_follows_a_change():
    """A model that has become ten times slower is known as such after some tens of batches."""
    fit = ServiceTimeModel()
    for each_s in [0.001] * 100 + [0.01] * 40:
        fit.observe(10, 10 * each_s)
    assert fit.coefficients[0] == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("held_up_s", [2.0, 60.0])
@pytest.mark.parametrize("first", [True, False])
def test_fit_sets_a_stall_aside(held_up_s, first):
    """A batch that was held up, be it the first of all, is forgotten by the third that was not."""
    fit = ServiceTimeModel()
    for seconds in [held_up_s] * first + [0.002] * 2 + [held_up_s] * (not first) + [0.002]:
        fit.observe(1, seconds)
    assert fit.coefficients[0] == pytest.approx(0.002)


def test_fit_believes_the_second():
    """A model that has become a hundred times slower is known as such after its second batch."""
    fit = ServiceTimeModel()
    for each_s in [0.001] * 100 + [0.1] * 2:
        fit.observe(10, 10 * each_s)
    assert fit.coefficients[0] == pytest.approx(0.1)


def test_what_rows_cost_is_not_what_the_load_does():
    """Larger batches that took longer because they waited for a core are known to cost what smaller ones cost."""
    fit = ServiceTimeModel()
    assert not fit.mostly_fixed(1)
    for rows in [1, 2, 1, 2, *[30, 40] * 50]:
        waited_s = rows / 1000
        fit.observe(rows, 0.01 + 0.00005 * rows + waited_s, waited_s)
    assert fit.coefficients[0] > 0.0005
    assert fit.mostly_fixed(150)
    assert not fit.mostly_fixed(250)


def test_what_rows_cost_is_remembered():
    """After hundreds of batches of one size it is still known what those of other sizes have told."""
    fit = ServiceTimeModel()
    for rows in [1, 4, 16, 64] * 5 + [20] * 5000:
        fit.observe(rows, 0.01 + 0.00005 * rows)
    assert fit.coefficients[1] == 0
    assert fit.mostly_fixed(150)
    assert not fit.mostly_fixed(250)


def test_speed_after_a_quiet_while():
    """Hundreds of batches of one row do not make a model seem as slow as they are: what large batches cost is remembered."""
    fit = ServiceTimeModel()
    for rows in (1, 4, 16, 64, 256, 256):
        fit.observe(rows, 0.002 + 0.00001 * rows)
    busy = fit.speed(1000, 1.0)
    for _ in range(300):
        fit.observe(1, 0.00201)
    assert fit.speed(1000, 1.0) == pytest.approx(busy, rel=0.3)
    assert ServiceTimeModel().speed(1000, 1.0) == 0.0
