"""Four small models, fitted on data that scikit-learn ships, and the proof that workers predict as they do."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import joblib
import msgspec
import numpy as np
import pandas as pd
from sklearn import datasets
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from mutirao import Client, Job, errors
from mutirao.client.job import timings
from mutirao_worker.models.repository import Repository


class Sample(msgspec.Struct, frozen=True):
    """A fitted model and held-out rows."""

    name: str
    estimator: Any
    rows: Any
    labels: Any


class Outcome(msgspec.Struct, frozen=True):
    """The results of one model: rows, by which workers, how fast (medians, in seconds), and how accurate."""

    model: str
    rows: int
    workers: dict[str, int]
    queued_s: float
    computed_s: float
    accuracy: float


def fit() -> list[Sample]:
    """Fit the four models, each on 75 % of its data."""
    iris, cancer = datasets.load_iris(return_X_y=True), datasets.load_breast_cancer(return_X_y=True)
    digits = datasets.load_digits(return_X_y=True)
    return [
        _fitted("iris", make_pipeline(StandardScaler(), LogisticRegression()), *iris),
        _fitted("breast-cancer", RandomForestClassifier(100, random_state=0), *cancer),
        _fitted("wine", _columns(), *_wine()),
        _fitted("digits", make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)), *digits),
    ]


def install(samples: Iterable[Sample], root: Path) -> Repository:
    """Save the models and add them to a repository, as `mutirao models add` does."""
    repository = Repository(root)
    for sample in samples:
        file = root.parent / f"{sample.name}.joblib"
        joblib.dump(sample.estimator, file)
        if sample.name in repository.names():
            repository.remove(sample.name)
        repository.add(sample.name, file, example=sample.rows[:2])
        file.unlink()
    return repository


def run(client: Client, samples: Sequence[Sample], timeout_s: float) -> list[Outcome]:
    """Submit every held-out row of every model, one request a row, and compare each answer with the model's own.

    Raises:
        MutiraoError: an answer is missing, or is not the model's own.
    """
    jobs = [client.submit_many(sample.name, sample.rows) for sample in samples]
    for _ in client.as_completed([job for of_model in jobs for job in of_model], timeout_s):
        pass
    return [_outcome(sample, of_model) for sample, of_model in zip(samples, jobs, strict=True)]


def _outcome(sample: Sample, jobs: Sequence[Job]) -> Outcome:
    answers = np.concatenate([job.result(timeout=10)["predict"] for job in jobs])
    own = sample.estimator.predict(sample.rows)
    if wrong := int(np.sum(answers != own)):
        raise errors.MutiraoError(f"model {sample.name!r}: {wrong} of {len(own)} answers are not the model's own")
    records = [job.record() for job in jobs]
    times = [timings(record) for record in records]
    return Outcome(
        model=sample.name,
        rows=len(own),
        workers=dict(sorted(collections.Counter(record.job.worker.partition("@")[0] for record in records).items())),
        queued_s=statistics.median(time.queued_s or 0.0 for time in times),
        computed_s=statistics.median(time.computed_s or 0.0 for time in times),
        accuracy=float(np.mean(answers == np.asarray(sample.labels))),
    )


def _fitted(name: str, estimator: Any, rows: Any, labels: Any) -> Sample:
    training, held_out, training_labels, labels = train_test_split(rows, labels, random_state=0, stratify=labels)
    return Sample(name, estimator.fit(training, training_labels), held_out, labels)


def _wine() -> tuple[pd.DataFrame, Any]:
    """Return the wine data as a table with a column of text."""
    wine = datasets.load_wine(as_frame=True)
    table = wine.data.rename(columns={"od280/od315_of_diluted_wines": "dilution"})
    depth = pd.cut(table.pop("color_intensity"), [0, 3, 6, 99], labels=["pale", "medium", "deep"])
    table.insert(0, "colour", depth.astype(str))
    return table, np.array(wine.target_names, dtype=object)[wine.target]


def _columns() -> Any:
    numbers = [name for name in _wine()[0].columns if name != "colour"]
    table = make_column_transformer((OneHotEncoder(), ["colour"]), (StandardScaler(), numbers))
    return make_pipeline(table, LogisticRegression())
