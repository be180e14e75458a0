"""A CSV table, read by a model's signature: one set of rules for the command line, HTTP and examples."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from mutirao import errors
from mutirao.tables import csv_cells, csv_dialect
from mutirao.tables.csv_dialect import Dialect, refused
from mutirao.wire import untyped
from mutirao.wire.signature import InputSpec, Signature
from mutirao.wire.tensors import Array

AUTOMATIC = Dialect()
_SHOWN = 8


class Rows(NamedTuple):
    """The rows of a CSV, as a model takes them.

    Attributes:
        data: arrays by name for a model that takes columns, else the matrix, or the one column of text.
        names: the names of its columns; none where it has no header.
        notes: remarks for the caller on how it was read.
    """

    data: Any
    names: tuple[str, ...]
    notes: tuple[str, ...]


class CsvTable(msgspec.Struct, frozen=True):
    """A CSV whose columns get their types once the model that takes it is known.

    Attributes:
        text: the whole CSV.
        source: its name, for errors.
        dialect: the dialect that the caller gives.
    """

    text: str
    source: str
    dialect: Dialect = AUTOMATIC

    @classmethod
    def read(cls, raw: bytes, source: str, dialect: Dialect = AUTOMATIC) -> CsvTable:
        """Decode a CSV.

        Raises:
            InvalidRequest: it is not UTF-8, is empty, or names a delimiter that is not supported.
        """
        text, dialect = csv_dialect.skip_sep_line(csv_dialect.text_of(raw, source), dialect)
        return cls(text, source, dialect)

    def rows(self, takes: Signature, max_rows: int | None = None) -> Rows:
        """Read the table as a model takes it.

        Columns are matched by name where the first line names them, else by position. A first line that names only some of them, or
        that is neither names nor values, is refused. Named columns that the model does not take are left out.
        A column of text stays as it is written, 007 with its zeros. An empty cell, or NA, is a missing value.

        Args:
            takes: the model's signature; an input without a datatype gets that of its cells.
            max_rows: the most rows that are accepted.

        Raises:
            InvalidRequest: it is not a table, or a cell is not of its column's type; names the line and the column.
            PayloadTooLarge: there are more rows.
        """
        return _CsvReader(self, takes, max_rows).rows()


class _CsvReader:
    """The reading of one table for one model."""

    def __init__(self, table: CsvTable, takes: Signature, max_rows: int | None) -> None:
        self._table, self._source, self._dialect = table, table.source, table.dialect
        self._takes, self._max_rows = takes, max_rows
        spec = takes.inputs[0]
        self._matrix = not takes.frame and len(takes.inputs) == 1
        own = spec.columns or ((spec.name,) if len(spec.shape) == 1 else ())
        self._names = own if self._matrix else tuple(each.name for each in takes.inputs)
        self._strict = not self._matrix or bool(spec.columns)
        self._width = self._columns(spec) if self._matrix else len(takes.inputs)
        self._delimiter = csv_dialect.delimiter(table.text, self._dialect.delimiter, self._names, self._width)
        self._notes: list[str] = []

    def rows(self) -> Rows:
        first = self._first()
        header = tuple(cell.strip() for cell in first) if self._has_header(first) else ()
        specs, places = self._select_columns(header, len(first))
        columns = self._body(specs, places, len(first), skip=bool(header))
        data: Any
        if not self._matrix:
            data = dict(zip((spec.name for spec in specs), columns, strict=True))
        elif len(columns) == 1 and (columns[0].ndim == 2 or len(self._takes.inputs[0].shape) == 1):
            data = columns[0]
        else:
            data = untyped.side_by_side(columns)
        return Rows(data, header, tuple(self._notes))

    @staticmethod
    def _columns(spec: InputSpec) -> int:
        """Count the columns of a matrix; 0 for any number."""
        return 1 if len(spec.shape) == 1 else max(0, spec.shape[1])

    def _first(self) -> list[str]:
        lines = csv_dialect.lines(self._table.text, self._delimiter)
        for _, record in csv_dialect.records(lines, self._delimiter, self._source):
            return record
        raise refused(f"{self._source} is empty: it holds no row")

    def _has_header(self, first: list[str]) -> bool:
        """Return whether the first line names the columns.

        Raises:
            InvalidRequest: it names only some of them, or a name twice, or may be names or values.
        """
        if self._dialect.header == "absent":
            return False
        cells = [cell.strip() for cell in first]
        if self._names and set(self._names) <= set(cells):
            self._check_doubled(cells)
            return True
        if self._dialect.header != "present" and self._is_row(first):
            return False
        if not self._matrix or (self._strict and set(self._names) & set(cells)):
            raise self._unnamed(cells)
        return self._is_other_header(cells)

    def _is_row(self, first: list[str]) -> bool:
        """Return whether the first line can only be a row: a number, or none, wherever the model takes numbers."""
        names = {csv_cells.plain(name) for name in self._names} if self._strict else set()
        if any(csv_cells.plain(cell) in names and not csv_cells.is_number(cell) for cell in first):
            return False
        specs = self._specs(len(first))
        if len(specs) != len(first) or all(spec.datatype == "BYTES" for spec in specs):
            return False
        return all(csv_cells.fits(cell, spec) for cell, spec in zip(first, specs, strict=True))

    def _is_other_header(self, cells: list[str]) -> bool:
        """Return whether a first line without a known name is a header all the same, because it holds no number."""
        number = next((cell for cell in cells if csv_cells.is_value(cell)), None)
        text = next((cell for cell in cells if cell and not csv_cells.is_value(cell)), None)
        if self._takes.inputs[0].datatype == "BYTES" and self._dialect.header != "present":
            if not all(cell.isidentifier() for cell in cells) or self._width not in (0, len(cells)):
                return False
            names = f", or call the column {self._names[0]!r}" if len(self._names) == len(cells) == 1 else ""
            raise refused(
                f"{self._source}: the first line, {_listed(cells)}, may be a name or a text: say header present or absent{names}"
            )
        if cells[0].startswith("#") and len(cells) != self._width:
            raise refused(f"{self._source}: the first line is {_listed(cells)}: {csv_dialect.COMMENT}")
        if number is not None and text is not None and self._dialect.header != "present":
            raise refused(
                f"{self._source}: the first line is neither names nor values: {text!r} is no number, {number!r} is one; "
                "if it names the columns, say header present"
            )
        self._check_doubled(cells)
        what = "knows none of these names" if self._strict else "knows its columns by no names"
        self._notes.append(
            f"{self._source}: the first line was taken as a header, but the model {what}: columns go by place"
        )
        return True

    def _check_doubled(self, cells: list[str]) -> None:
        twice = next((cell for at, cell in enumerate(cells) if cell and cell in cells[:at]), None)
        if twice is not None:
            raise refused(f"{self._source} has two columns called {twice!r}: give each a name of its own")

    def _unnamed(self, cells: list[str]) -> errors.InvalidRequest:
        unknown = [cell for cell in cells if cell not in self._names]
        lacking = [name for name in self._names if name not in cells]
        if len(lacking) == len(self._names) and self._dialect.header != "present":
            said = f"names none of the model's columns {_listed(self._names)}, and is no row of {len(self._names)} values for them"
            if len(cells) == len(self._names):
                said = f"is {_listed(cells)}: these are not the model's columns {_listed(self._names)}"
        else:
            said = f"lacks {_listed(lacking)}" + (
                f", and names {_listed(unknown)}, unknown to the model" if unknown else ""
            )
        remedy = (
            csv_dialect.COMMENT
            if cells[0].startswith("#")
            else "if it is a row of values, say header absent (--header absent, or ?header=absent)"
        )
        return refused(f"{self._source}: the first line {said}; {remedy}")

    def _specs(self, width: int) -> list[InputSpec]:
        """Return the input of each column where they are matched by position."""
        if not self._matrix:
            return list(self._takes.inputs)
        spec = self._takes.inputs[0]
        names = spec.columns if len(spec.columns) == width else [str(at + 1) for at in range(width)]
        return [msgspec.structs.replace(spec, name=name) for name in names]

    def _select_columns(self, header: tuple[str, ...], width: int) -> tuple[list[InputSpec], list[int]]:
        """Return the columns that the model takes, and their positions."""
        if header and self._names and set(self._names) <= set(header):
            places = [header.index(name) for name in self._names]
            return self._specs(len(places)), places
        if not self._matrix and width != len(self._names):
            takes = f"{len(self._names)} columns, {_listed(self._names)}"
            raise refused(f"{self._source} has {width} values in its first line, and the model takes {takes}")
        if self._matrix and len(self._takes.inputs[0].shape) == 1 and width != 1:
            raise refused(
                f"{self._source} has {width} values in its first line, and the model takes one column: call it "
                f"{self._names[0]!r} in the first line; text that holds {csv_dialect.shown(self._delimiter)} is written in quotes"
            )
        return self._specs(width), list(range(width))

    def _body(self, specs: list[InputSpec], places: list[int], width: int, *, skip: bool) -> Sequence[Array]:
        if len(specs) == width and all(map(csv_cells.is_numeric, specs)):
            _, lines = self._opened(skip=skip)
            matrix = csv_cells.numbers(lines, self._delimiter, self._dialect.decimal, width, self._max_rows)
            if matrix is not None and csv_cells.allowed(matrix, specs):
                self._check_count(len(matrix))
                same = self._matrix and places == list(range(width))
                return [matrix] if same else [matrix[:, at] for at in places]
        before, lines = self._opened(skip=skip)
        numbers, cells = self._cells(lines, places, width, before)
        decimal = csv_cells.decimal(cells, specs, numbers, self._delimiter, self._dialect.decimal, self._source)
        return [
            csv_cells.typed(column, spec, numbers, decimal, self._source)
            for column, spec in zip(cells, specs, strict=True)
        ]

    def _opened(self, *, skip: bool) -> tuple[int, Iterator[str]]:
        """Return how many lines come before the first row, and the lines from there on."""
        lines = csv_dialect.lines(self._table.text, self._delimiter)
        if not skip:
            return 0, lines
        before, _ = next(csv_dialect.records(lines, self._delimiter, self._source))
        return before, lines

    def _cells(
        self, lines: Iterator[str], places: list[int], width: int, before: int
    ) -> tuple[list[int], list[tuple[str, ...]]]:
        """Return the line number of each row, and the cells of the selected columns."""
        records = csv_dialect.records(lines, self._delimiter, self._source, width, before)
        most = None if self._max_rows is None else self._max_rows + 1
        numbers, kept = [], []
        for number, record in itertools.islice(records, most):
            numbers.append(number)
            kept.append(record)
        self._check_count(len(kept))
        columns = list(zip(*kept, strict=True))
        return numbers, [columns[at] for at in places]

    def _check_count(self, count: int) -> None:
        if count == 0:
            raise refused(f"{self._source} holds a header line alone: it has no row")
        if self._max_rows is not None and count > self._max_rows:
            text = f"{self._source} has more than {self._max_rows} rows, the most that one request may hold: split it"
            raise errors.PayloadTooLarge(text, limit=self._max_rows)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name if len(name) <= 40 else name[:37] + "...") for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown
