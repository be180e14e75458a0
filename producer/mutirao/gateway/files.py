"""Tables as files: CSV, npy, and a form that holds one of them."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import numpy as np
from multipart import MultipartError, MultipartParser, parse_options_header

from mutirao import errors
from mutirao.signature import Signature, TensorSpec
from mutirao.tensors import Array

CSV = ("text/csv", "application/csv")
NPY = ("application/x-npy", "application/npy", "application/x-numpy")
JSON = ("application/json", "text/json")
_SUFFIXES = {".csv": CSV[0], ".npy": NPY[0], ".json": JSON[0]}
_FIELD_MAX = 1024 * 1024


def read(body: bytes, media: str, takes: Signature) -> Any:
    """Read a table by its media type; None where that is of no table."""
    if media in CSV:
        return of_csv(body, takes)
    if media in NPY:
        return of_npy(body)
    if media in JSON:
        return _of_json(body)
    return None


def of_csv(body: bytes, takes: Signature) -> Any:
    """Read CSV: a header line that names the model's columns, in any order, or rows of values in the model's own order.

    Raises:
        InvalidRequest: it is no table, or a cell is not of its column's type.
    """
    try:
        rows = [row for row in csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as exc:
        raise _not_read(f"the CSV cannot be read: {exc}") from exc
    if not rows:
        raise _not_read("the CSV holds no row")
    for at, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise _not_read(f"line {at + 1} of the CSV has {len(row)} cells, line 1 has {len(rows[0])}")
    return _by_column(rows, takes) if takes.frame else _matrix(rows)


def of_npy(body: bytes) -> Array:
    """Read an array as numpy saves it; it holds no objects, and not more elements than there are bytes for.

    Raises:
        InvalidRequest: it is no such array.
    """
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = header(stream, max_header_size=10_000)
    except (ValueError, KeyError, EOFError, SyntaxError, RecursionError, MemoryError) as exc:
        raise _not_read("the body is not an array in the npy format of version 1 or 2") from exc
    if dtype.hasobject or dtype.names or dtype.kind not in "biufUS":
        raise _not_read(f"the array is of {dtype}: send numbers, bools or text")
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != len(body) - stream.tell():
        raise _not_read(
            f"the array's shape {list(shape)} of {dtype} is not that of its {len(body) - stream.tell()} bytes"
        )
    array = np.frombuffer(body, dtype, offset=stream.tell(), count=math.prod(shape))
    array = array.reshape(shape[::-1]).transpose() if fortran else array.reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def of_form(body: bytes, header: str, takes: Signature) -> Any:
    """Read the one file of a form; its type is the part's own, else by its name's ending.

    Raises:
        InvalidRequest: there is not exactly one file, or it cannot be read.
    """
    boundary = parse_options_header(header)[1].get("boundary", "")
    try:
        # The body is in memory and within its limit, so no part of it is too large, and none goes to a disk.
        room = len(body) + 1
        limits = {"disk_limit": 1, "memory_limit": room, "spool_limit": room, "buffer_size": 65_536, "part_limit": 16}
        parts = list(MultipartParser(io.BytesIO(body), boundary, content_length=len(body), **limits))
    except (MultipartError, ValueError) as exc:
        raise _not_read(f"the form cannot be read: {exc}") from exc
    found = [part for part in parts if part.filename is not None]
    if len(found) != 1:
        raise _not_read(f"the form holds {len(found)} files: send one")
    part = found[0]
    ending = "." + str(part.filename).rpartition(".")[2].lower()
    media = part.content_type if part.content_type in (*CSV, *NPY, *JSON) else _SUFFIXES.get(ending, "")
    data = read(part.raw, media, takes)
    if data is None:
        raise errors.UnsupportedMedia("the form's file is not .csv, .npy or .json", reason="content type")
    return data


def _of_json(body: bytes) -> Any:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise _not_read("the file is not JSON") from exc
    return found.get("rows") if isinstance(found, dict) else found


def _by_column(rows: list[list[str]], takes: Signature) -> dict[str, Any]:
    names = [spec.name for spec in takes.inputs]
    header = [cell.strip() for cell in rows[0]]
    if set(names) <= set(header):
        rows = rows[1:]
        if not rows:
            raise _not_read("the CSV holds a header line alone")
    elif len(header) == len(names):
        header = names
    else:
        raise _not_read(
            f"the CSV has neither a header line with the model's columns nor {len(names)} cells in each line"
        )
    places = {name: header.index(name) for name in names}
    return {spec.name: _column(spec, [row[places[spec.name]] for row in rows]) for spec in takes.inputs}


def _column(spec: TensorSpec, cells: list[str]) -> Any:
    if spec.datatype == "BYTES":
        return np.array(cells, dtype=object)
    if spec.datatype == "BOOL":
        known = {"true": True, "false": False, "1": True, "0": False}
        return np.array([_cell(spec.name, at, known.get(cell.strip().lower())) for at, cell in enumerate(cells)])
    kind = float if spec.datatype.startswith("FP") else int
    return np.array([_cell(spec.name, at, _number(cell, kind)) for at, cell in enumerate(cells)])


def _matrix(rows: list[list[str]]) -> Array:
    """Read rows of numbers; a first line that holds none is a header."""
    first = [_number(cell, float) for cell in rows[0]]
    if all(value is None for value in first):
        rows = rows[1:]
    if not rows:
        raise _not_read("the CSV holds no row of numbers")
    values = [
        [_cell(f"cell {place}", at, _number(cell, float)) for place, cell in enumerate(row)]
        for at, row in enumerate(rows)
    ]
    return np.array(values, dtype=np.float64)


def _cell(name: str, at: int, value: Any) -> Any:
    if value is None:
        raise _not_read(f"row {at} of the CSV: {name!r} is empty or not of the column's type")
    return value


def _number(cell: str, kind: type[float | int]) -> float | int | None:
    try:
        value = kind(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in cell else None


def _not_read(text: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(text, reason="table cannot be read")
