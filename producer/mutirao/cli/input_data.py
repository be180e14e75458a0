"""DATA of `submit` and `predict`: rows on the command line, in a file, or on standard input."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mutirao.errors import InvalidRequest
from mutirao.tables.csv_dialect import Dialect
from mutirao.tables.csv_table import AUTOMATIC, CsvTable
from mutirao.wire import json_elements, messages, tensors
from mutirao.wire.messages import PredictRequest
from mutirao.wire.signature import Signature

SUFFIXES = (".csv", ".json", ".npy")
NPY = b"\x93NUMPY"
FORMS = (
    'write rows as [[5.1, 3.5, 1.4, 0.2]] or columns as {"age": [31]}; or name a file: rows.csv, rows.npy, @rows.json; '
    "or - for standard input"
)

# Fields of a request with rows, as HTTP takes it: those that are used here, and those that are options here.
_FIELDS = ("outputs", "parameters", "id")
_OPTIONS = {
    "priority": "--priority",
    "expires_s": "--expires",
    "webhook": "not known",
    "ids": "--id, or made with --rows",
}


class InputData(msgspec.Struct, frozen=True):
    """The content of DATA.

    Attributes:
        content: an array, a nested list, records, a mapping of named columns, or a table of text.
        outputs: the names of the outputs that the request asks for; None for the model's default ones.
        parameters: of the request.
        id: of the request.
    """

    content: Any
    outputs: tuple[str, ...] | None = None
    parameters: dict[str, Any] | None = None
    id: str | None = None

    def arrays(self, signature: Signature) -> tuple[Any, tuple[str, ...]]:
        """Return the rows as the client takes them, for a model of this signature, and notes on how a table was read."""
        if isinstance(self.content, CsvTable):
            table = self.content.rows(signature)
            return table.data, table.notes
        return (_objects(self.content, signature) if signature.json_inputs else self.rows), ()

    @property
    def rows(self) -> Any:
        """The rows, records as columns.

        Raises:
            InvalidRequest: records have different fields.
        """
        match self.content:
            case [{}, *_] as records if all(isinstance(record, dict) for record in records):
                return _columns(records)
            case dict(record) if not any(isinstance(values, list | np.ndarray) for values in record.values()):
                return _columns([record])
        return self.content


def read(text: str, dialect: Dialect = AUTOMATIC) -> InputData:
    """Read DATA.

    Args:
        dialect: how a CSV is written.
        text: JSON; `-` for standard input; `@` and the path of a file, without `@` where its name ends in .csv, .json or .npy.

    Raises:
        InvalidRequest: it cannot be read, or holds no rows; the message says how rows are written.
    """
    if text == "-":
        return parse(sys.stdin.buffer.read(), "standard input", dialect=dialect)
    if text.startswith("@") or Path(text).suffix.lower() in SUFFIXES:
        path = Path(text.removeprefix("@"))
        return parse(_content(path), str(path), path.suffix.lower(), dialect)
    return _json(os.fsencode(text), text)


def parse(raw: bytes, name: str, suffix: str = "", dialect: Dialect = AUTOMATIC) -> InputData:
    """Read the content of a file, by its suffix, or by its first bytes where its suffix is not known."""
    if suffix == ".npy" or raw.startswith(NPY):
        return InputData(_npy(raw, name))
    if suffix == ".json" or (suffix != ".csv" and raw.lstrip()[:1] in (b"[", b"{")):
        return _json(raw, name)
    return InputData(CsvTable.read(raw, f"DATA {name!r}", dialect))


def split(rows: Any) -> list[Any]:
    """Return one request for each row.

    Raises:
        InvalidRequest: there are no rows, or columns of different lengths.
    """
    if isinstance(rows, Mapping):
        count = _common_length(rows)
        return [{name: values[at : at + 1] for name, values in rows.items()} for at in range(count)]
    if getattr(rows, "ndim", 1) == 0 or not len(rows):
        raise InvalidRequest("DATA holds no row")
    return [rows[at : at + 1] for at in range(len(rows))]


def parameters(given: Sequence[str], signature: Signature) -> dict[str, Any]:
    """Return the parameters that --parameter names: JSON values, and text where they are none or the model takes text.

    Raises:
        InvalidRequest: one is not written NAME=VALUE.
    """
    values: dict[str, Any] = {}
    texts = {spec.name for spec in signature.parameters if spec.datatype == "BYTES"}
    for each in given:
        name, sign, text = each.partition("=")
        if not (name and sign):
            raise InvalidRequest(f"--parameter {each!r}: it is written NAME=VALUE, as threshold=0.7")
        try:
            values[name] = text if name in texts else msgspec.json.decode(text)
        except msgspec.DecodeError:
            values[name] = text
    return values


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InvalidRequest(f"DATA {str(path)!r} cannot be read: {exc.strerror}") from exc


def _json(raw: bytes, name: str) -> InputData:
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(_not_json(raw, name, exc)) from exc
    match document:
        case {"inputs": [{}, *_] as tensors_} if all(isinstance(tensor, dict) for tensor in tensors_):
            return _from_v2(messages.read_request(document))
        case {"rows": list(rows)} if _is_request(document, rows):
            return _from_rows(document, rows)
        case dict() | list():
            return InputData(document)
    raise InvalidRequest(f"DATA {_short(name)} is JSON, but not rows: {FORMS}")


def _is_request(document: dict[str, Any], rows: list[Any]) -> bool:
    """Whether this is a request as HTTP takes it, and not columns of which one is called rows."""
    fields = {"rows", *_FIELDS, *_OPTIONS}
    return document.keys() <= fields and all(isinstance(row, list | dict) for row in rows)


def _from_rows(document: dict[str, Any], rows: list[Any]) -> InputData:
    if option := next((name for name in _OPTIONS if name in document), None):
        raise InvalidRequest(f"DATA: {option!r} is for HTTP; here it is {_OPTIONS[option]}")
    try:
        request = msgspec.convert({**document, "inputs": []}, PredictRequest)
    except msgspec.ValidationError as exc:
        raise InvalidRequest(f"DATA is not a request: {exc}") from exc
    return _with_fields(request, rows)


def _from_v2(request: PredictRequest) -> InputData:
    rows = {tensor.name: tensors.decode(tensor) if tensor.datatype else tensor.data for tensor in request.inputs}
    if len(rows) != len(request.inputs):
        raise InvalidRequest("DATA: two inputs have the same name")
    return _with_fields(request, rows)


def _with_fields(request: PredictRequest, rows: Any) -> InputData:
    outputs = None if request.outputs is None else tuple(output.name for output in request.outputs)
    return InputData(rows, outputs, request.parameters, request.id)


def _objects(content: Any, signature: Signature) -> Any:
    """Return a list of objects for each input, for a model that takes JSON documents; those of a V2 request are texts."""
    names = [spec.name for spec in signature.inputs]
    if isinstance(content, dict) and content.keys() == set(names):
        return {
            name: json_elements.decode(values)
            if isinstance(values, np.ndarray) and name in signature.json_inputs
            else values
            for name, values in content.items()
        }
    rows = [content] if isinstance(content, dict) else content
    return {names[0]: rows} if len(names) == 1 else rows


def _columns(records: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    names = list(records[0])
    for at, record in enumerate(records):
        if lacking := [name for name in names if name not in record]:
            raise InvalidRequest(f"DATA: row {at} lacks {lacking[0]!r}, which row 0 has: a missing value is null")
        if other := [name for name in record if name not in records[0]]:
            raise InvalidRequest(f"DATA: row {at} has {other[0]!r}, which row 0 lacks: a missing value is null")
    return {name: [record[name] for record in records] for name in names}


def _npy(raw: bytes, name: str) -> Any:
    try:
        array = np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, EOFError, OSError) as exc:
        reason = "it holds Python objects" if "allow_pickle" in str(exc) else str(exc)
        raise InvalidRequest(f"DATA {name!r} is not a .npy file of numbers or text: {reason}") from exc
    if array.dtype.names:
        return {column: array[column] for column in array.dtype.names}
    return array


def _common_length(columns: Mapping[str, Any]) -> int:
    lengths = {name: len(values) for name, values in columns.items() if hasattr(values, "__len__")}
    if len(set(lengths.values())) != 1 or not all(lengths.values()) or len(lengths) != len(columns):
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InvalidRequest(f"DATA must hold at least one row, and as many in each column: {shown or 'no column'}")
    return next(iter(lengths.values()))


def _not_json(raw: bytes, name: str, exc: Exception) -> str:
    if raw == os.fsencode(name):
        if not name.strip():
            return f"DATA is empty: {FORMS}"
        if _is_file(name):
            return f"DATA {_short(name)} is a file: write @{name}"
        if name.lstrip()[0] not in '[{"':
            return f"DATA {_short(name)} is neither JSON nor a file that is there: {FORMS}"
    reason = str(exc).removeprefix("JSON is malformed: ")
    if any(word in raw for word in (b"NaN", b"Infinity")):
        reason += ": JSON has neither NaN nor Infinity, a .npy or .csv file has"
    return f"DATA {_short(name)} is not JSON ({reason}): {FORMS}"


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # longer than a path may be
        return False


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
