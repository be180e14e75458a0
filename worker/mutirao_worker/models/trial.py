"""A version is loaded and tried before it is added: what it takes and gives, and what saved it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mutirao import errors
from mutirao_worker.models import runtimes, step_loading, steps
from mutirao_worker.models.manifest import LabelFile, Step
from mutirao_worker.models.runtimes.predictor import Description


class Trial(msgspec.Struct, frozen=True):
    """What a trial has found.

    Attributes:
        steps: what the version is made of, each with the library that saved it.
        labels: names for what it predicts, with the output that they name.
        description: what it takes and gives.
    """

    steps: tuple[Step, ...]
    labels: LabelFile | None
    description: Description


def run(
    folder: Path,
    contents: Mapping[str, bytes],
    parts: Sequence[Step],
    labels: LabelFile | None,
    origins: Mapping[str, str],
    example: Any,
) -> Trial:
    """Load a version and predict with it, which runs what is in its files.

    Args:
        folder: where its files lie.
        contents: their bytes, by name.
        parts: what it is made of.
        labels: names for what it predicts; None for none.
        origins: where the files came from, for errors, by name.
        example: see `example_rows.read_example`; None for none.

    Raises:
        RepositoryError: it does not load or predict; what it takes cannot be known without an example.
        ModelUnavailable: as `runtimes.find`.
    """
    saved_with: list[str] = []
    predictor = steps.load(folder, contents, parts, labels, origins, saved_with)
    try:
        description = predictor.describe(example)
    except (Exception, SystemExit) as exc:
        first = origins.get(parts[0].file, str(folder))
        text = step_loading.describe_error(exc)
        reason = text if isinstance(exc, errors.MutiraoError) else f"{first} cannot be looked at: {text}"
        raise errors.RepositoryError(reason + _other_versions(parts, saved_with)) from exc
    if labels is not None:
        labels = msgspec.structs.replace(labels, output=description.labelled)
    noted = zip(parts, saved_with, strict=True)
    *before, last = (msgspec.structs.replace(part, saved_with=each) for part, each in noted)
    last = msgspec.structs.replace(last, tolerance=description.tolerance, **predictor.learned())
    return Trial((*before, last), labels, description)


def _other_versions(parts: Sequence[Step], saved_with: Sequence[str]) -> str:
    """Say that a step was saved with another version of its library than the one that is installed; "" where none was."""
    for part, saved in zip(parts, saved_with, strict=True):
        installed = runtimes.installed(part.runtime)
        if saved != installed:
            return f"; it was saved with {saved}, this is {installed}: install that version for its worker, or save it again"
    return ""
