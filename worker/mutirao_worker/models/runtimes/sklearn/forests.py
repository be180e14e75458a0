"""Random forests and extra trees that predict without the checks that each of their trees repeats.

Of the 8 ms that scikit-learn takes for one row through a hundred trees, all but 0.6 are the trees' preparations: each checks again what the
forest has checked, in a context of settings and warning filters of its own. Here the forest checks its rows once, and the trees'
predictions are added up in the same order, so that every bit is the same. A forest of which any bit differs keeps its own method.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor, RandomForestClassifier, RandomForestRegressor

from mutirao.wire.tensors import Array

# The method that a forest's others call. A derived class may do otherwise, so it is left alone.
_METHODS = {
    RandomForestClassifier: "predict_proba",
    ExtraTreesClassifier: "predict_proba",
    RandomForestRegressor: "predict",
    ExtraTreesRegressor: "predict",
}
# From this many rows on, threads gain more than preparations cost.
_THREADS_FROM_ROWS = 4096
_TRIAL_ROWS = 16


class SummedTrees:
    """A forest's method, computed from its trees."""

    def __init__(self, forest: Any, original: Any) -> None:
        """Wrap a fitted forest of one output, and its own method."""
        self._forest, self._original = forest, original
        self._trees = [each.tree_ for each in forest.estimators_]
        self._shape = (forest.n_classes_,) if hasattr(forest, "n_classes_") else ()

    def __call__(self, X: Any) -> Array:  # noqa: N803 - scikit-learn's name for it, which callers may use
        """Predict; what the forest raises of its input is passed on."""
        if self._forest.n_jobs not in {None, 1} and np.shape(X)[0] >= _THREADS_FROM_ROWS:
            return np.asarray(self._original(X))
        rows = self._forest._validate_X_predict(X)  # noqa: SLF001 - all that stands between its method and its trees
        total = np.zeros((rows.shape[0], *self._shape))
        for tree in self._trees:
            total += tree.predict(rows).reshape(total.shape)
        total /= len(self._trees)
        return total


def speed_up_forests(estimators: Iterable[Any]) -> None:
    """Replace the method of each forest by the quicker one, where that gives the same bits."""
    for forest in estimators:
        method = _METHODS.get(type(forest))
        if method and getattr(forest, "n_outputs_", None) == 1:
            original = getattr(forest, method)
            summed = SummedTrees(forest, original)
            if _same_bits(forest, original, summed):
                setattr(forest, method, summed)


def _same_bits(forest: Any, original: Any, summed: SummedTrees) -> bool:
    """Whether both methods give the same bits, for rows on either side of a tree's thresholds."""
    threads, forest.n_jobs = forest.n_jobs, 1  # several would add the trees up in any order
    try:
        tree = forest.estimators_[0].tree_
        thresholds = np.append(tree.threshold[tree.feature >= 0], 0.0)
        rows = np.random.default_rng(0).choice(thresholds, (_TRIAL_ROWS, forest.n_features_in_))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # these rows have no names
            return np.array_equal(original(rows), summed(rows))
    except Exception:  # noqa: BLE001 - another scikit-learn may have made its forests otherwise
        return False
    finally:
        forest.n_jobs = threads
