"""What an estimator was fitted on, as far as its fitted parts tell: names, number and kind of its features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from mutirao import errors, tensors
from mutirao.signature import MATRIX, TensorSpec
from mutirao.tensors import Array
from mutirao_worker.example import Example

Inputs = tuple[tuple[TensorSpec, ...], dict[str, Array]]

_ROWS = 2
# Where estimators keep the fitted estimator that sees the features first.
_INNER = (
    "_preprocessor",
    "best_estimator_",
    "estimator_",
    "regressor_",
    "calibrated_classifiers_",
    "estimators_",
    "estimator",
)


class Feature(NamedTuple):
    """A column: its V2 datatype, and a value that the estimator knows."""

    datatype: str = "FP64"
    value: Any = None


def candidates(model: Any, example: Example | None) -> Iterator[Inputs]:
    """Say what the estimator may take, the likeliest first, each with rows to try it on.

    Raises:
        RepositoryError: it cannot be known without an example, or the example does not fit the estimator.
    """
    names = getattr(model, "feature_names_in_", None)
    count = len(names) if names is not None else getattr(model, "n_features_in_", None)
    if example is not None:
        arrays = {MATRIX: example.matrix(count)} if names is None else example.columns([str(name) for name in names])
        yield _described(arrays)
        return
    known = features(model)
    if count is None and known.get(0, Feature()).datatype != "BYTES":
        raise errors.RepositoryError(
            f"what the {type(model).__name__} was fitted on cannot be known: give it some rows with --example rows.csv"
        )
    for number in (1.0, 0.0):
        columns = [_filled(known.get(at, Feature()), number) for at in range(count or 1)]
        yield _described(
            _matrix(columns, flat=count is None) if names is None else dict(zip(map(str, names), columns, strict=True))
        )


def features(estimator: Any) -> dict[int, Feature]:
    """Find the columns, by position, of which a fitted encoder, imputer or vectorizer tells what it has seen."""
    if hasattr(estimator, "build_analyzer"):
        return {0: Feature("BYTES", "a")}
    if hasattr(estimator, "categories_"):
        return {at: _of_value(seen[0]) for at, seen in enumerate(estimator.categories_) if len(seen)}
    if hasattr(estimator, "statistics_"):
        return {at: _of_value(value) for at, value in enumerate(estimator.statistics_) if isinstance(value, str)}
    if hasattr(estimator, "transformers_"):
        return _of_columns(estimator)
    return _of_parts(estimator)


def _of_value(value: Any) -> Feature:
    if isinstance(value, str):
        return Feature("BYTES", str(value))
    known = isinstance(value, int | float | np.number | np.bool_) and not np.isnan(value)
    return Feature("FP64", float(value)) if known else Feature()


def _of_columns(estimator: Any) -> dict[int, Feature]:
    # The only record of the columns as positions, however they were given (names, mask, slice, callable).
    places = getattr(estimator, "_transformer_to_input_indices", {})
    found: dict[int, Feature] = {}
    for name, part, _ in estimator.transformers_:
        indices = list(places.get(name, ()))
        found |= {indices[at]: feature for at, feature in features(part).items() if at < len(indices)}
    return found


def _of_parts(estimator: Any) -> dict[int, Feature]:
    for part in _parts(estimator):
        if found := features(part):
            return found
    return {}


def _parts(estimator: Any) -> Iterator[Any]:
    yield from (part for _, part in getattr(estimator, "steps", ()) if part not in {None, "passthrough"})
    yield from (part for _, part in getattr(estimator, "transformer_list", ()) if not isinstance(part, str))
    for name in _INNER:
        inner = getattr(estimator, name, None)
        if isinstance(inner, list) and inner:
            yield inner[0]
        elif hasattr(inner, "get_params"):
            yield inner


def _filled(feature: Feature, number: float) -> Array:
    value = number if feature.value is None else feature.value
    return np.array([value] * _ROWS, dtype=tensors.DTYPES[feature.datatype])


def _matrix(columns: list[Array], *, flat: bool) -> dict[str, Array]:
    if len({array.dtype for array in columns}) > 1:
        raise errors.RepositoryError(
            "it was fitted on an array that mixes text and numbers, which no tensor can hold: fit it on a DataFrame"
        )
    return {MATRIX: columns[0] if flat else np.column_stack(columns)}


def _described(arrays: dict[str, Array]) -> Inputs:
    specs = (TensorSpec(name, tensors.datatype_of(array), (-1, *array.shape[1:])) for name, array in arrays.items())
    return tuple(specs), arrays
