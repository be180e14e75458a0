"""What is predicted: a fitted model on disk, rows to send one by one, and the model's own answer to each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from estimators import BigModel
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

TOLERANCE = 1e-9


@dataclass(frozen=True)
class Workload:
    """A model and its rows.

    Attributes:
        file: the joblib file of the model.
        output: the estimator's method that every contestant calls, once per request.
        rows: float64, rows x features.
        expected: the output for all rows, row by row as the model itself gives it.
    """

    name: str
    file: Path
    output: str
    rows: np.ndarray
    expected: np.ndarray

    def take(self, count: int, start: int = 0) -> np.ndarray:
        """Choose which rows are sent: the next ones, from the start again where they end."""
        return np.arange(start, start + count) % len(self.rows)

    def right(self, answer: np.ndarray, row: int) -> bool:
        """Whether an answer is the model's own: labels exactly, probabilities and other floats within 1e-9."""
        expected = self.expected[row]
        if answer.shape != expected.shape:
            return False
        if expected.dtype.kind != "f":
            return bool(np.array_equal(answer, expected))
        return bool(np.allclose(answer, expected, rtol=TOLERANCE, atol=TOLERANCE))


def iris(folder: Path, output: str) -> Workload:
    """A cheap model: a call takes less than a message."""
    rows, labels = load_iris(return_X_y=True)
    return _saved("iris", folder, LogisticRegression(max_iter=1000).fit(rows, labels), _varied(rows, 2000), output)


def forest(folder: Path, output: str) -> Workload:
    """A model that takes about 3 ms for one row, and hardly longer for a hundred."""
    rows, labels = load_breast_cancer(return_X_y=True)
    model = RandomForestClassifier(100, random_state=0, n_jobs=1).fit(rows, labels)
    return _saved("forest", folder, model, _varied(rows, 600), output)


def big(folder: Path, megabytes: int) -> Workload:
    """A model of so many megabytes, all of them read by each call."""
    rows = np.arange(64.0).reshape(16, 4)
    return _saved("big", folder, BigModel(megabytes).fit(rows), rows, "predict")


WORKLOADS = {"iris": iris, "forest": forest}


def _varied(rows: np.ndarray, count: int) -> np.ndarray:
    """Draw rows that are all different, so that an answer that went to another request is seen as wrong."""
    random = np.random.default_rng(0)
    return rows[random.integers(len(rows), size=count)] * random.normal(1.0, 0.05, size=(count, rows.shape[1]))


def _saved(name: str, folder: Path, model: Any, rows: np.ndarray, output: str) -> Workload:
    file = folder / f"{name}.joblib"
    joblib.dump(model, file)
    expected = np.concatenate([getattr(model, output)(rows[n : n + 1]) for n in range(len(rows))])
    return Workload(name, file, output, rows, expected)
