from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from mutirao import errors
from mutirao.client import request_data
from mutirao.wire import caller_data, signature, tensors
from mutirao.wire.messages import PredictRequest, RequestedOutput, Tensor
from mutirao.wire.signature import InputSpec, OutputSpec, Signature

OUTPUTS = (OutputSpec("predict", "INT64", (-1,), default=True), OutputSpec("predict_proba", "FP64", (-1, 3)))
MATRIX = Signature(inputs=(InputSpec("X", "FP64", (-1, 4), nullable=False),), outputs=OUTPUTS, max_rows=5)
WHOLE = Signature(inputs=(InputSpec("X", "INT64", (-1, 2), nullable=True),), outputs=OUTPUTS)
TEXT = Signature(inputs=(InputSpec("X", "BYTES", (-1,)),), outputs=OUTPUTS)
FRAME = Signature(
    inputs=(InputSpec("area", "FP64", (-1,)), InputSpec("city", "BYTES", (-1,)), InputSpec("new", "BOOL", (-1,))),
    outputs=OUTPUTS,
    frame=True,
)
ROW = [5.1, 3.5, 1.4, 0.2]
HOUSES = pd.DataFrame({"area": [40.5, 90.0], "city": ["Ouro Preto", "São João"], "new": [True, False]})


def bound(takes, data):
    return signature.validate("m", takes, caller_data.arrays(data, frame=takes.frame))


def through_json(takes, *inputs):
    return signature.decode_request("m", takes, PredictRequest(inputs=inputs))


@pytest.mark.parametrize(
    "data",
    [
        [ROW, ROW],
        (tuple(ROW), ROW),
        np.array([ROW, ROW]),
        np.array([ROW, ROW], dtype=object),
        {"X": [ROW, ROW]},
        pd.DataFrame([ROW, ROW]),
        pd.DataFrame([ROW, ROW]).convert_dtypes(),
    ],
    ids=lambda data: type(data).__name__,
)
def test_a_matrix_can_be_given_in_many_ways(data):
    """Nested lists, arrays, a mapping and a DataFrame are the same matrix."""
    (matrix,) = bound(MATRIX, data).values()
    assert (matrix.dtype, matrix.tolist()) == (np.float64, [ROW, ROW])


@pytest.mark.parametrize(
    "data",
    [
        HOUSES,
        HOUSES[["new", "city", "area"]],
        HOUSES.convert_dtypes(),
        HOUSES.astype({"city": "category"}),
        HOUSES.to_numpy(),
        HOUSES.to_numpy().tolist(),
        HOUSES.to_dict("list"),
        {name: HOUSES[name] for name in HOUSES},
        {name: HOUSES[[name]].to_numpy() for name in HOUSES},
    ],
    ids=["frame", "reordered", "nullable", "category", "matrix", "rows", "columns", "series", "columns of one"],
)
def test_a_frame_can_be_given_in_many_ways(data):
    """A DataFrame, its columns in any order, its rows and its matrix are the same columns, in the signature's order."""
    columns = bound(FRAME, data)
    assert list(columns) == ["area", "city", "new"]
    assert [column.dtype for column in columns.values()] == [np.float64, object, np.bool_]
    assert [column.tolist() for column in columns.values()] == [HOUSES[name].tolist() for name in columns]


@pytest.mark.parametrize(
    ("takes", "data", "row"),
    [
        (WHOLE, [[2**53 + 1, 37.0]], [2**53 + 1, 37]),
        (WHOLE, pd.DataFrame({"a": [2**53 + 1], "b": [37.0]}), [2**53 + 1, 37]),
        (WHOLE, [[2**53, None]], [2**53, np.nan]),
        (MATRIX, np.array([[True, False, True, True]]), [1, 0, 1, 1]),
        (MATRIX, pd.DataFrame({"a": [1.5], "b": [True], "c": [2], "d": [False]}), [1.5, 1, 2, 0]),
    ],
)
def test_numbers_of_several_types_are_one_matrix(takes, data, row):
    """Large integers keep their digits beside whole floats; arrays and columns whose own type is bool are 0 and 1."""
    (matrix,) = bound(takes, data).values()
    assert np.array_equal(matrix, [row], equal_nan=matrix.dtype.kind == "f")


def test_a_column_of_whole_numbers_is_a_column_of_numbers():
    """Integers, bools and FP32 are taken where the model takes FP64."""
    for area in ([40, 90], np.array([40, 90], dtype=np.int8), np.array([40, 90], dtype=np.float32)):
        assert bound(FRAME, {**HOUSES.to_dict("list"), "area": area})["area"].tolist() == [40.0, 90.0]


def test_text_alone_is_a_list_of_texts():
    """A text classifier takes a plain list."""
    assert bound(TEXT, ["bom", "ruim"])["X"].tolist() == ["bom", "ruim"]


@pytest.mark.parametrize(
    ("takes", "data", "says"),
    [
        (MATRIX, [ROW[:3]], "model 'm' takes X FP64[-1, 4], got shape [1, 3]"),
        (MATRIX, ROW, "takes X FP64[-1, 4], got shape [4]; one row is written [[...]]"),
        (MATRIX, [[ROW]], "got shape [1, 1, 4]"),
        (MATRIX, [], "takes at least one row, got none"),
        (MATRIX, np.empty((0, 4)), "takes at least one row, got none"),
        (MATRIX, [ROW, ROW[:2]], "rows differ in length: row 1 has 2 values, row 0 has 4 values"),
        (
            MATRIX,
            [[*ROW[:3], "a"]],
            "takes X FP64[-1, 4], got tensor 'X': it must be FP64, got text: row 0, column 3 is text 'a'",
        ),
        (MATRIX, [[*ROW[:3], None]], "no missing value for X FP64[-1, 4], and row 0, column 3 is missing"),
        (MATRIX, [[*ROW[:3], Decimal("1.5")]], "row 0, column 3 is Decimal('1.5')"),
        (MATRIX, np.array([["2020-01-01"] * 4], dtype="M8[D]"), "has no V2 datatype"),
        (MATRIX, {"Y": [ROW]}, "takes inputs 'X', got inputs without 'X' and with 'Y'"),
        (MATRIX, 5, "takes X FP64[-1, 4], got int 5; one row is written [[...]]"),
        (MATRIX, None, "takes X FP64[-1, 4], got None; one row"),
        (MATRIX, "5.1,3.5", "takes X FP64[-1, 4], got text '5.1,3.5'; one row"),
        (MATRIX, {}, "takes inputs 'X', got none"),
        (MATRIX, iter([ROW]), "of type list_iterator: give an array, or nested lists"),
        (MATRIX, np.array([(1.0,)], dtype=[("Y", "f8")]), "got inputs without 'X' and with 'Y'"),
        (
            FRAME,
            {"area": 50.0, "city": "Mariana", "new": True},
            "takes area FP64[-1], got float 50.0; one value is written [...], for each row one",
        ),
        (FRAME, HOUSES[["area", "city", "city", "new"]], "the DataFrame has 2 columns 'city'"),
        (FRAME, HOUSES[["area", "city"]], "takes inputs 'area', 'city', 'new', got inputs without 'new'"),
        (FRAME, HOUSES.assign(pool=1), "got inputs with 'pool'"),
        (
            FRAME,
            HOUSES.assign(city=1),
            "takes city BYTES[-1], got tensor 'city': it must be BYTES, got INT64: row 0 is int 1",
        ),
        (FRAME, HOUSES.assign(new=1), "must be BOOL, got INT64: row 0 is int 1"),
        (FRAME, HOUSES.assign(area="big"), "must be FP64, got text: row 0 is text 'big'"),
        (
            FRAME,
            HOUSES.assign(city=np.array(["a", None], dtype=object)),
            "takes no missing value for city BYTES[-1], and row 1 is missing (null, NaN): fill it before you submit",
        ),
        (
            FRAME,
            {"area": [1.0], "city": ["a", "b"], "new": [True, True]},
            "takes the same number of rows in each input, got area 1, city 2",
        ),
        (MATRIX, [ROW, [5.1, 3.5, True, 0.2]], "must be FP64, got bool: row 1, column 2 is bool True"),
        (MATRIX, [[True] * 4], "must be FP64, got bool: row 0, column 0 is bool True"),
        (
            FRAME,
            [[True, "a", True]],
            "takes area FP64[-1], got tensor 'area': it must be FP64, got bool: row 0 is bool True",
        ),
        (
            FRAME,
            {"area": [2.5, True], "city": ["a", "b"], "new": [True, True]},
            "row 1 is bool True, but row 0 is float 2.5",
        ),
        (
            WHOLE,
            [[2**53 + 1, None]],
            "row 0, column 0 is int 9007199254740993, which cannot be kept beside a missing value",
        ),
        (WHOLE, pd.DataFrame({"a": [2**53 + 1], "b": [np.nan]}), "row 0, column 0 is int 9007199254740993, which"),
        (FRAME, [[1.0, "a"]], "takes rows of 3 values, got shape [1, 2]"),
        (FRAME, [[1.0, "a", True], [1.0]], "rows differ in length: row 1 has 1 values, row 0 has 3 values"),
        (FRAME, HOUSES.iloc[:0], "takes at least one row, got none"),
        (FRAME, [], "got shape [0]"),
    ],
)
def test_what_does_not_fit_is_refused(takes, data, says):
    """The error names the model, what it takes and what came."""
    with pytest.raises(errors.InvalidRequest) as caught:
        bound(takes, data)
    assert says in str(caught.value)
    assert "tensor ''" not in str(caught.value)


@pytest.mark.parametrize(
    ("datatype", "data", "kind"), [("BOOL", [1.0], "bools"), ("BOOL", [2], "bools"), ("INT64", [37.5], "whole numbers")]
)
def test_what_was_guessed_says_so(datatype, data, kind):
    """A number that does not fit a guess is refused with the line of the manifest to change."""
    takes = Signature(inputs=(InputSpec("a", datatype, (-1,), guessed=True),), outputs=OUTPUTS, frame=True)
    with pytest.raises(
        errors.SignatureMismatch,
        match=f"That it takes {kind} was guessed: if .* mutirao models set m inputs.a.datatype=FP64, and restart",
    ):
        signature.validate("m", takes, caller_data.arrays({"a": data}, frame=True))


TEXTS = ["good day", "", "x"]


@pytest.mark.parametrize(
    "many", [TEXTS, np.array(TEXTS), np.array(TEXTS, dtype=object), pd.Series(TEXTS), [[each] for each in TEXTS]]
)
def test_each_of_many_texts_is_a_row(many):
    """A model of texts takes a request for each text, as a model of numbers does for each row."""
    found = request_data.validate("m", TEXT, many, rows=True)
    assert isinstance(found, list)
    assert [each["X"].tolist() for each in found] == [[each] for each in TEXTS]


def test_too_many_rows_are_refused():
    """More rows than the model takes are refused with the limit and what to do."""
    with pytest.raises(
        errors.PayloadTooLarge, match="at most 5 rows in one request, got 6: split it, see submit_many"
    ) as caught:
        bound(MATRIX, [ROW] * 6)
    assert (caught.value.limit, caught.value.size, caught.value.status) == (5, 6, 413)


def test_nan_travels_in_the_binary_form_only():
    """NaN reaches the model from raw bytes (where it is not known whether it takes any), and is refused by name and place in JSON, shorthand or not."""
    array = np.array([[1.0, 2.0, np.nan, 4.0]])
    unknown = Signature(inputs=(InputSpec("X", "FP64", (-1, 4)),), outputs=OUTPUTS)
    assert np.isnan(through_json(unknown, tensors.encode("X", array, binary=True))["X"][0, 2])
    for tensor in (Tensor("X", "FP64", (1, 4), array.tolist()), Tensor(data=array.tolist())):
        with pytest.raises(errors.InvalidTensor, match=r"has NaN at \[0, 2\]"):
            through_json(MATRIX, tensor)


def test_the_shorthand_takes_the_signature_s_types():
    """A bare nested list needs neither names nor datatypes, not even where columns mix text and numbers."""
    assert through_json(MATRIX, Tensor(data=[[5, 3, 1, 0]]))["X"].dtype == np.float64
    columns = through_json(FRAME, Tensor(data=[[40, "Mariana", True], [50.5, "Tiradentes", False]]))
    assert [column.tolist() for column in columns.values()] == [[40.0, 50.5], ["Mariana", "Tiradentes"], [True, False]]


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (Tensor("X", "", (1, 4), memoryview(b"\0" * 32)), "datatype '' is not one of"),
        (Tensor("X", "", (1, 4), None), "datatype '' is not one of"),
        (Tensor("X", "FP64", (1, 4), None), "data is NoneType"),
    ],
)
def test_raw_bytes_need_a_datatype(tensor, says):
    """Bytes that name no datatype, and a tensor without data, are refused."""
    with pytest.raises(errors.InvalidTensor, match=says):
        through_json(MATRIX, tensor)


def test_an_input_given_twice_is_refused():
    """Two inputs of one name are refused rather than one of them being used."""
    tensor = tensors.encode("X", np.array([ROW]), binary=False)
    with pytest.raises(errors.InvalidRequest, match="two inputs have the same name"):
        through_json(MATRIX, tensor, tensor)


def test_outputs_are_chosen_by_name():
    """No name gives the default outputs; names give those, in the order asked; an unknown one is refused with those that there are."""
    for none in (None, ()):
        assert [output.name for output in MATRIX.select_outputs(none)] == ["predict"]
    assert [output.name for output in MATRIX.select_outputs(["predict_proba", "predict"])] == [
        "predict_proba",
        "predict",
    ]
    with pytest.raises(errors.InvalidRequest, match="output 'transform' is not one of predict, predict_proba"):
        MATRIX.select_outputs([RequestedOutput("transform").name])


@given(st.integers(1, 5), st.sampled_from([np.float64, np.float32, np.int64, np.uint8, np.bool_]))
def test_binding_what_is_bound_changes_nothing(rows, dtype):
    """A second check, in the worker, gives the array that the first one gave in the client."""
    once = bound(MATRIX, np.ones((rows, 4), dtype=dtype))
    twice = signature.validate("m", MATRIX, once)
    assert signature.rows(twice) == rows
    assert np.array_equal(once["X"], twice["X"])


def test_a_sparse_matrix_travels_dense():
    """scipy's sparse matrices and arrays are taken as their dense form; one that would be too large is refused before it is made."""
    takes = Signature(inputs=(InputSpec("X", "FP64", (-1, 3)),), outputs=OUTPUTS)
    for kind in (scipy.sparse.csr_matrix, scipy.sparse.coo_array):
        inputs = signature.validate("m", takes, signature.read(kind([[0.0, 2.0, 0.0]]), takes))
        assert inputs["X"].tolist() == [[0.0, 2.0, 0.0]]
    with pytest.raises(
        errors.PayloadTooLarge, match=r"a sparse matrix of 1000 x 1000000 travels dense.*split it by its rows"
    ):
        signature.read(scipy.sparse.csr_matrix((1000, 1_000_000)), takes)
