import functools
import pickle
from pathlib import Path

import joblib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from mutirao_worker.models.runtimes.predictor import ModelFiles
from mutirao_worker.models.runtimes.sklearn import forests as sklearn_forests
from mutirao_worker.models.runtimes.sklearn.predictor import SklearnPredictor
from support import sample_models

IRIS = sample_models.get("iris")
LABELS = IRIS.expected()
HOLED = np.where(np.arange(IRIS.data.size).reshape(IRIS.data.shape) % 7 == 0, np.nan, IRIS.data)
METHODS = ("predict", "predict_proba", "predict_log_proba", "apply")

FITTED = {
    "random forest": lambda: RandomForestClassifier(20, random_state=0).fit(IRIS.data, LABELS),
    "extra trees": lambda: ExtraTreesClassifier(20, random_state=0).fit(IRIS.data, LABELS),
    "random forest's numbers": lambda: RandomForestRegressor(20, random_state=0).fit(IRIS.data, IRIS.data[:, 0]),
    "extra trees' numbers": lambda: ExtraTreesRegressor(20, random_state=0).fit(IRIS.data, IRIS.data[:, 0]),
    "words": lambda: RandomForestClassifier(7, random_state=0).fit(IRIS.data, np.array(["a", "bb", "ção"])[LABELS]),
    "a column of labels": lambda: RandomForestClassifier(7, random_state=0).fit(IRIS.data, LABELS > 0),
    "weights, and seven threads": lambda: RandomForestClassifier(
        7, random_state=0, class_weight="balanced_subsample", n_jobs=7, max_depth=2
    ).fit(IRIS.data, LABELS),
    "nothing to ask": lambda: RandomForestClassifier(3, random_state=0).fit(IRIS.data, np.ones(len(IRIS.data))),
    "missing values": lambda: RandomForestClassifier(20, random_state=0).fit(HOLED, LABELS),
    "counts": lambda: RandomForestRegressor(20, random_state=0, criterion="poisson").fit(IRIS.data, LABELS),
    "only upwards": lambda: RandomForestClassifier(20, random_state=0, monotonic_cst=[1, 0, 0, -1]).fit(
        IRIS.data, LABELS > 0
    ),
}

numbers = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 9), st.just(4)), elements=st.floats(-1e6, 1e6) | st.floats(0, 8)
)


class Own(RandomForestClassifier):
    """A forest that is more than one."""


def loaded(model):
    return SklearnPredictor.load(ModelFiles(Path(), {"model.pkl": pickle.dumps(model)}, "model.pkl")).estimator


@functools.cache
def pair(kind):
    """A forest, which adds its trees up in one thread and so in their order, and the same as a worker loads it."""
    forest = FITTED[kind]()
    model = loaded(forest)
    return forest.set_params(n_jobs=1), model


def quick(forest):
    return any(isinstance(each, sklearn_forests.SummedTrees) for each in vars(forest).values())


@pytest.mark.filterwarnings("ignore:divide by zero encountered in log")  # of what a forest is sure of
@pytest.mark.parametrize("kind", FITTED)
@settings(max_examples=25)
@given(rows=numbers)
def test_every_bit_is_the_forests_own(kind, rows):
    """Forests of one output are quickened, and each of their methods gives what it gave, bit for bit."""
    forest, model = pair(kind)
    assert quick(model)
    for method in METHODS:
        if hasattr(forest, method):
            got, own = getattr(model, method)(rows), getattr(forest, method)(rows)
            assert (got.dtype, got.tobytes()) == (own.dtype, own.tobytes())


def test_what_a_forest_takes_it_still_takes():
    """Columns by name, sparse matrices and missing values are taken by the forests that took them."""
    frame = sample_models.get("houses").data[["area", "rooms"]]
    named = RandomForestRegressor(5, random_state=0).fit(frame, frame["area"])
    assert np.array_equal(loaded(named).predict(frame), named.predict(frame))
    sparse = make_pipeline(OneHotEncoder(), RandomForestClassifier(5, random_state=0)).fit(IRIS.data, LABELS)
    assert np.array_equal(loaded(sparse).predict_proba(IRIS.data), sparse.predict_proba(IRIS.data))
    holed = FITTED["missing values"]()
    assert np.array_equal(loaded(holed).predict_proba(HOLED), holed.predict_proba(HOLED))


@pytest.mark.parametrize(
    "rows", [IRIS.data[:, :3], IRIS.data[0], IRIS.data * np.inf, np.array([["a", "b", "c", "d"]]), IRIS.data[:0]]
)
def test_what_a_forest_refuses_it_refuses_alike(rows):
    """Rows that a forest does not take are refused with its own words."""
    forest = FITTED["random forest"]()
    with pytest.raises(ValueError) as own:  # noqa: PT011 - whatever it says, both say
        forest.predict_proba(rows)
    with pytest.raises(ValueError) as got:  # noqa: PT011
        loaded(forest).predict_proba(rows)
    assert str(got.value) == str(own.value)


def test_forests_within_others_are_quickened():
    """A forest in a pipeline, or among those that vote, is quickened where it stands, and the whole answers as before."""
    forest = RandomForestClassifier(5, random_state=0)
    model = make_pipeline(
        StandardScaler(), VotingClassifier([("a", forest), ("b", DecisionTreeClassifier())], voting="soft")
    ).fit(IRIS.data, LABELS)
    found = loaded(model)
    assert quick(found[-1].estimators_[0])
    assert np.array_equal(found.predict_proba(IRIS.data), model.predict_proba(IRIS.data))


def test_what_is_not_known_to_be_alike_is_left_alone():
    """A class derived from a forest, a forest of two outputs, and one whose trees say something else than their leaves keep their own way."""
    assert not quick(loaded(Own(3).fit(IRIS.data, LABELS)))
    assert not quick(loaded(RandomForestRegressor(3).fit(IRIS.data, IRIS.data[:, :2])))
    assert not quick(loaded(RandomForestClassifier(3)))
    forest = RandomForestClassifier(3, random_state=0).fit(IRIS.data, LABELS)
    forest.estimators_[1].predict_proba = np.ones_like  # as a patched scikit-learn might
    sklearn_forests.speed_up_forests([forest])
    assert not quick(forest)
    del forest.estimators_[1].predict_proba
    sklearn_forests.speed_up_forests([forest])
    assert quick(forest)


def test_very_many_rows_are_left_to_a_forests_threads(monkeypatch):
    """From 4,096 rows on, a forest that may use several threads does; one of a single thread never asks for them."""
    asked = []
    own = RandomForestClassifier.predict_proba

    def counted(forest, rows):
        asked.append(len(rows))
        return own(forest, rows)

    monkeypatch.setattr(RandomForestClassifier, "predict_proba", counted)
    forest = loaded(RandomForestClassifier(3, random_state=0, n_jobs=2).fit(IRIS.data, LABELS))
    alone = loaded(RandomForestClassifier(3, random_state=0).fit(IRIS.data, LABELS))
    asked.clear()
    for rows in (4095, 4096):
        forest.predict_proba(np.resize(IRIS.data, (rows, 4)))
        alone.predict_proba(np.resize(IRIS.data, (rows, 4)))
    assert asked == [4096]


def test_a_quickened_forest_can_be_saved(tmp_path):
    """A forest that was quickened is saved and loaded as any other."""
    forest = loaded(FITTED["random forest"]())
    joblib.dump(forest, tmp_path / "again.joblib")
    assert np.array_equal(joblib.load(tmp_path / "again.joblib").predict(IRIS.data), forest.predict(IRIS.data))
