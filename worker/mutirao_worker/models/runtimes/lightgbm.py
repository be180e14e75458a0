"""LightGBM's native files, in text. A classifier of them gives class numbers and probabilities, any other what the Booster predicts.

The file does not say whether a wrapper saved it, nor the names of the classes: predictions are their numbers, 0 and up. Answers are the
library's own, to the bit. The parent of a worker loads a file before it forks, so that its processes share the pages; OpenMP's threads
are started in each process.
"""

from __future__ import annotations

import re
from typing import Any

import lightgbm
import numpy as np

from mutirao import errors
from mutirao.wire.tensors import Array
from mutirao_worker.models.runtimes import boosters
from mutirao_worker.models.runtimes.predictor import ModelFiles
from mutirao_worker.models.runtimes.sklearn.predictor import SklearnPredictor

_NO_NAME = re.compile(r"Column_\d+")


class LightGBMPredictor(SklearnPredictor):
    """A booster; with probabilities where its objective is a classifier's."""

    library = "lightgbm"

    @classmethod
    def load(cls, files: ModelFiles) -> LightGBMPredictor:
        """Load a native file; see `Predictor.load`."""
        text = files.raw.decode()
        header = _header(text)
        booster = lightgbm.Booster(model_str=text)
        objective = header.get("objective", "").partition(" ")[0]
        estimator: Any = _KINDS.get(objective, _Booster)(booster)
        if categories := _categories(booster, header.get("feature_infos", "").split(" ")):
            estimator = boosters.WithCategories(estimator, categories, unknown_is_missing=True)
        return cls(estimator)


def categories_of(wrapper: Any) -> dict[str, list[Any]]:
    """Return what columns of categories may hold, by name, for a fitted wrapper."""
    booster = wrapper.booster_
    if not booster.pandas_categorical:
        return {}
    return _categories(booster, _header(booster.model_to_string(num_iteration=1)).get("feature_infos", "").split(" "))


def _header(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.partition("\n\n")[0].splitlines() if "=" in line)


class _Booster(boosters.Booster):
    def __init__(self, booster: lightgbm.Booster) -> None:
        names = booster.feature_name()
        unnamed = all(_NO_NAME.fullmatch(name) for name in names)
        super().__init__(booster, () if unnamed else names, booster.num_feature())

    def predict(self, data: Any) -> Array:
        predicted: Any = self.booster.predict(data, num_threads=self.n_jobs)
        return np.asarray(predicted)


class _OneVsAll(_Booster):
    """A classifier whose probabilities do not sum to 1."""

    def predict(self, data: Any) -> Array:
        return np.asarray(np.argmax(self.predict_proba(data), axis=1))

    def predict_proba(self, data: Any) -> Array:
        scores = super().predict(data)
        return np.asarray(scores) if scores.ndim == 2 else np.column_stack((1.0 - scores, scores))


class _Classifier(_OneVsAll):
    @property
    def classes_(self) -> Array:
        """The numbers of the classes, by which `checks.check_outputs` looks at the probabilities."""
        return np.arange(max(2, self.booster.num_model_per_iteration()))


_KINDS: dict[str, type[_Booster]] = {"binary": _Classifier, "multiclass": _Classifier, "multiclassova": _OneVsAll}


def _categories(booster: lightgbm.Booster, infos: list[str]) -> dict[str, list[Any]]:
    """Return what columns of pandas' categories may hold, by name.

    Raises:
        RepositoryError: the file does not show which columns they are.
    """
    categories = booster.pandas_categorical or []
    # A range is [low:high], categories are codes: 0:1:2.
    names = [name for name, info in zip(booster.feature_name(), infos, strict=True) if info[:1] not in "[n"]
    if categories and len(names) != len(categories):
        raise errors.RepositoryError(
            f"it was fitted with {len(categories)} columns of categories, of which the file shows {len(names)}: save the fitted "
            "LGBMClassifier or LGBMRegressor with joblib.dump"
        )
    return dict(zip(names, categories, strict=True)) if categories else {}
