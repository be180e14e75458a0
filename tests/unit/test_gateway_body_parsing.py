"""The short way of reading a request is the long one, only shorter."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutirao import errors
from mutirao.gateway.requests import table_files, v2_binary, v2_json
from mutirao.registry import ModelInfo
from mutirao.tables.csv_table import AUTOMATIC
from mutirao.wire import signature
from mutirao.wire.http_schemas import InferBody, RequestInputs
from mutirao.wire.messages import PredictRequest, Tensor
from mutirao.wire.signature import InputSpec, OutputSpec, Signature

TAKES = Signature(
    inputs=(InputSpec("X", "FP64", (-1, 2)),), outputs=(OutputSpec("predict", "FP64", (-1,), True),), max_rows=3
)
INFO = ModelInfo(name="m", version="1", signature=TAKES)
VALUES = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(-9, 9), st.booleans(), st.none(), st.text()
)
TENSORS = st.builds(
    Tensor,
    name=st.sampled_from(["X", "X", "Y"]),
    datatype=st.sampled_from(["FP64", "FP64", "FP32", "INT64", ""]),
    shape=st.sampled_from([(1, 2), (2, 2), (4, 2), (1, 3), (2,), (0, 2), (-1, 2), ()]),
    data=st.one_of(st.lists(st.floats(-9, 9), max_size=8), st.lists(VALUES, max_size=4), st.just([[1.0, 2.0]])),
)


def outcome(read):
    try:
        # As text: NaN, which is a null's value, equals nothing.
        return {name: (array.dtype, repr(array.tolist())) for name, array in read().items()}
    except errors.MutiraoError as exc:
        return type(exc), str(exc)


@given(st.lists(TENSORS, min_size=1, max_size=2).map(tuple))
def test_the_short_way_leads_where_the_long_one_does(inputs):
    """Arrays and refusals are the same by either."""
    short = outcome(lambda: v2_json.of_request(INFO, RequestInputs(inputs=inputs)))
    assert short == outcome(lambda: signature.decode_request("m", TAKES, PredictRequest(inputs=inputs)))


def test_the_commonest_request_takes_it():
    """A flat list of floats in the model's own shape needs no more."""
    given = v2_json._plain(TAKES, (Tensor("X", "FP64", (2, 2), [1.5, 2.5, 3.5, 4.5]),))
    assert given is not None
    assert np.array_equal(given["X"], [[1.5, 2.5], [3.5, 4.5]])


@pytest.mark.parametrize("number", [b"1e999", b"NaN", b"Infinity", b"-1e400"])
def test_json_has_no_float_that_is_not_finite(number):
    """The short way rests on this."""
    with pytest.raises(errors.InvalidRequest):
        v2_json.read(b'{"inputs":[{"name":"X","datatype":"FP64","shape":[1,2],"data":[1.5,%b]}]}' % number)


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity"])
def test_json_without_a_number_is_told_of_null(number):
    """Python writes NaN and Infinity, which JSON has not: the error says what to write."""
    with pytest.raises(errors.InvalidRequest, match="JSON has neither NaN nor Infinity: a missing value is null"):
        v2_json.read(b"[[1.5,%b]]" % number)


def test_a_body_has_one_kind_of_inputs():
    """Of inputs and rows in one body neither is ignored."""
    both = RequestInputs(inputs=(Tensor("X", "FP64", (1, 2), [1.0, 2.0]),), rows=[[3.0, 4.0]])
    with pytest.raises(errors.InvalidRequest, match='"inputs" and "rows": leave one out'):
        v2_json.of_request(INFO, both)


def test_a_body_of_objects_becomes_columns():
    """Rows that are objects must have the same columns."""
    assert v2_json._columns([{"a": 1, "b": 2}, {"b": 4, "a": 3}]) == {"a": [1, 3], "b": [2, 4]}
    with pytest.raises(errors.InvalidRequest, match="row 1"):
        v2_json._columns([{"a": 1}, {"b": 1}])


def test_the_wire_takes_no_field_twice():
    """What a body may hold is said once: a batch's requests are bodies without the rest."""
    names = {field.name for field in msgspec.structs.fields(RequestInputs)}
    assert names <= {field.name for field in msgspec.structs.fields(InferBody)}


@pytest.mark.parametrize("rows", [4, 20_000])
def test_a_file_of_a_form_may_be_as_large_as_any_body(rows):
    """No limit of the parser's own stands before the gateway's."""
    table = b"1.5,2.5\r\n" * rows
    many = msgspec.structs.replace(TAKES, max_rows=rows)
    head = b'--b\r\nContent-Disposition: form-data; name="f"; filename="t.csv"\r\n\r\n'
    found = table_files.of_form(head + table + b"\r\n--b--\r\n", "multipart/form-data; boundary=b", many, AUTOMATIC)
    assert found.data.shape == (rows, 2)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\x00\xff", b"\x03\x00\x00\x00abc", b"\xff\xff\xff\xff", b""])
def test_a_raw_body_is_the_file_that_a_model_takes(content):
    """Of an input of format binary a body without JSON is the file itself, and its answer JSON; of text it is V2's raw form."""
    takes = msgspec.structs.replace(TAKES, inputs=(InputSpec("image", "BYTES", (-1,), format="binary"),))
    parsed = v2_binary.read(content, b"0", takes)
    assert parsed.data is not None
    assert (parsed.data["image"].tolist(), parsed.bare) == ([content], False)
    text = msgspec.structs.replace(TAKES, inputs=(InputSpec("text", "BYTES", (-1,)),))
    raw = v2_binary.read(b"\x03\x00\x00\x00abc", b"0", text)
    assert raw.data is not None
    assert (raw.data["text"].tolist(), raw.bare) == (["abc"], True)
