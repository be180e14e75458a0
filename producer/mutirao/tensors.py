"""ndarray <-> V2 tensor, exact in both forms.

Raw bytes carry everything, NaN and infinities too. JSON carries every finite number exactly (its shortest form names one
float64 only) and refuses the others by name. BYTES elements that are UTF-8 are `str` in Python, others `bytes`.
"""

from __future__ import annotations

import itertools
import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from mutirao import errors
from mutirao.messages import Tensor

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{
        f"{kind}{bits}": np.dtype(f"<{kind[0].lower()}{bits // 8}")
        for kind in ("INT", "UINT")
        for bits in (8, 16, 32, 64)
    },
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    "BYTES": np.dtype(object),
}
_DIMENSIONS_MAX = 32  # numpy's own before 2.0
_SIZE_MAX = 2**40
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def datatype_of(array: Array) -> str:
    """Name the V2 datatype of an array.

    Raises:
        InvalidTensor: V2 has none for it (dates, complex numbers, longdouble).
    """
    if array.dtype.kind in "OSUT":
        return "BYTES"
    name = _NAMES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise errors.InvalidTensor(f"dtype {array.dtype} has no V2 datatype: convert it to a number, bool or text")
    return name


def encode(name: str, array: Array, *, binary: bool) -> Tensor:
    """Make a tensor of an array.

    Args:
        name: the tensor's name.
        array: any shape; numbers, bools, text or bytes.
        binary: raw little-endian bytes, else nested lists for JSON.

    Raises:
        InvalidTensor: no datatype fits, an element is neither text nor bytes, or JSON cannot carry an element.
    """
    datatype = datatype_of(array)
    shape = tuple(int(size) for size in array.shape)
    data = _to_raw(name, array, datatype) if binary else _to_json(name, array, datatype)
    return Tensor(name=name, datatype=datatype, shape=shape, data=data)


def decode(tensor: Tensor, datatype: str = "") -> Array:
    """Make an array of a tensor: writable, aligned, of native byte order.

    Args:
        tensor: raw bytes or a list, nested or flat. Without a shape (the shorthand) the list's own nesting counts.
        datatype: what a tensor that names none is taken to be.

    Raises:
        InvalidTensor: datatype, shape and data do not agree.
    """
    datatype = tensor.datatype or datatype
    if datatype not in DTYPES:
        raise _wrong(tensor, f"datatype {datatype!r} is not one of {', '.join(DTYPES)}")
    if any(size < 0 for size in tensor.shape):
        raise _wrong(tensor, f"shape {list(tensor.shape)} has a negative size")
    if len(tensor.shape) > _DIMENSIONS_MAX or any(size > _SIZE_MAX for size in tensor.shape):
        raise _wrong(
            tensor,
            f"shape of {len(tensor.shape)} dimensions, the largest {max(tensor.shape)}, is more than an array can have",
        )
    if isinstance(tensor.data, list):
        return _from_json(tensor, datatype)
    if isinstance(tensor.data, bytes | memoryview):
        return _from_raw(tensor, datatype)
    raise _wrong(tensor, f"data is {type(tensor.data).__name__}, not a list")


def natural(name: str, values: Any) -> Array:
    """Make an array of nested lists, of the dtype that their elements have.

    Raises:
        InvalidTensor: rows of different lengths, null, text among numbers, or an integer that no float holds.
    """
    try:
        array = np.asarray(values)
        if array.dtype.kind in "OUSf" and array.size and not isinstance(values, np.ndarray):
            array = _exact(values, array)
    except (ValueError, OverflowError) as exc:
        raise errors.InvalidTensor(f"tensor {name!r}: {_ragged(values) or exc}", tensor=name) from exc
    if array.dtype.kind == "O":
        _check_text(name, array)
    return array


def _exact(values: Any, array: Array) -> Array:
    """Undo what numpy guessed: text of one fixed length, or floats made of large integers."""
    if array.dtype.kind == "f" and not np.abs(array).max() >= 2.0**63:
        return array
    elements = np.asarray(values, dtype=object)
    kinds = {type(element) for element in elements.ravel()}
    if kinds == {int} and all(0 <= element < 2**64 for element in elements.ravel()):
        return elements.astype(np.uint64)
    return elements.astype(np.float64) if kinds <= {int, float} else elements


def _to_raw(name: str, array: Array, datatype: str) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(element)) + element for element in _elements(name, array))
    return np.ascontiguousarray(array, dtype=DTYPES[datatype]).tobytes()


def _to_json(name: str, array: Array, datatype: str) -> Any:
    if datatype == "BYTES":
        flat = [_text(name, element) for element in _elements(name, array)]
        return np.array(flat, dtype=object).reshape(array.shape).tolist()
    check_finite(name, array)
    return array.tolist()


def _from_raw(tensor: Tensor, datatype: str) -> Array:
    count, data = math.prod(tensor.shape), memoryview(tensor.data)
    if datatype == "BYTES":
        return _from_raw_text(tensor, data, count)
    dtype = DTYPES[datatype]
    if len(data) != count * dtype.itemsize:
        raise _wrong(
            tensor, f"shape {list(tensor.shape)} of {datatype} is {count * dtype.itemsize} bytes, got {len(data)}"
        )
    array = np.frombuffer(data, dtype=np.uint8 if datatype == "BOOL" else dtype)
    if datatype == "BOOL" and array.size and int(array.max()) > 1:
        raise _wrong(tensor, "a BOOL byte must be 0 or 1")
    return array.astype(dtype.newbyteorder("=")).reshape(tensor.shape)


def _from_raw_text(tensor: Tensor, data: memoryview, count: int) -> Array:
    elements: list[str | bytes] = []
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + size > len(data):
            raise _wrong(
                tensor, f"element {len(elements)} names {size} bytes, but {max(0, len(data) - at - 4)} are left"
            )
        elements.append(_readable(bytes(data[at + 4 : at + 4 + size])))
        at += 4 + size
    if len(elements) != count:
        raise _wrong(tensor, f"shape {list(tensor.shape)} holds {count} elements, got {len(elements)}")
    return _objects(elements).reshape(tensor.shape)


def _from_json(tensor: Tensor, datatype: str) -> Array:
    array = natural(tensor.name, tensor.data)
    shape = tensor.shape or array.shape
    if math.prod(shape) != array.size:
        raise _wrong(tensor, f"shape {list(shape)} holds {math.prod(shape)} elements, got {array.size}")
    check_finite(tensor.name, array)
    return cast(tensor.name, array.reshape(shape), datatype)


def cast(name: str, array: Array, datatype: str) -> Array:
    """Convert an array to a datatype, or refuse where a value would change: text to number, 1.5 to INT64, 300 to UINT8.

    Raises:
        InvalidTensor: the conversion would not keep the values.
    """
    target = DTYPES[datatype].newbyteorder("=")
    if array.dtype == target and target.kind != "O":
        return array
    if datatype == "BYTES" and array.dtype.kind in "OSUT":
        return _objects([_readable(element) for element in _elements(name, array)]).reshape(array.shape)
    allowed = {"b": "b", "i": "iu", "u": "iu", "f": "iufb"}.get(target.kind, "")
    if array.dtype.kind not in allowed and array.size:
        raise errors.InvalidTensor(f"tensor {name!r} must be {datatype}, got {_kind(array)}", tensor=name)
    with np.errstate(all="ignore"):
        result = array.astype(target)
    if not _kept(array, result):
        raise errors.InvalidTensor(f"tensor {name!r} has a value out of the range of {datatype}", tensor=name)
    return result


def _kept(array: Array, result: Array) -> bool:
    if result.dtype.kind == "f":
        return bool(np.array_equal(np.isfinite(array), np.isfinite(result)))
    return array.dtype == result.dtype or bool(np.array_equal(array, result))


def _kind(array: Array) -> str:
    return datatype_of(array) if array.dtype.kind != "O" else "text"


def _elements(name: str, array: Array) -> list[bytes]:
    flat = array.ravel().tolist()
    for at, element in enumerate(flat):
        if not isinstance(element, str | bytes):
            raise errors.InvalidTensor(f"tensor {name!r} is text, but element {at} is {_missing(element)}", tensor=name)
    try:
        return [element.encode() if isinstance(element, str) else element for element in flat]
    except UnicodeEncodeError as exc:
        raise errors.InvalidTensor(
            f"tensor {name!r} holds text that UTF-8 cannot carry: {exc.reason}", tensor=name
        ) from exc


def _check_text(name: str, array: Array) -> None:
    kinds = {type(element) for element in array.ravel()}
    if not kinds <= {str, bytes}:
        shown = ", ".join(sorted("null" if kind is type(None) else kind.__name__ for kind in kinds))
        raise errors.InvalidTensor(f"tensor {name!r} mixes {shown}: its elements must be of one type", tensor=name)


def check_finite(name: str, array: Array) -> None:
    """Refuse NaN and infinities by name: what came as JSON cannot hold them.

    Raises:
        InvalidTensor: names the first and where it is.
    """
    if array.dtype.kind != "f":
        return
    finite = np.isfinite(array)
    if finite.all():
        return
    at = [int(index) for index in np.argwhere(~finite)[0]]
    value = {True: "NaN"}.get(bool(np.isnan(array[tuple(at)])), "infinity")
    raise errors.InvalidTensor(
        f"tensor {name!r} has {value} at {at}: JSON cannot carry it, the binary form can", tensor=name
    )


def _ragged(values: Any) -> str:
    lengths = (
        [len(row) if isinstance(row, list | tuple) else None for row in values]
        if isinstance(values, list | tuple)
        else []
    )
    for at, (length, first) in enumerate(zip(lengths, itertools.repeat(lengths[0] if lengths else None))):
        if length != first:
            shown = ["a single value" if size is None else f"{size} values" for size in (length, first)]
            return f"rows differ in length: row {at} has {shown[0]}, row 0 has {shown[1]}"
    return ""


def _missing(element: object) -> str:
    absent = element is None or element != element  # noqa: PLR0124 - NaN
    return "missing (null): fill it before you submit" if absent else f"{type(element).__name__} {element!r}"


def _text(name: str, element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as exc:
        raise errors.InvalidTensor(
            f"tensor {name!r} holds bytes that are not UTF-8: JSON cannot carry them, the binary form can", tensor=name
        ) from exc


def _readable(element: bytes) -> str | bytes:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return element


def _objects(elements: list[Any]) -> Array:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def _wrong(tensor: Tensor, rule: str) -> errors.InvalidTensor:
    return errors.InvalidTensor(f"tensor {tensor.name!r}: {rule}", tensor=tensor.name)
