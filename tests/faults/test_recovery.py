"""How long it takes until what a killed worker held runs elsewhere."""

import sys

import pytest

from support import fault_trial
from support.fault_trial import SEED
from support.trial_report import spread
from support.trial_systems import MutiraoSystem


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_recovery(tmp_path, capsys):
    """After kill -9 of a worker, each request that it held runs elsewhere within ten seconds; twenty times."""
    kinds = {"SIGKILL": 1}
    verdict = fault_trial.run(
        MutiraoSystem, tmp_path, seed=SEED, kills=20, every_s=10, workers=3, per_s=150, kinds=kinds
    )
    with capsys.disabled():
        sys.stdout.write(f"\nrecovery after kill -9: {spread(verdict.recovered_s)}\n")
    assert verdict.recovered_s, "no worker held anything when it was killed"
    assert max(verdict.recovered_s) < 10, f"MUTIRAO_FAULT_SEED={SEED}\n{verdict}"
    assert not verdict.lost, f"MUTIRAO_FAULT_SEED={SEED}\n{verdict}"
