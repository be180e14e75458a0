import contextlib

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mutirao import errors
from mutirao.wire import binary_codec, messages, signature, tensors
from mutirao.wire.messages import PredictRequest, PredictResult, Tensor
from mutirao.wire.signature import InputSpec, OutputSpec, Signature

ARRAYS = hnp.arrays(np.dtype("<f8"), hnp.array_shapes(max_dims=2, min_side=0, max_side=4)) | hnp.arrays(
    np.dtype("<i4"), 3
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
TAKES = Signature(
    inputs=(InputSpec("X", "FP64", (-1, 2)),), outputs=(OutputSpec("predict", "FP64", (-1,), default=True),)
)


@st.composite
def encoded(draw):
    """Tensors with names of their own, some in JSON and some raw."""
    named = draw(st.dictionaries(NAMES, st.tuples(ARRAYS, st.booleans()), max_size=3))
    arrays = {name: (array, raw or not np.isfinite(array).all()) for name, (array, raw) in named.items()}
    return tuple(tensors.encode(name, array, binary=raw) for name, (array, raw) in arrays.items())


def decoded(holder):
    return [(tensor.name, tensor.datatype, tensor.shape, tensors.decode(tensor).tobytes()) for tensor in holder]


@given(encoded(), st.sampled_from([0, 8, 1 << 20]))
def test_a_request_survives_the_message_body(inputs, inline_bytes):
    """A request comes out of the body as it went in, whether its raw tensors travel inside or beside."""
    request = PredictRequest(inputs=inputs, parameters={"note": "ação"}, id="a")
    body, beside = binary_codec.encode_body("iris", request, {"expires": 5}, inline_bytes)
    (model, back), options, embed = binary_codec.decode_body(body)
    assert (model, options, embed) == ("iris", {"expires": 5}, {})
    assert binary_codec.is_offloaded(back) == (beside is not None)
    if beside is not None:
        assert len(beside) > inline_bytes
        back = binary_codec.request_with(back, beside)
    assert decoded(back.inputs) == decoded(inputs)
    assert (back.parameters["note"], back.id) == ("ação", "a")


@given(encoded(), st.sampled_from([0, 8, 1 << 20]))
def test_a_result_survives_json(outputs, inline_bytes):
    """A result is JSON, raw tensors and all, and comes back as it was."""
    result = PredictResult("iris", "1", outputs, parameters={"took_ms": 3})
    packed, beside = binary_codec.pack_result(result, inline_bytes)
    arrived = msgspec.json.decode(msgspec.json.encode(packed), type=PredictResult)
    back = binary_codec.unpack_result(arrived, beside)
    assert decoded(back.outputs) == decoded(outputs)
    assert back.parameters == {"took_ms": 3}


def body_of(head, raw=b""):
    return len(head).to_bytes(4, "little") + head + raw


def whole_body():
    array = np.array([[1.0, 2.0]])
    request = PredictRequest(
        inputs=(tensors.encode("X", array, binary=True), tensors.encode("t", np.array(["ã"]), binary=False))
    )
    return binary_codec.encode_body("iris", request, {}, 1 << 20)[0]


def read(body):
    """Everything that a worker does with a body before it predicts."""
    (model, request), _, _ = binary_codec.decode_body(body)
    return signature.decode_request(model, TAKES, messages.read_request(request))


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6), st.integers(0, 400))
def test_a_damaged_body_is_an_invalid_request(damage, length):
    """Whichever bytes of a body are damaged or cut off, the only error is one of ours."""
    body = bytearray(whole_body())
    for at, byte in damage:
        body[at % len(body)] = byte
    with contextlib.suppress(errors.MutiraoError):
        read(bytes(body[: length or None]))


@given(st.binary(max_size=200))
@example(b"")
@example(b"\x01\0\0")
@example(body_of(b'[["iris", [["\xff"]]], {}, null]'))
@example(body_of(b'[["iris", [["\\ud800"]]], {}, null]'))
@example(body_of(b'[["iris", ' + b"[" * 100_000))
@example(body_of(b'[["iris", ' + b"[" * 99 + b"]" * 99 + b"], {}, null]"))
@example(body_of(b'[["iris", {"inputs": [{"shape": [-1]}]}], {}, null]'))
@example(body_of(b'[["iris", {"inputs": [{"name": "X", "data": 1}]}], {}, null]'))
@example(body_of(b'[["iris", {"inputs": [{"name": "X", "parameters": {"binary_data_size": true}}]}], {}, null]'))
@example(body_of(b'[["iris", {"inputs": [{"name": "X", "parameters": {"binary_data_size": 3}}]}], {}, null]', b"abc"))
@example(body_of(b'[["iris", {"inputs": [{"name": "X", "parameters": {"binary_data_size": -3}}]}], {}, null]', b"abc"))
@example(body_of(b'[["iris", {"inputs": []}], {}, null]'))
@example(
    body_of(b'[["iris", {"inputs": [{"name": "X", "datatype": "FP64", "shape": [99999999999999999999]}]}], {}, null]')
)
def test_anything_else_is_an_invalid_request_too(body):
    """Bytes that were never a body raise an error of ours and no other."""
    with contextlib.suppress(errors.MutiraoError):
        read(body)


@pytest.mark.parametrize(
    ("raw", "says"),
    [(b"\0" * 15, "names 16 raw bytes, but 15 are left"), (b"\0" * 17, "1 raw bytes belong to no tensor")],
)
def test_raw_bytes_must_add_up(raw, says):
    """Too few or too many raw bytes behind the head are refused."""
    request = PredictRequest(inputs=(tensors.encode("X", np.array([[1.0, 2.0]]), binary=True),))
    head = binary_codec.encode_body("iris", request, {}, 1 << 20)[0][:-16]
    with pytest.raises(errors.InvalidTensor, match=says):
        binary_codec.decode_body(head + raw)


@pytest.mark.parametrize("inline", ["$$$", 5, "AAA="])
def test_damaged_raw_bytes_of_a_result_are_refused(inline):
    """A result whose base64 is damaged, or holds other bytes than it names, is an InvalidTensor."""
    output = Tensor("predict", "FP64", (1,), parameters={binary_codec.SIZE: 8})
    with pytest.raises(errors.InvalidTensor):
        binary_codec.unpack_result(PredictResult("iris", "1", (output,), parameters={binary_codec.INLINE: inline}))


@given(encoded())
def test_the_quick_way_to_outputs_is_the_long_one(outputs):
    """Where the inline outputs of a result are read at once, they are those that reading it tensor by tensor gives, and writable."""
    packed, _ = binary_codec.pack_result(PredictResult("iris", "1", outputs), 1 << 20)
    document = msgspec.json.encode(packed)
    quick = binary_codec.inline_outputs(msgspec.Raw(document))
    if quick is not None:
        back = binary_codec.unpack_result(msgspec.json.decode(document, type=PredictResult))
        long = {tensor.name: tensors.decode(tensor) for tensor in back.outputs}
        assert list(quick) == list(long)
        for name, array in long.items():
            assert (quick[name].dtype, quick[name].shape) == (array.dtype, array.shape)
            assert quick[name].tobytes() == array.tobytes()
            assert quick[name].flags.writeable
            assert quick[name].flags.aligned


def test_the_quick_way_takes_what_models_answer():
    """Labels and probabilities of one row are read the quick way; text, bools and damaged base64 are not."""
    made = [
        tensors.encode("predict", np.array([1]), binary=True),
        tensors.encode("p", np.array([[0.2, 0.8]]), binary=True),
    ]
    document = msgspec.json.encode(binary_codec.pack_result(PredictResult("iris", "1", tuple(made)), 1 << 20)[0])
    found = binary_codec.inline_outputs(msgspec.Raw(document))
    assert found is not None
    assert (found["predict"].tolist(), found["p"].tolist()) == ([1], [[0.2, 0.8]])
    for damaged in (
        document.replace(b"AAAA", b"A$AA", 1),
        document.replace(b'"binary_data_size":8', b'"binary_data_size":9'),
    ):
        assert binary_codec.inline_outputs(msgspec.Raw(damaged)) is None
    for odd in (np.array(["a"]), np.array([True])):
        output = tensors.encode("predict", odd, binary=True)
        document = msgspec.json.encode(binary_codec.pack_result(PredictResult("iris", "1", (output,)), 1 << 20)[0])
        assert binary_codec.inline_outputs(msgspec.Raw(document)) is None
