"""scikit-learn estimators and pipelines, saved with joblib or pickle.

Loading a pickle runs what it holds. It is done only from bytes whose digest the manifest names.
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import joblib
import msgspec
import numpy as np
import pandas as pd
import sklearn
from sklearn.exceptions import InconsistentVersionWarning, NotFittedError
from sklearn.utils.validation import check_is_fitted

from mutirao import errors
from mutirao.wire import tensors
from mutirao.wire.signature import InputSpec, OutputSpec
from mutirao.wire.tensors import Array
from mutirao_worker.models.runtimes import (
    Description,
    sklearn_checks,
    sklearn_contents,
    sklearn_forests,
    sklearn_inputs,
    sklearn_missing,
    sklearn_parts,
)
from mutirao_worker.models.runtimes import example_rows as examples

METHODS = ("predict", "predict_proba", "predict_log_proba", "decision_function", "score_samples", "transform", "apply")


def load(raw: bytes) -> tuple[Any, str]:
    """Unpickle an estimator; see `Runtime.load`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = joblib.load(io.BytesIO(raw))
    others = [each.message for each in caught if isinstance(each.message, InconsistentVersionWarning)]
    saved_with = str(others[0].original_sklearn_version) if others else ""
    estimators = list(sklearn_parts.estimators(model))
    sklearn_checks.refuse_old_trees(estimators, saved_with)
    sklearn_forests.speed_up_forests(estimators)
    return model, f"scikit-learn {saved_with}" if saved_with else ""


def describe(model: Any, example: Any) -> Description:
    """Find out the inputs from what the estimator was fitted on, and the outputs from a trial run.

    Raises:
        RepositoryError: it is no fitted estimator, or what it takes cannot be known without an example.
    """
    _check_fitted(model)
    failures: list[str] = []
    frame = hasattr(model, "feature_names_in_")
    for inputs, arrays in sklearn_inputs.candidates(model, example):
        try:
            outputs = tuple(_trial(model, arrays, frame=frame))
        except Exception as exc:  # noqa: BLE001 - the estimator's own code runs here
            failures.append(f"{type(exc).__name__}: {exc}")
        else:
            asked = tuple(output for output in outputs if output.default)
            ask = functools.partial(predict, model, outputs=asked, frame=frame)
            known, rows = _as_numbers(inputs, arrays, ask)
            check(model, ask(rows))
            known = sklearn_missing.learned(known, rows, ask)
            return Description(inputs=known, outputs=outputs, frame=frame, example=examples.request(rows))
    tried = (
        "the example" if example is not None else "the rows made up for it; give it real ones with --example rows.csv"
    )
    raise errors.RepositoryError(f"the {type(model).__name__} does not predict {tried}: {failures[0]}")


def _as_numbers(
    inputs: tuple[InputSpec, ...], arrays: dict[str, Array], ask: Callable[[Mapping[str, Array]], dict[str, Array]]
) -> tuple[tuple[InputSpec, ...], dict[str, Array]]:
    """Take a matrix as numbers of any kind where that it holds whole ones alone was guessed, and the model answers both alike."""
    spec, array = inputs[0], next(iter(arrays.values()))
    if not spec.guessed or array.ndim != 2 or array.dtype.kind not in "iu":
        return inputs, arrays
    numbers = {spec.name: array.astype(np.float64)}
    try:
        whole, real = ask(arrays), ask(numbers)
    except Exception:  # noqa: BLE001 - the estimator's own code runs here
        return inputs, arrays
    if not all(np.array_equal(whole[name], real[name]) for name in whole):
        return inputs, arrays
    return (msgspec.structs.replace(spec, datatype="FP64", guessed=False),), numbers


def predict(
    model: Any, inputs: Mapping[str, Array], outputs: tuple[OutputSpec, ...], *, frame: bool
) -> dict[str, Array]:
    """Call each method that an output needs, once."""
    data = _data(model, inputs, frame=frame)
    methods = list(dict.fromkeys(output.name.partition(".")[0] for output in outputs))
    found: dict[str, Array] = {}
    settings = sklearn.get_config()
    try:
        for method in methods:
            # A method may write into what it is given; the next one must not see that.
            found.update(_call(model, method, data if method == methods[-1] else data.copy()))
    finally:  # what a model sets of scikit-learn is for itself alone
        if sklearn.get_config() != settings:
            sklearn.set_config(**settings)
    for output in outputs:
        if output.name not in found:
            raise errors.InvalidOutput(
                f"returned {', '.join(map(repr, found))}, but no {output.name!r}, which it announced"
            )
    return {output.name: found[output.name] for output in outputs}


def check(model: Any, answers: Mapping[str, Array]) -> None:
    """Look at a trial's answers; see `Runtime.check`."""
    sklearn_checks.check_answers(model, answers)


def set_threads(model: Any, threads: int) -> None:
    """Cap every n_jobs that asks for more, in the estimator and in all that it holds, fitted parts too."""
    for estimator in sklearn_parts.estimators(model):
        with contextlib.suppress(Exception):  # a property of its own may raise
            _cap(estimator, threads)


def _cap(estimator: Any, threads: int) -> None:
    wanted = getattr(estimator, "n_jobs", None)
    # None is one to scikit-learn, what OpenMP says to XGBoost, and to LightGBM every core.
    all_cores = wanted is None and hasattr(estimator, "n_jobs") and _library(estimator) == "lightgbm"
    if all_cores or (isinstance(wanted, int) and not 0 < wanted <= threads):
        estimator.n_jobs = threads
        if _library(estimator) == "xgboost":  # it has written the number down elsewhere too
            estimator.get_booster().set_param({"nthread": threads})


def _library(estimator: Any) -> str:
    return str(type(estimator).__module__).partition(".")[0]


def _data(model: Any, inputs: Mapping[str, Array], *, frame: bool) -> Any:
    """Make what the estimator takes; a missing text is what it was fitted on, None or NaN."""
    inputs = sklearn_missing.known(inputs, lambda: sklearn_inputs.nones(model))
    return _frame(inputs) if frame else next(iter(inputs.values()))


def _frame(inputs: Mapping[str, Array]) -> pd.DataFrame:
    # dtype=object keeps text as str objects: pandas 3 would make its own string dtype of them.
    return pd.DataFrame(
        {name: pd.Series(array, dtype=object) if array.dtype == object else array for name, array in inputs.items()}
    )


def _call(model: Any, method: str, data: Any) -> Iterator[tuple[str, Array]]:
    result = getattr(model, method)(data)
    if isinstance(result, list) and result and all(getattr(each, "ndim", 0) for each in result):
        yield from ((f"{method}.{at}", _dense(f"{method}.{at}", each)) for at, each in enumerate(result))
    else:
        yield method, _dense(method, result)


def _dense(name: str, result: Any) -> Array:
    """Make an array of what a method returned.

    Raises:
        InvalidOutput: it is none, or one with values that are masked.
    """
    if np.ma.is_masked(result):
        first = np.argwhere(np.ma.getmaskarray(result))[0].tolist()
        raise errors.InvalidOutput(f"returned {name!r} with a masked value at {first}: fill it (filled) in the model")
    try:
        array = np.asarray(result.toarray() if hasattr(result, "toarray") else result)
    except ValueError as exc:
        raise errors.InvalidOutput(f"returned rows of unequal length for {name!r}: {exc}") from exc
    if array.ndim == 0 and array.dtype == object:
        raise errors.InvalidOutput(f"returned a {type(result).__name__} for {name!r}, which is no array")
    return array


def _check_fitted(model: Any) -> None:
    if isinstance(model, type) or not hasattr(model, "get_params"):
        raise errors.RepositoryError(f"the file holds {sklearn_contents.described(model)}")
    if not hasattr(model, "fit"):
        raise errors.RepositoryError(
            f"the {type(model).__name__} has no method fit, so it is no scikit-learn estimator: give its class one "
            "(def fit(self, X, y=None): return self), and save it again"
        )
    try:
        check_is_fitted(model)
    except NotFittedError as exc:
        raise errors.RepositoryError(f"the {type(model).__name__} is not fitted: call fit before you save it") from exc
    except Exception:  # noqa: BLE001 - its own check is broken, which says nothing about it: the trial will tell
        return


def _trial(model: Any, inputs: Mapping[str, Array], *, frame: bool) -> Iterator[OutputSpec]:
    methods = [method for method in METHODS if hasattr(model, method)]
    if not methods:
        raise errors.RepositoryError(f"it has none of {', '.join(METHODS)}")
    defaults = {"predict", "predict_proba"} & set(methods) or {"transform"} & set(methods) or {methods[0]}
    for method in methods:
        try:
            yield from _outputs(model, method, inputs, frame=frame, default=method in defaults)
        except Exception:
            if method in defaults:
                raise


def _outputs(
    model: Any, method: str, inputs: Mapping[str, Array], *, frame: bool, default: bool
) -> Iterable[OutputSpec]:
    rows = len(next(iter(inputs.values())))
    data = _data(model, inputs, frame=frame)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = list(_call(model, method, data))
    for name, array in results:
        if array.ndim == 0 or len(array) != rows:
            raise errors.InvalidOutput(f"{method} gave shape {list(array.shape)} for {rows} rows")
        tensors.encode(name, array, binary=True)
    return [
        OutputSpec(name=name, datatype=tensors.datatype_of(array), shape=(-1, *array.shape[1:]), default=default)
        for name, array in results
    ]
