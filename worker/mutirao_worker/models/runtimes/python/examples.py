"""Examples for models of own code: of files as people have them, of Python objects, or made up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mutirao import errors
from mutirao.wire import json_elements, messages, signature, tensors
from mutirao.wire.signature import InputSpec, Signature
from mutirao.wire.tensors import Array
from mutirao_worker.models.runtimes import example_rows
from mutirao_worker.models.runtimes.python.predict_plan import BINARY, JSON, Plan

_BYTES_MAX = 4 * 1024 * 1024  # of an example; the first row is taken whatever its size
_MADE_UP: Mapping[str, Any] = {"BOOL": True, "INT64": 1, "FP64": 1.5, "BYTES": "example"}


def read(source: Any, plan: Plan) -> tuple[tuple[InputSpec, ...], dict[str, Array]]:
    """Return what a model takes, and a few rows of it.

    Args:
        source: an array, a DataFrame, Python objects, or the path of a file (.csv, .json, .jsonl, .npy, .txt with a text a line; any
            file for bytes) or of a folder of such.
        plan: how predict is called.

    Raises:
        RepositoryError: it cannot be read, or is not what the model takes.
    """
    if plan.frame or any(value.kind == "array" for value in plan.inputs.values()):
        return _arrays(source, plan)
    names = list(plan.inputs)
    try:
        if isinstance(source, str | Path):
            rows = _file(Path(source), plan)
        else:
            rows = _rows(source, plan) if isinstance(source, dict | list) else source
        takes = Signature(inputs=plan.specs(), outputs=())
        arrays = signature.validate("", takes, signature.read(rows, takes))
    except (OSError, ValueError, RecursionError, errors.InvalidRequest) as exc:
        shown = str(source) if isinstance(source, str | Path) else f"({type(source).__name__})"
        text = str(exc).removeprefix("model '' ")
        raise errors.RepositoryError(
            f"the example {shown} is not what predict takes, {', '.join(names)}: {text}"
        ) from exc
    return plan.specs(), _few(arrays)


def made_up(plan: Plan) -> tuple[tuple[InputSpec, ...], dict[str, Array]] | None:
    """Return made-up rows; None where nobody can make them up, as for images and objects."""
    arrays: dict[str, Array] = {}
    specs = []
    for name, value in plan.inputs.items():
        if value.kind == "frame" or value.format:
            return None
        if value.kind == "array":
            datatype = value.datatype or "FP64"
            specs.append(InputSpec(name, datatype, (-1, -1), guessed=not value.datatype))
            arrays[name] = np.ones((2, 2), dtype=tensors.DTYPES[datatype])
        else:
            specs.append(InputSpec(name, value.datatype, (-1,), nullable=value.nullable))
            dtype = tensors.DTYPES[value.datatype]
            arrays[name] = np.array([_MADE_UP[value.datatype]] * 2, dtype=dtype)
    return tuple(specs), arrays


def without_rows(plan: Plan) -> tuple[InputSpec, ...]:
    """Return what a model takes where its annotations alone say it."""
    if len(plan.specs()) < len(plan.inputs):
        raise errors.RepositoryError("what predict takes cannot be known without an example: give --example FILE")
    return plan.specs()


def _file(path: Path, plan: Plan) -> Any:
    """Read a file for a model that takes lists or single values."""
    only = next(iter(plan.inputs.values())) if len(plan.inputs) == 1 else None
    if only is not None and only.format == BINARY:
        files = (
            sorted(file for file in path.iterdir() if file.is_file() and file.name[0] != ".")
            if path.is_dir()
            else [path]
        )
        return [file.read_bytes() for file in files[: example_rows.MAX_ROWS]]
    if path.suffix == ".txt" and only is not None:
        lines = [line for line in path.read_text().splitlines() if line.strip()]
        return lines if only.datatype == "BYTES" else [msgspec.json.decode(line) for line in lines]
    if path.suffix == ".jsonl":
        return _rows([msgspec.json.decode(line) for line in path.read_bytes().splitlines() if line.strip()], plan)
    if path.suffix == ".json":
        return _rows(msgspec.json.decode(path.read_bytes()), plan)
    takes = Signature(inputs=plan.specs(), outputs=(), frame=len(plan.inputs) > 1)
    rows = example_rows.read_example(path, takes).arrays
    return dict(zip(plan.inputs, rows.values(), strict=True)) if len(rows) == 1 else rows


def _rows(content: Any, plan: Plan) -> Any:
    names = list(plan.inputs)
    if isinstance(content, dict) and "inputs" in content and "inputs" not in names:
        arrays = {tensor.name: tensors.decode(tensor) for tensor in messages.read_request(content).inputs}
        return {name: _objects(array, plan, name) for name, array in arrays.items()}
    if isinstance(content, dict) and not (
        content.keys() == set(names) and all(isinstance(each, list) for each in content.values())
    ):
        content = [content]
    if isinstance(content, list) and len(names) > 1:
        return {name: [row[name] for row in content] for name in names}
    return content if isinstance(content, dict) else {names[0]: content}


def _objects(array: Array, plan: Plan, name: str) -> Any:
    return json_elements.decode(array) if name in plan.inputs and plan.inputs[name].format == JSON else array


def _arrays(source: Any, plan: Plan) -> tuple[tuple[InputSpec, ...], dict[str, Array]]:
    """Read an example for a model that takes arrays, or the columns of a DataFrame."""
    if not plan.frame and len(plan.inputs) > 1:
        if not isinstance(source, Mapping):
            source = msgspec.json.decode(Path(source).read_bytes()) if Path(str(source)).suffix == ".json" else None
        if not isinstance(source, Mapping) or source.keys() != set(plan.inputs):
            text = f"the example must be a dict, or a .json file, with the rows of each input: {', '.join(plan.inputs)}"
            raise errors.RepositoryError(text)
        pairs = [_input(name, plan, np.asarray(rows), is_text=True) for name, rows in source.items()]
        return tuple(spec for spec, _ in pairs), _few({spec.name: array for spec, array in pairs})
    (name,) = plan.inputs
    takes = Signature(inputs=(InputSpec(name, "FP64", (-1, -1)),), outputs=(), frame=plan.frame)
    example = example_rows.read_example(source, takes)
    if plan.frame:
        if not example.names:
            raise errors.RepositoryError("predict takes a DataFrame, but the example has no names of columns")
        specs = tuple(_column(column, array, guessed=example.guessed) for column, array in example.arrays.items())
        return specs, example.arrays
    spec, array = _input(name, plan, example.matrix(None), is_text=example.guessed)
    return (spec,), {spec.name: array}


def _input(name: str, plan: Plan, array: Array, *, is_text: bool) -> tuple[InputSpec, Array]:
    value = plan.inputs[name]
    if value.kind != "array":
        (spec,) = (each for each in plan.specs() if each.name == name)
        rows = json_elements.encode(name, array.tolist()) if value.format == JSON else array
        return spec, tensors.cast(name, rows, value.datatype)
    guessed = not value.datatype and is_text and array.dtype.kind in "biuf"
    datatype = value.datatype or ("FP64" if guessed else tensors.datatype_of(array))
    return (
        InputSpec(name, datatype, (-1, *array.shape[1:]), guessed=guessed),
        tensors.cast(name, array, datatype, bools=True),
    )


def _column(name: str, array: Array, *, guessed: bool) -> InputSpec:
    is_number = array.dtype.kind in "biuf"
    return InputSpec(name, tensors.datatype_of(array), (-1, *array.shape[1:]), guessed=guessed and is_number)


def _few(arrays: dict[str, Array]) -> dict[str, Array]:
    """Return the first rows, as far as they are small."""
    rows, size = 0, 0
    for row in zip(*arrays.values(), strict=True):
        size += sum(len(each) if isinstance(each, str | bytes) else 8 * np.size(each) for each in row)
        if rows == example_rows.MAX_ROWS or (rows and size > _BYTES_MAX):
            break
        rows += 1
    return {name: array[:rows] for name, array in arrays.items()}
