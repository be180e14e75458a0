"""scikit-learn estimators and pipelines, saved with joblib or pickle.

Loading a pickle runs what it holds. It is done only from bytes whose digest the manifest names.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import joblib
import msgspec
import numpy as np
import pandas as pd
import sklearn
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from mutirao import errors
from mutirao.wire import date_elements, elements, json_elements, tensors
from mutirao.wire.signature import InputSpec, OutputSpec
from mutirao.wire.tensors import Array
from mutirao_worker.models.runtimes import boosters, example_request
from mutirao_worker.models.runtimes.predictor import NO_PARAMETERS, Description, ModelFiles, Predictor, picked
from mutirao_worker.models.runtimes.sklearn import (
    checks,
    contents,
    forests,
    methods,
    missing,
    parts,
    pipelines,
    row_dependence,
)
from mutirao_worker.models.runtimes.sklearn import inputs as inputs_of

# What scikit-learn warns of at a file of another version; the warning has a class of its own since 1.3 only.
_MISMATCH = re.compile(r"Trying to unpickle estimator \S+ from version (\S+) when using version ")


class SklearnPredictor(Predictor):
    """A fitted estimator or pipeline.

    Attributes:
        estimator: the estimator.
    """

    library = "scikit-learn"

    def __init__(self, estimator: Any, saved_with: str = "") -> None:
        self.estimator = estimator
        self.saved_with = saved_with
        self._takes_records = contents.first_takes_dicts(estimator)

    @classmethod
    def load(cls, files: ModelFiles) -> SklearnPredictor:
        """Unpickle an estimator; see `Predictor.load`."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if files.file not in files.unpickled:
                files.unpickled[files.file] = cls.unpickle(files)
            estimator = picked(files.unpickled[files.file], files.pick)
        mismatches = (_MISMATCH.match(str(each.message)) for each in caught)
        saved_with = next((mismatch[1] for mismatch in mismatches if mismatch), "")
        estimators = list(parts.estimators(estimator))
        checks.refuse_old_trees(estimators, saved_with)
        forests.speed_up_forests(estimators)
        return cls(boosters.with_own_categories(estimator), f"scikit-learn {saved_with}" if saved_with else "")

    @classmethod
    def unpickle(cls, files: ModelFiles) -> Any:
        """Return what the file holds."""
        return joblib.load(io.BytesIO(files.raw))

    @classmethod
    def joined(cls, predictors: Sequence[SklearnPredictor], names: Sequence[str]) -> SklearnPredictor:
        """Return fitted estimators as one: each transforms, the last predicts.

        Args:
            predictors: the estimators, at least one.
            names: their files, for the error.

        Raises:
            RepositoryError: one of them cannot be where it is.
        """
        if len(predictors) == 1:
            return predictors[0]
        return cls(pipelines.joined([each.estimator for each in predictors], names))

    def transform(self, inputs: Mapping[str, Array], *, frame: bool) -> Array:
        """Return what the estimator makes of inputs, for a step that follows, as a dense matrix."""
        return methods.dense("transform", self.estimator.transform(self._data(inputs, frame=frame)))

    def describe(self, example: Any) -> Description:
        """Return the inputs by what the estimator was fitted on, and the outputs by a trial run.

        Raises:
            RepositoryError: it is not a fitted estimator, or its inputs cannot be known without an example.
        """
        estimator = self.estimator
        _check_fitted(estimator)
        methods.of(estimator)
        failures: list[str] = []
        for inputs, arrays, frame in inputs_of.candidates(estimator, example):
            try:
                outputs = tuple(_trial(estimator, functools.partial(self._data, arrays, frame=frame)))
            except Exception as exc:  # noqa: BLE001 - the estimator's own code runs here
                failures.append(f"{type(exc).__name__}: {exc}")
            else:
                defaults = tuple(output for output in outputs if output.default)
                predict_defaults = functools.partial(self.predict, outputs=defaults, frame=frame)
                if example is None:
                    self._refuse_hidden_types(arrays, frame=frame)
                specs, rows = _as_numbers(inputs, arrays, predict_defaults)
                self.check_outputs(predict_defaults(rows))
                predict_all = functools.partial(self.predict, outputs=outputs, frame=frame)
                return Description(
                    inputs=missing.with_nullability(specs, rows, predict_defaults),
                    outputs=outputs,
                    frame=frame,
                    example=example_request.encode(
                        {
                            name: date_elements.encode(array) if array.dtype.kind == "M" else array
                            for name, array in rows.items()
                        }
                    ),
                    parameters=methods.parameters(estimator, methods.needed([output.name for output in outputs])),
                    by_row=not row_dependence.found(predict_all, rows),
                )
        rows_tried = (
            "the example"
            if example is not None
            else "the rows made up for it; give it real ones with --example rows.csv"
        )
        raise errors.RepositoryError(f"the {type(estimator).__name__} does not predict {rows_tried}: {failures[0]}")

    def predict(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[OutputSpec, ...],
        *,
        frame: bool,
        parameters: Mapping[str, Any] = NO_PARAMETERS,
    ) -> dict[str, Array]:
        """Call each method that an output needs, once; return the outputs by name."""
        data = self._data(inputs, frame=frame)
        needed = methods.needed([output.name for output in outputs])
        results: dict[str, Array] = {}
        settings = sklearn.get_config()
        try:
            for method in needed:
                # A method may write into its data; the next one must not see that.
                own = data if method == needed[-1] else data.copy()
                results.update(methods.call(self.estimator, method, own, parameters))
        finally:  # a model's own scikit-learn settings must not reach other models
            if sklearn.get_config() != settings:
                sklearn.set_config(**settings)
        for output in outputs:
            if output.name not in results:
                raise errors.InvalidOutput(
                    f"returned {', '.join(map(repr, results))}, but no {output.name!r}, which it announced"
                )
        return {output.name: results[output.name] for output in outputs}

    def check_outputs(self, outputs: Mapping[str, Array]) -> None:
        """Check a classifier's labels and probabilities; see `checks.check_outputs`."""
        checks.check_outputs(self.estimator, outputs)

    def set_threads(self, threads: int) -> None:
        """Cap every larger n_jobs, in the estimator and in all estimators within it."""
        for estimator in parts.estimators(self.estimator):
            with contextlib.suppress(Exception):  # a property of its own may raise
                _cap_n_jobs(estimator, threads)

    def _data(self, inputs: Mapping[str, Array], *, frame: bool) -> Any:
        """Return the inputs as the estimator takes them; a missing text is what it was fitted on, None or NaN."""
        if self._takes_records:
            return _records(next(iter(inputs.values())))
        inputs = missing.replace_missing_text(inputs, lambda: inputs_of.columns_fitted_on_none(self.estimator))
        return _frame(inputs) if frame else next(iter(inputs.values()))

    def _refuse_hidden_types(self, arrays: Mapping[str, Array], *, frame: bool) -> None:
        """Refuse to guess what numbers are where a step of one's own makes text of whole numbers: "1" is not "1.0".

        Raises:
            RepositoryError: asks for an example.
        """
        own = inputs_of.first_own_step(self.estimator)
        if own is None:
            return
        whole = {name: array.astype(np.int64) if array.dtype.kind == "f" else array for name, array in arrays.items()}
        of_floats, of_integers = (_values(own, self._data(rows, frame=frame)) for rows in (arrays, whole))
        if of_floats != of_integers or (
            frame and any(array[0].isdecimal() for array in arrays.values() if array.dtype == object)
        ):
            raise errors.RepositoryError(
                f"whether the {type(self.estimator).__name__} was fitted on whole numbers, other numbers or text cannot be known: its first step "
                f"({type(own).__name__}) may make one of the other; give it some rows with --example rows.csv"
            )


def _as_numbers(
    inputs: tuple[InputSpec, ...], arrays: dict[str, Array], predict: Callable[[Mapping[str, Array]], dict[str, Array]]
) -> tuple[tuple[InputSpec, ...], dict[str, Array]]:
    """Describe a matrix as floating-point where its integer type was guessed, and the model predicts the same for both."""
    spec, array = inputs[0], next(iter(arrays.values()))
    if not spec.guessed or array.ndim != 2 or array.dtype.kind not in "iu":
        return inputs, arrays
    numbers = {spec.name: array.astype(np.float64)}
    try:
        of_integers, of_floats = predict(arrays), predict(numbers)
    except Exception:  # noqa: BLE001 - the estimator's own code runs here
        return inputs, arrays
    if not all(np.array_equal(of_integers[name], of_floats[name]) for name in of_integers):
        return inputs, arrays
    return (msgspec.structs.replace(spec, datatype="FP64", guessed=False),), numbers


def _values(transformer: Any, data: Any) -> Any:
    try:
        return np.asarray(methods.dense("transform", transformer.transform(data)), dtype=object).tolist()
    except Exception:  # noqa: BLE001 - the transformer's own code runs here
        return None


def _cap_n_jobs(estimator: Any, threads: int) -> None:
    n_jobs = getattr(estimator, "n_jobs", None)
    # None means one to scikit-learn, OpenMP's number to XGBoost, and every core to LightGBM.
    all_cores = n_jobs is None and hasattr(estimator, "n_jobs") and _library(estimator) == "lightgbm"
    if all_cores or (isinstance(n_jobs, int) and not 0 < n_jobs <= threads):
        estimator.n_jobs = threads
        if _library(estimator) == "xgboost":  # its booster keeps the number too
            estimator.get_booster().set_param({"nthread": threads})


def _library(estimator: Any) -> str:
    return str(type(estimator).__module__).partition(".")[0]


def _records(documents: Array) -> list[dict[str, Any]]:
    """Decode JSON documents.

    Raises:
        InvalidRequest: one is no object.
    """
    records: list[Any] = json_elements.decode(documents).tolist()
    for at, record in enumerate(records):
        if not isinstance(record, dict):
            text = f'row {at} is {elements.show(record)}, and the model takes a record for each row, as {{"city": "Natal", "km": 3.5}}'
            raise errors.InvalidRequest(text, reason="no record")
    return records


def _frame(inputs: Mapping[str, Array]) -> pd.DataFrame:
    # dtype=object keeps text as str objects: pandas 3 would make its own string dtype of them. A time gets the unit of pandas' own reading.
    kinds = {"O": object, "M": _TIME}
    return pd.DataFrame(
        {
            name: pd.Series(array, dtype=kinds[array.dtype.kind]) if array.dtype.kind in kinds else array
            for name, array in inputs.items()
        }
    )


_TIME = pd.to_datetime(["2026-11-29"]).dtype


def _check_fitted(model: Any) -> None:
    if isinstance(model, type) or not hasattr(model, "get_params"):
        raise errors.RepositoryError(f"the file holds {contents.describe_non_estimator(model)}")
    if not hasattr(model, "fit"):
        raise errors.RepositoryError(
            f"the {type(model).__name__} has no method fit, so it is no scikit-learn estimator: give its class one "
            "(def fit(self, X, y=None): return self), and save it again"
        )
    try:
        check_is_fitted(model)
    except NotFittedError as exc:
        raise errors.RepositoryError(f"the {type(model).__name__} is not fitted: call fit before you save it") from exc
    except Exception:  # noqa: BLE001 - its own check is broken: the trial decides
        return


def _trial(model: Any, data: Callable[[], Any]) -> Iterator[OutputSpec]:
    names = methods.of(model)
    defaults = [method for method in names if method in {"predict", "predict_proba"}]
    defaults = defaults or ["transform" if "transform" in names else names[0]]
    for method in names:
        try:
            yield from _outputs(model, method, data(), default=method in defaults)
        except Exception:
            if method == defaults[0]:
                raise


def _outputs(model: Any, method: str, data: Any, *, default: bool) -> Iterable[OutputSpec]:
    rows = len(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = [each for each in methods.call(model, method, data, NO_PARAMETERS) if each[0].startswith(method)]
    for name, array in results:
        if array.ndim == 0 or len(array) != rows:
            raise errors.InvalidOutput(f"{method} gave shape {list(array.shape)} for {rows} rows")
        tensors.encode(name, array, binary=True)
    return [
        OutputSpec(
            name, tensors.datatype_of(array), (-1, *((-1,) if method == "kneighbors" else array.shape[1:])), default
        )
        for name, array in results
    ]
