import re

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mutirao import errors
from mutirao.wire import tensors, untyped
from mutirao.wire.messages import Tensor

NUMBERS = [name for name in tensors.DTYPES if name != "BYTES"]
FLOATS = [name for name in NUMBERS if name.startswith("FP")]
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)


@st.composite
def bits(draw, datatypes=NUMBERS):
    """Arrays of any bit pattern: NaN payloads, infinities, -0.0, subnormals."""
    dtype = tensors.DTYPES[draw(st.sampled_from(datatypes))]
    shape = draw(SHAPES)
    if dtype.kind == "b":
        return draw(hnp.arrays(dtype, shape))
    return draw(hnp.arrays(np.dtype(f"<u{dtype.itemsize}"), shape)).view(dtype)


@st.composite
def texts(draw, elements):
    shape = draw(SHAPES)
    count = int(np.prod(shape))
    array = np.empty(count, dtype=object)
    array[:] = draw(st.lists(elements, min_size=count, max_size=count))
    return array.reshape(shape)


def over_the_wire(tensor):
    """What arrives after JSON: the same tensor."""
    return msgspec.json.decode(msgspec.json.encode(tensor), type=Tensor)


def same(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@given(bits())
def test_numbers_survive_the_binary_form_bit_by_bit(array):
    """Every bit pattern of every numeric datatype comes back from the binary form, in every shape."""
    back = tensors.decode(tensors.encode("x", array, binary=True))
    assert same(back, array)
    assert back.flags.writeable
    assert back.flags.aligned


@given(bits())
def test_numbers_survive_json_or_are_refused_by_name(array):
    """A finite array comes back from JSON bit by bit; NaN and infinity are refused by their name."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        first = array[~np.isfinite(array)].ravel()[0]
        with pytest.raises(
            errors.InvalidTensor, match="'x' has NaN" if np.isnan(first) else "'x' has infinity"
        ) as caught:
            tensors.encode("x", array, binary=False)
        assert caught.value.tensor == "x"
    else:
        assert same(tensors.decode(over_the_wire(tensors.encode("x", array, binary=False))), array)


@given(bits(["FP64"]))
def test_big_endian_and_strided_arrays_are_sent_as_little_endian_rows(array):
    """Byte order and memory layout of the caller's array do not matter."""
    other = np.asfortranarray(array).astype(">f8")
    assert same(tensors.decode(tensors.encode("x", other, binary=True)), array)


@given(texts(st.text(st.characters(exclude_categories=["Cs"])) | st.binary(max_size=8)))
def test_text_survives_the_binary_form(array):
    """Text of any length and script, and bytes, come back; bytes that happen to be UTF-8 come back as text."""
    back = tensors.decode(tensors.encode("x", array, binary=True))
    assert back.shape == array.shape
    as_bytes = [element.encode() if isinstance(element, str) else element for element in back.ravel()]
    assert as_bytes == [element.encode() if isinstance(element, str) else element for element in array.ravel()]


@given(texts(st.text(st.characters(exclude_categories=["Cs"]))))
def test_text_survives_json(array):
    """Text comes back from JSON: empty, with NUL at its end, of any script."""
    back = tensors.decode(over_the_wire(tensors.encode("x", array, binary=False)))
    assert back.shape == array.shape
    assert back.tolist() == array.tolist()


@given(bits(), st.data())
def test_raw_bytes_of_another_length_are_refused(array, data):
    """A raw tensor that is too short or too long for its shape is refused."""
    raw = array.tobytes()
    changed = data.draw(st.binary(max_size=len(raw) + 9).filter(lambda other: len(other) != len(raw)))
    tensor = Tensor("x", tensors.datatype_of(array), array.shape, changed)
    with pytest.raises(errors.InvalidTensor, match=r"tensor 'x': shape .* bytes, got \d+"):
        tensors.decode(tensor)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda each: st.lists(each, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from([*tensors.DTYPES, "", "FP65"]), st.lists(st.integers(-2, 2**70), max_size=3), anything)
def test_no_data_gets_past_the_decoder_with_another_error(datatype, shape, data):
    """Whatever a client writes as datatype, shape and data: an array of that datatype and shape (float64 where values of integers or bools are missing), or InvalidTensor."""
    try:
        array = tensors.decode(Tensor("x", datatype, tuple(shape), data))
    except errors.InvalidTensor:
        return
    lacks = tensors.DTYPES[datatype].kind in "biu" and array.dtype.kind == "f" and np.isnan(array).any()
    assert array.dtype == tensors.DTYPES[datatype] or lacks
    assert not shape or array.shape == tuple(shape)


@given(st.sampled_from(list(tensors.DTYPES)), st.lists(st.integers(0, 3), max_size=3), st.binary(max_size=40))
def test_no_raw_bytes_get_past_the_decoder_with_another_error(datatype, shape, raw):
    """Whatever bytes come: an array of that datatype and shape, or InvalidTensor."""
    try:
        array = tensors.decode(Tensor("x", datatype, tuple(shape), memoryview(raw)))
    except errors.InvalidTensor:
        return
    assert (array.dtype, array.shape) == (tensors.DTYPES[datatype], tuple(shape))


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "says"),
    [
        ("FP65", [1], [1.0], "datatype 'FP65' is not one of BOOL, INT8"),
        ("FP64", [2], [1.0], "shape [2] holds 2 elements, got 1"),
        ("FP64", [-1], [1.0], "shape [-1] has a negative size"),
        ("FP64", [2, 2], [[1.0, 2.0], [3.0]], "rows differ in length: row 1 has 1 values, row 0 has 2 values"),
        ("FP64", [2], [[1.0], 2.0], "rows differ in length: row 1 has a single value, row 0 has 1 values"),
        ("FP64", [2], [1.0, [None]], "rows differ in length"),
        ("FP64", [2], [1.0, {}], "row 1 is of type dict: convert it to int, float, bool or text"),
        ("FP64", [1], ["1.0"], "must be FP64, got text: row 0 is text '1.0'"),
        ("FP64", [1], None, "data is NoneType, not a list"),
        ("FP64", [1], {"a": 1}, "data is dict, not a list"),
        ("FP64", [1], [10**400], "the number at [0] has 401 digits"),
        ("FP16", [1], [1e6], "out of the range of FP16"),
        ("INT64", [1], [1.5], "must be INT64, got 1.5 in row 0"),
        ("INT64", [1], [1e300], "1e+300 in row 0 is out of the range of INT64"),
        ("INT64", [1], [2**63], "out of the range of INT64"),
        ("UINT8", [1], [256], "out of the range of UINT8"),
        ("UINT8", [1], [-1], "out of the range of UINT8"),
        ("BOOL", [1], [1], "must be BOOL, got INT64"),
        ("BYTES", [1], [1], "must be BYTES, got INT64"),
        ("BYTES", [2], ["a", 1], "row 1 is int 1, but row 0 is text 'a': its elements must be of one type"),
        ("BOOL", [1], b"\x02", "a BOOL byte must be 0 or 1"),
        ("BYTES", [1], b"\x05\0\0\0abc", "element 0 names 5 bytes, but 3 are left"),
        ("BYTES", [2], b"\x01\0\0\0a", "shape [2] holds 2 elements, got 1"),
        ("BYTES", [1], b"\x01", "element 0 names 1 bytes, but 0 are left"),
    ],
)
def test_what_is_wrong_is_said(datatype, shape, data, says):
    """A tensor that does not agree with itself is refused with its name and the rule that it breaks."""
    with pytest.raises(errors.InvalidTensor, match="tensor 'x'.*" + re.escape(says)) as caught:
        tensors.decode(Tensor("x", datatype, tuple(shape), data))
    assert (caught.value.tensor, caught.value.status) == ("x", 400)


@pytest.mark.parametrize("values", [[1, 2**63], [2**64 - 1, 0], [2**63 - 1]])
def test_large_integers_stay_exact(values):
    """Integers beyond those that a float holds come from JSON as they are."""
    array = tensors.decode(Tensor("x", "UINT64", (len(values),), values))
    assert array.tolist() == values


def test_large_integers_are_numbers_to_a_float_tensor():
    """JavaScript writes 1e20 as an integer of 21 digits; an FP64 tensor takes it."""
    assert tensors.decode(Tensor("x", "FP64", (3,), [1.5, 10**20, -3])).tolist() == [1.5, 1e20, -3.0]


@pytest.mark.parametrize(
    "array", [np.array(["2020-01-01"], dtype="M8[D]"), np.array([1j]), np.array([1], dtype="m8[s]")], ids=str
)
def test_a_dtype_that_v2_lacks_is_refused(array):
    """Dates, durations and complex numbers have no V2 datatype, and the error says what to do."""
    with pytest.raises(errors.InvalidTensor, match="has no V2 datatype: convert it"):
        tensors.encode("x", array, binary=True)


@pytest.mark.parametrize("datatype", ["INT8", "UINT64", "INT64"])
@pytest.mark.parametrize(("values", "says"), [([1.0, np.inf], "inf in row 1"), ([-np.inf, np.nan], "-inf in row 0")])
def test_infinity_is_no_whole_number(datatype, values, says):
    """An integer tensor refuses infinities by name and place, also where others are missing."""
    with pytest.raises(errors.InvalidTensor, match=says):
        tensors.cast("x", np.array(values), datatype)


@pytest.mark.parametrize(
    ("element", "says"),
    [
        (None, "row 1 is missing"),
        (float("nan"), "row 1 is missing"),
        (3, "row 1 is int 3"),
        ("\ud800", "UTF-8 cannot carry"),
    ],
)
@pytest.mark.parametrize("binary", [True, False])
def test_text_with_something_else_in_it_is_refused(element, says, binary):
    """A missing value or a number among text is refused with its place."""
    array = np.array(["a", element], dtype=object)
    with pytest.raises(errors.InvalidTensor, match=f"tensor 'x'.*{says}"):
        tensors.encode("x", array, binary=binary)


def test_json_refuses_bytes_that_are_not_text():
    """Bytes that are not UTF-8 travel in the binary form only."""
    array = np.array([b"\xff"], dtype=object)
    assert tensors.decode(tensors.encode("x", array, binary=True)).tolist() == [b"\xff"]
    with pytest.raises(errors.InvalidTensor, match="not UTF-8: JSON cannot carry them, the binary form can"):
        tensors.encode("x", array, binary=False)


@pytest.mark.parametrize(
    "array", [np.array(["a", "bc"]), np.array([b"a", b"bc"]), np.array(["a", "bc"], dtype=object)], ids=repr
)
def test_every_kind_of_text_array_is_text(array):
    """numpy's fixed-length text, bytes and objects are all BYTES."""
    assert tensors.datatype_of(array) == "BYTES"
    assert tensors.decode(tensors.encode("x", array, binary=False)).tolist() == ["a", "bc"]


@pytest.mark.parametrize("datatype", FLOATS)
def test_integers_become_floats(datatype):
    """A float tensor takes whole numbers, and an array whose own type is bool as 0 and 1."""
    for data in ([1, 0], [1.0, 0]):
        assert tensors.decode(Tensor("x", datatype, (2,), data)).tolist() == [1.0, 0.0]
    assert tensors.cast("x", np.array([True, False]), datatype).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("datatype", [*FLOATS, "INT64", "UINT8"])
@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([True, False], "got bool: row 0 is bool True"),
        ([None, False], "got bool: row 1 is bool False"),
        ([1, True], "row 1 is bool True, but row 0 is int 1"),
        ([1.5, False], "row 1 is bool False, but row 0 is float 1.5"),
    ],
)
def test_a_bool_is_no_number(datatype, data, says):
    """Where values have no type of their own, a bool among them, or in place of a number, is refused by its place."""
    with pytest.raises(errors.InvalidTensor, match=says):
        tensors.decode(Tensor("x", datatype, (2,), data))


LARGE = 2**53 + 1


@pytest.mark.parametrize("beside", [None, float("nan"), 37.0])
@pytest.mark.parametrize("make", [list, lambda rows: np.array(rows, dtype=object)], ids=["list", "array"])
def test_large_integers_stay_themselves(beside, make):
    """An integer that no float holds is kept beside 37.0, and refused by its place beside a missing value; one that is held is kept."""
    array = untyped.array_from_values("x", make([LARGE, beside]))
    if beside == 37.0:
        assert tensors.cast("x", array, "INT64").tolist() == [LARGE, 37]
    else:
        with pytest.raises(errors.InvalidTensor, match=f"row 0 is int {LARGE}, which cannot be kept beside a missing"):
            tensors.cast("x", array, "INT64")
        held = tensors.cast("x", untyped.array_from_values("x", make([LARGE - 1, beside])), "INT64")
        assert held[0] == LARGE - 1
        assert np.isnan(held[1])
    assert tensors.cast("x", array, "FP64")[0] == 2.0**53


def test_infinity_is_no_integer():
    """An infinity where whole numbers belong is refused by name, as any other number out of their range."""
    with pytest.raises(errors.InvalidTensor, match="inf in row 1 is out of the range of INT64"):
        tensors.cast("x", np.array([1.0, np.inf]), "INT64")
