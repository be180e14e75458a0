"""The cells of a CSV: text that becomes numbers, bools, text or missing values, by the type of its column."""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mutirao.errors import InvalidRequest
from mutirao.tables.csv_dialect import refused
from mutirao.wire import untyped
from mutirao.wire.signature import InputSpec
from mutirao.wire.untyped import Array

# How other programs write a missing number. In a column of text only an empty cell and NA are missing.
_MISSING = frozenset({"", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "+nan", "null", "none"})
_MISSING_TEXT = frozenset({"", "NA"})
_BOOLS = {"true": True, "false": False, "1": True, "0": False}
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(\.\d{3})+(,\d*)?", re.ASCII)
_COMMA = re.compile(r"[+-]?(\d+(\.\d{3})*)?,\d+([eE][+-]?\d+)?", re.ASCII)
_POINT = re.compile(r"[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity)", re.ASCII | re.IGNORECASE)


def plain(name: str) -> str:
    """Return a name without case, spaces and separators, in which people confuse names."""
    return re.sub(r"[\s_.-]+", "", name).casefold()


def is_value(cell: str) -> bool:
    """Return whether a cell is a number, with a decimal point or comma."""
    cell = cell.strip()
    return bool(_NUMBER.fullmatch(cell) or _COMMA.fullmatch(cell) or _THOUSANDS.fullmatch(cell))


def is_number(cell: str) -> bool:
    """Return whether a cell is a number, or stands for one that is missing."""
    return _is_missing(cell) or is_value(cell)


def fits(cell: str, spec: InputSpec) -> bool:
    """Return whether a cell may stand in a column."""
    if spec.datatype == "BYTES":
        return True
    return is_number(cell) or (_takes_bools(spec) and cell.strip().lower() in _BOOLS)


def is_numeric(spec: InputSpec) -> bool:
    """Return whether a column takes numbers, none of them bools."""
    return spec.datatype.startswith(("FP", "INT", "UINT"))


def numbers(lines: Iterator[str], delimiter: str, decimal: str, width: int, max_rows: int | None) -> Array | None:
    """Read a table of numbers alone, without an object for each; None where it is not one, or must be read cell by cell.

    That may be needed for an integer of more than 53 bits.
    """
    if decimal == delimiter:  # its numbers are quoted
        return None
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        return np.empty((0, width))
    lines = itertools.chain((first,), lines)
    try:
        matrix = np.loadtxt(
            lines if delimiter == "," else _with_points(lines, decimal),
            delimiter=delimiter,
            comments=None,
            quotechar='"',
            ndmin=2,
            max_rows=None if max_rows is None else max_rows + 1,
        )
    except (ValueError, InvalidRequest):
        return None
    return matrix if matrix.shape[1] == width else None


def allowed(matrix: Array, specs: Sequence[InputSpec]) -> bool:
    """Return whether numbers are valid for their columns; reading cell by cell names those that are not."""
    if np.isinf(matrix).any():
        return False
    if not all(spec.nullable for spec in specs) and np.isnan(matrix).any():
        return False
    return all(spec.datatype.startswith("FP") for spec in specs) or not (np.abs(matrix) >= 2.0**53).any()


def decimal(
    columns: Sequence[Sequence[str]],
    specs: Sequence[InputSpec],
    lines: Sequence[int],
    delimiter: str,
    given: str,
    source: str,
) -> str:
    """Detect the decimal sign of a table.

    Raises:
        InvalidRequest: some numbers have a comma and others a point.
    """
    if given or delimiter == ",":
        return given or "."
    comma = point = None
    for column, spec in zip(columns, specs, strict=True):
        if spec.datatype in {"BYTES", "BOOL"}:
            continue
        comma = comma or _first(column, lines, _COMMA)
        point = point or _first(column, lines, _POINT)
    if comma and point:
        (line, with_comma), (other, with_point) = comma, point
        raise refused(
            f"{source}: line {line} has the number {with_comma.strip()!r} and line {other} {with_point.strip()!r}: say which is "
            "the decimal sign (decimal , or .)"
        )
    return "," if comma else "."


def typed(cells: Sequence[str], spec: InputSpec, lines: Sequence[int], decimal: str, source: str) -> Array:
    """Make an array of a column's cells.

    Raises:
        InvalidRequest: a cell is not of the column's type, or is missing where that is not allowed; names the line and the column.
    """
    if spec.datatype == "BYTES":
        return _text(cells, missing=bool(spec.nullable))
    if not spec.datatype:
        return _guessed(cells, decimal)
    parse = _bool if spec.datatype == "BOOL" else _number_or_bool if _takes_bools(spec) else _number
    if spec.datatype.startswith("FP") and decimal == ".":
        try:
            values = list(map(float, cells))
        except ValueError:
            values = []
        text = "".join(cells)  # Python also reads 1_000, and digits of other scripts, as no other program does
        if values and text.isascii() and "_" not in text and all(map(math.isfinite, values)):
            return np.array(values)
    parsed: list[Any] = []
    for line, cell in zip(lines, cells, strict=True):
        if _is_missing(cell):
            if not (spec.nullable or (spec.nullable is None and spec.datatype.startswith("FP"))):
                raise refused(
                    f"{source}: line {line} has no value in column {spec.name!r} ({cell!r}), and the model takes no missing value there: fill it"
                )
            parsed.append(None)
            continue
        value = parse(cell, decimal)
        if value is None:
            hint = (
                "; if its comma is the decimal sign, say decimal ','"
                if decimal == "." and _COMMA.fullmatch(cell.strip())
                else ""
            )
            shown = cell if len(cell) <= 40 else cell[:37] + "..."
            kind = "true, false, 1 or 0" if spec.datatype == "BOOL" else "a number"
            raise refused(
                f"{source}: line {line} has {shown!r} in column {spec.name!r}, which takes {spec.datatype}: write {kind}{hint}"
            )
        parsed.append(value)
    _check_exact(parsed, cells, spec, lines, source)
    return untyped.array_from_values(spec.name, parsed)


def _check_exact(
    parsed: Sequence[Any], cells: Sequence[str], spec: InputSpec, lines: Sequence[int], source: str
) -> None:
    """Refuse an integer that a float cannot hold, in a column where missing values make floats of integers."""
    if None not in parsed or not spec.datatype.startswith(("INT", "UINT")):
        return
    at = next((at for at, value in enumerate(parsed) if not untyped.float_holds(value)), None)
    if at is not None:
        raise refused(
            f"{source}: line {lines[at]} has {cells[at].strip()} in column {spec.name!r}, which cannot be kept beside a missing value: "
            "that takes a float, and none has all its digits"
        )


def _with_points(lines: Iterator[str], decimal: str) -> Iterator[str]:
    """Replace decimal commas by points; a table that has both must be read cell by cell."""
    commas = points = False
    for line in lines:
        commas, points = commas or "," in line, points or "." in line
        if (commas and (points or decimal == ".")) or (points and decimal == ","):
            raise refused("both signs")
        yield line.replace(",", ".")


def _first(column: Sequence[str], lines: Sequence[int], pattern: re.Pattern[str]) -> tuple[int, str] | None:
    matches = ((line, cell) for line, cell in zip(lines, column, strict=True) if pattern.fullmatch(cell.strip()))
    return next(matches, None)


def _is_missing(cell: str) -> bool:
    return cell.strip().lower() in _MISSING


def _text(cells: Sequence[str], *, missing: bool) -> Array:
    array = np.empty(len(cells), dtype=object)
    array[:] = [None if missing and cell in _MISSING_TEXT else cell for cell in cells]
    return array


def _guessed(cells: Sequence[str], decimal: str) -> Array:
    """Return a column of the type that all of its cells have: integers, numbers, bools, else text."""
    present = [cell for cell in cells if not _is_missing(cell)]
    for parse in (_number, _bool):
        values = [parse(cell, decimal) for cell in present]
        if values and None not in values:
            remaining = iter(values)
            return untyped.resolve_objects(
                "", untyped.array_from_values("", [None if _is_missing(cell) else next(remaining) for cell in cells])
            )
    return _text(cells, missing=True)


def _takes_bools(spec: InputSpec) -> bool:
    """Return whether a column takes bools, as one does that was guessed to take numbers, and as in JSON."""
    return spec.datatype == "BOOL" or (spec.guessed and spec.datatype.startswith("FP"))


def _number_or_bool(cell: str, decimal: str) -> Any:
    number = _number(cell, decimal)
    if number is None and (flag := _bool(cell, decimal)) is not None:
        return int(flag)
    return number


def _bool(cell: str, decimal: str) -> bool | None:  # noqa: ARG001 - as `_number`
    return _BOOLS.get(cell.strip().lower())


def _number(cell: str, decimal: str) -> Any:
    """Read a number, an integer as an int; None where the cell is not a number."""
    cell = cell.strip()
    if decimal == ",":
        if "." in cell and not _THOUSANDS.fullmatch(cell):
            return None
        cell = cell.replace(".", "").replace(",", ".")
    if not _NUMBER.fullmatch(cell):
        return None
    try:
        whole = int(cell)
    except ValueError:
        value = float(cell)
    else:
        return whole if whole.bit_length() <= sys.float_info.max_exp else None
    return None if math.isinf(value) and "n" not in cell.lower() else value
