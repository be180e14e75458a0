"""DATA: every way to write rows, and what each wrong one is told."""

import io
import json

import numpy as np
import pytest

from mutirao.cli import input_data
from mutirao.errors import InvalidRequest
from mutirao.wire.signature import InputSpec, OutputSpec, Signature, validate

OUTPUTS = (OutputSpec("predict", "INT64", (-1,), default=True),)
MATRIX = Signature(inputs=(InputSpec("X", "FP64", (-1, 3)),), outputs=OUTPUTS)
TEXTS = Signature(inputs=(InputSpec("X", "BYTES", (-1,)),), outputs=OUTPUTS)
COLUMNS = (InputSpec("area", "FP64", (-1,)), InputSpec("zip", "BYTES", (-1,)), InputSpec("new", "BOOL", (-1,)))
FRAME = Signature(inputs=COLUMNS, outputs=OUTPUTS, frame=True)
V2 = {
    "id": "mine",
    "inputs": [{"name": "X", "datatype": "FP64", "shape": [1, 3], "data": [1, 2, 3]}],
    "outputs": [{"name": "predict"}],
    "parameters": {"depth": 2},
}


def bound(given, takes):
    """What the client would queue."""
    rows, _ = given.arrays(takes)
    arrays = rows if isinstance(rows, dict) else {"": np.asarray(rows)}
    return {
        name: array.tolist()
        for name, array in validate("m", takes, {k: np.asarray(v) for k, v in arrays.items()}).items()
    }


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("[[1, 2, 3]]", [[1, 2, 3]]),
        (" [[1, 2, 3]]\n", [[1, 2, 3]]),
        ('{"a": [1, 2], "b": ["x", "y"]}', {"a": [1, 2], "b": ["x", "y"]}),
        ('{"a": 1, "b": "x"}', {"a": [1], "b": ["x"]}),
        ('[{"a": 1, "b": "x"}, {"b": "y", "a": 2}]', {"a": [1, 2], "b": ["x", "y"]}),
        ('{"inputs": [1, 2]}', {"inputs": [1, 2]}),
        ('{"rows": [[1, 2, 3]]}', [[1, 2, 3]]),
        ('{"rows": [{"a": 1, "b": "x"}]}', {"a": [1], "b": ["x"]}),
        ('{"rows": [1, 2]}', {"rows": [1, 2]}),
        ('{"rows": [[1], [2]], "a": [3, 4]}', {"rows": [[1], [2]], "a": [3, 4]}),
        ('{"inputs": [{"name": "X", "data": [[1, 2, 3]]}]}', {"X": [[1, 2, 3]]}),
    ],
)
def test_json_on_the_line(text, rows):
    """JSON is rows, columns, one record or many; a column may be called inputs."""
    assert input_data.read(text).rows == rows


def test_rows_keep_what_is_asked_for_beside_them():
    """As over HTTP, rows may have outputs, parameters and an id beside them; what is an option here is told so."""
    beside = {"outputs": V2["outputs"], "parameters": V2["parameters"], "id": "mine"}
    given = input_data.read(json.dumps({"rows": [[1, 2, 3]], **beside}))
    assert given == input_data.InputData([[1, 2, 3]], ("predict",), {"depth": 2}, "mine")
    with pytest.raises(InvalidRequest, match="DATA: 'priority' is for HTTP; here it is --priority"):
        input_data.read('{"rows": [[1, 2, 3]], "priority": "high"}')
    with pytest.raises(InvalidRequest, match="DATA is not a request: Expected"):
        input_data.read('{"rows": [[1, 2, 3]], "outputs": "predict"}')
    with pytest.raises(InvalidRequest, match="two inputs have the same name"):
        input_data.read(json.dumps({"inputs": [*V2["inputs"], *V2["inputs"]]}))


def test_a_v2_request_keeps_what_it_asks_for():
    """A V2 request's tensors, outputs, parameters and id all come through."""
    given = input_data.read(json.dumps(V2))
    assert given.rows["X"].tolist() == [[1, 2, 3]]
    assert (given.outputs, given.parameters, given.id) == (("predict",), {"depth": 2}, "mine")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.json", b"[[1, 2, 3]]"),
        ("rows.csv", b"1,2,3\n"),
        ("rows.CSV", b"a,b,c\r\n1,2,3\r\n"),
        ("rows.npy", npy(np.array([[1.0, 2, 3]]))),
        ("rows", b"[[1, 2, 3]]"),
        ("rows.txt", b"1,2,3"),
        ("rows.dat", npy(np.array([[1.0, 2, 3]]))),
    ],
)
def test_files_are_read_by_suffix_or_first_bytes(tmp_path, monkeypatch, name, content):
    """A file is JSON, CSV or .npy by its suffix, or by how it begins; so is standard input."""
    (tmp_path / name).write_bytes(content)
    assert bound(input_data.read(f"@{tmp_path / name}"), MATRIX) == {"X": [[1, 2, 3]]}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert bound(input_data.read("-"), MATRIX) == {"X": [[1, 2, 3]]}


def test_a_structured_array_has_columns():
    """Fields of a structured .npy are named columns."""
    array = np.array([(1.5, "x")], dtype=[("area", "f8"), ("zip", "U1")])
    given = input_data.parse(npy(array), "rows.npy")
    assert {name: column.tolist() for name, column in given.rows.items()} == {"area": [1.5], "zip": ["x"]}


@pytest.mark.parametrize(
    ("csv", "takes", "arrays"),
    [
        (b"zip,area,new\n007,1,TRUE\n", FRAME, {"area": [1], "zip": ["007"], "new": [True]}),
        (b'\xef\xbb\xbfarea,zip,new\n1.5,"a,b",false\n', FRAME, {"area": [1.5], "zip": ["a,b"], "new": [False]}),
        (b"a,b,c\n1,2.5,3\n", MATRIX, {"X": [[1, 2.5, 3]]}),
        (b"1,2,3\n4,5,6\n\n", MATRIX, {"X": [[1, 2, 3], [4, 5, 6]]}),
        (b"X\nfoi bom\n12\n", TEXTS, {"X": ["foi bom", "12"]}),
    ],
)  # fmt: skip
def test_csv_columns_get_the_model_s_types(csv, takes, arrays):
    """Columns go by name where the model has names, else in order; text stays as written, 007 with its zeros."""
    assert bound(input_data.parse(csv, "rows.csv"), takes) == arrays


@pytest.mark.parametrize(
    ("rows", "many"),
    [
        ([[1, 2], [3, 4]], [[[1, 2]], [[3, 4]]]),
        (["a", "b"], [["a"], ["b"]]),
        ({"a": [1, 2], "b": ["x", "y"]}, [{"a": [1], "b": ["x"]}, {"a": [2], "b": ["y"]}]),
    ],
)
def test_split_makes_a_request_of_each_row(rows, many):
    """Rows and columns alike fall apart into requests of one row."""
    assert input_data.split(rows) == many


@pytest.mark.parametrize(
    ("rows", "says"),
    [([], "no row"), ({"a": [1], "b": [1, 2]}, "a 1, b 2"), ({"a": 1}, "no column"), (np.array(3), "no row")],
)
def test_split_refuses_what_has_no_rows(rows, says):
    """Nothing to split, or columns of different lengths: said with their lengths."""
    with pytest.raises(InvalidRequest, match=says):
        input_data.split(rows)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[1, 2", "is not JSON .* write rows as"),
        ("[[NaN]]", "JSON has neither NaN nor Infinity"),
        ("7", "but not rows"),
        ("nowhere.csv", "'nowhere.csv' cannot be read: No such file or directory"),
        ("@.", "Is a directory"),
        ('[{"a": 1}, {"b": 2}]', "row 1 lacks 'a', which row 0 has"),
        ('[{"a": 1}, {"a": 2, "b": 2}]', "row 1 has 'b', which row 0 lacks"),
        ('{"inputs": [{"name": "X", "datatype": "FP99", "shape": [1], "data": [1]}]}', "FP99"),
        ("\udcff", "is neither JSON nor a file that is there"),
        (".", "'.' is neither JSON nor a file that is there"),
        ("/nowhere/rows", "'/nowhere/rows' is neither JSON nor a file that is there"),
        (" ", "DATA is empty: write rows as"),
        ("[" * 5000, "is not JSON"),
    ],
)  # fmt: skip
def test_what_is_no_data_is_told_how_to_write_it(text, says):
    """Each refusal names what came, and how rows are written where that helps."""
    with pytest.raises(InvalidRequest, match=says):
        _ = input_data.read(text).rows


def test_a_file_named_without_its_sign_is_recognized(tmp_path, monkeypatch):
    """A path without @ that would be no JSON, but is there: the remedy is named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").write_text("[[1]]")
    with pytest.raises(InvalidRequest, match="is a file: write @rows"):
        input_data.read("rows")


@pytest.mark.parametrize(
    ("raw", "name", "says"),
    [
        (b"\n \n"[:1], "x.csv", "is empty"),
        (b"a\n\xff\n", "x.csv", "is not UTF-8"),
        (b"nothing", "x.npy", "not a .npy file"),
        (b"\x93NUMPY\x01", "x", "not a .npy file"),
    ],
)
def test_damaged_files_are_named(raw, name, says):
    """A file that is not what it claims is refused with its name and the place."""
    with pytest.raises(InvalidRequest, match=says) as caught:
        input_data.parse(raw, name, "." + name.partition(".")[2] if "." in name else "")
    assert name in str(caught.value)


def test_pickles_inside_npy_are_never_opened():
    """A .npy of Python objects is refused unread."""
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidRequest, match="it holds Python objects"):
        input_data.parse(buffer.getvalue(), "x.npy")
