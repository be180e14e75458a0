"""Transformers as people write them, of a module that both the script that fits and the worker import."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin


class Ratio(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Adds a column to a DataFrame, and knows nothing of what it was fitted on."""

    def fit(self, X: Any, y: Any = None) -> Ratio:  # noqa: ARG002, N803
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        return X.assign(ratio=X["area"] / (X["rooms"] + 1))


class PickColumns(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Gives some columns of a DataFrame as an array."""

    def __init__(self, columns: tuple[str, ...] = ("area", "rooms")) -> None:
        self.columns = columns

    def fit(self, X: Any, y: Any = None) -> PickColumns:  # noqa: ARG002, N803
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        return X[list(self.columns)].to_numpy(dtype=float)


class Lengths(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Numbers of a text."""

    def fit(self, X: Any, y: Any = None) -> Lengths:  # noqa: ARG002, N803
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        return np.array([[len(text), text.count(" ")] for text in X], dtype=float)


class Nearest(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of one's own, for arrays."""

    def fit(self, X: Any, y: Any) -> Nearest:  # noqa: N803
        self.classes_ = np.unique(y)
        self.centers_ = np.array([np.asarray(X)[y == each].mean(axis=0) for each in self.classes_])
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803
        distances = ((np.asarray(X)[:, None, :] - self.centers_) ** 2).sum(axis=2)
        return self.classes_[distances.argmin(axis=1)]


class Constant(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A regressor that counts its rows' columns."""

    def fit(self, X: Any, y: Any) -> Constant:  # noqa: ARG002, N803
        self.mean_ = float(np.mean(y))
        return self

    def predict(self, X: Any) -> Any:  # noqa: N803
        return np.full(len(X), self.mean_)


def weekday_and_hour(X: Any) -> Any:  # noqa: N803
    """The weekday and hour of a column of dates."""
    times = X["when"]
    return pd.DataFrame({"weekday": times.dt.day_of_week, "hour": times.dt.hour})


def as_text(X: Any) -> Any:  # noqa: N803
    """All columns as text: 1 is not 1.0."""
    return X.astype(str)


def doubled(X: Any) -> Any:  # noqa: N803
    return X * 2


def per_room(X: Any) -> Any:  # noqa: N803
    """A DataFrame of one column made of two."""
    return X[["area"]].div(X["rooms"] + 1, axis=0)


def lower(texts: Any) -> Any:
    """Texts in lower case, as a vectorizer's preprocessor or a step before it."""
    return [each.lower() for each in texts]


def first_column(X: Any) -> Any:  # noqa: N803
    return X["note"]
