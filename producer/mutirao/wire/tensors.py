"""The conversion between numpy arrays and V2 tensors, exact in both forms.

Raw bytes carry everything, NaN and infinities too. JSON carries every finite number exactly (its shortest form names one
float64 only) and refuses the others by name. BYTES elements that are UTF-8 are `str` in Python, others `bytes`.

A missing value is None in a BYTES array and NaN in any other, which is then float64. In JSON it is null. In raw bytes it is
NaN in an FP tensor, and in a BYTES tensor an element whose length is 0xFFFFFFFF, without content.
"""

from __future__ import annotations

import contextlib
import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from mutirao import errors
from mutirao.wire import missing, untyped
from mutirao.wire.elements import nth, place, show
from mutirao.wire.messages import Tensor
from mutirao.wire.untyped import objects, tensor_prefix

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
MISSING = b"\xff\xff\xff\xff"
_DIMENSIONS_MAX = 32  # numpy's own before 2.0
_SIZE_MAX = 2**40
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def datatype_of(array: Array) -> str:
    """Return the V2 datatype of an array.

    Raises:
        InvalidTensor: V2 has no datatype for it (dates, complex numbers, longdouble).
    """
    if array.dtype.kind in "OSUT":
        return "BYTES"
    name = _NAMES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise errors.InvalidTensor(f"dtype {array.dtype} has no V2 datatype: convert it to a number, bool or text")
    return name


def encode(name: str, array: Array, *, binary: bool, nullable: bool = False) -> Tensor:
    """Convert an array to a tensor.

    Args:
        name: the tensor's name.
        array: any shape; numbers, bools, text or bytes.
        binary: raw little-endian bytes, else nested lists for JSON.
        nullable: None among text, and in JSON NaN, are missing values; else they are refused.

    Raises:
        InvalidTensor: no datatype fits, an element is neither text nor bytes, or JSON cannot carry an element.
    """
    datatype = datatype_of(array)
    shape = tuple(int(size) for size in array.shape)
    write = _to_raw if binary else _to_json
    data = write(name, array, datatype, nullable=nullable)
    return Tensor(name=name, datatype=datatype, shape=shape, data=data)


def decode(tensor: Tensor, datatype: str = "") -> Array:
    """Convert a tensor to an array: writable, aligned, of native byte order.

    Args:
        tensor: raw bytes or a list, nested or flat. Without a shape (the shorthand) the list's own nesting counts.
        datatype: the datatype of a tensor that names none.

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


def _to_raw(name: str, array: Array, datatype: str, *, nullable: bool) -> bytes:
    if datatype != "BYTES":
        return np.ascontiguousarray(array, dtype=DTYPES[datatype]).tobytes()
    elements = _elements(name, array, nullable=nullable)
    return b"".join(MISSING if each is None else struct.pack("<I", len(each)) + each for each in elements)


def _to_json(name: str, array: Array, datatype: str, *, nullable: bool) -> Any:
    if datatype == "BYTES":
        elements = _elements(name, array, nullable=nullable)
        return objects([each if each is None else _text(name, each) for each in elements]).reshape(array.shape).tolist()
    absent = missing.mask(array) if nullable else None
    if absent is None:
        check_finite(name, array)
        return array.tolist()
    check_finite(name, np.where(absent, 0, array))
    filled = array.astype(object)
    filled[absent] = None
    return filled.tolist()


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
    elements: list[str | bytes | None] = []
    at = 0
    while at < len(data) and len(elements) <= count:
        if data[at : at + 4] == MISSING:
            elements.append(None)
            at += 4
            continue
        size = int.from_bytes(data[at : at + 4], "little")
        if at + 4 + size > len(data):
            raise _wrong(
                tensor, f"element {len(elements)} names {size} bytes, but {max(0, len(data) - at - 4)} are left"
            )
        elements.append(_readable(bytes(data[at + 4 : at + 4 + size])))
        at += 4 + size
    if len(elements) != count:
        got = "more" if at < len(data) else len(elements)
        raise _wrong(tensor, f"shape {list(tensor.shape)} holds {count} elements, got {got}")
    return objects(elements).reshape(tensor.shape)


def _from_json(tensor: Tensor, datatype: str) -> Array:
    array = untyped.array_from_values(tensor.name, tensor.data)
    shape = tensor.shape or array.shape
    if math.prod(shape) != array.size:
        raise _wrong(tensor, f"shape {list(shape)} holds {math.prod(shape)} elements, got {array.size}")
    check_finite(tensor.name, array, tensor.data)
    return cast(tensor.name, array.reshape(shape), datatype)


def cast(name: str, array: Array, datatype: str, *, bools: bool = False) -> Array:
    """Convert an array to a datatype, or refuse it where a value would change: text to number, 1.5 to INT64, 300 to UINT8.

    Missing values stay missing: an integer or bool array with any becomes float64. A bool among values without a datatype is not a number.

    Args:
        name: the tensor's name.
        array: the array.
        datatype: the target.
        bools: take bools without a datatype as numbers, too.

    Raises:
        InvalidTensor: the conversion would not keep the values.
    """
    target = DTYPES[datatype].newbyteorder("=")
    if array.dtype == target and target.kind != "O":
        return array
    if datatype == "BYTES":
        return _as_text(name, array)
    if array.dtype.kind in "OSUT":
        of_bools = target.kind == "b"
        _check_elements(name, array, datatype, untyped.BOOL if of_bools else untyped.NUMBER, bools=bools or of_bools)
        array = untyped.resolve_objects(name, array, whole=target.kind in "iu")
    allowed = {"b": "b", "i": "iuf", "u": "iuf", "f": "iufb"}.get(target.kind, "")
    absent = missing.mask(array) if target.kind in "biu" and array.dtype.kind == "f" else None
    if absent is not None:
        whole = cast(name, np.where(absent, 0, array), "INT64" if target.kind == "b" else datatype)
        if target.kind == "b" and (whole > 1).any() | (whole < 0).any():
            raise _of_other_type(name, array, datatype, 0)
        return array.astype(np.float64)
    if array.dtype.kind not in allowed and array.size:
        raise _of_other_type(name, array, datatype, 0)
    with np.errstate(all="ignore"):
        result = array.astype(target)
    kept = _kept(array, result)
    if not kept.all():
        at = tuple(int(index) for index in np.argwhere(~kept)[0])
        value, where = array[at].item(), place(array.shape, at)
        if target.kind in "iu" and array.dtype.kind == "f" and math.isfinite(value) and not value.is_integer():
            raise errors.InvalidTensor(
                f"{tensor_prefix(name)}it must be {datatype}, got {value!r} in {where}", tensor=name
            )
        text = f"{tensor_prefix(name)}{value!r} in {where} is out of the range of {datatype}"
        raise errors.InvalidTensor(text, tensor=name)
    return result


def _as_text(name: str, array: Array) -> Array:
    if array.dtype.kind == "f" and bool(np.isnan(array).all()):
        return objects([None] * array.size).reshape(array.shape)
    flat = array.ravel().tolist()
    if set(map(type, flat)) == {str}:
        with contextlib.suppress(UnicodeEncodeError):  # the element is named below
            "".join(flat).encode()
            return objects(flat).reshape(array.shape)
    _check_elements(name, array, "BYTES", (str, bytes))
    elements = _elements(name, array, nullable=True)
    return objects([each if each is None else _readable(each) for each in elements]).reshape(array.shape)


def _kept(array: Array, result: Array) -> npt.NDArray[np.bool_]:
    if result.dtype.kind == "f":
        return np.asarray(np.isfinite(array) == np.isfinite(result))
    return np.asarray(array == result)


def _check_elements(name: str, array: Array, datatype: str, kinds: tuple[type, ...], *, bools: bool = True) -> None:
    """Refuse the first element that is neither missing nor of these types, or a bool where bools are not accepted."""
    elements = array.ravel().tolist()
    strange = {
        kind
        for kind in set(map(type, elements))
        if not issubclass(kind, kinds) or (not bools and issubclass(kind, untyped.BOOL))
    }
    if not strange:
        return
    for at, element in enumerate(elements):
        if type(element) in strange and not missing.is_missing(element):
            raise _of_other_type(name, array, datatype, at)


def _of_other_type(name: str, array: Array, datatype: str, at: int) -> errors.InvalidTensor:
    element = array.ravel()[at : at + 1].tolist()[0]
    is_text = isinstance(element, str | bytes)
    got = "text" if is_text else datatype_of(array) if array.dtype.kind not in "OSUT" else type(element).__name__
    text = f"{tensor_prefix(name)}it must be {datatype}, got {got}: {nth(array.shape, at)} is {show(element)}"
    return errors.InvalidTensor(text, tensor=name)


def _elements(name: str, array: Array, *, nullable: bool) -> list[bytes | None]:
    flat = array.ravel().tolist()
    if nullable and not set(map(type, flat)) <= {str, bytes}:
        flat = [None if missing.is_missing(element) else element for element in flat]
    for at, element in enumerate(flat):
        if not isinstance(element, str | bytes) and not (nullable and element is None):
            is_ = "missing (null): fill it before you submit" if missing.is_missing(element) else show(element)
            text = f"{tensor_prefix(name)}it is text, but {nth(array.shape, at)} is {is_}"
            raise errors.InvalidTensor(text, tensor=name)
    try:
        return [element.encode() if isinstance(element, str) else element for element in flat]
    except UnicodeEncodeError as exc:
        raise errors.InvalidTensor(
            f"tensor {name!r} holds text that UTF-8 cannot carry: {exc.reason}", tensor=name
        ) from exc


def check_finite(name: str, array: Array, values: Any = None) -> None:
    """Refuse NaN and infinities, which JSON cannot hold.

    Args:
        name: the tensor's name.
        array: the array.
        values: the JSON of which it was made: a null there is a missing value, and not NaN.

    Raises:
        InvalidTensor: there is one; names the first and its position.
    """
    if array.dtype.kind != "f":
        return
    finite = np.isfinite(array)
    if finite.all():
        return
    if values is not None:
        finite |= missing.null_mask(values, array.shape)
        if finite.all():
            return
    at = [int(index) for index in np.argwhere(~finite)[0]]
    value = {True: "NaN"}.get(bool(np.isnan(array[tuple(at)])), "infinity")
    hint = "; a missing value is null" if value == "NaN" else ""
    raise errors.InvalidTensor(
        f"tensor {name!r} has {value} at {at}: JSON cannot carry it, the binary form can{hint}", tensor=name
    )


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


def _wrong(tensor: Tensor, rule: str) -> errors.InvalidTensor:
    return errors.InvalidTensor(f"tensor {tensor.name!r}: {rule}", tensor=tensor.name)
