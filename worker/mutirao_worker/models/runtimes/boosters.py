"""Boosters of native files as estimators: threads, features, and columns of categories, as their libraries' wrappers have them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from sklearn.base import BaseEstimator

from mutirao import errors
from mutirao.wire.tensors import Array
from mutirao_worker.models.runtimes.sklearn.methods import METHODS

_SHOWN = 6
_LIBRARIES = ("lightgbm", "xgboost")


def with_own_categories(estimator: Any) -> Any:
    """Return a library's wrapper that was fitted on columns of pandas' categories as an estimator that takes their values; others as they are."""
    library = type(estimator).__module__.partition(".")[0]
    if library not in _LIBRARIES or not hasattr(estimator, "feature_names_in_"):
        return estimator
    module = importlib.import_module(f"{__package__}.{library}")
    categories = module.categories_of(estimator)
    return WithCategories(estimator, categories, unknown_is_missing=library == "lightgbm") if categories else estimator


class Booster(BaseEstimator):  # type: ignore[misc]
    """What XGBoost or LightGBM load from a native file, as an estimator that predicts as the booster itself does.

    Args:
        booster: the library's own object.
        names: of the features; none for a matrix.
        features: how many there are.

    Attributes:
        n_jobs: how many threads it uses; -1 for as many as OpenMP has.
    """

    n_jobs = -1

    def __init__(self, booster: Any, names: Sequence[str], features: int) -> None:
        self.booster = booster
        self.n_features_in_ = features
        if names:
            self.feature_names_in_ = list(names)

    def fit(self, *_: Any) -> None:
        """Refuse: a booster is fitted by its library."""
        raise NotImplementedError

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, data: Any) -> Array:
        """Return what the booster predicts."""
        raise NotImplementedError


class WithCategories(BaseEstimator):  # type: ignore[misc]
    """An estimator on a frame, whose columns of categories get that type.

    Args:
        estimator: the estimator.
        categories: what each column of categories may hold, by its name.
        unknown_is_missing: another value counts as missing; else it is refused.
    """

    def __init__(
        self, estimator: Any, categories: Mapping[str, Sequence[Any]], *, unknown_is_missing: bool = False
    ) -> None:
        self.estimator = estimator
        self.unknown_is_missing = unknown_is_missing
        self.feature_names_in_ = list(estimator.feature_names_in_)
        self.n_features_in_ = len(self.feature_names_in_)
        self.categories_ = [list(categories.get(name, ())) for name in self.feature_names_in_]
        self._types = {name: pd.CategoricalDtype(list(values)) for name, values in categories.items()}

    def fit(self, *_: Any) -> None:
        """Refuse: a booster is fitted by its library."""
        raise NotImplementedError

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in {*METHODS, "classes_"}:
            raise AttributeError(name)
        found = getattr(self.estimator, name)
        return (lambda data: found(self._typed(data))) if callable(found) else found

    def _typed(self, data: pd.DataFrame) -> pd.DataFrame:
        columns = {}
        for name, kind in self._types.items():
            column = data[name]
            unknown = column.notna() & ~column.isin(kind.categories)
            if unknown.any() and not self.unknown_is_missing:
                raise errors.InvalidRequest(
                    f"{name!r} is {column[unknown].iloc[0]!r}, which is not among the categories that it was fitted on: "
                    f"{', '.join(map(repr, kind.categories[:_SHOWN]))}{', ...' if len(kind.categories) > _SHOWN else ''}",
                    reason="unknown category",
                )
            columns[name] = column.mask(unknown).astype(kind)
        return data.assign(**columns)
