"""A CSV file: a table of text until the model that takes it says what its columns are."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from mutirao.errors import InvalidRequest
from mutirao.signature import Signature
from mutirao.tensors import Array


class Table(msgspec.Struct, frozen=True):
    """Columns of text.

    Attributes:
        names: of the columns; None where the file has no header.
        columns: the cells of each.
    """

    names: tuple[str, ...] | None
    columns: tuple[tuple[str, ...], ...]

    @classmethod
    def read(cls, raw: bytes, name: str) -> Table:
        """Read comma-separated values; a first line of numbers alone is no header, but the first row.

        Raises:
            InvalidRequest: it is not UTF-8, is empty, or a line has more or fewer cells than the first.
        """
        lines = _lines(raw, name)
        header = None if all(map(_is_number, lines[0])) else tuple(cell.strip() for cell in lines[0])
        if header and len(set(header)) < len(header):
            twice = next(column for column in header if header.count(column) > 1)
            raise InvalidRequest(f"DATA {name!r} has two columns called {twice!r}")
        rows = lines[1:] if header else lines
        return cls(names=header, columns=tuple(zip(*rows, strict=True)) if rows else ((),) * len(lines[0]))

    def arrays(self, takes: Signature) -> Any:
        """Give each column the type that the model wants, by name, or by place where either has no names.

        A column that should be text stays as it is written: 007 keeps its zeros. Of the others one whose cells are all whole
        numbers is whole, all numbers (an empty cell is NaN) real, all true or false boolean, anything else text.
        """
        wanted = {spec.name: spec.datatype for spec in takes.inputs}
        if self.names is not None and (takes.frame or set(self.names) == set(wanted)):
            return {
                name: _typed(cells, wanted.get(name, "")) for name, cells in zip(self.names, self.columns, strict=True)
            }
        if takes.frame and len(self.columns) == len(wanted):
            return {name: _typed(cells, wanted[name]) for name, cells in zip(wanted, self.columns, strict=True)}
        text = next(iter(wanted.values()), "") if len(wanted) == 1 else ""
        return _matrix([_typed(cells, text) for cells in self.columns])


def _lines(raw: bytes, name: str) -> list[list[str]]:
    try:
        text = raw.decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        numbered = [(reader.line_num, line) for line in reader if line]
    except (UnicodeDecodeError, csv.Error) as exc:
        raise InvalidRequest(f"DATA {name!r} is no CSV file in UTF-8: {exc}") from exc
    if not numbered:
        raise InvalidRequest(f"DATA {name!r} is empty")
    expected = len(numbered[0][1])
    for number, line in numbered:
        if len(line) != expected:
            raise InvalidRequest(f"DATA {name!r}: line {number} has {len(line)} values, the first has {expected}")
    return [line for _, line in numbered]


def _matrix(columns: Sequence[Array]) -> Array:
    """Put columns side by side; text among numbers makes all of it objects, for the signature's check to name."""
    if any(column.dtype == object for column in columns):
        columns = [column.astype(object) for column in columns]
    return np.column_stack(columns)


def _typed(cells: Sequence[str], datatype: str) -> Array:
    if datatype == "BYTES":
        return np.array(cells, dtype=object)
    kinds: tuple[Callable[[str], Any], ...] = (_whole, _real, _truth)
    for kind in kinds:
        with contextlib.suppress(ValueError):
            array = np.array([kind(cell) for cell in cells])
            if array.dtype != object:  # whole numbers too large for 64 bits
                return array
    return np.array(cells, dtype=object)


def _whole(cell: str) -> int:
    return int(_plain(cell))


def _real(cell: str) -> float:
    return float(_plain(cell)) if cell.strip() else float("nan")


def _truth(cell: str) -> bool:
    try:
        return {"true": True, "false": False}[cell.strip().lower()]
    except KeyError:
        raise ValueError(cell) from None


def _plain(cell: str) -> str:
    """Refuse what Python reads as a number but nobody else does: 1_000."""
    if "_" in cell:
        raise ValueError(cell)
    return cell


def _is_number(cell: str) -> bool:
    try:
        _real(cell)
    except ValueError:
        return False
    return True
