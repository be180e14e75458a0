"""Kills under load, all accounted for: every accepted request ends once with its own answer, and nothing is left behind."""

import contextlib
import sys

import pytest

from support import fault_trial
from support.fault_trial import SEED
from support.trial_systems import CelerySystem, MutiraoSystem

REPRODUCE = f"MUTIRAO_FAULT_SEED={SEED}"


def _check(verdict):
    assert not verdict.lost, f"{REPRODUCE}\n{verdict}"
    assert not verdict.wrong, f"{REPRODUCE}\n{verdict}"
    assert not verdict.doubles, f"{REPRODUCE}\n{verdict}"
    assert not verdict.leftovers, f"{REPRODUCE}\n{verdict}"
    assert not verdict.slow, f"{REPRODUCE}\n{verdict}"
    assert not verdict.again.get(""), f"{REPRODUCE}\nsome rows ran again for no reason\n{verdict}"
    assert max(verdict.recovered_s, default=0) < 30, f"{REPRODUCE}\n{verdict}"
    # Attempts are bounded, so a request that is killed time after time ends too: as lost to its workers, with its reason.
    assert set(verdict.failed) <= {"WorkerLost, gave up"}, f"{REPRODUCE}\n{verdict}"
    assert sum(verdict.failed.values()) <= sum(verdict.kills.values()) / 50, f"{REPRODUCE}\n{verdict}"


@pytest.mark.timeout(300)
def test_ten_kills(tmp_path):
    """Ten kills of every kind under load: nothing lost, nothing wrong, no end twice, every second run has its kill, keys empty."""
    verdict = fault_trial.run(MutiraoSystem, tmp_path, seed=SEED, kills=10)
    assert sum(verdict.kills.values()) >= 9  # a row that was to kill may itself be gone before it runs
    _check(verdict)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_three_hundred_kills(tmp_path, capsys):
    """Three hundred kills of every kind, likewise; beside it what the same plan does to a plain Celery app."""
    verdict = fault_trial.run(MutiraoSystem, tmp_path / "ours", seed=SEED, kills=310, every_s=2.0, workers=3)
    with capsys.disabled():
        _show(verdict)
        stock = None
        with contextlib.suppress(AssertionError):  # nothing is claimed of it, not even that it gets to the end
            stock = fault_trial.run(CelerySystem, tmp_path / "stock", seed=SEED, kills=310, every_s=2.0, workers=3)
        _show(stock or "stock Celery: its workers did not come back")
    assert sum(verdict.kills.values()) >= 300
    _check(verdict)


def _show(said):
    sys.stdout.write(f"\n{said}\n")
