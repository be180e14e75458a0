"""Sentences on what a file holds that is no estimator, or one whose inputs no tensor holds, and what to save instead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sklearn.feature_extraction import DictVectorizer, FeatureHasher
from sklearn.preprocessing import LabelBinarizer, LabelEncoder, MultiLabelBinarizer

from mutirao import errors

_SHOWN = 6


def describe_non_estimator(model: Any) -> str:
    """Describe what a file holds that is no estimator, and what to save instead."""
    save = "save the fitted estimator or pipeline"
    if isinstance(model, type):
        return f"the class {model.__name__} itself, not a scikit-learn estimator: {save}"
    kind = type(model)
    named = list(
        model.items() if isinstance(model, dict) else enumerate(model) if isinstance(model, list | tuple) else ()
    )
    if named:
        shown = ", ".join(f"{key!r} ({_name(value)})" for key, value in named[:_SHOWN])
        more = f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else ""
        return f"a {kind.__name__} of {shown}{more}, not a scikit-learn estimator: {_advice(named)}"
    module = kind.__module__.partition(".")[0]
    of = "" if module == "builtins" else f" of {module}"
    return f"a {kind.__name__}{of}, not a scikit-learn estimator: {save}"


def check_is_estimator(estimator: Any, name: str) -> None:
    """Refuse a step that is no estimator, or encodes labels.

    Raises:
        RepositoryError: says what it is, and what to do.
    """
    if isinstance(estimator, LabelEncoder | LabelBinarizer | MultiLabelBinarizer):
        raise errors.RepositoryError(
            f"{name} holds a {_name(estimator)}, which encodes labels and is no step: give it with --labels {name}"
        )
    if isinstance(estimator, type) or not hasattr(estimator, "get_params"):
        raise errors.RepositoryError(f"{name} holds {describe_non_estimator(estimator)}")


def describe_unknown_inputs(model: Any) -> str:
    """Explain why an estimator's inputs cannot be known, and what to do."""
    name = _name(model)
    if isinstance(model, LabelEncoder | LabelBinarizer | MultiLabelBinarizer):
        return f"the file holds a {name}, which encodes labels and predicts nothing: save the classifier, which takes text as labels"
    return f"what the {name} was fitted on cannot be known: give it some rows with --example rows.csv"


def takes_dicts(part: Any) -> bool:
    """Whether an estimator's rows are dicts."""
    try:
        if hasattr(part, "__sklearn_tags__"):
            return bool(part.__sklearn_tags__().input_tags.dict)
        # scikit-learn before 1.6 has no public tags.
        return isinstance(part, DictVectorizer | FeatureHasher) and getattr(part, "input_type", "dict") == "dict"
    except Exception:  # noqa: BLE001 - its own code runs here, or it is no estimator
        return False


def first_takes_dicts(model: Any) -> bool:
    """Whether the rows of an estimator are dicts, or those of the first step of a pipeline, also within a search."""
    while inner := getattr(model, "steps", None) or getattr(model, "best_estimator_", None):
        model = inner[0][1] if isinstance(inner, list) else inner
    return takes_dicts(model)


def _advice(named: Iterable[tuple[Any, Any]]) -> str:
    """Say how to add what is among several objects: the steps in their order, and the labels."""
    parts = {key: each for key, each in named if hasattr(each, "get_params") and not isinstance(each, type)}
    encoders = [
        key for key, each in parts.items() if isinstance(each, LabelEncoder | LabelBinarizer | MultiLabelBinarizer)
    ]
    steps = {key: each for key, each in parts.items() if key not in encoders}
    predictors = [key for key, each in steps.items() if hasattr(each, "predict")]
    if not steps:
        return "save the fitted estimator or pipeline"
    if len(predictors) != 1:
        return "add its steps with --steps A,B: each transforms, the last predicts"
    order = [*(key for key in steps if key not in predictors), *predictors]
    labels = f" --labels {encoders[0]}" if encoders else ""
    return f"add its steps with --steps {','.join(map(str, order))}{labels}"


def _name(value: Any) -> str:
    return type(value).__name__
