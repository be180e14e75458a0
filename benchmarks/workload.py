"""What is predicted: a fitted model on disk, rows to send one by one, and the model's own answer to each.

scikit-learn is imported only where a model is fitted: a client process needs none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np

# Where each process that predicts with the big model leaves its number.
WITNESS = "BENCH_WITNESS"
TOLERANCE = 1e-9
ROWS = 20_000
# So many are predicted row by row besides: a call for all rows must say the same.
ALONE = 200


@dataclass(frozen=True)
class Workload:
    """A model and its rows.

    Attributes:
        file: the joblib file of the model.
        output: the estimator's method that every contestant calls, once per request.
        rows: float64, rows x features.
        expected: the output for all rows as the model itself gives it.
    """

    name: str
    file: Path
    output: str
    rows: np.ndarray
    expected: np.ndarray

    def take(self, count: int, start: int = 0) -> np.ndarray:
        """Choose which rows are sent: the next ones, from the start again where they end."""
        return np.arange(start, start + count) % len(self.rows)

    def wrong(self, answers: Sequence[np.ndarray], rows: Sequence[int]) -> int:
        """Count the answers that are not the model's own: labels exactly, probabilities and other floats within 1e-9."""
        shape = self.expected.shape[1:]
        fitting = [at for at, answer in enumerate(answers) if answer.shape == shape]
        if not fitting:
            return len(answers)
        given = np.stack([answers[at] for at in fitting])
        expected = self.expected[[rows[at] for at in fitting]]
        same = np.isclose(given, expected, TOLERANCE, TOLERANCE) if expected.dtype.kind == "f" else given == expected
        return len(answers) - int(same.reshape(len(fitting), -1).all(axis=1).sum())


def iris(folder: Path, output: str) -> Workload:
    """A cheap model: a call takes less than a message."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    rows, labels = load_iris(return_X_y=True)
    return _saved("iris", folder, LogisticRegression(max_iter=1000).fit(rows, labels), _varied(rows), output)


def forest(folder: Path, output: str) -> Workload:
    """A model that takes 10 to 15 ms for one row, and hardly longer for a hundred."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import RandomForestClassifier

    rows, labels = load_breast_cancer(return_X_y=True)
    model = RandomForestClassifier(100, random_state=0, n_jobs=1).fit(rows, labels)
    return _saved("forest", folder, model, _varied(rows), output)


def big(folder: Path, megabytes: int) -> Workload:
    """A model of so many megabytes, all of them read by each call."""
    from estimators import BigModel

    rows = np.arange(64.0).reshape(16, 4)
    return _saved("big", folder, BigModel(megabytes).fit(rows), rows, "predict")


WORKLOADS = {"iris": iris, "forest": forest}


def _varied(rows: np.ndarray) -> np.ndarray:
    """Draw rows that are all different, so that an answer that went to another request is seen as wrong."""
    random = np.random.default_rng(0)
    return rows[random.integers(len(rows), size=ROWS)] * random.normal(1.0, 0.05, size=(ROWS, rows.shape[1]))


def _saved(name: str, folder: Path, model: Any, rows: np.ndarray, output: str) -> Workload:
    file = folder / f"{name}.joblib"
    joblib.dump(model, file)
    predict = getattr(model, output)
    found = Workload(name, file, output, rows, predict(rows))
    alone = range(min(ALONE, len(rows)))
    if found.wrong([predict(rows[n : n + 1])[0] for n in alone], alone):
        raise RuntimeError(f"{name} answers a row otherwise alone than among others: its answers cannot be compared")
    return found
