"""A folder as MLflow saves models: its MLmodel file says what is in it. MLflow itself is not needed but for code that only it can run."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mutirao import errors
from mutirao.wire.tensors import Array
from mutirao_worker.models import atomic_files

FILE = "MLmodel"
URLS = ("models:/", "runs:/", "mlflow-artifacts:/")
_KEPT = ("requirements.txt",)
# The flavours that are served without MLflow, in the order of preference, and which of their keys names the file.
_FLAVOURS = {"sklearn": "pickled_model", "xgboost": "data", "lightgbm": "data", "onnx": "data", "pytorch": "model_data"}
# MLflow's types of columns: the dtype, and a value for rows that are made up.
_COLUMNS: dict[str, tuple[Any, Any]] = {
    "boolean": (np.bool_, True),
    "integer": (np.int32, 1),
    "long": (np.int64, 1),
    "float": (np.float32, 1.0),
    "double": (np.float64, 1.0),
    "string": (object, "a"),
}
_ROWS = 2
# The code of a model that only MLflow can run; in the folder it is a model of own code.
_OWN_CODE = """\
import mlflow.pyfunc
import numpy as np
import pandas as pd


class Model:
    def load(self, folder):
        self.model = mlflow.pyfunc.load_model(str(folder))

    def predict(self, data: {kind}):
        return self.model.predict(data)
"""
MODEL_CODE = "model.py"


class MlflowFolder(msgspec.Struct, frozen=True):
    """What such a folder holds.

    Attributes:
        file: the model's file, by whose content its runtime is known; "" for the whole folder, a model of own code.
        names: the files to keep, relative to the folder.
        made: files that are added to them, by name.
        example: rows by column, or one unnamed array; None for none.
    """

    file: str
    names: tuple[str, ...]
    made: dict[str, bytes]
    example: dict[str, Array] | None


def is_one(path: Path) -> bool:
    """Whether a path is such a folder."""
    return (path / FILE).is_file()


def download(url: str) -> Path:
    """Fetch a model from the registry that MLflow is set up for.

    Args:
        url: models:/name@alias, models:/name/3, runs:/...

    Raises:
        RepositoryError: MLflow is not installed, or does not find it.
    """
    if importlib.util.find_spec("mlflow") is None:
        raise errors.RepositoryError(
            f"{url} is in a registry of MLflow, which is not installed here: pip install mlflow, or download the folder and add that"
        )
    from mlflow import artifacts  # noqa: PLC0415 - only here is it needed

    try:
        return Path(artifacts.download_artifacts(artifact_uri=url))
    except Exception as exc:
        raise errors.RepositoryError(f"{url} cannot be downloaded: {exc}") from exc


def read(folder: Path) -> MlflowFolder:
    """Read a folder's MLmodel, its signature and its input example.

    Raises:
        RepositoryError: MLmodel cannot be read, or no runtime serves what it describes; says what to do.
    """
    document = _document(folder)
    flavours = document.get("flavors")
    if not isinstance(flavours, Mapping) or not flavours:
        raise errors.RepositoryError(f"{folder / FILE} names no flavour of a model: save it again with MLflow")
    for flavour, key in _FLAVOURS.items():
        if flavour in flavours:
            file = _model_file(folder, flavour, flavours[flavour], key)
            names = [file, *(name for name in _KEPT if (folder / name).is_file())]
            return MlflowFolder(file, tuple(names), {}, _example(folder, document))
    if "python_function" not in flavours:
        raise errors.RepositoryError(
            f"{folder} holds the flavours {', '.join(flavours)}: none is served. Write a folder with a model.py: mutirao models init NAME"
        )
    return _of_own_code(folder, _example(folder, document))


def _of_own_code(folder: Path, example: dict[str, Array] | None) -> MlflowFolder:
    """Return what only MLflow can run as a model of own code, which calls it."""
    paths = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    if MODEL_CODE in names:
        raise errors.RepositoryError(f"{folder / MODEL_CODE} takes the name of the code that calls MLflow: rename it")
    kind = "np.ndarray" if example is not None and "" in example else "pd.DataFrame"
    code = _OWN_CODE.format(kind=kind).encode()
    return MlflowFolder("", tuple(names), {MODEL_CODE: code}, example)


def _document(folder: Path) -> Mapping[str, Any]:
    try:
        import yaml  # noqa: PLC0415 - an extra
    except ImportError:
        raise errors.RepositoryError(
            f'{folder} is a model that MLflow saved: to read it, run pip install "mutirao[mlflow]"'
        ) from None
    raw = atomic_files.read_file(folder / FILE)
    try:
        document = yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError, RecursionError) as exc:  # a date that is none is a ValueError
        raise errors.RepositoryError(f"{folder / FILE} is not YAML: {exc}") from exc
    if not isinstance(document, Mapping):
        raise errors.RepositoryError(f"{folder / FILE} is not a table of keys: save the model again with MLflow")
    return document


def _model_file(folder: Path, flavour: str, settings: Any, key: str) -> str:
    """Return the file of a flavour, relative to the folder."""
    name = settings.get(key) if isinstance(settings, Mapping) else None
    if not isinstance(name, str) or not name:
        raise errors.RepositoryError(
            f"{folder / FILE}: the flavour {flavour} has no {key}: save the model again with MLflow"
        )
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise errors.RepositoryError(
            f"{folder / FILE}: the {key} of the flavour {flavour} is {name!r}, which leads out of the folder"
        )
    if path.is_dir():  # PyTorch's
        files = [each for each in path.iterdir() if each.suffix in {".pt2", ".pth", ".pt"}]
        if len(files) != 1:
            raise errors.RepositoryError(f"{path} holds {len(files)} models: one is needed")
        path = files[0]
    return path.relative_to(folder.resolve()).as_posix()


def _example(folder: Path, document: Mapping[str, Any]) -> dict[str, Array] | None:
    """Return the rows of the input example, with the dtypes of the signature; made up by the signature where there are none.

    Raises:
        RepositoryError: the signature, or the example, is not as MLflow writes it.
    """
    try:
        return _rows(folder, document)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError, MemoryError) as exc:
        text = "its signature and input example do not fit together: save the model again with MLflow"
        raise errors.RepositoryError(f"{folder / FILE}: {text} ({type(exc).__name__}: {exc})") from exc


def _rows(folder: Path, document: Mapping[str, Any]) -> dict[str, Array] | None:
    signature = document.get("signature") or {}
    columns = json.loads(signature["inputs"]) if isinstance(signature, Mapping) and signature.get("inputs") else []
    saved = document.get("saved_input_example_info") or {}
    name = saved.get("artifact_path") if isinstance(saved, Mapping) else None
    path = folder / name if isinstance(name, str) else None
    if path is not None and not path.resolve().is_relative_to(folder.resolve()):
        raise errors.RepositoryError(f"{folder / FILE}: artifact_path is {name!r}, which leads out of the folder")
    rows = _saved_rows(path) if path is not None and path.is_file() else None
    if columns and columns[0].get("type") == "tensor":
        return _of_tensors(columns, rows)
    if columns and all("name" in column for column in columns):
        return _of_columns(columns, rows)
    return None


def _saved_rows(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _of_columns(columns: list[Any], rows: Any) -> dict[str, Array] | None:
    kinds = {column["name"]: _COLUMNS.get(str(column.get("type"))) for column in columns}
    if None in kinds.values():
        return None
    saved: dict[str, list[Any]] = {}
    if isinstance(rows, Mapping) and {"columns", "data"} <= rows.keys():
        saved = {name: [row[at] for row in rows["data"]] for at, name in enumerate(rows["columns"])}
    found = {}
    for name, kind in kinds.items():
        assert kind is not None
        dtype, value = kind
        found[name] = np.array(saved.get(name) or [value] * _ROWS, dtype=dtype)
    return found


def _of_tensors(columns: list[Any], rows: Any) -> dict[str, Array] | None:
    found = {}
    for column in columns:
        spec, name = column["tensor-spec"], column.get("name", "")
        shape = [_ROWS, *(size if size > 0 else 1 for size in spec["shape"][1:])]
        values = rows.get(name or "inputs", rows.get("inputs")) if isinstance(rows, Mapping) else rows
        try:
            array = np.ones(shape) if values is None else np.array(values)
            found[name] = array.astype(spec["dtype"])
        except (TypeError, ValueError):
            return None
    return found
