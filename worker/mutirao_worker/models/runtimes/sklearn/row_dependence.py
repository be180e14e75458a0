"""Whether an estimator's answer to a row depends on the other rows of the call: such a model's requests are predicted one by one.

It is so where a method works until all rows have converged, or takes a mean of them. Rounding does not count, and neither does chance.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np

from mutirao.wire.tensors import Array

Predict = Callable[[Mapping[str, Array]], Mapping[str, Array]]


def found(predict: Predict, rows: Mapping[str, Array]) -> bool:
    """Compare the answers to rows with the answers to each of them; False where the model does not predict them so."""
    count = len(next(iter(rows.values())))
    random = np.random.default_rng(0)
    # Rows that were made up are all alike: each number is changed by a share of its own.
    varied = {
        name: (array * random.uniform(0.5, 1.5, array.shape)).astype(array.dtype) if array.dtype.kind == "f" else array
        for name, array in rows.items()
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (together, each), (again, each_again) = (_both(predict, varied, count) for _ in range(2))
            return any(
                array.shape == each[name].shape
                and _alike(array, again[name])
                and _alike(each[name], each_again[name])
                and not _alike(array, each[name])
                for name, array in together.items()
            )
    except (Exception, SystemExit):  # noqa: BLE001 - the model's own code runs here
        return False


def _both(predict: Predict, rows: Mapping[str, Array], count: int) -> tuple[Mapping[str, Array], dict[str, Array]]:
    """Return the answers to rows, and the answers to each of them, joined."""
    together = predict(rows)
    each = [predict({name: array[at : at + 1] for name, array in rows.items()}) for at in range(count)]
    return together, {name: np.concatenate([one[name] for one in each]) for name in together}


def _alike(one: Array, other: Array) -> bool:
    if one.dtype.kind not in "fc":
        return bool(one.tolist() == other.tolist())
    tolerance = 1e-6 if one.dtype.itemsize > 4 else 1e-4
    return bool(np.allclose(one, other, rtol=tolerance, atol=tolerance / 10, equal_nan=True))
