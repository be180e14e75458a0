"""Estimators of each kind, added and answered among strangers' rows, say what they say themselves; all of them in tests/zoo."""

import pytest

from support import estimator_shapes, estimator_walk, estimator_zoo
from support.estimator_walk import EQUAL, OTHER

ESTIMATORS = ["GaussianNB", "HistGradientBoostingClassifier", "ClassifierChain", "KMeans", "LedoitWolf", "NMF", "PCA", "RandomForestRegressor", "TfidfVectorizer"]  # fmt: skip


SHAPES = [
    "a calibrated classifier",
    "a classifier for each output",
    "a function first, on a DataFrame",
    "a grid search of a pipeline on a DataFrame",
    "a pipeline with a cache",
    "a pipeline with a step passed by",
    "a text's transformer of one's own first",
    "a transformer of one's own first, on a DataFrame",
    "a transformer of one's own that picks columns",
    "a stack of pipelines on a DataFrame",
    "a target in logarithms",
    "columns that come out as a DataFrame",
    "columns of which some are dropped",
    "histogram boosting with categories from the dtype",
    "hashed records",
    "holes as features",
    "records",
    "several labels of a text",
    "targets as a code",
    "text cleaned by a function first",
    "text and a number of a DataFrame",
    "whole numbers as text",
    "words next to numbers of a text of one's own",
]


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_answers_among_strangers_as_alone(tmp_path, name):
    """Every output of the batch has the bits that the estimator gives for its rows."""
    check(estimator_walk.walk(estimator_zoo.fitted(name), tmp_path))


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_answers_among_strangers_as_alone(tmp_path, name):
    """Every output of the batch has the bits that the estimator gives for its rows."""
    check(estimator_walk.walk(estimator_shapes.fitted(name), tmp_path))


def check(walk):
    assert not walk.refusal
    assert walk.one_by_one == (walk.name == "NMF")
    assert set(walk.together.values()) == (set() if walk.one_by_one else {EQUAL})
    assert OTHER not in walk.alone.values()
