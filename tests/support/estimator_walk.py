"""A fitted estimator as a worker serves it, next to its own answers: added, and its rows predicted among a stranger's."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
import sklearn

from mutirao import errors
from mutirao.wire import signature
from mutirao.wire.signature import Signature
from mutirao_worker.inference import execution
from mutirao_worker.inference.execution import ResultLimits
from mutirao_worker.models.loaded_model import LoadedModel
from mutirao_worker.models.repository import Repository
from support.estimator_zoo import Entry
from support.pool_requests import outputs_of, packed

# The rows of requests that are answered together; between them are as many of strangers.
SIZES = (1, 3, 1, 2, 1)
# Those whose answers to the same rows differ from call to call, or are wrong for a row alone.
ONE_BY_ONE = "depends on the other rows: each request is predicted alone"
OTHERWISE = {
    **dict.fromkeys(
        ("SparsePCA", "MiniBatchSparsePCA"),
        "its own answer to one row alone has no rows: such a request is refused when it runs alone",
    ),
    "DummyClassifier": "by chance (strategy stratified): all",
}
EQUAL, ROUNDED, OTHER = "equal", "rounded", "other"


class Walk(NamedTuple):
    """What a walk has found.

    Attributes:
        name: of the estimator.
        signature: None where it was not added.
        refusal: why it was not added.
        one_by_one: its answer to a row depends on the other rows: each request is predicted alone.
        alone: of each output, how it differs from the answer to the request's rows alone: EQUAL, ROUNDED or OTHER.
        together: and from the answer to the rows of all requests of the batch.
    """

    name: str
    signature: Signature | None = None
    refusal: str = ""
    one_by_one: bool = False
    alone: Mapping[str, str] = {}
    together: Mapping[str, str] = {}


def walk(entry: Entry, folder: Path) -> Walk:
    """Add an estimator and compare each of its outputs; warnings of the estimators are ignored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = folder / "model.joblib"
        joblib.dump(entry.estimator, file)
        repository = Repository(folder / "models")
        try:
            info = repository.add("model", file, example=entry.rows if entry.needs_example else None)
        except errors.RepositoryError as exc:
            return Walk(entry.name, refusal=str(exc).replace(str(folder) + "/", ""))
        assert info.signature is not None
        try:
            return _compare(entry, info.signature, repository.load("model"))
        except errors.InvalidRequest as exc:
            return Walk(entry.name, refusal=f"added, but it refuses its own rows: {exc}")


def _compare(entry: Entry, expected: Signature, loaded: LoadedModel) -> Walk:
    starts = np.cumsum([0, *SIZES])
    own = [_rows(entry.rows, np.arange(start, start + size)) for start, size in zip(starts, SIZES, strict=False)]
    names = [output.name for output in expected.outputs]
    requests = [packed("model", _sent(expected, rows), outputs=names) for rows in own]
    ran = execution.run(lambda _: loaded, requests, ResultLimits(65536))
    answers = [outputs_of(answer) for answer in ran.results]
    alone = [dict(in_process(entry.estimator, names, rows)) for rows in own]
    # Requests of one size are stacked first.
    order = sorted(range(len(SIZES)), key=lambda at: SIZES.index(SIZES[at]))
    positions = np.concatenate([np.arange(starts[at], starts[at + 1]) for at in order])
    whole = dict(in_process(entry.estimator, names, _rows(entry.rows, positions)))
    together = {name: np.concatenate([answers[at][name] for at in order]) for name in names}
    if loaded.manifest.max_batch_rows == 1:  # each request has a call of its own
        together = whole = {}
    return Walk(
        entry.name,
        expected,
        one_by_one=not together,
        alone={name: max((_difference(a[name], b[name]) for a, b in zip(answers, alone, strict=True)), key=_RANK) for name in names},
        together={name: _difference(array, whole[name]) for name, array in together.items()},
    )  # fmt: skip


_RANK = (EQUAL, ROUNDED, OTHER).index


def in_process(estimator: Any, names: list[str], rows: Any) -> Iterator[tuple[str, Any]]:
    """What the estimator itself says, by the names of outputs."""
    for method in dict.fromkeys(name.partition(".")[0] for name in names):
        if method == "kneighbors":
            steps = getattr(estimator, "steps", None)
            found = steps[-1][1].kneighbors(estimator[:-1].transform(rows)) if steps else estimator.kneighbors(rows)
            yield from zip(("kneighbors.distances", "kneighbors.indices"), found, strict=True)
            continue
        result = getattr(estimator, method)(rows)
        if isinstance(result, list) and all(getattr(each, "ndim", 0) for each in result):
            yield from ((f"{method}.{at}", _dense(each)) for at, each in enumerate(result))
        else:
            yield method, _dense(result)
    if "predict.std" in names:
        yield "predict.std", estimator.predict(rows, return_std=True)[1]


def _dense(result: Any) -> np.ndarray:
    return np.asarray(result.toarray() if hasattr(result, "toarray") else result)


def _rows(rows: Any, positions: np.ndarray) -> Any:
    if isinstance(rows, list):
        return [rows[at] for at in positions]
    return rows.iloc[positions] if hasattr(rows, "iloc") else rows[positions]


def _sent(expected: Signature, rows: Any) -> Any:
    """The rows as our own client sends them."""
    return signature.validate("model", expected, signature.read(rows, expected))


def _difference(got: np.ndarray, own: np.ndarray) -> str:
    if got.shape != own.shape or (got.dtype.kind in "OSUT") != (own.dtype.kind in "OSUT"):
        return OTHER
    if got.dtype.kind in "OSUT":
        return EQUAL if got.tolist() == own.tolist() else OTHER
    if got.dtype == own.dtype and np.array_equal(got, own, equal_nan=got.dtype.kind == "f"):
        return EQUAL
    close = got.dtype == own.dtype and np.allclose(got, own, rtol=1e-6, atol=1e-7, equal_nan=True)
    return ROUNDED if close else OTHER


def page(walks: Mapping[str, list[Walk]]) -> str:
    """The page of what is served: docs/estimators.md."""
    parts = [_HEAD.format(version=sklearn.__version__)]
    for title, of_title in walks.items():
        served = [each for each in of_title if each.signature is not None]
        parts.append(f"## {title}\n\n{len(served)} of {len(of_title)} are served.\n")
        parts.append("| estimator | outputs | apart from rounding |\n|---|---|---|\n" + "".join(map(_line, served)))
        if refused := [each for each in of_title if each.signature is None]:
            parts.append("Not served, with what `mutirao models add` says:\n")
            parts.append("".join(f"- **{each.name}**: {each.refusal}\n" for each in refused))
    return "\n".join(parts)


_HEAD = """# Which estimators are served

Made by a test (`make test-zoo`) with scikit-learn {version}: each estimator is fitted, saved, added to a repository, and loaded as a
worker does. Five requests of one to three rows are answered in one batch, and each output is compared, bit by bit, with what the
estimator itself says of the same rows in the test's own process.

They are equal to the answer to the rows of all five, given to the estimator in one call. The answer to a request's rows alone may differ
from that by rounding, since libraries of linear algebra add in another order for another number of rows: it does so without a queue
too. Where it differs by more, the last column says why.
"""


def _line(walk: Walk) -> str:
    assert walk.signature is not None
    outputs = ", ".join(output.name for output in walk.signature.outputs)
    note = ONE_BY_ONE if walk.one_by_one else OTHERWISE.get(walk.name, "")
    return f"| {walk.name} | {outputs} | {note} |\n"
