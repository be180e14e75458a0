"""Whether a model's outputs can be right: trees that an older scikit-learn saved otherwise, probabilities, and labels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import sklearn
from sklearn.tree import DecisionTreeClassifier

from mutirao import errors
from mutirao.wire.tensors import Array

# Probabilities of single precision are off by less.
_TOLERANCE = 1e-3
# Whether this scikit-learn's own trees hold counts.
_KEEPS_COUNTS = tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 4)


def refuse_old_trees(estimators: Iterable[Any], saved_with: str) -> None:
    """Refuse classification trees that scikit-learn saved before 1.4: they hold counts, and are read as fractions since.

    Args:
        estimators: all estimators within a model.
        saved_with: the version that saved it; "" where the file does not show it.

    Raises:
        RepositoryError: there is such a tree.
    """
    if _KEEPS_COUNTS:
        return
    for estimator in estimators:
        if isinstance(estimator, DecisionTreeClassifier) and _holds_counts(estimator):
            saved = f"scikit-learn {saved_with}" if saved_with else "a scikit-learn before 1.4"
            raise errors.RepositoryError(
                f"saved with {saved}, this is {sklearn.__version__}: install that version for its worker, or save it again "
                f"(its {type(estimator).__name__} holds counts, which this version reads as fractions: its answers would be wrong)"
            )


def check_outputs(model: Any, outputs: Mapping[str, Array]) -> None:
    """Check the outputs of a single-label classifier: labels are among its classes, each row's probabilities lie within 0 and 1 and sum to 1.

    Raises:
        InvalidOutput: names the first output for which that does not hold.
    """
    classes = None
    with contextlib.suppress(Exception):  # the model's own property
        classes = model.classes_
    labels, probabilities = outputs.get("predict"), outputs.get("predict_proba")
    if not isinstance(classes, np.ndarray) or classes.ndim != 1 or labels is None or labels.ndim != 1:
        return
    known = set(classes.tolist())
    if unknown := [label for label in labels.tolist() if label not in known]:
        raise _implausible(f"predicts the label {unknown[0]!r}, which is not among its classes")
    if probabilities is None or probabilities.shape != (len(labels), len(classes)):
        return
    _check_probabilities(np.asarray(probabilities, dtype=np.float64))


def _check_probabilities(rows: Array) -> None:
    sums = rows.sum(axis=1)
    # Written so that NaN, which is neither less nor more than anything, is not within.
    within = (rows >= -_TOLERANCE) & (rows <= 1 + _TOLERANCE)
    if (summing := np.abs(sums - 1) > _TOLERANCE).any():
        raise _implausible(f"gives probabilities that sum to {sums[summing][0]:g}, and not to 1")
    if not within.all():
        row, column = np.argwhere(~within)[0].tolist()
        raise _implausible(f"gives {rows[row, column]:g} as a probability (row {row}), which is not within 0 and 1")


def _holds_counts(estimator: Any) -> bool:
    """Whether a tree's leaves hold counts: the values of a node do not sum to 1."""
    tree = getattr(estimator, "tree_", None)
    return tree is not None and not np.allclose(tree.value.sum(axis=2), 1.0, atol=_TOLERANCE)


def _implausible(problem: str) -> errors.InvalidOutput:
    text = f"it {problem}: it may have been saved with another version of its library"
    return errors.InvalidOutput(text, cause="InvalidOutput")
