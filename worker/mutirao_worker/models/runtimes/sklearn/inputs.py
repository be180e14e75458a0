"""What an estimator was fitted on, as far as its fitted parts show: names, number and type of its features."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Iterator
from typing import Any, NamedTuple

import msgspec
import numpy as np
from sklearn.preprocessing import FunctionTransformer

from mutirao import errors
from mutirao.wire import date_elements, json_elements, tensors
from mutirao.wire.signature import MATRIX, InputSpec, Signature
from mutirao.wire.tensors import Array
from mutirao_worker.models.runtimes import example_rows
from mutirao_worker.models.runtimes.example_rows import Example
from mutirao_worker.models.runtimes.sklearn import contents


class Candidate(NamedTuple):
    """What an estimator may take: its inputs, rows of them to try it on, and whether these are the columns of a DataFrame."""

    inputs: tuple[InputSpec, ...]
    arrays: dict[str, Array]
    frame: bool = False


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
    """A column: its V2 datatype ("" where the estimator does not show it), a value that it was fitted on, and whether None was among those."""

    datatype: str = ""
    value: Any = None
    none: bool = False


def candidates(model: Any, example: Any) -> Iterator[Candidate]:
    """Return what the estimator may take, the likeliest first, each with rows to try it on.

    Args:
        model: the estimator.
        example: see `read_example`; None for none.

    Raises:
        RepositoryError: it cannot be known without an example, or the example does not match the estimator.
    """
    if contents.first_takes_dicts(model):
        yield _of_records([{}, {}] if example is None else example_rows.read_records(example))
        return
    names = _fitted_attribute(model, "feature_names_in_")
    count = len(names) if names is not None else _fitted_attribute(model, "n_features_in_")
    known = features(model)
    if example is not None:
        read = example_rows.read_example(example, _expected_columns(names, count))
        yield from _of_example(model, read, names, count)
        return
    if count is None and hasattr(model, "X_thresholds_"):  # an isotonic regression: one feature
        count = 1
    if count is None and known.get(0, Feature()).datatype != "BYTES":
        raise errors.RepositoryError(contents.describe_unknown_inputs(model))
    for number in (1.0, 0.0):
        dropped = dropped_columns(model)
        columns = [
            _sample_column(known.get(at, Feature()), 0.0 if at in dropped else number) for at in range(count or 1)
        ]
        if names is None:
            yield _described(_matrix(columns, flat=count is None))
            continue
        hidden = first_own_step(model) is not None
        guessed = {
            str(name)
            for at, name in enumerate(names)
            if at not in dropped and (hidden or not known.get(at, Feature()).datatype)
        }
        optional = {str(names[at]) for at in dropped}
        yield _described(dict(zip(map(str, names), columns, strict=True)), guessed, optional, frame=True)


def _fitted_attribute(model: Any, name: str) -> Any:
    """Return what an estimator was fitted on as it or, in a pipeline, the first step that is none that passes rows by shows it."""
    own = getattr(model, name, None)
    steps = [step for _, step in getattr(model, "steps", ())]
    if own is None and steps and (isinstance(steps[0], str) or steps[0] is None):
        return next((getattr(step, name, None) for step in steps if step is not None and step != "passthrough"), None)
    return own


def dropped_columns(model: Any) -> set[int]:
    """Return the positions of the columns that the first step of an estimator drops."""
    while not hasattr(model, "transformers_"):
        inner = (getattr(model, name, None) for name in ("best_estimator_", "regressor_", "estimator_", "estimator"))
        steps = [step for _, step in getattr(model, "steps", ()) if step is not None and step != "passthrough"]
        model = next((each for each in (*steps[:1], *inner) if hasattr(each, "get_params")), None)
        if model is None:
            return set()
    positions = getattr(model, "_transformer_to_input_indices", None)
    if positions is None or not all(name in positions for name, part, _ in model.transformers_ if part != "drop"):
        return set()
    used = {at for name, part, _ in model.transformers_ if part != "drop" for at in positions[name]}
    return set(range(model.n_features_in_)) - used


def first_own_step(model: Any) -> Any:
    """Return the step that sees the rows first, where it is a function or a class that is not scikit-learn's; else None.

    What the steps behind it were fitted on may be something else than the rows.
    """
    while steps := getattr(model, "steps", None):
        model = next((step for _, step in steps if step is not None and step != "passthrough"), None)
    own = isinstance(model, FunctionTransformer) or not type(model).__module__.startswith("sklearn.")
    return model if own and hasattr(model, "transform") else None


def columns_fitted_on_none(model: Any) -> set[int]:
    """Return the positions of the columns that were fitted with None as missing value; to all others that is NaN."""
    return {at for at, feature in features(model).items() if feature.none}


def features(estimator: Any) -> dict[int, Feature]:
    """Return, by position, the columns of which a fitted encoder, imputer or vectorizer keeps what it was fitted on."""
    if hasattr(estimator, "build_analyzer"):
        return {0: Feature("BYTES", "a")}
    if hasattr(estimator, "categories_"):
        return {at: _of_values(seen) for at, seen in enumerate(estimator.categories_) if len(seen)}
    if hasattr(estimator, "statistics_"):
        none = getattr(estimator, "missing_values", np.nan) is None
        text = {at: _of_values([value]) for at, value in enumerate(estimator.statistics_) if isinstance(value, str)}
        return {at: feature._replace(none=none) for at, feature in text.items()}
    if hasattr(estimator, "transformers_"):
        return _of_columns(estimator)
    return _of_parts(estimator)


def _of_values(seen: Any) -> Feature:
    none = any(value is None for value in seen)
    value = seen[0]
    if isinstance(value, str):
        return Feature("BYTES", str(value), none)
    if isinstance(value, bool | np.bool_):
        return Feature("BOOL", bool(value), none)
    if isinstance(value, int | np.integer):
        return Feature("INT64", int(value), none)
    known = isinstance(value, float | np.floating) and not np.isnan(value)
    return Feature("FP64", float(value), none) if known else Feature(none=none)


def _of_columns(estimator: Any) -> dict[int, Feature]:
    # The only record of the columns as positions, however they were selected (names, mask, slice, callable).
    positions = getattr(estimator, "_transformer_to_input_indices", {})
    found: dict[int, Feature] = {}
    for name, part, _ in estimator.transformers_:
        indices = list(positions.get(name, ()))
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


def _expected_columns(names: Any, count: int | None) -> Signature:
    """Return what a file of examples should hold, as far as it is known: columns of these names, or of this number."""
    if names is not None:
        return Signature(inputs=tuple(InputSpec(str(name), "", (-1,), True) for name in names), outputs=(), frame=True)
    return Signature(inputs=(InputSpec(MATRIX, "", (-1, count or -1), True),), outputs=())


def _of_example(model: Any, example: Example, names: Any, count: int | None) -> Iterator[Candidate]:
    """Return what an example shows: its columns where the estimator was fitted on columns, or keeps nothing of what it was fitted on."""
    if names is not None:
        dropped = {str(names[at]) for at in dropped_columns(model)}
        lacking = {str(name) for name in names if str(name) not in example.arrays} & dropped
        given = example.columns([str(name) for name in names if str(name) not in lacking])
        arrays = {str(name): given.get(str(name), np.zeros(example.rows)) for name in names}
        yield _of_columns_of(example, arrays, dropped)
        if (dates := _with_dates(arrays)) is not None:
            yield _of_columns_of(example, dates, dropped)
        return
    takes_text = count is None and 0 in features(model)
    as_columns = [_of_columns_of(example, example.arrays)] if example.names and not takes_text else []
    if as_columns and (dates := _with_dates(example.arrays)) is not None:
        as_columns.append(_of_columns_of(example, dates))
    if count is None:
        yield from as_columns
    try:
        matrix = _of_matrix(example, count)
    except errors.RepositoryError:
        if not as_columns:
            raise
    else:
        yield matrix
    if count is not None:
        yield from as_columns


def _of_records(records: list[dict[str, Any]]) -> Candidate:
    documents = json_elements.encode(MATRIX, records)
    return Candidate((InputSpec(MATRIX, "BYTES", (-1,), format=json_elements.FORMAT),), {MATRIX: documents})


def _with_dates(arrays: dict[str, Array]) -> dict[str, Array] | None:
    """Return columns whose text can be dates as dates; None where there is none."""
    dates = {}
    for name, array in arrays.items():
        if array.dtype == object and array.ndim == 1:
            with contextlib.suppress(errors.InvalidTensor):
                dates[name] = date_elements.decode(date_elements.check(name, array))
    return {**arrays, **dates} if dates else None


def _of_columns_of(example: Example, arrays: dict[str, Array], dropped: Container[str] = ()) -> Candidate:
    guessed = [
        name for name, each in arrays.items() if example.guessed and each.dtype.kind in "iub" and name not in dropped
    ]
    blank = {
        name: np.full_like(each, "" if each.dtype == object else 0) for name, each in arrays.items() if name in dropped
    }
    return _described({**arrays, **blank}, guessed, dropped, frame=True)


def _of_matrix(example: Example, count: int | None) -> Candidate:
    specs, arrays, _ = _described({MATRIX: example.matrix(count)})
    spec, matrix = specs[0], arrays[MATRIX]
    guessed = example.guessed and matrix.dtype.kind in "iub"
    width = matrix.shape[1] if matrix.ndim == 2 else 1
    columns = example.names if len(example.names) == width and example.names != (MATRIX,) else ()
    return Candidate((msgspec.structs.replace(spec, guessed=guessed, columns=columns),), arrays)


def _sample_column(feature: Feature, number: float) -> Array:
    value = number if feature.value is None else feature.value
    return np.array([value] * _ROWS, dtype=tensors.DTYPES[feature.datatype or "FP64"])


def _matrix(columns: list[Array], *, flat: bool) -> dict[str, Array]:
    if len({array.dtype == object for array in columns}) > 1:
        raise errors.RepositoryError(
            "it was fitted on an array that mixes text and numbers, which no tensor can hold: fit it on a DataFrame"
        )
    return {MATRIX: columns[0] if flat else np.column_stack(columns)}


def _described(
    arrays: dict[str, Array], guessed: Container[str] = (), optional: Container[str] = (), *, frame: bool = False
) -> Candidate:
    specs = (
        InputSpec(
            name,
            "BYTES" if array.dtype.kind == "M" else tensors.datatype_of(array),
            (-1, *array.shape[1:]),
            guessed=name in guessed,
            optional=name in optional,
            format=date_elements.FORMAT if array.dtype.kind == "M" else "",
        )
        for name, array in arrays.items()
    )
    return Candidate(tuple(specs), arrays, frame)
