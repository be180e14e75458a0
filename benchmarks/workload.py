"""What is predicted: a fitted model on disk, rows to send one by one, and the model's own answer to each.

scikit-learn is imported only where a model is fitted: a client process needs none of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
        file: the joblib file of the model, which a plain application loads.
        output: the estimator's method that every contestant calls, once per request.
        rows: float64, rows x features.
        expected: the output for all rows as the model itself gives it.
        served: what this system is given of the same model; the joblib file where it is None.
        served_output: the name of the output there.
    """

    name: str
    file: Path
    output: str
    rows: np.ndarray
    expected: np.ndarray
    served: Path | None = None
    served_output: str = ""

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
    from sklearn.ensemble import RandomForestClassifier

    rows, labels = _cancer()
    model = RandomForestClassifier(100, random_state=0, n_jobs=1).fit(rows, labels)
    return _saved("forest", folder, model, _varied(rows), output)


def xgboost(folder: Path, output: str) -> Workload:
    """Boosted trees, served from XGBoost's own file."""
    from xgboost import XGBClassifier

    rows, labels = _cancer()
    model = XGBClassifier(n_estimators=100, n_jobs=1).fit(rows, labels)
    model.save_model(folder / "xgboost.json")
    return replace(_saved("xgboost", folder, model, _varied(rows), output), served=folder / "xgboost.json")


def onnx(folder: Path, output: str) -> Workload:
    """A small neural network, served as an ONNX file; a plain application calls onnxruntime."""
    from estimators import OnnxModel
    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, labels = _cancer()
    fitted = make_pipeline(StandardScaler(), MLPClassifier((64, 64), random_state=0, max_iter=300)).fit(rows, labels)
    written = to_onnx(fitted, rows[:1].astype(np.float32), options={"zipmap": False}).SerializeToString()
    (folder / "onnx.onnx").write_bytes(written)
    found = _saved("onnx", folder, OnnxModel(written), _varied(rows).astype(np.float32), output)
    return replace(found, served=folder / "onnx.onnx", served_output="probabilities")


def python(folder: Path, output: str) -> Workload:
    """A model of own code: the forest's estimator, loaded and called by a model.py."""
    found = forest(folder, output)
    code = folder / "python"
    code.mkdir()
    (code / "model.py").write_text(OWN_CODE)
    shutil.copy(found.file, code / "forest.joblib")
    return replace(found, name="python", served=code, served_output="predict")


def big(folder: Path, megabytes: int) -> Workload:
    """A model of so many megabytes, all of them read by each call."""
    from estimators import BigModel

    rows = np.arange(64.0).reshape(16, 4)
    return _saved("big", folder, BigModel(megabytes).fit(rows), rows, "predict")


WORKLOADS = {"iris": iris, "forest": forest, "xgboost": xgboost, "onnx": onnx, "python": python}
OWN_CODE = """
import joblib
import numpy as np
import numpy.typing as npt


class Model:
    def load(self, folder):
        self.model = joblib.load(folder / "forest.joblib")

    def predict(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return self.model.predict_proba(x)
"""


def _cancer() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_breast_cancer

    rows, labels = load_breast_cancer(return_X_y=True)
    return rows, labels


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
