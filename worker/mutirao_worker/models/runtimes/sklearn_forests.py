"""Random forests and extra trees that answer without the checks that each of their trees makes.

Of the 8 ms that scikit-learn takes for one row through a hundred trees, all but 0.6 are the trees' preparations: each checks again what the
forest has checked, in a context of settings and warning filters of its own. Here the forest checks its rows once, by itself, and the
trees' answers are added up in the same order, so that every bit is the same. A forest that differs in any is left as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor, RandomForestClassifier, RandomForestRegressor

from mutirao.wire.tensors import Array

# What a forest's other methods go by. A class derived from these may do as it likes, and is left alone.
_METHODS = {
    RandomForestClassifier: "predict_proba",
    ExtraTreesClassifier: "predict_proba",
    RandomForestRegressor: "predict",
    ExtraTreesRegressor: "predict",
}
# From so many rows on, threads gain more than preparations cost.
_MANY = 4096
_TRIAL_ROWS = 16


class SummedTrees:
    """A forest's method, computed from its trees."""

    def __init__(self, forest: Any, own: Any) -> None:
        """Take a fitted forest of one output, and its own method."""
        self._forest, self._own = forest, own
        self._trees = [each.tree_ for each in forest.estimators_]
        self._shape = (forest.n_classes_,) if hasattr(forest, "n_classes_") else ()

    def __call__(self, X: Any) -> Array:  # noqa: N803 - scikit-learn's name for it, which callers may use
        """Predict; what the forest raises of its input comes out as it is."""
        if self._forest.n_jobs not in {None, 1} and np.shape(X)[0] >= _MANY:
            return np.asarray(self._own(X))
        rows = self._forest._validate_X_predict(X)  # noqa: SLF001 - all that stands between its method and its trees
        total = np.zeros((rows.shape[0], *self._shape))
        for tree in self._trees:
            total += tree.predict(rows).reshape(total.shape)
        total /= len(self._trees)
        return total


def speed_up_forests(estimators: Iterable[Any]) -> None:
    """Give each forest among these the quicker method, where it gives the same."""
    for forest in estimators:
        method = _METHODS.get(type(forest))
        if method and getattr(forest, "n_outputs_", None) == 1:
            own = getattr(forest, method)
            summed = SummedTrees(forest, own)
            if _same(forest, own, summed):
                setattr(forest, method, summed)


def _same(forest: Any, own: Any, summed: SummedTrees) -> bool:
    """Whether both ways give the same bits, for rows on either side of what a tree asks."""
    threads, forest.n_jobs = forest.n_jobs, 1  # several would add the trees up in any order
    try:
        tree = forest.estimators_[0].tree_
        asked = np.append(tree.threshold[tree.feature >= 0], 0.0)
        rows = np.random.default_rng(0).choice(asked, (_TRIAL_ROWS, forest.n_features_in_))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # these rows have no names
            return np.array_equal(own(rows), summed(rows))
    except Exception:  # noqa: BLE001 - another scikit-learn may have made its forests otherwise
        return False
    finally:
        forest.n_jobs = threads
