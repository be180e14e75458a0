"""JSON objects as inputs and outputs, and the parameters of a request: read, checked and refused alike wherever they come from."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from mutirao import errors
from mutirao.cli import input_data, render_outputs
from mutirao.client import request_data
from mutirao.gateway.openapi import document
from mutirao.gateway.requests import v2_json
from mutirao.registry import ModelInfo
from mutirao.wire import binary_codec, json_elements, signature, tensors
from mutirao.wire.messages import PredictRequest, Tensor
from mutirao.wire.signature import InputSpec, OutputSpec, ParameterSpec, Signature

OUTPUTS = (OutputSpec("predict", "BYTES", (-1,), default=True, format="json"),)
ORDER = InputSpec("order", "BYTES", (-1,), format="json")
ORDERS = Signature(inputs=(ORDER,), outputs=OUTPUTS)
TWO = Signature(inputs=(ORDER, InputSpec("km", "FP64", (-1,))), outputs=OUTPUTS)
ROWS = [{"city": "São Luís", "km": 3}, {"city": "recife", "tags": [[1], []], "x": None}]


def read(takes, data):
    return signature.validate("price", takes, signature.read(data, takes))


def objects(array):
    return [json.loads(each) for each in array.tolist()]


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (ROWS, ROWS),
        (tuple(ROWS), ROWS),
        ({"order": ROWS}, ROWS),
        (np.array(ROWS), ROWS),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["text", None, 1.5, True], ["text", None, 1.5, True]),
        ([{"x": np.float32(1.5), "y": np.arange(2)}], [{"x": 1.5, "y": [0, 1]}]),
        (pd.DataFrame({"city": ["a", "b"], "km": [1, 2]}), [{"city": "a", "km": 1}, {"city": "b", "km": 2}]),
        (pd.DataFrame({"order": [[1], {"a": 1}]}), [[1], {"a": 1}]),
    ],
    ids=repr,
)
def test_objects_travel_as_documents_and_come_back(data, rows):
    """A list of plain Python objects, ragged or nested, is a row for each, and comes back equal."""
    array = read(ORDERS, data)["order"]
    assert objects(array) == rows
    sent = tensors.decode(tensors.encode("order", array, binary=True))
    assert json_elements.decode(sent).tolist() == rows


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([{}, {"x": math.nan}], "tensor 'order': row 1 is not JSON: Out of range float values"),
        ([{"x": {1, 2}}], "row 0 is not JSON: it holds a set, which JSON lacks"),
        ([{(1, 2): 3}], "row 0 is not JSON: keys must be str"),
        ({"city": "recife"}, r"takes a list with a value for each row, as \[\{...\}\]"),
        ("recife", "takes a list with a value for each row"),
        ({"order": {"city": "recife"}}, "an input takes a list with a value for each row"),
        ([], "takes at least one row"),
        (["\ud800"], "UTF-8"),
    ],
    ids=repr,
)
def test_what_is_no_json_is_refused_with_its_row(data, says):
    """An object that JSON does not hold is named by its row, and data without rows are told how they are written."""
    with pytest.raises(errors.InvalidRequest, match=says):
        tensors.encode("order", read(ORDERS, data)["order"], binary=True)


def test_an_object_that_holds_itself_is_refused():
    """A cycle ends in an error, not in the recursion limit."""
    own: dict[str, object] = {}
    own["own"] = own
    with pytest.raises(errors.InvalidTensor, match="row 0 is not JSON: Circular reference"):
        read(ORDERS, [own])


def test_several_inputs_are_columns_or_rows():
    """With inputs beside the objects, both a dict of lists and a list of dicts will do, and a DataFrame of both columns."""
    columns = {"order": ROWS, "km": [1, 2]}
    records = [{"order": row, "km": at + 1} for at, row in enumerate(ROWS)]
    for data in (columns, records, pd.DataFrame(columns)):
        arrays = read(TWO, data)
        assert objects(arrays["order"]) == ROWS
        assert arrays["km"].tolist() == [1.0, 2.0]
    with pytest.raises(
        errors.InvalidRequest, match="row 1 is not a dict with a value for each of the inputs 'order', 'km'"
    ):
        read(TWO, [records[0], {"order": {}}])


def test_a_v2_request_holds_texts_or_objects():
    """BYTES elements are documents; a tensor without a datatype, and the shorthand, hold the objects themselves."""
    texts = [json.dumps(row) for row in ROWS]
    for tensor in (
        Tensor("order", "BYTES", (2,), texts),
        Tensor("order", "BYTES", (2,), [*texts[:1], texts[1]]),
        Tensor("order", data=ROWS),
        Tensor(data=ROWS),
    ):
        got = signature.decode_request("price", ORDERS, PredictRequest(inputs=(tensor,)))
        assert objects(got["order"]) == ROWS
    null = Tensor("order", "BYTES", (1,), [None])
    assert objects(signature.decode_request("price", ORDERS, PredictRequest(inputs=(null,)))["order"]) == [None]
    wrong = Tensor("order", "BYTES", (2,), ["{}", "recife"])
    with pytest.raises(errors.InvalidTensor, match="tensor 'order': row 1 is text 'recife', which is not JSON"):
        signature.decode_request("price", ORDERS, PredictRequest(inputs=(wrong,)))


@pytest.mark.parametrize(
    ("many", "rows"),
    [
        (ROWS, [[ROWS[0]], [ROWS[1]]]),
        ([[1, 2], [3]], [[[1, 2]], [[3]]]),
        ([[[1], [2, 3]], [[4]]], [[[1], [2, 3]], [[4]]]),
        ([ROWS, ROWS[:1]], [ROWS, ROWS[:1]]),
        ([{"order": ROWS}, {"order": 1}], [ROWS, [{"order": 1}]]),
        (["a", 1], [["a"], [1]]),
        (np.array([[1, 2], [3, 4]]), [[[1, 2]], [[3, 4]]]),
    ],
    ids=repr,
)
def test_each_object_of_many_is_a_request(many, rows):
    """submit_many takes an object, or a list of plain values, as a request of one row, and a list of these as one of many."""
    validated = request_data.validate("price", ORDERS, many, rows=True)
    each = validated.requests() if isinstance(validated, request_data.RowBatch) else validated
    assert [objects(one["order"]) for one in each] == rows


def test_the_gateway_reads_the_same_rows():
    """Rows of a body are objects for such a model, and its own example is one that it takes."""
    info = ModelInfo(name="price", version="1", runtime="python", signature=ORDERS)
    parsed = v2_json.read(json.dumps({"rows": ROWS}).encode())
    assert objects(v2_json.arrays(info, parsed)["order"]) == ROWS
    for body in (document.example(ORDERS), {"rows": document.row(ORDERS)}):
        assert objects(v2_json.arrays(info, v2_json.read(json.dumps(body).encode()))["order"]) == [{}]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (json.dumps(ROWS), ROWS),
        (json.dumps(ROWS[0]), ROWS[:1]),
        (json.dumps({"order": ROWS}), ROWS),
        (json.dumps({"rows": ROWS}), ROWS),
        (json.dumps({"inputs": [{"name": "order", "datatype": "BYTES", "shape": [1], "data": ['{"a": 1}']}]}), [{"a": 1}]),
        ("[[1, 2], [3]]", [[1, 2], [3]]),
    ],
)  # fmt: skip
def test_the_command_line_reads_the_same_rows(text, rows):
    """DATA of objects with different fields is no table for such a model; --rows makes a request of each."""
    data, _ = input_data.read(text).arrays(ORDERS)
    assert objects(read(ORDERS, data)["order"]) == rows
    assert [objects(read(ORDERS, one)["order"]) for one in input_data.split(data)] == [[row] for row in rows]


def test_outputs_that_are_documents_come_out_as_objects(capsys):
    """A tensor that is marked is decoded to objects, lists of one length too, and printed as JSON; others stay text."""
    array = json_elements.encode("predict", [[1, 2], [3, 4], {"a": None}])
    tensor = tensors.encode("predict", array, binary=False)
    marked = Tensor(tensor.name, tensor.datatype, tensor.shape, tensor.data, json_elements.PARAMETERS["json"])
    assert json_elements.decode_output(marked).tolist() == [[1, 2], [3, 4], {"a": None}]
    assert json_elements.decode_output(tensor).tolist() == ["[1,2]", "[3,4]", '{"a":null}']
    raw = Tensor(
        "predict", "BYTES", (3,), tensors.encode("predict", array, binary=True).data, json_elements.PARAMETERS["json"]
    )
    (head,), data = binary_codec.detach_raw([raw])
    back = binary_codec.request_with(PredictRequest(inputs=(head,)), data).inputs[0]
    assert json_elements.decode_output(back).tolist() == [[1, 2], [3, 4], {"a": None}]
    render_outputs.show({"predict": json_elements.decode_output(marked)})
    assert '{"a":null}' in capsys.readouterr().out


PARAMETERS = Signature(
    inputs=(InputSpec("X", "FP64", (-1, 2)),),
    outputs=(OutputSpec("predict", "FP64", (-1,), default=True),),
    parameters=(
        ParameterSpec("threshold", "FP64", 0.5),
        ParameterSpec("top", "INT64", 3),
        ParameterSpec("explain", "BOOL", False),
        ParameterSpec("lang", "BYTES", "pt"),
    ),
)


def test_parameters_have_defaults_and_types():
    """What a request does not give has its default, a whole number is a number, and V2's own parameters are let through."""
    defaults = {"threshold": 0.5, "top": 3, "explain": False, "lang": "pt"}
    assert PARAMETERS.read_parameters(None) == defaults
    got = PARAMETERS.read_parameters({"threshold": 1, "lang": "en", "binary_data_output": True, "timeout": 5})
    assert got == {**defaults, "threshold": 1.0, "lang": "en"}
    assert type(got["threshold"]) is float
    assert ORDERS.read_parameters({"anything": 1}) == {}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"threshold": "high"}, r"parameter 'threshold' is text 'high': it must be a number \(FP64\)"),
        ({"threshold": True}, r"parameter 'threshold' is bool True: it must be a number \(FP64\)"),
        ({"top": 1.5}, r"parameter 'top' is float 1.5: it must be a whole number \(INT64\)"),
        ({"explain": 1}, r"parameter 'explain' is int 1: it must be true or false \(BOOL\)"),
        ({"lang": None}, r"parameter 'lang' is None: it must be text \(BYTES\)"),
        ({"treshold": 1}, "parameter 'treshold' is not one of threshold, top, explain, lang"),
    ],
    ids=repr,
)
def test_parameters_of_another_type_are_refused_by_name(given, says):
    """A parameter of a wrong type, or an unknown one, is named with what the model takes."""
    with pytest.raises(errors.InvalidRequest, match=says):
        PARAMETERS.read_parameters(given)


def test_parameters_on_the_command_line():
    """--parameter takes JSON values, and text as it is where the model takes text."""
    got = input_data.parameters(["threshold=0.7", "explain=true", "lang=12", "other=a=b"], PARAMETERS)
    assert got == {"threshold": 0.7, "explain": True, "lang": "12", "other": "a=b"}
    with pytest.raises(errors.InvalidRequest, match="--parameter 'x': it is written NAME=VALUE"):
        input_data.parameters(["x"], PARAMETERS)
