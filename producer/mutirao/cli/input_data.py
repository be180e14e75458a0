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
from mutirao.wire import messages, tensors
from mutirao.wire.messages import PredictRequest
from mutirao.wire.signature import Signature

SUFFIXES = (".csv", ".json", ".npy")
NPY = b"\x93NUMPY"
FORMS = (
    'write rows as [[5.1, 3.5, 1.4, 0.2]] or columns as {"age": [31]}; or name a file: rows.csv, rows.npy, @rows.json; '
    "or - for standard input"
)

# Of a request with rows, as HTTP takes it: what may stand beside them, and what is an option here.
_BESIDE = ("outputs", "parameters", "id")
_OPTIONS = {
    "priority": "--priority",
    "expires_s": "--expires",
    "webhook": "not known",
    "ids": "--id, or made with --rows",
}


class InputData(msgspec.Struct, frozen=True):
    """The content of DATA.

    Attributes:
        rows: an array, a nested list, a mapping of named columns, or a table of text.
        outputs: the names of those that a V2 request asks for.
        parameters: of a V2 request.
        id: of a V2 request.
    """

    rows: Any
    outputs: tuple[str, ...] | None = None
    parameters: dict[str, Any] | None = None
    id: str | None = None

    def arrays(self, takes: Signature) -> tuple[Any, tuple[str, ...]]:
        """The rows as the client takes them, for a model of this signature, and what to know of how they were read."""
        if not isinstance(self.rows, CsvTable):
            return self.rows, ()
        found = self.rows.rows(takes)
        return found.data, found.notes


def read(text: str, dialect: Dialect = AUTOMATIC) -> InputData:
    """Read DATA.

    Args:
        dialect: what is said of a CSV.
        text: JSON; `-` for standard input; `@` and the path of a file, without `@` where its name ends in .csv, .json or .npy.

    Raises:
        InvalidRequest: it cannot be read, or holds nothing that could be rows; says how rows are written.
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


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InvalidRequest(f"DATA {str(path)!r} cannot be read: {exc.strerror}") from exc


def _json(raw: bytes, name: str) -> InputData:
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(_not_json(raw, name, exc)) from exc
    if isinstance(found, dict) and _is_request(found):
        return _request(messages.read_request(found))
    if isinstance(found, dict) and _holds_rows(found):
        return _around(found)
    if isinstance(found, dict):
        return InputData(found if any(isinstance(values, list) for values in found.values()) else _columns([found]))
    if isinstance(found, list):
        return InputData(_columns(found) if found and all(isinstance(row, dict) for row in found) else found)
    raise InvalidRequest(f"DATA {_short(name)} is JSON, but no rows: {FORMS}")


def _is_request(found: dict[str, Any]) -> bool:
    """Whether this is a V2 request, and not columns of which one is called inputs."""
    inputs = found.get("inputs")
    return isinstance(inputs, list) and bool(inputs) and all(isinstance(tensor, dict) for tensor in inputs)


def _holds_rows(found: dict[str, Any]) -> bool:
    """Whether this is a request as HTTP takes it, and not columns of which one is called rows."""
    rows = found.get("rows")
    return found.keys() <= {"rows", *_BESIDE, *_OPTIONS} and isinstance(rows, list) and all(
        isinstance(row, list | dict) for row in rows
    )  # fmt: skip


def _around(found: dict[str, Any]) -> InputData:
    """Read the rows of a request, and what stands around them."""
    if stranger := next((name for name in _OPTIONS if name in found), None):
        raise InvalidRequest(f"DATA: {stranger!r} is for HTTP; here it is {_OPTIONS[stranger]}")
    try:
        beside = msgspec.convert({**found, "inputs": []}, PredictRequest)
    except msgspec.ValidationError as exc:
        raise InvalidRequest(f"DATA is no request: {exc}") from exc
    rows = found["rows"]
    rows = _columns(rows) if rows and all(isinstance(row, dict) for row in rows) else rows
    return InputData(rows, _outputs(beside), beside.parameters, beside.id)


def _outputs(found: PredictRequest) -> tuple[str, ...] | None:
    return tuple(output.name for output in found.outputs) if found.outputs is not None else None


def _request(found: PredictRequest) -> InputData:
    rows = {tensor.name: tensors.decode(tensor) if tensor.datatype else tensor.data for tensor in found.inputs}
    if len(rows) != len(found.inputs):
        raise InvalidRequest("DATA: two inputs have the same name")
    return InputData(rows, _outputs(found), found.parameters, found.id)


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
        raise InvalidRequest(f"DATA {name!r} is no .npy file of numbers or text: {reason}") from exc
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
