"""Fitted estimators of every kind: all of scikit-learn's, each on data that it takes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import make_classification
from sklearn.decomposition import SparseCoder
from sklearn.experimental import enable_halving_search_cv, enable_iterative_imputer  # noqa: F401 - they enable
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import LabelBinarizer, LabelEncoder, MultiLabelBinarizer
from sklearn.utils import all_estimators, get_tags
from sklearn.utils._test_common.instance_generator import _construct_instances

ROWS = 60
TEXTS = ["ganhe um prêmio agora", "reunião às dez", "prêmio grátis", "almoço amanhã", "dez prêmios", "um almoço"] * 10
CITIES = np.array(["natal", "recife", "olinda"], dtype=object)


class Entry(NamedTuple):
    """A fitted estimator.

    Attributes:
        name: of its class, or of its shape.
        estimator: it.
        rows: rows as it takes them.
        needs_example: its inputs cannot be known without an example.
    """

    name: str
    estimator: Any
    rows: Any
    needs_example: bool = False


NUMBERS, CLASSES = make_classification(ROWS, 4, n_informative=3, n_redundant=0, n_classes=3, n_clusters_per_class=1, random_state=0)  # fmt: skip
AMOUNTS = NUMBERS @ np.array([1.0, -2.0, 0.5, 3.0])
RECORDS = [{"city": str(CITIES[at % 3]), "km": float(at % 7)} for at in range(ROWS)]


def all_names() -> list[str]:
    """The names of all estimators of scikit-learn."""
    return [name for name, _ in all_estimators()]


# Those that no estimator of scikit-learn's own tests shows, or on other data.
_MADE: dict[str, Callable[[], Any]] = {
    "FrozenEstimator": lambda: FrozenEstimator(LogisticRegression().fit(NUMBERS, CLASSES)),
    "SparseCoder": lambda: SparseCoder(np.eye(4)[:3]),
}
_MULTI_OUTPUT = re.compile("^Multi(Output|Task)|Chain$")


def fitted(name: str) -> Entry:
    """Fit an estimator of scikit-learn by its name."""
    kind = dict(all_estimators())[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = _MADE[name]() if name in _MADE else next(iter(_construct_instances(kind)))
        if "random_state" in estimator.get_params():
            estimator.set_params(random_state=0)
        rows, target = data_for(estimator)
        fit(estimator, rows, target)
    return Entry(name, estimator, rows[:, None] if name == "IsotonicRegression" else rows)


def fit(estimator: Any, rows: Any, target: Any) -> None:
    """Fit an estimator; an encoder of labels takes these alone."""
    if isinstance(estimator, LabelBinarizer | LabelEncoder):
        estimator.fit(target)
    elif isinstance(estimator, MultiLabelBinarizer):
        estimator.fit([["a"], ["b", "c"]])
    else:
        estimator.fit(rows, target)


def data_for(estimator: Any) -> tuple[Any, Any]:
    """Return rows and targets that an estimator can be fitted on, by its tags."""
    tags = get_tags(estimator)
    takes = tags.input_tags
    target = AMOUNTS if tags.estimator_type == "regressor" else CLASSES
    if tags.target_tags.positive_only:
        target = np.abs(target) + 0.1
    if tags.classifier_tags is not None and not tags.classifier_tags.multi_class:
        target = (target == 0).astype(int)
    name = type(estimator).__name__
    if _MULTI_OUTPUT.search(name):
        target = np.column_stack([target, target[::-1]])
    if takes.dict:
        return RECORDS, target
    if takes.string and not takes.two_d_array:
        return TEXTS, target
    if takes.three_d_array and not takes.two_d_array:
        return np.abs(np.random.default_rng(0).random((ROWS, 8, 8))), target
    if takes.one_d_array and not takes.two_d_array:
        return NUMBERS[:, 0], target
    rows = np.abs(NUMBERS) if takes.positive_only or name == "SkewedChi2Sampler" else NUMBERS
    rows = np.floor(rows) if takes.categorical and not takes.allow_nan else rows
    if takes.pairwise:
        rows = rows @ rows.T
    return rows, target
