"""Estimators that workers unpickle: this folder is on their PYTHONPATH."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from workload import WITNESS


class BigModel(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A model that is mostly memory: every prediction reads all of it, as a large forest or embedding would.

    Each process that predicts leaves its number in the folder that BENCH_WITNESS names, so that the memory measure can
    tell that every process of a fleet really used the model.
    """

    def __init__(self, megabytes: int = 400) -> None:
        self.megabytes = megabytes

    def fit(self, rows: Any, _labels: Any = None) -> Self:
        self.n_features_in_ = np.shape(rows)[1]
        self.weights_ = np.full(self.megabytes * 1024 * 1024 // 8, 0.5)
        return self

    def predict(self, rows: Any) -> np.ndarray:
        if folder := os.environ.get(WITNESS):
            (Path(folder) / str(os.getpid())).touch()
        return np.asarray(np.asarray(rows).sum(axis=1) * self.weights_.mean())
