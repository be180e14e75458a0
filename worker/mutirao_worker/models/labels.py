"""Names for what a model predicts as numbers: the labels that were encoded before it was fitted."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import msgspec
import numpy as np

from mutirao import errors
from mutirao.wire import tensors
from mutirao.wire.signature import OutputSpec
from mutirao.wire.tensors import Array
from mutirao_worker.models.runtimes.predictor import NO_PARAMETERS, Description, Predictor, picked

PREDICT = "predict"
LABEL = "label"
_SHOWN = 5


class Labels:
    """The names of predicted numbers.

    Args:
        content: a fitted encoder of labels, the names in their order, or the names by their numbers (or the numbers by their names).

    Raises:
        RepositoryError: it is none of these.
    """

    def __init__(self, content: Any) -> None:
        self._encoder: Any = None
        self._names: dict[Any, Any] = {}
        if hasattr(content, "inverse_transform") and hasattr(content, "classes_"):
            self._encoder = content
        elif isinstance(content, Mapping) and content:
            self._names = _by_number(content)
        elif isinstance(content, list | tuple | np.ndarray) and len(content):
            self._names = dict(enumerate(np.asarray(content, dtype=object).tolist()))
        else:
            raise errors.RepositoryError(
                f"it holds a {type(content).__name__}: labels are a fitted encoder (LabelEncoder), a list of names in their order, "
                "or a dict of names by their numbers"
            )

    @classmethod
    def read(cls, raw: bytes, file: str, pick: str = "") -> Labels:
        """Read labels: a pickle, JSON (.json), or a text file with one name a line (.txt).

        Args:
            raw: the file's bytes.
            file: its name.
            pick: their key or place within what it holds; "" for all of it.

        Raises:
            RepositoryError: the file does not hold labels.
        """
        try:
            return cls(picked(_content(raw, PurePath(file).suffix), pick))
        except errors.RepositoryError as exc:
            raise errors.RepositoryError(f"{file} cannot be used for labels: {exc}") from exc
        except Exception as exc:
            raise errors.RepositoryError(f"{file} cannot be read for labels: {type(exc).__name__}: {exc}") from exc

    def of(self, predicted: Array) -> Array:
        """Return the names of predicted numbers.

        Raises:
            InvalidOutput: a number has no name.
        """
        if self._encoder is not None:
            try:
                return np.asarray(self._encoder.inverse_transform(predicted))
            except ValueError as exc:
                raise errors.InvalidOutput(f"predicted what its labels do not name: {exc}") from exc
        numbers = predicted.ravel().tolist()
        if unknown := [number for number in numbers if number not in self._names]:
            shown = ", ".join(map(repr, list(self._names)[:_SHOWN])) + (", ..." if len(self._names) > _SHOWN else "")
            raise errors.InvalidOutput(f"predicted {unknown[0]!r}, which its labels do not name: they name {shown}")
        names = np.empty(len(numbers), dtype=object)
        names[:] = [self._names[number] for number in numbers]
        return _typed(names).reshape(predicted.shape)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(getattr(self._encoder, "classes_", ())) if self._encoder is not None else len(self._names)


class Labelled(Predictor):
    """A model whose predicted numbers are given their names.

    The names take the place of the output `predict`. Where the numbers are scores, a column for each label, the names of the largest
    are an output `label` besides.

    Args:
        predictor: the model.
        labels: the names.
        output: which output they name; "" until `describe` has found it.
    """

    def __init__(self, predictor: Predictor, labels: Labels, output: str = "") -> None:
        self._predictor = predictor
        self._labels = labels
        self._output = output
        self.saved_with = predictor.saved_with

    def describe(self, example: Any) -> Description:
        """Return what the model takes, and what it gives with the names.

        Raises:
            RepositoryError: no output can be given names; or as the model itself.
        """
        described = self._predictor.describe(example)
        self._output = self._found(described.outputs)
        (source,) = (output for output in described.outputs if output.name == self._output)
        try:
            named = self._named(
                self._predictor.predict(described.rows(), (source,), frame=described.frame)[source.name]
            )
        except errors.InvalidOutput as exc:
            raise errors.RepositoryError(f"the model {exc}") from exc
        spec = OutputSpec(self._name, tensors.datatype_of(named), (-1, *named.shape[1:]), default=True)
        others = [output for output in described.outputs if output.name != spec.name]
        return msgspec.structs.replace(described, outputs=(spec, *others), labelled=self._output)

    def predict(
        self,
        inputs: Mapping[str, Array],
        outputs: tuple[OutputSpec, ...],
        *,
        frame: bool,
        parameters: Mapping[str, Any] = NO_PARAMETERS,
    ) -> dict[str, Array]:
        """Predict, and give the names."""
        names = dict.fromkeys(self._output if output.name == self._name else output.name for output in outputs)
        specs = {output.name: output for output in outputs}
        sources = tuple(specs.get(name) or OutputSpec(name, "", (-1,)) for name in names)
        results = self._predictor.predict(inputs, sources, frame=frame, parameters=parameters)
        if self._name in specs:
            results[self._name] = self._named(results[self._output])
        return {output.name: results[output.name] for output in outputs}

    def set_threads(self, threads: int) -> None:
        """Cap the model's threads."""
        self._predictor.set_threads(threads)

    @property
    def _name(self) -> str:
        return PREDICT if self._output == PREDICT else LABEL

    def _found(self, outputs: tuple[OutputSpec, ...]) -> str:
        """Find the output that the labels name: `predict`, or the only default one that has a column for each label."""
        if any(output.name == PREDICT and output.datatype != "BYTES" for output in outputs):
            return PREDICT
        defaults = [output for output in outputs if output.default]
        scores = [
            output.name for output in defaults
            if output.datatype.startswith("FP") and len(output.shape) == 2 and output.shape[1] in {-1, self._labels.count}
        ]  # fmt: skip
        numbers = [output.name for output in defaults if "INT" in output.datatype and len(output.shape) == 1]
        found = numbers if len(numbers) == 1 else scores
        if len(found) != 1:
            raise errors.RepositoryError(
                f"the {self._labels.count} labels fit none of its outputs, {', '.join(map(str, outputs))}: they name whole numbers, or scores "
                "with a column for each label"
            )
        return found[0]

    def _named(self, numbers: Array) -> Array:
        scores = numbers.ndim == 2 and numbers.dtype.kind == "f" and self._output != PREDICT
        return self._labels.of(np.argmax(numbers, axis=1) if scores else numbers)


def _content(raw: bytes, suffix: str) -> Any:
    if suffix == ".json":
        return msgspec.json.decode(raw)
    if suffix == ".txt":
        return raw.decode().splitlines()
    import joblib  # noqa: PLC0415 - it takes a tenth of a second

    return joblib.load(io.BytesIO(raw))


def _by_number(content: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return names by their numbers; the other way round, and with numbers that JSON made texts, it is turned."""
    if all(isinstance(key, str) for key in content):
        with contextlib.suppress(ValueError, TypeError):
            return {int(key): value for key, value in content.items()}
        return {value: key for key, value in content.items()}
    return dict(content)


def _typed(names: Array) -> Array:
    """Return names that are no text as numbers or bools."""
    return names if any(isinstance(name, str) for name in names) else np.array(names.tolist())
