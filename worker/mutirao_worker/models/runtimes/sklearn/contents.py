"""Sentences on what a file holds that is no estimator, or one whose inputs no tensor holds, and what to save instead."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from sklearn.feature_extraction import DictVectorizer, FeatureHasher
from sklearn.preprocessing import LabelBinarizer, LabelEncoder, MultiLabelBinarizer

from mutirao import errors

_SHOWN = 6
_SAVE_ONE = "save what predicts alone, or its steps as one: make_pipeline(scaler, model)"
_TAKES_DICTS = "takes dicts; no tensor holds them: fit a pipeline on a DataFrame instead, with a OneHotEncoder for text, and save that"


def describe_non_estimator(model: Any) -> str:
    """Describe what a file holds that is no estimator, and what to save instead."""
    save = "save the fitted estimator or pipeline"
    if isinstance(model, type):
        return f"the class {model.__name__} itself, not a scikit-learn estimator: {save}"
    kind = type(model)
    values = list(model.values()) if isinstance(model, dict) else model if isinstance(model, list | tuple) else []
    if values:
        keys = (f"{key!r} ({_name(value)})" for key, value in model.items()) if isinstance(model, dict) else map(_name, values)  # fmt: skip
        more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
        shown = ", ".join(itertools.islice(keys, _SHOWN))
        return f"a {kind.__name__} of {shown}{more}, not a scikit-learn estimator: {_advice(values)}"
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
    if first := next(filter(takes_dicts, _first_estimators(model)), None):
        return f"the file holds a {name}{f' whose {_name(first)}' if first is not model else ', which'} {_TAKES_DICTS}"
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


def _first_estimators(model: Any) -> Iterable[Any]:
    """Return an estimator, and the first step of a pipeline, which sees the rows."""
    steps = getattr(model, "steps", None)
    return (model, steps[0][1]) if steps else (model,)


def _advice(values: Iterable[Any]) -> str:
    """Say which of several objects to save."""
    parts = [each for each in values if hasattr(each, "get_params") and not isinstance(each, type)]
    if first := next(filter(takes_dicts, parts), None):
        return f"its {_name(first)} {_TAKES_DICTS}"
    steps = [each for each in parts if not isinstance(each, LabelEncoder | LabelBinarizer | MultiLabelBinarizer)]
    predictors = [each for each in steps if hasattr(each, "predict")]
    if len(predictors) != 1:
        return _SAVE_ONE
    others = [_name(each) for each in steps if each is not predictors[0]]
    if others:
        return (
            f"save its steps as one: make_pipeline({', '.join(others)}, {_name(predictors[0])}), with the fitted ones"
        )
    labels = ", fitted on the labels themselves, which it encodes by itself" if len(steps) < len(parts) else ""
    return f"save the {_name(predictors[0])} alone{labels}"


def _name(value: Any) -> str:
    return type(value).__name__
