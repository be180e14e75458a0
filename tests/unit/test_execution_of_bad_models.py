"""Batches of models that misbehave: who fails, who is answered, and who is to run again."""

import json
import signal
import warnings
from typing import Any

import msgspec
import numpy as np
import pytest
from billiard.exceptions import SoftTimeLimitExceeded

from mutirao import errors
from mutirao.wire.messages import Failure
from mutirao_worker.inference import execution, interruption
from mutirao_worker.inference.execution import ResultLimits
from support import sample_models
from support.pool_requests import GOOD, MARKED, RecordingModel, error_of, outputs_of, packed, packed_json


@pytest.fixture(autouse=True)
def _pool_that_interrupts(monkeypatch):
    """What the pool's adapter hands in, without the pool."""
    monkeypatch.setattr(interruption, "TIME_LIMIT", SoftTimeLimitExceeded)


GUILTY = [
    ("raises", errors.ModelFailed, "model 'raises' version 1 raised ValueError: the sky is falling"),
    ("raisesunpicklable", errors.ModelFailed, "raised Unpicklable: a lambda hangs on to me"),
    ("raisesunprintable", errors.ModelFailed, "raised Unprintable: (its text could not be read)"),
    ("raisessurrogates", errors.ModelFailed, r"raised ValueError: half a pair: \ud83c"),
    ("exits", errors.ModelFailed, "raised SystemExit: 3"),
    ("warns", errors.ModelFailed, "raised UserWarning: something is odd"),
    ("toofewrows", errors.InvalidOutput, "returned 0 rows of 'predict' for 1 rows of input"),
    ("toomanyrows", errors.InvalidOutput, "returned 2 rows of 'predict' for 1 rows of input"),
    ("norows", errors.InvalidOutput, "returned a single value of 'predict' for 1 rows of input"),
    ("objectoutput", errors.InvalidOutput, "returned what cannot be sent: tensor 'predict': it is text, but row 0 is of type object"),
    ("unsayableoutput", errors.InvalidOutput, "but row 0 is of type Unsayable"),
    ("mixesobjects", errors.InvalidOutput, "returned what cannot be sent"),
    ("masksoutput", errors.InvalidOutput, "returned 'predict' with a masked value at [0]: fill it (filled) in the model"),
    ("raggedoutput", errors.InvalidOutput, "returned rows of unequal length for 'predict'"),
    ("dictoutput", errors.InvalidOutput, "returned a dict for 'predict', which is no array"),
    ("splitoutput", errors.InvalidOutput, "returned 'predict.0', 'predict.1', but no 'predict', which it announced"),
    ("spoilsinput", errors.ModelFailed, "raised ValueError: spoilt"),
]  # fmt: skip


@pytest.mark.parametrize("form", [packed, packed_json])
@pytest.mark.parametrize("guilty", [(0,), (2, 3), (1, 5, 6), range(7)])
@pytest.mark.parametrize(("model", "kind", "says"), GUILTY, ids=[model for model, *_ in GUILTY])
def test_only_the_guilty_fail(ran, model, kind, says, guilty, form):
    """Where a model fails for some rows of a batch, in whatever way, those requests fail by name, and all others are answered."""
    answers = ran(*(form(model, [MARKED if at in guilty else [at, 4.0, 5.0]]) for at in range(7)))
    for at, answer in enumerate(answers):
        if at in guilty:
            error = error_of(answer)
            assert type(error) is kind
            assert says in str(error)
            assert says not in answer.summary
            json.dumps(answer.traceback).encode()
        else:
            assert outputs_of(answer)["predict"].tolist() == [at + 9.0]


def test_a_traceback_is_the_models_own(ran):
    """What a model raised comes with its traceback, of 8,000 characters at most."""
    (answer,) = ran(packed("raises", [MARKED]))
    assert "in misbehave" in answer.traceback
    assert "the sky is falling" in answer.traceback
    assert len(answer.traceback) <= 8000
    assert answer.summary == "ModelFailed(model='raises', version='1', cause='ValueError')"


@pytest.mark.parametrize("model", ["mixestypes", "othertype"])
def test_a_row_of_another_type_leaves_its_neighbours_theirs(ran, model):
    """A row for which a model gives text does not make texts of its neighbours' numbers."""
    answers = ran(*(packed(model, [row]) for row in (GOOD, MARKED, GOOD)))
    found = [outputs_of(answer)["predict"].tolist() for answer in answers]
    assert found == [[12.0], ["marked" if model == "mixestypes" else "text"], [12.0]]


def test_a_row_of_another_shape_leaves_its_neighbours_theirs(ran):
    """A model that gives all rows of a call the shape of the longest answers each request as if it were alone."""
    answers = ran(*(packed("pads", [[size, 0.0, 0.0]]) for size in (3, 6, 2)))
    assert [outputs_of(answer)["predict"].shape for answer in answers] == [(1, 3), (1, 6), (1, 2)]


def test_rows_that_are_lost_among_several_are_not_lost(ran):
    """A model that returns too few rows only for several still answers each."""
    answers = ran(*(packed("drops", [row]) for row in (GOOD, MARKED, MARKED, GOOD)))
    assert [outputs_of(answer)["predict"].tolist() for answer in answers] == [[12.0], [2.0], [2.0], [12.0]]


def test_nan_for_json_costs_its_own_request(host):
    """NaN reaches who asked for raw tensors, and fails who asked for JSON, without a second call; it says what to ask for."""
    sizes: list[int] = []
    spy: Any = RecordingModel(host.find("nanoutput"), sizes)
    asked = [packed("nanoutput", [MARKED]), packed_json("nanoutput", [MARKED]), packed_json("nanoutput", [GOOD])]
    answers = execution.run(lambda _: spy, asked, ResultLimits(65536)).results
    assert np.isnan(outputs_of(answers[0])["predict"]).all()
    said = str(error_of(answers[1]))
    assert "tensor 'predict' has NaN at [0]: JSON cannot carry it, the binary form can: ask for it with " in said
    assert said.endswith('"parameters": {"binary_data_output": "auto"} in the request')
    assert outputs_of(answers[2])["predict"].tolist() == [12.0]
    assert sizes == [3]


@pytest.mark.parametrize("model", ["prints", "changesinput", "changessettings", "listoutput"])
def test_models_that_are_merely_rude(ran, model):
    """A model that prints, writes into its input, or changes numpy's and Python's settings for all, answers; the settings stay."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        settings = np.geterr(), list(warnings.filters)
        answers = ran(*(packed(model, [row]) for row in (GOOD, MARKED, GOOD)))
        assert (np.geterr(), list(warnings.filters)) == settings
    assert [outputs_of(answer)["predict"].tolist() for answer in answers] == [[12.0], [2.0], [12.0]]


def test_what_a_method_writes_the_next_does_not_see(ran):
    """A model whose predict spoils its input does not spoil what its other methods make of it."""
    answers = ran(*(packed("changesinput", [row], outputs=["predict", "score_samples"]) for row in (GOOD, MARKED)))
    assert [outputs_of(answer)["score_samples"].tolist() for answer in answers] == [[12.0], [2.0]]


@pytest.fixture
def _soft_limit():
    """Billiard's own handler of a soft time limit."""

    def handler(signum, frame):
        raise SoftTimeLimitExceeded

    before = signal.signal(signal.SIGUSR1, handler)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("_soft_limit")
def test_a_soft_limit_fails_who_ran_alone(ran):
    """A request that ran alone when time was up fails as with Celery, with its callbacks."""
    after = {"errbacks": [{"task": "x"}]}
    (answer,) = ran(packed_json("runsout", [MARKED], embed=after))
    failure = msgspec.json.decode(answer.result, type=Failure)
    assert (failure.exc_type, failure.exc_message, failure.exc_module) == (
        "SoftTimeLimitExceeded",
        [],
        "billiard.exceptions",
    )
    assert isinstance(error_of(answer), errors.TimeLimitExceeded)
    assert (answer.embed, answer.rows, answer.summary) == (after, 1, "SoftTimeLimitExceeded()")
    assert "in misbehave" in answer.traceback


@pytest.mark.usefixtures("_soft_limit")
def test_a_soft_limit_does_not_fail_who_came_last(ran):
    """A request that ran alone, but after others that had taken the time, is to run again; those answered before keep their answers."""
    answers = ran(packed_json("slow", [[0.3, 0.0, 0.0]]), packed_json("runsout", [MARKED]))
    assert [answer.status for answer in answers] == ["ok", "interrupted"]


@pytest.mark.usefixtures("_soft_limit")
@pytest.mark.parametrize("model", ["runsout", "hidestimelimit"])
def test_a_soft_limit_interrupts_several(ran, model):
    """Of several that ran when time was up, and those that did not yet run, nobody has failed: they are to run again."""
    rows = [GOOD, MARKED, GOOD]
    first = packed("iris", sample_models.get("iris").data[:1])
    answers = ran(
        first, *(packed(model, [row]) for row in rows), packed("houses", sample_models.get("houses").data[:1])
    )
    assert [answer.status for answer in answers] == ["ok", *["interrupted"] * 4]


@pytest.mark.usefixtures("_soft_limit")
def test_a_soft_limit_that_a_lone_model_hides_is_its_failure(ran):
    """A model that makes an error of its own of the time limit, alone, has raised that error."""
    (answer,) = ran(packed("hidestimelimit", [MARKED]))
    assert "raised ValueError: interrupted" in str(error_of(answer))


def test_halving_stops_before_the_process_is_stopped(host):
    """Once a failing batch has had half its model's time, what is left of it is to run again in smaller groups."""
    loaded = host.find("raises")
    spy: Any = RecordingModel(loaded, [])
    spy.manifest = msgspec.structs.replace(loaded.manifest, time_limit_s=1e-6)
    answers = execution.run(
        lambda _: spy, [packed("raises", [row]) for row in (MARKED, GOOD)], ResultLimits(65536)
    ).results
    assert [answer.status for answer in answers] == ["interrupted", "interrupted"]
    (alone,) = execution.run(lambda _: spy, [packed("raises", [MARKED])], ResultLimits(65536)).results
    assert alone.status == "failed"
