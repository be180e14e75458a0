"""One batch in one process: each request is answered, or refused, as if it were alone."""

import base64
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mutirao import errors
from mutirao.wire import binary_codec
from mutirao.wire.messages import PredictResult
from mutirao_worker.inference import execution
from mutirao_worker.inference.execution import ResultLimits
from mutirao_worker.inference.inputs import InputReader, PackedRequest, RejectedRequest, StackedRequests
from support import sample_models
from support.message_bodies import binary, body, raw_tensor
from support.pool_requests import RecordingModel, error_of, outputs_of, packed, packed_json


def same(got, expected):
    if expected.dtype.kind == "f":
        return got.shape == expected.shape and np.allclose(got, expected, rtol=1e-9, atol=1e-9, equal_nan=True)
    return got.tolist() == expected.tolist()


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(sorted(sample_models.GOOD)),
        st.integers(0, 40),
        st.sampled_from([1, 1, 1, 2, 5, 30]),
        st.sampled_from([None, ["predict"], ["predict_proba", "predict"]]),
        st.sampled_from(["binary", "binary", "json", "beside"]),
    ),
    max_size=40,
)


@given(REQUESTS, st.sampled_from([0, 40, 65536]))
@example([("iris", at, 1, None, "binary") for at in range(40)], 65536)
@example([("iris", at, 1, None, "binary") for at in range(40)], 0)
@example([("houses", at, 1, None, "binary") for at in range(40)], 65536)
def test_each_answer_is_that_of_its_own_rows(host, requests, inline_bytes):
    """However requests are mixed, each gets what its model says of its own rows alone, and the very document that it gets alone."""
    asked, expected = [], []
    for name, start, rows, outputs, form in requests:
        sample = sample_models.get(name)
        data = sample.data[start : start + rows]
        asked.append(
            packed_json(name, data, outputs=outputs)
            if form == "json"
            else packed(name, data, outputs=outputs, inline_bytes=0 if form == "beside" else 65536)
        )
        expected.append({out: getattr(sample.model, out)(data) for out in outputs or ["predict", "predict_proba"]})
    ran = execution.run(host.find, asked, ResultLimits(inline_bytes))
    assert [answer.rows for answer in ran.results] == [rows for _, _, rows, _, _ in requests]
    assert ran.rows == sum(rows for _, _, rows, _, _ in requests)
    for one, answer, own in zip(asked, ran.results, expected, strict=True):
        got = outputs_of(answer)
        assert list(got) == list(own)
        assert all(same(got[name], own[name]) for name in own)
        (alone,) = execution.run(host.find, [one], ResultLimits(inline_bytes)).results
        assert [answer.summary, answer.embed] == [alone.summary, alone.embed]
        assert structure(answer) == structure(alone)


def structure(answer):
    """All of a document but the values in it."""
    result = msgspec.json.decode(answer.result, type=PredictResult)
    parameters = {
        key: value if key != binary_codec.INLINE else len(value) for key, value in (result.parameters or {}).items()
    }
    heads = [msgspec.structs.replace(tensor, data=None) for tensor in result.outputs]
    return result.model_name, result.model_version, heads, result.id, parameters, len(answer.payload or b"")


NUMBERS = st.sampled_from(["<f8", "<f4", "<f2", "<i8", "<i4", "|u1", "|b1", "<u8"])


@given(
    st.lists(
        st.tuples(NUMBERS, st.lists(st.sampled_from([0, 1, 7, 100]), min_size=4, max_size=4), st.booleans()),
        min_size=1,
        max_size=20,
    )
)
def test_datatypes_may_be_mixed(host, rows):
    """Numbers of any datatype reach the model as the numbers that they are, and NaN costs only the request that has it."""
    asked = []
    for dtype, values, nan in rows:
        array = np.array([values]).astype(dtype)
        if nan and array.dtype.kind == "f":
            array[0, 0] = np.nan
        asked.append((array, packed("iris", array)))
    model = sample_models.get("iris").model
    for (array, _), answer in zip(
        asked, execution.run(host.find, [one for _, one in asked], ResultLimits(65536)).results, strict=True
    ):
        if array.dtype.kind == "f" and np.isnan(array).any():
            assert "takes no missing value for X" in str(error_of(answer))
        else:
            assert same(outputs_of(answer)["predict_proba"], model.predict_proba(array.astype(float)))


def test_requests_of_one_kind_are_one_call(host):
    """Requests of different sizes and encodings, and of one model and outputs, share a call; its limits cut it, not a request."""
    iris = sample_models.get("iris").data
    asked = [packed("iris", iris[:1])] * 200 + [packed("iris", iris[:3])] * 110 + [packed_json("iris", iris[:2])] * 5
    sizes: list[int] = []
    spy: Any = RecordingModel(host.find("iris"), sizes)
    execution.run(lambda _: spy, asked, ResultLimits(65536))
    assert sum(sizes) == 540
    assert len(sizes) == 2
    assert max(sizes) <= 512
    sizes.clear()
    answers = execution.run(
        lambda _: spy, [*asked[:3], packed("iris", np.tile(iris, (8, 1))), *asked[:3]], ResultLimits(65536)
    ).results
    assert sorted(sizes) == [6, 600]
    assert [answer.status for answer in answers] == ["ok"] * 7


@pytest.mark.parametrize(
    ("sizes", "max_rows", "max_bytes", "expected"),
    [
        ([(5, 1, 10)], 256, 1000, [5]),
        ([(5, 1, 10)], 2, 1000, [2, 2, 1]),
        ([(5, 1, 10)], 256, 25, [2, 2, 1]),
        ([(3, 2, 10), (2, 1, 10)], 5, 1000, [4, 4]),
        ([(1, 9, 10), (2, 1, 10)], 5, 1000, [9, 2]),
        ([(1, 1, 10), (2, 1, 5000), (1, 1, 10)], 5, 1000, [1, 1, 1, 1]),
        ([], 5, 1000, []),
    ],
)
def test_calls_keep_to_their_limits(sizes, max_rows, max_bytes, expected):
    """A call has at most so many rows and bytes; a request that has more is a call of its own, and no request is cut."""
    nothing: Any = None
    stacks = [
        StackedRequests(nothing, list(range(count)), rows, size, {"X": np.zeros((count * rows, 1))})
        for count, rows, size in sizes
    ]
    made = [
        sum(len(stack.inputs["X"]) for stack in call)
        for call in execution.split_into_calls(stacks, max_rows, max_bytes)
    ]
    assert made == expected


def test_a_result_that_is_too_large_goes_beside(ran):
    """Raw tensors over the limit come as a payload, and the document says so; those at the limit stay inside."""
    data = sample_models.get("iris").data[:3]
    inside = ran(*[packed("iris", data)] * 2, inline_bytes=96)
    beside = ran(*[packed("iris", data)] * 2, inline_bytes=95)
    assert [answer.payload for answer in inside] == [None, None]
    for one, other in zip(inside, beside, strict=True):
        assert len(other.payload) == 96
        assert json.loads(other.result)["parameters"] == {binary_codec.OFFLOADED: True}
        assert outputs_of(one)["predict_proba"].tolist() == outputs_of(other)["predict_proba"].tolist()


def test_a_callback_is_handed_back(ran):
    """Celery's embed comes back where there is something in it, with a failure too."""
    after = {"callbacks": [{"task": "x"}], "errbacks": None, "chain": None, "chord": None}
    iris = sample_models.get("iris").data[:1]
    answers = ran(
        packed_json("iris", iris, embed=after), packed_json("iris", iris), packed_json("iris", [[1.0]], embed=after)
    )
    assert [answer.embed for answer in answers] == [after, None, after]


WRONG = [
    (binary_codec.BINARY, b"", "the body must be Celery's triple"),
    (binary_codec.BINARY, b"\x01\x02", "2 bytes long"),
    (binary_codec.BINARY, binary(body(raw_tensor(32)), bytes(32), length=2**31), "names a head of 2147483648 bytes"),
    (binary_codec.BINARY, binary(body(raw_tensor(32)), bytes(32), length=0), "names a head of 0 bytes"),
    (binary_codec.BINARY, binary(b"{not json"), "head is not a request"),
    (binary_codec.BINARY, binary(b"[" * 100_000), "head is not a request"),
    (binary_codec.BINARY, binary(body(raw_tensor(64)), bytes(32)), "names 64 raw bytes, but 32 are left"),
    (binary_codec.BINARY, binary(body(raw_tensor(-8)), bytes(32)), "names -8 raw bytes"),
    (binary_codec.BINARY, binary(body(raw_tensor(32)), bytes(40)), "8 raw bytes belong to no tensor"),
    (binary_codec.BINARY, binary(body(raw_tensor(32), raw_tensor(32)), bytes(64)), "two inputs have the same name"),
    (binary_codec.BINARY, binary(body(raw_tensor(32, (2, 4))), bytes(32)), "is 64 bytes, got 32"),
    (binary_codec.BINARY, binary(body(raw_tensor(32, (4,))), bytes(32)), "one row is written [[...]]"),
    (binary_codec.BINARY, binary(body(raw_tensor(0, (0, 4)))), "takes at least one row, got none"),
    (binary_codec.BINARY, binary(body(raw_tensor(32, (-1, -4))), bytes(32)), "negative size"),
    (binary_codec.BINARY, binary(body(raw_tensor(32, (1, 4), "BYTES")), b"\xfe\xff\xff\xff" + bytes(28)), "names 4294967294 bytes, but 28 are left"),
    (binary_codec.BINARY, binary(body(raw_tensor(4, (1, 4), "BOOL")), b"\x02\x00\x00\x00"), "a BOOL byte must be 0 or 1"),
    (binary_codec.BINARY, binary(body(raw_tensor(32), parameters={binary_codec.OFFLOADED: True})), "its payload key does not exist"),
    (binary_codec.BINARY, binary(body(raw_tensor(32), model="../x"), bytes(32)), "model name '../x' is not allowed"),
    (binary_codec.BINARY, binary(body(raw_tensor(32), model="rose"), bytes(32)), "model 'rose' is not served"),
    (binary_codec.BINARY, binary(body(raw_tensor(32), outputs=[{"name": "fit"}]), bytes(32)), "output 'fit' is not one of"),
    (binary_codec.BINARY, binary(body(raw_tensor(32 * 10_001, (10_001, 4))), bytes(32 * 10_001)), "at most 10000 rows"),
    (binary_codec.BINARY, binary([["iris", {"inputs": []}], {"fast": True}, {}]), "options ['fast']"),
    (binary_codec.JSON, b"{not json", "the body (application/json) cannot be read: DecodeError; send application/json or"),
    (binary_codec.JSON, b"\xff\xfe", "cannot be read: DecodeError"),
    (binary_codec.JSON, b"[" * 100_000, "cannot be read: DecodeError"),
    (binary_codec.JSON, b"[1,2,3]", "the body must be Celery's triple"),
    (binary_codec.JSON, b'[["iris",[[1]]],{},"x"]', "the body must be Celery's triple"),
    (binary_codec.JSON, b'[["iris"],{},{}]', "takes (model, request), got 1 arguments"),
    (binary_codec.JSON, b'[["iris",[[1,2,3,NaN]]],{},{}]', "has NaN at [0, 3]: JSON cannot carry it"),
    (binary_codec.JSON, b'[["iris",7],{},{}]', "neither a V2 inference request nor a nested list"),
    (binary_codec.JSON, b'[["iris",{"inputs":3}],{},{}]', "$.inputs"),
    (binary_codec.JSON, b'[["iris",[[1,2,3]]],{},{}]', "model 'iris' takes X FP64[-1, 4], got shape [1, 3]"),
    (binary_codec.JSON, b'[["iris",{"inputs":[{"name":"\\ud800","datatype":"FP12","shape":[1],"data":[1]}]}],{},{}]', "'FP12' is not one of"),
    ("application/x-yaml", b"a: 1", "application/x-yaml"),
]  # fmt: skip


@pytest.mark.parametrize(("content_type", "wrong", "says"), WRONG, ids=[says for *_, says in WRONG])
def test_a_request_that_is_wrong_is_refused_alone(ran, content_type, wrong, says):
    """What cannot be read, or does not fit, is refused with its reason, twice in one batch too; its neighbours are answered."""
    iris = sample_models.get("iris").data
    bad = PackedRequest("bad", wrong, content_type, False, None)
    encoded = PackedRequest("bad", base64.b64encode(wrong).decode(), content_type, True, None)
    answers = ran(packed("iris", iris[:1]), bad, packed_json("iris", iris[1:2]), encoded, packed("iris", iris[2:3]))
    assert [answer.status for answer in answers] == ["ok", "failed", "ok", "failed", "ok"]
    assert answers[1].result == answers[3].result
    assert says in str(error_of(answers[1]))
    assert isinstance(error_of(answers[1]), errors.InvalidRequest | errors.ModelNotFound)
    assert answers[1].traceback is None


def test_like_requests_of_which_one_is_wrong(ran):
    """Of requests that are alike to the byte but in their values, only the one with a value that cannot be is refused."""
    heads = binary(body(raw_tensor(4, (1, 4), "BOOL")))
    asked = [PackedRequest(str(at), heads + bytes([0, 1, at, 0]), binary_codec.BINARY, False, None) for at in range(4)]
    answers = ran(*asked)
    assert [answer.status for answer in answers] == ["ok", "ok", "failed", "failed"]
    assert "a BOOL byte must be 0 or 1" in str(error_of(answers[2]))


def test_like_texts_of_which_some_lie(host):
    """A text that claims more bytes than it has cannot take a neighbour's, even where another makes good for it."""
    row = {"area": np.array([50.0]), "city": np.array(["Ouro Preto"], dtype=object), "rooms": np.array([3.0])}
    good: Any = packed("houses", row, encoded=False)
    true = b"\x0a\0\0\0Ouro Preto"
    long, two = b"\x18\0\0\0Ouro Preto", b"\0\0\0\0\x06\0\0\0 Preto"
    liars = [good._replace(body=good.body.replace(true, lie)) for lie in (long, two)]
    assert {len(liar.body) for liar in liars} == {len(good.body)}
    found = list(InputReader(host.find, [good, liars[0], good, liars[1], good]).read(range(5)))
    assert [one.member for one in found if isinstance(one, RejectedRequest)] == [1, 3]
    assert {city for one in found if isinstance(one, StackedRequests) for city in one.inputs["city"]} == {"Ouro Preto"}


def test_tensors_beside_that_are_gone(ran):
    """A request whose tensors were kept beside, and are no more, fails by name; one whose are there is answered."""
    one = packed("iris", sample_models.get("iris").data[:2], inline_bytes=0)
    answers = ran(one, one._replace(id="gone", offloaded=None))
    assert answers[0].status == "ok"
    assert str(error_of(answers[1])) == "the tensors of job 'gone' are gone: its payload key does not exist"


def test_nothing_is_asked(ran):
    """An empty batch has no answers."""
    assert ran() == []


@pytest.mark.parametrize("form", [packed, packed_json])
def test_a_result_that_is_too_large_costs_its_own_request(ran, form):
    """A result over the limit fails its request by name, with its size; its neighbours are answered."""
    answers = ran(*(form("pads", [[size, 0.0, 0.0]]) for size in (3, 4000, 5, 4001)), result=9000)
    assert [answer.status for answer in answers] == ["ok", "failed", "ok", "failed"]
    error = error_of(answers[1])
    assert isinstance(error, errors.InvalidOutput)
    assert "bytes or more, over the 9,000 of MUTIRAO_MAX_RESULT_BYTES" in str(error)


def test_a_result_is_bounded_before_it_is_written(ran):
    """Results of one size that are each too large all fail by name; one byte less, and all are answered."""
    asked = [packed("iris", sample_models.get("iris").data[:1]) for _ in range(3)]
    size = len(ran(asked[0])[0].result)
    assert {answer.status for answer in ran(*asked, result=size)} == {"ok"}
    assert {answer.status for answer in ran(*asked, result=size - 1)} == {"failed"}


def test_a_batch_whose_results_are_too_large_together_goes_on_later(ran, monkeypatch):
    """Once a batch has more results than may go back at once, the rest is to run again, in whatever form."""
    monkeypatch.setattr(execution, "MAX_RESULTS_BYTES", 1000)
    sample = sample_models.get("iris").data
    for form in (packed, packed_json):
        kinds = [answer.status for answer in ran(*(form("iris", sample[:3]) for _ in range(9)))]
        answered = kinds.index("interrupted")
        assert kinds == ["ok"] * answered + ["interrupted"] * (9 - answered)
        assert answered


def test_an_output_is_asked_for_once(ran):
    """A request that names an output twice is refused by its name; else a few bytes ask for a result of any size."""
    for form in (packed, packed_json):
        (answer,) = ran(form("iris", sample_models.get("iris").data[:1], outputs=["predict_proba", "predict"] * 2))
        assert "output 'predict_proba' is asked for 2 times: name each output once" in str(error_of(answer))


def test_the_task_answers_where_it_is_called(host, monkeypatch):
    """The task called as a function, without a queue, answers and refuses as a worker does."""
    from mutirao_worker.app import app

    monkeypatch.setattr(app, "host", host)
    data = sample_models.get("iris").data[:2]
    answered = app.tasks["mutirao.predict"]("iris", data.tolist())
    assert answered["outputs"][0]["data"] == sample_models.get("iris").expected()[:2].tolist()
    with pytest.raises(errors.SignatureMismatch):
        app.tasks["mutirao.predict"]("iris", [[1.0]])
