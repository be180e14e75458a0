"""What is added as a version: the files that a person names, under the names that they are stored with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from mutirao import errors
from mutirao_worker.models import atomic_files, code_folder, file_format, mlflow_folder
from mutirao_worker.models.manifest import LabelFile, Step


class ModelSource(msgspec.Struct, frozen=True):
    """The content of a version that is to be added.

    Attributes:
        contents: the bytes of its files, by the names under which they are stored.
        steps: what it is made of.
        labels: names for what it predicts; None for none.
        origins: where its files came from, for errors, by the same names.
        example: rows that came with it, as `example_rows.read_example` takes them; None for none.
    """

    contents: dict[str, bytes]
    steps: tuple[Step, ...]
    labels: LabelFile | None
    origins: dict[str, str]
    example: Any = None

    def free_name(self, name: str) -> str:
        """Return a name that no file of it has: this one, or one like it."""
        while name in self.contents:
            name = f"_{name}"
        return name


def read(
    paths: Sequence[Path],
    *,
    runtime: str | None = None,
    picks: Sequence[str] = (),
    labels: Path | None = None,
    trust: Sequence[str] = (),
) -> ModelSource:
    """Read the files of a version.

    Args:
        paths: a file for each step, in their order; or one folder, of MLflow or with model.py.
        runtime: the kind of model; by its content where it is None.
        picks: the keys or places of the steps within what the only file holds.
        labels: a file with the names for what the last step predicts; or their key or place within what the only file holds.
        trust: the types that a skops file may hold.

    Raises:
        RepositoryError: a file cannot be read, or steps are picked from several files.
    """
    if picks and len(paths) != 1:
        raise errors.RepositoryError(
            f"--steps picks from one file, got {len(paths)}: give the files in the order of the steps instead"
        )
    if len(paths) == 1 and (folder := _mlflow_folder(paths[0])):
        return _of_mlflow(folder, trust)
    if folder := next((path for path in paths if path.is_dir()), None):
        if len(paths) > 1 or picks or labels is not None or runtime not in (None, "python"):
            text = "holds a model of own code, which stands alone: let its model.py call the other files and give the names"
            raise errors.RepositoryError(f"{folder} {text}")
        return _of_code(folder)
    contents: dict[str, bytes] = {}
    origins: dict[str, str] = {}
    for path in paths:
        name = _stored_name(path, contents, alone=len(paths) == 1)
        contents[name], origins[name] = atomic_files.read_file(path), str(path)
    names = list(contents) * max(1, len(picks))
    for path in paths:
        _add_weights(path, contents)
    steps = tuple(
        Step(runtime=runtime or _runtime_of(contents[name]), file=name, pick=pick, trust=tuple(trust))
        for name, pick in zip(names, picks or [""] * len(names), strict=True)
    )
    label_file = None
    if labels is not None and len(paths) == 1 and picks and not labels.exists():
        label_file = LabelFile(file=names[0], pick=str(labels))
    elif labels is not None:
        name = _stored_name(labels, contents, alone=False)
        contents[name], origins[name] = atomic_files.read_file(labels), str(labels)
        label_file = LabelFile(file=name)
    return ModelSource(contents, steps, label_file, origins)


def _mlflow_folder(path: Path) -> Path | None:
    """Return the folder that MLflow saved a model in, fetched where a URL names it; None for another path."""
    if str(path).startswith(mlflow_folder.URLS):
        return mlflow_folder.download(str(path))
    return path if mlflow_folder.is_one(path) else None


def _of_mlflow(folder: Path, trust: Sequence[str]) -> ModelSource:
    found = mlflow_folder.read(folder)
    contents = {name: atomic_files.read_file(folder / name) for name in found.names} | found.made
    origins = {name: str(folder / name) for name in found.names} | {"": str(folder)}
    runtime = _runtime_of(contents[found.file]) if found.file else "python"
    step = Step(runtime=runtime, file=found.file, trust=tuple(trust))
    return ModelSource(contents, (step,), None, origins, found.example)


def _add_weights(path: Path, contents: dict[str, bytes]) -> None:
    """Add the file of weights that lies next to an ONNX model, under the name by which the model knows it."""
    for suffix in (".data", "_data"):
        beside = path.with_name(path.name + suffix)
        if path.suffix == ".onnx" and beside.is_file():
            contents[beside.name] = atomic_files.read_file(beside)


def _runtime_of(raw: bytes) -> str:
    return file_format.recognise(raw).runtime or "sklearn"  # which says what is wrong with a file that none serves


def _of_code(folder: Path) -> ModelSource:
    contents = code_folder.read(folder)
    origins = {"": str(folder), **{name: str(folder / name) for name in contents}}
    return ModelSource(contents, (Step(runtime="python"),), None, origins)


def _stored_name(path: Path, taken: dict[str, bytes], *, alone: bool) -> str:
    """Return a plain name that is still free: `model` with the file's ending where there is one file."""
    suffix = re.sub(r"[^A-Za-z0-9.]", "", path.suffix)
    stem = "model" if alone else re.sub(r"[^A-Za-z0-9_-]+", "-", path.stem).strip("-") or "model"
    name, count = f"{stem}{suffix}", 1
    while name in taken:
        count += 1
        name = f"{stem}-{count}{suffix}"
    return name
