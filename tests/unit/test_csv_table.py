"""One reader of CSV: headers, delimiters, decimal signs, missing cells, types, and what each wrong table is told."""

import csv
import io

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutirao import errors
from mutirao.tables import csv_dialect
from mutirao.tables.csv_dialect import Dialect
from mutirao.tables.csv_table import CsvTable
from mutirao.wire import caller_data, signature
from mutirao.wire.signature import InputSpec, OutputSpec, Signature

OUTPUTS = (OutputSpec("predict", "INT64", (-1,), default=True),)
NAN = float("nan")


def matrix(width=3, datatype="FP64", **given):
    return Signature(inputs=(InputSpec("X", datatype, (-1, width), **given),), outputs=OUTPUTS)


def frame(nullable=False, **columns):
    specs = tuple(InputSpec(name, datatype, (-1,), nullable=nullable) for name, datatype in columns.items())
    return Signature(inputs=specs, outputs=OUTPUTS, frame=True)


HOUSES = frame(area="FP64", zip="BYTES", new="BOOL", rooms="INT64")
OPEN = frame(nullable=True, area="FP64", zip="BYTES", new="BOOL", rooms="INT64")
TEXTS = Signature(inputs=(InputSpec("X", "BYTES", (-1,), nullable=False),), outputs=OUTPUTS)
NAMED = msgspec.structs.replace(TEXTS, inputs=(msgspec.structs.replace(TEXTS.inputs[0], columns=("text",)),))
WORDS = frame(city="BYTES", state="BYTES")


def read(text, takes, max_rows=None, **said):
    raw = text if isinstance(text, bytes) else text.encode()
    return CsvTable.read(raw, "rows.csv", Dialect.checked(**said)).rows(takes, max_rows)


def bound(text, takes, **said):
    """What would be queued."""
    given = caller_data.arrays(read(text, takes, **said).data, frame=takes.frame)
    return {name: array.tolist() for name, array in signature.validate("m", takes, given).items()}


ONE = {"area": [1.5], "zip": ["007"], "new": [True], "rooms": [2]}


@pytest.mark.parametrize(
    ("text", "takes", "arrays"),
    [
        ("area,zip,new,rooms\n1.5,007,TRUE,2\n", HOUSES, ONE),
        ("rooms,zip,label,new,area\n2,007,x,1,1.5\n", HOUSES, ONE),
        ("1.5,007,true,2\n", HOUSES, ONE),
        ("area,zip,new,rooms\n1.5,007,1,2.0\n", HOUSES, ONE),
        ("\ufeffarea;zip;new;rooms\r\n1,5;007;true;2\r\n", HOUSES, ONE),
        ("area\tzip\tnew\trooms\n1,5\t007\ttrue\t2,0\n", HOUSES, ONE),
        ('"area","zip","new","rooms"\r"1.5","007","true","2"\r', HOUSES, ONE),
        ('area,zip,new,rooms\n1.5,"a,b;c",false,0\n', HOUSES, {**ONE, "zip": ["a,b;c"], "new": [False], "rooms": [0]}),
        ("area;zip;new;rooms\n1.234,5;x;0;1\n", HOUSES, {"area": [1234.5], "zip": ["x"], "new": [False], "rooms": [1]}),
        ("1,2,3\n4,5,6\n\n", matrix(), {"X": [[1, 2, 3], [4, 5, 6]]}),
        ("1;2;3,5\n4;5;6\n", matrix(), {"X": [[1, 2, 3.5], [4, 5, 6]]}),
        ("1,5;2,5\n", matrix(2), {"X": [[1.5, 2.5]]}),
        ("x\n1,5\n2\n", matrix(1), {"X": [[1.5], [2]]}),
        ("9007199254740993,1,2\n", matrix(3, "INT64"), {"X": [[9007199254740993, 1, 2]]}),
        ("text\nfoi bom\n12\n", NAMED, {"X": ["foi bom", "12"]}),
        ("a|b|c\n1|2,5|3\n", matrix(), {"X": [[1, 2.5, 3]]}),
        ("area|zip|new|rooms\n1.5|007|true|2\n", HOUSES, ONE),
        ("sep=;\narea;zip;new;rooms\n1,5;007;true;2\n", HOUSES, ONE),
        ("\ufeffsep=|\r\n1|2|3\r\n", matrix(), {"X": [[1, 2, 3]]}),
        ("a|b\nfoi bom|não\n", TEXTS, {"X": ["a|b", "foi bom|não"]}),
        ("X\nfoi bom\n", TEXTS, {"X": ["foi bom"]}),
        ("foi bom\nfoi ruim\n", TEXTS, {"X": ["foi bom", "foi ruim"]}),
        ("foi bom\nfoi bom, não\n", TEXTS, {"X": ["foi bom", "foi bom, não"]}),
        ("label,X\n1,foi bom\n", TEXTS, {"X": ["foi bom"]}),
        ("city,state\nNatal,NA\n,\n", WORDS, {"city": ["Natal", ""], "state": ["NA", ""]}),
    ],
)  # fmt: skip
def test_a_table_is_read_by_the_signature(text, takes, arrays):
    """Columns go by name or by place, delimiter and decimal sign are found out, and each cell gets the type of its column."""
    assert bound(text, takes) == arrays


@pytest.mark.parametrize("first", ["a,b\n", ""])
def test_bools_may_stand_where_numbers_were_guessed(first):
    """A column of which nobody knows that it takes bools takes them from CSV as it does from JSON."""
    takes = Signature(
        inputs=(InputSpec("a", "FP64", (-1,), guessed=True), InputSpec("b", "INT64", (-1,))),
        outputs=OUTPUTS,
        frame=True,
    )
    assert bound(f"{first}True,1\nfalse,2\n0.5,3\n", takes) == {"a": [1.0, 0.0, 0.5], "b": [1, 2, 3]}


@pytest.mark.parametrize("area", ["", "NA", "nan", "null", "N/A"])
@pytest.mark.parametrize("first", ["area,zip,new,rooms\n", ""])
def test_an_empty_cell_is_a_missing_value(first, area):
    """In a column that may lack values an empty cell or NA is missing, text too; a first line that has one is still a row."""
    found = bound(f"{first}{area},,,\n2.5,NA,0,7\n", OPEN) if first else bound(f"{area},,1,\n2.5,NA,0,7\n", OPEN)
    assert np.isnan(found["area"][0])
    assert found["zip"] == [None, None]
    assert np.isnan(found["new"][0]) == bool(first)
    assert (np.isnan(found["rooms"][0]), found["rooms"][1]) == (True, 7)


def test_a_missing_cell_beside_a_large_integer_is_refused():
    """A matrix with a missing value is of floats, and an integer in another of its columns is not rounded for that."""
    with pytest.raises(errors.SignatureMismatch, match="row 0, column 0 is int 9007199254740993, which cannot be kept"):
        bound("9007199254740993,\n", matrix(2, "INT64", nullable=True))


def test_a_missing_cell_of_a_matrix_is_nan():
    """A headerless first line with NA is data."""
    found = read("NA,3.5,1.4\n5.1,,1\n", matrix(nullable=True))
    assert np.array_equal(found.data, [[NAN, 3.5, 1.4], [5.1, NAN, 1]], equal_nan=True)
    assert found.notes == ()


@pytest.mark.parametrize(
    ("text", "takes", "said", "says"),
    [
        ("aera,zip,new,rooms\n1,x,1,2\n", HOUSES, {}, "lacks 'area', and names 'aera', unknown to the model; if it is a row of values, say header absent"),
        ("Area,zip2,new2,rooms2\n1,x,1,2\n", HOUSES, {}, "is 'Area', 'zip2', 'new2', 'rooms2': these are not the model's columns"),
        ("área,cep,novo,quartos\n1,x,1,2\n", HOUSES, {}, "these are not the model's columns 'area', 'zip', 'new', 'rooms'"),
        ("cidade,estado\nNatal,RN\n", WORDS, {}, "these are not the model's columns 'city', 'state'; if it is a row of values, say header absent"),
        ("area,area,zip,new,rooms\n1,1,x,1,2\n", HOUSES, {}, "two columns called 'area'"),
        ("area,zip,new,rooms\n", HOUSES, {}, "a header line alone"),
        ("area,zip,new,rooms\n1,x,1\n", HOUSES, {}, "line 2 has 3 values, the first has 4"),
        ("area,zip,new,rooms\n1,x,1,2\n\n1,x,1\n", HOUSES, {}, "line 4 has 3 values, the first has 4"),
        ("1,x,1\n", HOUSES, {}, "names none of the model's columns"),
        ("1,x,1\n", HOUSES, {"header": "absent"}, "has 3 values in its first line, and the model takes 4 columns"),
        ("area,zip,new,rooms\n1,x,1,2\nbig,x,1,2\n", HOUSES, {}, "line 3 has 'big' in column 'area', which takes FP64: write a number"),
        ("area,zip,new,rooms\n1,x,yes,2\n", HOUSES, {}, "line 2 has 'yes' in column 'new', which takes BOOL: write true, false, 1 or 0"),
        ("area,zip,new,rooms\n1,x,1,2\n,x,1,2\n", HOUSES, {}, "line 3 has no value in column 'area' (''), and the model takes no missing value there"),
        ("area,zip,new,rooms\n1_0,x,1,2\n", HOUSES, {}, "line 2 has '1_0' in column 'area'"),
        ("area,zip,new,rooms\n\uff10,x,1,2\n", HOUSES, {}, "line 2 has '\uff10' in column 'area', which takes FP64: write a number"),
        ("a,b,c\n1,2,\u0665\n", matrix(), {}, "line 2 has '\u0665' in column '3', which takes FP64: write a number"),
        ("area,zip,new,rooms\n" + "1" * 400 + ",x,1,2\n", HOUSES, {}, "in column 'area', which takes FP64: write a number"),
        ("area,zip,new,rooms\n1,x,1,2\n1,x,1,2\r1,x,1,2\n", HOUSES, {}, "line 3: a CR stands alone within it"),
        ("a,b,c\n1,2,true\n", matrix(), {}, "line 2 has 'true' in column '3', which takes FP64: write a number"),
        ("a,b\n1,2\n".encode("utf-16-le"), matrix(2), {}, "is UTF-16"),
        ("area,zip,new,rooms\n1e999,x,1,2\n", HOUSES, {}, "line 2 has '1e999' in column 'area'"),
        ('area,zip,new,rooms\n"1,5",x,1,2\n', HOUSES, {}, "if its comma is the decimal sign, say decimal ','"),
        ("area;zip;new;rooms\n1,5;x;1;2\n2.5;x;1;2\n", HOUSES, {}, "line 2 has the number '1,5' and line 3 '2.5': say which is the decimal sign"),
        ("1,5;2.5;3\n", matrix(), {}, "line 1 has the number '1,5' and line 1 '2.5'"),
        ("a,2,3\n1,2,3\n", matrix(), {}, "the first line is neither names nor values: 'a' is no number, '2' is one"),
        ("1,2,3\n1,,3\n", matrix(nullable=False), {}, "line 2 has no value in column '2'"),
        ("1,2,3\n1,x,3\n", matrix(), {}, "line 2 has 'x' in column '2', which takes FP64"),
        ("prêmio, já\nfoi bom, não\n", TEXTS, {}, "the model takes one column: call it 'X' in the first line"),
        ("1,2,3\n1,2,3,4\n", matrix(), {}, "line 2 has 4 values, the first has 3; a value that holds comma is written in quotes"),
        ("área,b\n1,2\n".encode("latin-1"), matrix(2), {}, "line 1 holds the byte 0xe1, which is 'á' in latin-1: save it as CSV UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), matrix(2), {}, "is UTF-16"),
        ('a,b,c\n1,"2,3\n', matrix(), {}, "cannot be read as CSV"),
        (b" \n", matrix(), {}, "is empty"),
        ("," * 200_000, matrix(), {}, "more than 100000 columns"),
        ("area,zip,new,rooms\n1,x,1,9007199254740993\n1,x,1,\n", OPEN, {}, "line 2 has 9007199254740993 in column 'rooms', which cannot be kept beside a missing value"),
        ("Ruim\nfoi bom\n", TEXTS, {}, "the first line, 'Ruim', may be a name or a text: say header present or absent, or call the column 'X'"),
        ("Ruim\nfoi bom\n", NAMED, {}, "say header present or absent, or call the column 'text'"),
        ("red,blue\nred,red\n", matrix(2, "BYTES"), {}, "the first line, 'red', 'blue', may be a name or a text: say header present or absent"),
        ("sep=:\n1:2:3\n", matrix(), {}, "the CSV's delimiter is ':': it must be comma, semicolon, tab or pipe"),
        ("sep=;\n1;2;3\n1;x;3\n", matrix(), {}, "line 3 has 'x' in column '2'"),
        ("# made in May\n1,2,3\n", matrix(), {}, "a line that begins with # is no comment in a CSV: remove it"),
        ("# made in May\narea,zip,new,rooms\n1,x,1,2\n", HOUSES, {}, "a line that begins with # is no comment in a CSV: remove it"),
        ("1,2,3\n# made in May\n1,2,3\n", matrix(), {}, "line 2 has 1 values, the first has 3; a line that begins with # is no comment"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(text, takes, said, says):
    """A table that does not fit is refused with the line, the column and the value, and with what to do."""
    with pytest.raises(errors.InvalidRequest) as caught:
        read(text, takes, **said)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"delimiter": ";"}, "1.5;2.5;3\n"),
        ({"delimiter": "tab", "decimal": ","}, "1,5\t2,5\t3\n"),
        ({"decimal": ","}, '"1,5","2,5",3\n'),
        ({"header": "present"}, "1,2,x\n1.5,2.5,3\n"),
        ({"decimal": ","}, "1,5;2,5;3,0\n"),
    ],
)
def test_what_is_said_is_not_found_out(said, text):
    """Delimiter, decimal sign and header may be said."""
    assert read(text, matrix(), **said).data.tolist() == [[1.5, 2.5, 3.0]]


def test_thousands_are_read_where_the_decimal_comma_is_said():
    """1.234 is 1234 where the comma is the decimal sign, and 1.234 where it is the point."""
    assert read("1.234;2\n", matrix(2), decimal=",").data.tolist() == [[1234, 2]]
    assert read("1.234;2\n", matrix(2)).data.tolist() == [[1.234, 2]]


def test_what_cannot_be_said_is_refused():
    """A sign that is not read here is refused with those that are."""
    for said in ({"delimiter": ":"}, {"decimal": "x"}, {"header": "maybe"}):
        with pytest.raises(errors.InvalidRequest, match=f"the CSV's {next(iter(said))} is .* it must be"):
            Dialect.checked(**said)


def test_a_header_that_the_model_does_not_know_is_noted():
    """A matrix whose columns have no names takes them by place, and says so; where they have names they go by them."""
    text = "c,b,a\n1,2,3\n"
    unknown = read(text, matrix())
    assert unknown.data.tolist() == [[1, 2, 3]]
    assert unknown.notes == ("rows.csv: the first line was taken as a header, but the model knows its columns by no names: columns go by place",)  # fmt: skip
    known = read("c,b,label,a\n1,2,x,3\n", matrix(columns=("a", "b", "c")))
    assert (known.data.tolist(), known.notes) == ([[3, 2, 1]], ())
    with pytest.raises(errors.InvalidRequest, match="lacks 'c', and names 'd', unknown to the model"):
        read("a,b,d\n1,2,3\n", matrix(columns=("a", "b", "c")))


@pytest.mark.parametrize("takes", [matrix(2), frame(a="FP64", b="BYTES")])
def test_no_more_rows_are_read_than_there_may_be(takes):
    """The row after the last that may be is refused, however many follow."""
    assert len(next(iter(bound("a,b\n" + "1,2\n" * 3, takes, max_rows=3).values()))) == 3
    endless = CsvTable("a,b\n" + "1,2\n" * 500_000, "rows.csv")
    with pytest.raises(errors.PayloadTooLarge, match="more than 3 rows"):
        endless.rows(takes, 3)


CELLS = st.floats() | st.integers(-(2**53), 2**53)


@given(
    st.lists(st.tuples(CELLS, CELLS), min_size=1), st.sampled_from([(",", "."), (";", ","), (";", "."), ("\t", ",")])
)
def test_numbers_come_back_bit_by_bit(rows, signs):
    """Whatever float is written comes back, with any delimiter and decimal sign."""
    delimiter, decimal = signs
    written = io.StringIO()
    csv.writer(written, delimiter=delimiter).writerows([[repr(v).replace(".", decimal) for v in row] for row in rows])
    found = read(written.getvalue(), matrix(2, nullable=True), delimiter=delimiter, decimal=decimal).data
    assert np.array_equal(found, np.array(rows, dtype=float), equal_nan=True)


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs", "Cc"])), st.booleans()), min_size=1))
def test_text_comes_back_as_it_was_written(rows):
    """Text with quotes, commas and semicolons, and bools, come back."""
    written = io.StringIO()
    csv.writer(written).writerows([["t", "b"], *rows])
    found = bound(written.getvalue(), frame(t="BYTES", b="BOOL"))
    assert found == {"t": [text for text, _ in rows], "b": [value for _, value in rows]}


def test_a_cell_may_be_as_long_as_the_file():
    """No limit of the csv module's own stands before the limit of a body."""
    cell = "a" * 1_000_000
    found = list(csv_dialect.records(iter(["text\n", f"{cell}\n"]), ",", "the CSV"))
    assert found == [(1, ["text"]), (2, [cell])]
