"""Parse tables that come as files: CSV, npy, and a form that holds one of them."""

from __future__ import annotations

import io
import math
from typing import Any

import msgspec
import numpy as np
from multipart import MultipartError, MultipartParser, parse_options_header

from mutirao import errors
from mutirao.gateway.requests import body_limits
from mutirao.tables.csv_dialect import Dialect
from mutirao.tables.csv_table import CsvTable, Rows
from mutirao.wire.signature import Signature
from mutirao.wire.tensors import Array

CSV = ("text/csv", "application/csv")
NPY = ("application/x-npy", "application/npy", "application/x-numpy")
JSON = ("application/json", "text/json")
_SUFFIXES = {".csv": CSV[0], ".npy": NPY[0], ".json": JSON[0]}


def read(body: bytes, media: str, takes: Signature, dialect: Dialect) -> Rows | None:
    """Parse a table by its media type; return None for a media type of no table.

    Raises:
        InvalidRequest: it is not a table, or a cell is not of its column's type.
        PayloadTooLarge: it has more rows than the model takes.
    """
    if media in CSV:
        body_limits.check_csv(body)
        return CsvTable.read(body, "the CSV", dialect).rows(takes, takes.max_rows)
    if media in NPY:
        return Rows(of_npy(body), (), ())
    if media in JSON:
        return Rows(_of_json(body), (), ())
    return None


def parameter(header: str, name: str) -> str:
    """Return a parameter of a content type, "" where there is none."""
    return str(parse_options_header(header)[1].get(name, ""))


def of_npy(body: bytes) -> Array:
    """Parse an array as numpy saves it, without objects.

    Raises:
        InvalidRequest: it is not such an array, or its shape needs another number of bytes.
    """
    stream = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = header(stream, max_header_size=10_000)
    except (ValueError, KeyError, EOFError, SyntaxError, RecursionError, MemoryError) as exc:
        raise _not_read("the body is not an array in the npy format of version 1 or 2") from exc
    if dtype.kind in "US":
        body_limits.check_text(math.prod(shape))
    if dtype.hasobject or dtype.names or dtype.kind not in "biufUS" or not dtype.itemsize:
        raise _not_read(f"the array is of {dtype}: send numbers, bools or text")
    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize != len(body) - stream.tell():
        raise _not_read(
            f"the array's shape {list(shape)} of {dtype} is not that of its {len(body) - stream.tell()} bytes"
        )
    array = np.frombuffer(body, dtype, offset=stream.tell(), count=math.prod(shape))
    array = array.reshape(shape[::-1]).transpose() if fortran else array.reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def of_form(body: bytes, header: str, takes: Signature, dialect: Dialect) -> Rows:
    """Parse the one file of a form; its type is the part's own, else that of its name's suffix.

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
    data = read(part.raw, media, takes, dialect)
    if data is None:
        raise errors.UnsupportedMedia(
            f"the form's file {str(part.filename)[:40]!r} is not .csv, .npy or .json", reason="content type"
        )
    return data


def _of_json(body: bytes) -> Any:
    try:
        body_limits.check_json(body)
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise _not_read("the file is not JSON") from exc
    return found.get("rows") if isinstance(found, dict) else found


def _not_read(text: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(text, reason="table cannot be read")
