"""XGBoost's native files, JSON and UBJSON. One that a wrapper saved predicts as the wrapper, any other as the Booster.

Answers are the library's own, to the bit. The parent of a worker loads a file before it forks, so that its processes share the pages;
OpenMP's threads are started in each process.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import msgspec
import numpy as np
import xgboost

from mutirao import errors
from mutirao.wire.tensors import Array
from mutirao_worker.models.runtimes import boosters
from mutirao_worker.models.runtimes.predictor import ModelFiles
from mutirao_worker.models.runtimes.sklearn.predictor import SklearnPredictor

# A wrapper writes what it is into the file. Forests (XGBRFClassifier) predict as the others of their kind do.
_WRAPPERS = {"classifier": xgboost.XGBClassifier, "regressor": xgboost.XGBRegressor, "ranker": xgboost.XGBRanker}
_VERSION = re.compile(rb'"version":\[(\d+),(\d+),(\d+)\]')
_VERSION_WITHIN = 256  # bytes from the end


class XGBoostPredictor(SklearnPredictor):
    """A booster, or the wrapper that saved it."""

    library = "xgboost"

    @classmethod
    def load(cls, files: ModelFiles) -> XGBoostPredictor:
        """Load a native file; see `Predictor.load`."""
        booster = xgboost.Booster()
        booster.load_model(bytearray(files.raw))
        wrapper = _WRAPPERS.get(_estimator_type(booster))
        estimator: Any = _Booster(booster)
        if wrapper is not None:
            estimator = wrapper()
            estimator.load_model(bytearray(files.raw))
        if categories := _categories(booster):
            estimator = boosters.WithCategories(estimator, categories)
        version = _VERSION.search(files.raw[-_VERSION_WITHIN:])
        return cls(estimator, f"xgboost {b'.'.join(version.groups()).decode()}" if version else "")


class _Booster(boosters.Booster):
    def __init__(self, booster: xgboost.Booster) -> None:
        super().__init__(booster, booster.feature_names or (), booster.num_features())

    @property
    def n_jobs(self) -> int:
        return self._n_jobs

    @n_jobs.setter
    def n_jobs(self, threads: int) -> None:
        self._n_jobs = threads
        self.booster.set_param({"nthread": threads})

    _n_jobs = -1

    def predict(self, data: Any) -> Array:
        types = self.booster.feature_types
        matrix = xgboost.DMatrix(
            data,
            nthread=self._n_jobs,
            enable_categorical=bool(types and "c" in types),
            feature_types=None if hasattr(data, "columns") else types,
        )
        return np.asarray(self.booster.predict(matrix))


class _Cats(msgspec.Struct):
    enc: list[dict[str, Any]] = []


class _Trees(msgspec.Struct):
    cats: _Cats | None = None


class _GradientBooster(msgspec.Struct):
    model: _Trees | None = None
    gbtree: _GradientBooster | None = None  # of DART


class _Learner(msgspec.Struct):
    gradient_booster: _GradientBooster


class _Model(msgspec.Struct):
    learner: _Learner


def _estimator_type(booster: xgboost.Booster) -> str:
    try:
        return str(json.loads(booster.attr("scikit_learn") or "{}").get("_estimator_type", ""))
    except (ValueError, AttributeError):
        return ""


def categories_of(wrapper: Any) -> dict[str, list[Any]]:
    """Return what columns of categories may hold, by name, for a fitted wrapper."""
    return _categories(wrapper.get_booster())


def _categories(booster: xgboost.Booster) -> dict[str, list[Any]]:
    """Return what columns of categories may hold, by name; none where the file has no names of categories: they are codes then.

    Raises:
        RepositoryError: the file does not hold their names whole.
    """
    if "c" not in (booster.feature_types or ()) or not booster.feature_names:
        return {}
    trees = msgspec.json.decode(booster.save_raw("json"), type=_Model).learner.gradient_booster
    model = (trees.gbtree or trees).model
    encoded = model.cats.enc if model and model.cats else []
    columns = zip(booster.feature_names, encoded, strict=False)
    return {name: values for name, each in columns if (values := _values(name, each))}


def _values(name: str, encoded: dict[str, Any]) -> list[Any]:
    values, offsets = encoded.get("values", []), encoded.get("offsets")
    if offsets is None:
        return list(values)
    if any(value < 0 for value in values):
        raise errors.RepositoryError(
            f"its column {name!r} has categories with letters beyond ASCII, which XGBoost does not save whole: save the fitted "
            "XGBClassifier or XGBRegressor with joblib.dump"
        )
    text = bytes(values).decode()
    return [text[start:end] for start, end in itertools.pairwise(offsets)]
