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


class OnnxModel:
    """An ONNX model as a plain application calls it; each process makes a session of one thread."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self._session: Any = None

    def predict_proba(self, rows: Any) -> np.ndarray:
        if self._session is None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(self.raw, options, providers=["CPUExecutionProvider"])
        (name,) = (each.name for each in self._session.get_inputs())
        return np.asarray(self._session.run(["probabilities"], {name: np.asarray(rows, dtype=np.float32)})[0])

    def __getstate__(self) -> dict[str, Any]:
        return {"raw": self.raw, "_session": None}
