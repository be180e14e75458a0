"""The steps of a version as one model: each transforms, the last predicts, and what it predicts gets its names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

from mutirao import errors
from mutirao.wire.signature import MATRIX, OutputSpec
from mutirao.wire.tensors import Array
from mutirao_worker.models import runtimes, step_loading
from mutirao_worker.models.labels import Labelled, Labels
from mutirao_worker.models.manifest import LabelFile, Step
from mutirao_worker.models.runtimes.predictor import NO_PARAMETERS, Description, ModelFiles, Predictor

if TYPE_CHECKING:
    from mutirao_worker.models.runtimes.sklearn.predictor import SklearnPredictor


def load(
    folder: Path,
    contents: Mapping[str, bytes],
    steps: Sequence[Step],
    labels: LabelFile | None = None,
    origins: Mapping[str, str] = MappingProxyType({}),
    saved_with: list[str] | None = None,
) -> Predictor:
    """Load the steps of a version as one model.

    Args:
        folder: where the files lie.
        contents: their bytes, whose digests have been checked, by name.
        steps: what the version is made of.
        labels: names for what the last step predicts; None for none.
        origins: where files came from, for errors; see `ModelFiles`.
        saved_with: gets the library that saved each step, with its version.

    Raises:
        RepositoryError: a file has another format or does not load, or a step cannot be where it is; says what to do.
        ModelUnavailable: as `runtimes.find`.
    """
    unpickled: dict[str, Any] = {}
    files = [
        ModelFiles(folder, contents, step.file, step.pick, step.trust, unpickled=unpickled, origins=origins)
        for step in steps
    ]
    predictors = [step_loading.load(step.runtime, each) for step, each in zip(steps, files, strict=True)]
    if saved_with is not None:
        loaded = zip(predictors, steps, strict=True)
        saved_with += [each.saved_with or runtimes.installed(step.runtime) for each, step in loaded]
    predictor = _joined(predictors, [each.path for each in files])
    if labels is None:
        return predictor
    return Labelled(predictor, Labels.read(contents[labels.file], labels.file, labels.pick), labels.output)


def is_loaded_before_fork(steps: Sequence[Step]) -> bool:
    """Whether a worker's parent may load a version with these steps; see `Predictor.before_fork`.

    Raises:
        ModelUnavailable: as `runtimes.find`.
    """
    return all(runtimes.find(step.runtime).before_fork and step.before_fork for step in steps)


def _joined(predictors: Sequence[Predictor], paths: Sequence[str]) -> Predictor:
    """Join loaded steps: estimators become one pipeline, which a model of another runtime may follow.

    Raises:
        RepositoryError: a step that is not the last does not transform.
    """
    if len(predictors) == 1:
        return predictors[0]
    from mutirao_worker.models.runtimes.sklearn.predictor import SklearnPredictor  # noqa: PLC0415 - it takes a second

    *before, last = predictors
    estimators = [each for each in before if isinstance(each, SklearnPredictor)]
    if len(estimators) < len(before):
        wrong = next(path for each, path in zip(before, paths, strict=False) if not isinstance(each, SklearnPredictor))
        raise errors.RepositoryError(f"{wrong} does not transform: only the last step predicts, put it last")
    if isinstance(last, SklearnPredictor):
        return SklearnPredictor.joined([*estimators, last], paths)
    return Chain(SklearnPredictor.joined(estimators, paths[:-1]), last)


class Chain(Predictor):
    """Estimators that transform, and a model of another runtime that predicts what comes of them, as one matrix."""

    def __init__(self, first: SklearnPredictor, last: Predictor) -> None:
        self._first = first
        self._last = last

    def describe(self, example: Any) -> Description:
        """Return what the first takes, and what the last gives for it."""
        taken = self._first.describe(example)
        matrix = self._first.transform(taken.rows(), frame=taken.frame)
        given = self._last.describe(matrix)
        return msgspec.structs.replace(
            taken,
            outputs=given.outputs,
            parameters=given.parameters,
            by_row=taken.by_row and given.by_row,
            tolerance=given.tolerance,
        )

    def predict(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[OutputSpec, ...],
        *,
        frame: bool,
        parameters: Mapping[str, Any] = NO_PARAMETERS,
    ) -> dict[str, Array]:
        """Transform the inputs, and predict what comes of them."""
        matrix = self._first.transform(inputs, frame=frame)
        return self._last.predict({MATRIX: matrix}, outputs, frame=False, parameters=parameters)

    def check_outputs(self, outputs: Mapping[str, Array]) -> None:
        """Check the outputs as the last one does."""
        self._last.check_outputs(outputs)

    def set_threads(self, threads: int) -> None:
        """Cap the threads of both."""
        self._first.set_threads(threads)
        self._last.set_threads(threads)
