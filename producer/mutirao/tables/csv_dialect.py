"""The dialect of a CSV: its delimiter, decimal sign and header, given by the caller or detected; and its records."""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Collection, Iterator, Sequence

import msgspec

from mutirao.errors import InvalidRequest

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
_NAMES = "comma, semicolon, tab or pipe"
# The first line in which Excel names the delimiter.
_SEP = re.compile(r'"?sep=(.)"?[ \t,;|]*(?=\r?\n|\Z)', re.IGNORECASE)
COMMENT = "a line that begins with # is no comment in a CSV: remove it"
DECIMALS = (".", ",")
HEADERS = ("present", "absent")
COLUMNS_MAX = 100_000
_SAMPLE = 10
# A cell may be as long as the file that holds it; the csv module's limit, 128 KiB, applies to the whole process.
csv.field_size_limit(2**31 - 1)


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """The dialect that the caller gives; empty values are detected.

    Attributes:
        delimiter: a comma, a semicolon, a tab or a pipe.
        decimal: a point or a comma.
        header: whether the first line names the columns: present or absent.
    """

    delimiter: str = ""
    decimal: str = ""
    header: str = ""

    @classmethod
    def checked(cls, delimiter: str | None = None, decimal: str | None = None, header: str | None = None) -> Dialect:
        """Check a dialect; a delimiter may be called comma, semicolon, tab or pipe, and a tab be written as backslash t.

        Raises:
            InvalidRequest: a value is not supported.
        """
        named = {**DELIMITERS, "\\t": "\t"}.get(delimiter or "", delimiter or "")
        if named and named not in DELIMITERS.values():
            raise _unknown("delimiter", named, _NAMES)
        if decimal and decimal not in DECIMALS:
            raise _unknown("decimal", decimal, "'.' or ','")
        if header and header not in HEADERS:
            raise _unknown("header", header, "present or absent")
        return cls(delimiter=named, decimal=decimal or "", header=header or "")


def _unknown(what: str, value: str, rule: str) -> InvalidRequest:
    return InvalidRequest(f"the CSV's {what} is {value[:20]!r}: it must be {rule}", reason=f"{what} of CSV")


def text_of(raw: bytes, source: str) -> str:
    """Decode a CSV.

    Raises:
        InvalidRequest: it is not UTF-8 (names the first line that is not, and the likely encoding), or is empty.
    """
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or (len(raw) > 1 and b"\0" in (raw[:1], raw[1:2])):
        raise refused(f"{source} is UTF-16, not UTF-8: save it as CSV UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = raw.count(b"\n", 0, exc.start) + 1
        shown = raw[exc.start : exc.start + 1]
        raise refused(
            f"{source} is not UTF-8: line {line} holds the byte 0x{shown.hex()}, which is {shown.decode('latin-1')!r} in latin-1: "
            "save it as CSV UTF-8, or convert it (iconv -f latin1 -t utf-8)"
        ) from exc
    if not text or text.isspace():
        raise refused(f"{source} is empty: it holds no row")
    # The line ends of old Macs.
    return text.replace("\r", "\n") if "\r" in text[:100_000] and "\n" not in text[:100_000] else text


def skip_sep_line(text: str, dialect: Dialect) -> tuple[str, Dialect]:
    """Take the delimiter from Excel's first line, sep=; and leave that line empty, so that lines keep their numbers.

    Raises:
        InvalidRequest: it names a delimiter that is not supported.
    """
    match = _SEP.match(text)
    if match is None:
        return text, dialect
    given = dialect.delimiter or Dialect.checked(match[1]).delimiter
    return text[match.end() :], msgspec.structs.replace(dialect, delimiter=given)


def lines(text: str, delimiter: str) -> Iterator[str]:
    """Yield the lines of a text.

    Raises:
        InvalidRequest: a line has more columns than any table may have.
    """
    at = 0
    while at < len(text):
        end = text.find("\n", at) + 1 or len(text)
        line = text[at:end]
        if len(line) > COLUMNS_MAX and line.count(delimiter) > COLUMNS_MAX:
            raise refused(f"the CSV has a line of more than {COLUMNS_MAX} columns")
        yield line
        at = end


def records(
    rows: Iterator[str], delimiter: str, source: str, width: int | None = None, before: int = 0
) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the line at which each record ends, and its cells; empty lines are skipped.

    Args:
        rows: the lines.
        delimiter: the sign between cells.
        source: the CSV's name, for errors.
        width: how many cells each record must have; as many as the first where not given.
        before: how many lines stand before these.

    Raises:
        InvalidRequest: a record has another number of cells, or its quotes do not close.
    """
    reader = csv.reader(rows, delimiter=delimiter, strict=True)
    try:
        for record in reader:
            if not record:
                continue
            if width is None:
                width = len(record)
            elif len(record) != width:
                quotes = f"a value that holds {shown(delimiter)} is written in quotes"
                raise refused(
                    f"{source}: line {before + reader.line_num} has {len(record)} values, the first has {width}; "
                    f"{COMMENT if record[0].startswith('#') else quotes}"
                )
            yield before + reader.line_num, record
    except csv.Error as exc:
        said = "a CR stands alone within it: end all lines alike, with LF or CRLF" if "new-line" in str(exc) else exc
        raise refused(f"{source} cannot be read as CSV: line {before + reader.line_num}: {said}") from exc


def delimiter(text: str, given: str, names: Collection[str], width: int) -> str:
    """Detect the delimiter.

    Args:
        text: the CSV.
        given: the delimiter that the caller gives; empty for none.
        names: the columns that the model takes; finding them in the first line counts most.
        width: how many columns the model takes; 0 for any.
    """
    if given:
        return given
    fits = {each: _fit(_sample(text, each), names, width) for each in DELIMITERS.values()}
    if not any(fits["|"][:2]):  # which may stand in any text: it counts where names or width say so
        del fits["|"]
    # The first of those that fit equally.
    return max(fits, key=fits.__getitem__)


def _sample(text: str, delimiter: str) -> list[list[str]]:
    """Return the first records, up to one that cannot be read."""
    records: list[list[str]] = []
    with contextlib.suppress(csv.Error, InvalidRequest):
        for record in csv.reader(lines(text, delimiter), delimiter=delimiter, strict=True):
            if (
                len(record) == 1 and len(record[0]) > COLUMNS_MAX
            ):  # tells nothing: a long text, or a line of other delimiters
                break
            records += [record] if record else []
            if len(records) == _SAMPLE:
                break
    return records


def _fit(sample: Sequence[Sequence[str]], names: Collection[str], width: int) -> tuple[int, bool, bool, bool, int]:
    """Return how well records fit a model: by the names in the first, then by the number of columns."""
    if not sample:
        return 0, False, False, False, 0
    columns, even = len(sample[0]), len(set(map(len, sample))) == 1
    named = len({cell.strip() for cell in sample[0]}.intersection(names))
    many = even and columns > 1
    return named, many and columns == width, many, columns == width and (even or width > 1), columns


def shown(delimiter: str) -> str:
    """Return the name of a delimiter."""
    return next(name for name, sign in DELIMITERS.items() if sign == delimiter)


def refused(text: str) -> InvalidRequest:
    """Return the error for a table that cannot be read."""
    return InvalidRequest(text, reason="table cannot be read")
