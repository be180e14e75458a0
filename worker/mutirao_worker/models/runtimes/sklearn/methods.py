"""The methods of an estimator that answer for rows, and what each gives as outputs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mutirao import errors
from mutirao.wire.signature import ParameterSpec
from mutirao.wire.tensors import Array

METHODS = (
    "predict",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "score_samples",
    "transform",
    "apply",
    "mahalanobis",
    "kneighbors",
    "inverse_transform",
)
# The deviation of each prediction, of predict(X, return_std=True).
DEVIATION = "predict.std"
NEIGHBOURS = "n_neighbors"


def of(model: Any) -> list[str]:
    """Return the names of the methods that a model has; DEVIATION counts as one.

    Raises:
        RepositoryError: it has none.
    """
    last = _last_step(model)
    methods = [method for method in METHODS if hasattr(last if method == "kneighbors" else model, method)]
    if not methods:
        raise errors.RepositoryError(
            f"the {type(model).__name__} has no method that answers for new rows ({', '.join(METHODS[:4])}, ...): it tells of the "
            "rows that it was fitted on alone; fit an estimator that predicts what it found, and save that"
        )
    return [*methods, DEVIATION] if "return_std" in _parameters(getattr(last, "predict", None)) else methods


def parameters(model: Any, names: Sequence[str]) -> tuple[ParameterSpec, ...]:
    """Return what a request may give beside rows to some of the methods: the number of neighbours."""
    last = _last_step(model)
    if "kneighbors" not in names or NEIGHBOURS not in _parameters(last.kneighbors):
        return ()
    return (ParameterSpec(NEIGHBOURS, "INT64", int(last.n_neighbors)),)


def needed(outputs: Sequence[str]) -> list[str]:
    """Return the methods that give these outputs, each once; the deviation comes with the prediction."""
    if DEVIATION in outputs:
        outputs = [DEVIATION, *(name for name in outputs if name != "predict")]
    return list(dict.fromkeys(name if name == DEVIATION else name.partition(".")[0] for name in outputs))


def call(model: Any, method: str, data: Any, given: Mapping[str, Any]) -> Iterator[tuple[str, Array]]:
    """Call a method; return its outputs by name: one for each of several targets, or of several results.

    Args:
        model: the model.
        method: see `of`.
        data: rows as it takes them.
        given: the parameters of the request.
    """
    if method == "kneighbors":
        neighbours = {NEIGHBOURS: given[NEIGHBOURS]} if NEIGHBOURS in given else {}
        last = _last_step(model)
        distances, indices = last.kneighbors(data if last is model else model[:-1].transform(data), **neighbours)
        yield from (("kneighbors.distances", distances), ("kneighbors.indices", indices))
        return
    if method == DEVIATION:
        yield from zip(("predict", DEVIATION), model.predict(data, return_std=True), strict=True)
        return
    result = getattr(model, method)(data)
    if isinstance(result, list) and result and all(getattr(each, "ndim", 0) for each in result):
        yield from ((f"{method}.{at}", dense(f"{method}.{at}", each)) for at, each in enumerate(result))
    else:
        yield method, dense(method, result)


def dense(name: str, result: Any) -> Array:
    """Return what a method returned as an array.

    Raises:
        InvalidOutput: it is not an array, or has masked values.
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


def _last_step(model: Any) -> Any:
    return model.steps[-1][1] if hasattr(model, "steps") else model


def _parameters(method: Any) -> Sequence[str]:
    try:
        return list(inspect.signature(method).parameters)
    except (TypeError, ValueError):  # it is no function, or does not show
        return ()
