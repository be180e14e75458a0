"""Fitted estimators of several files as one pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.pipeline import Pipeline

from mutirao import errors
from mutirao_worker.models.runtimes.sklearn import contents


def joined(estimators: Sequence[Any], names: Sequence[str]) -> Pipeline:
    """Return fitted estimators as one pipeline, which is fitted: each transforms, the last predicts.

    Args:
        estimators: at least two, fitted.
        names: where each comes from, for the error.

    Raises:
        RepositoryError: one that is not the last has no method transform, or encodes labels.
    """
    for estimator, name in zip(estimators, names, strict=True):
        contents.check_is_estimator(estimator, name)
    steps: list[tuple[str, Any]] = []
    for at, (estimator, name) in enumerate(zip(estimators, names, strict=True)):
        if at < len(estimators) - 1 and not hasattr(estimator, "transform"):
            raise errors.RepositoryError(
                f"{name} holds a {type(estimator).__name__}, which does not transform: only the last step predicts, put it last"
            )
        if steps and (columns := getattr(estimator, "feature_names_in_", None)) is not None:
            steps.append((f"names-{at}", _Named(list(columns))))
        steps.append((f"step-{at}", estimator))
    return Pipeline(steps)


class _Named(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Gives an array the names of the columns that the next estimator was fitted on."""

    def __init__(self, columns: list[str]) -> None:
        self.columns = columns

    def fit(self, X: Any, y: Any = None) -> _Named:  # noqa: ARG002, N803 - the names of scikit-learn
        """Return itself: there is nothing to fit."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def transform(self, X: Any) -> Any:  # noqa: N803
        """Return a DataFrame of an array with as many columns; anything else as it is."""
        if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == len(self.columns):
            return pd.DataFrame(X, columns=self.columns)
        return X
