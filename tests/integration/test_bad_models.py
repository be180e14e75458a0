"""Models that misbehave in a real worker: each requester gets a terminal state with its reason, and the worker serves the next one."""

import numpy as np
import pytest

from mutirao import JobError, ModelFailed, TimeLimitExceeded, WorkerLost, keyspace

pytestmark = pytest.mark.usefixtures("serves_the_next")


@pytest.mark.parametrize(
    ("model", "kind", "says"),
    [
        ("raises", ModelFailed, "model 'raises' version 1 raised ValueError: the sky is falling"),
        ("raisesunpicklable", ModelFailed, "raised Unpicklable: a lambda hangs on to me"),
        ("raisesunprintable", ModelFailed, r"raised Unprintable: \(its text could not be read\)"),
        ("exits", ModelFailed, "raised SystemExit: 3"),
        ("aborts", WorkerLost, "the process that ran the model died: .*exitcode 7"),
        ("segfaults", WorkerLost, "the process that ran the model died: .*SIGSEGV"),
        ("hangs", TimeLimitExceeded, "the model ran past its time limit of 2.0 s and was stopped"),
        ("hangsinc", TimeLimitExceeded, "the model ran past its time limit of 2.0 s and was stopped"),
        ("toofewrows", ModelFailed, "returned 1 rows of 'predict' for 2 rows of input"),
        ("toomanyrows", ModelFailed, "returned 3 rows of 'predict' for 2 rows of input"),
        ("norows", ModelFailed, "returned a single value of 'predict' for 2 rows of input"),
        ("objectoutput", ModelFailed, "returned what cannot be sent"),
    ],
)
def test_models_that_misbehave(own, model, kind, says):
    """A model that raises, exits, dies, hangs or returns rubbish fails the request that made it, by name, and no other."""
    bad = own.submit(model, [[-1.0, 1, 2], [3, 4, 5]])
    good = own.submit(model, [[3.0, 4, 5]])
    with pytest.raises(kind, match=says):
        bad.result(20)
    assert good.result(20)["predict"].tolist() == [12.0]
    assert bad.status == "failed"


@pytest.mark.parametrize("model", ["prints", "warns", "changesinput"])
def test_models_that_are_merely_rude(own, model):
    """A model that prints, warns or writes into its input still answers."""
    assert own.predict(model, [[-1.0, 1, 2], [3, 4, 5]], timeout=20)["predict"].tolist() == [2.0, 12.0]


def test_nan_output(own, refused):
    """NaN in an output reaches our client; to one that asked for JSON it is a failure that names it."""
    assert np.array_equal(
        own.predict("nanoutput", [[-1.0, 1, 2], [3, 4, 5]], timeout=20)["predict"], [np.nan, 12.0], equal_nan=True
    )
    raised = refused("ask([[-1, 1, 2]], 'nanoutput')")
    assert raised.name == "InvalidOutput"
    assert "tensor 'predict' has NaN at [0]: JSON cannot carry it, the binary form can" in raised.text


def test_failure_is_terminal(own):
    """A failed job stays failed: cancel says no, the record keeps model, worker and times."""
    job = own.submit("raises", [[-1.0, 0, 0]])
    with pytest.raises(JobError):
        job.result(20)
    assert not job.cancel()
    record = job.record()
    assert (record.state, record.job.model, record.job.version) == ("failed", "raises", "1")
    assert keyspace.created_at(job.id) == pytest.approx(record.job.queued_at, abs=5)
