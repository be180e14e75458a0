"""Small real models for the whole suite, each fitted once per process, and repositories that hold them.

repository = sample_models.repository(tmp_path / "models", "iris", "raises")
sample = sample_models.get("iris")      # sample.model, sample.data (held-out rows), sample.expected()
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mutirao.wire.signature import InputSpec, OutputSpec, Signature
from mutirao_worker.models.repository import Repository
from support import bad_models

PYTHONPATH = str(Path(__file__).parents[1])  # of worker processes that serve bad_models
CITIES = ("Ouro Preto", "São João del-Rei", "Mariana", "Tiradentes")


# What `iris` takes and gives, for systems in which nobody serves it.
IRIS_SIGNATURE = Signature(
    inputs=(InputSpec("X", "FP64", (-1, 4)),), outputs=(OutputSpec("predict", "INT64", (-1,), default=True),)
)


@dataclass(frozen=True)
class Sample:
    """A fitted model and rows that it has not seen."""

    name: str
    model: Any
    data: Any

    def expected(self, output: str = "predict") -> np.ndarray:
        """What the model itself says, in this process."""
        return np.asarray(getattr(self.model, output)(self.data))


def get(name: str) -> Sample:
    """Fit (once) the sample of this name: iris, forest, houses, gaps, or one of bad_models by its lower-case name."""
    return _good(name) if name in GOOD or name == "gaps" else _bad(name)


def saved(name: str) -> Path:
    """Save a sample (once) with joblib."""
    path = _folder() / f"{name}.joblib"
    if not path.exists():
        joblib.dump(get(name).model, path)
    return path


def repository(path: Path, *names: str, **settings: Any) -> Repository:
    """Make a repository that holds samples, through the real `Repository.add`.

    Args:
        path: its folder.
        names: of the samples; iris, forest and houses by default.
        settings: max_rows, time_limit_s, ... of each.
    """
    made = Repository(path)
    for name in names or GOOD:
        made.add(name, saved(name), **settings)
    return made


def _iris() -> Sample:
    data, labels = load_iris(return_X_y=True)
    return Sample("iris", LogisticRegression(max_iter=500).fit(data[::2], labels[::2]), data[1::2])


def _forest() -> Sample:
    data, labels = load_breast_cancer(return_X_y=True)
    return Sample("forest", RandomForestClassifier(10, random_state=0).fit(data[::2], labels[::2]), data[1::2])


def _houses() -> Sample:
    """A DataFrame of text and numbers, with text for its labels."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"area": random.uniform(40, 400, 200), "city": random.choice(CITIES, 200), "rooms": random.integers(1, 8, 200)}
    )
    labels = np.where(frame["area"] + 40 * frame["rooms"] + 90 * (frame["city"] == CITIES[0]) > 400, "dear", "cheap")
    encode = ColumnTransformer([("number", StandardScaler(), ["area", "rooms"]), ("text", OneHotEncoder(), ["city"])])
    model = make_pipeline(encode, LogisticRegression()).fit(frame[::2], labels[::2])
    return Sample("houses", model, frame[1::2].reset_index(drop=True))


def _gaps() -> Sample:
    """A DataFrame with missing values: NaN and None among texts, NaN among numbers; whole numbers without any."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "city": pd.Series(random.choice(np.array([*CITIES, np.nan], dtype=object), 200), dtype=object),
            "grade": pd.Series(random.choice(np.array(["a", "b", None], dtype=object), 200), dtype=object),
            "area": random.choice([np.nan, 50.5, 90.25], 200),
            "rooms": random.integers(1, 8, 200),
        }
    )
    texts = OneHotEncoder(handle_unknown="ignore")
    encode = ColumnTransformer(
        [("text", texts, ["city", "grade"]), ("number", SimpleImputer(), ["area"])], remainder="passthrough"
    )
    return Sample("gaps", make_pipeline(encode, LinearRegression()).fit(frame, random.uniform(0, 1000, 200)), frame)


GOOD: dict[str, Callable[[], Sample]] = {"iris": _iris, "forest": _forest, "houses": _houses}
BAD = {kind.__name__.lower(): kind for kind in bad_models.ALL}


@functools.cache
def _good(name: str) -> Sample:
    return _gaps() if name == "gaps" else GOOD[name]()


@functools.cache
def _bad(name: str) -> Sample:
    data = np.arange(4.0 * bad_models.FEATURES).reshape(4, bad_models.FEATURES)
    return Sample(name, BAD[name]().fit(data), np.zeros_like(data) if name == "slow" else data)


@functools.cache
def _folder() -> Path:
    made = tempfile.TemporaryDirectory(prefix="mutirao-samples-", ignore_cleanup_errors=True)
    _KEPT.append(made)
    return Path(made.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []
