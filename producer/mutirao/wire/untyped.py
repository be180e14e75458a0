"""Values without a datatype: nested lists, and arrays of objects.

They get the dtype of their elements where it holds all of them exactly. Others stay objects until a datatype is known: bools, which
count as numbers only where the datatype says so, and integers that no float holds among floats or missing values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mutirao import errors
from mutirao.wire import missing
from mutirao.wire.elements import nth, show

Array = npt.NDArray[Any]

BOOL = (bool, np.bool_)
NUMBER = (int, float, np.number, np.bool_)
_BITS_MAX = 1023  # an integer of so many bits is surely within a float64's range
EXACT = 2.0**53  # up to here every integer is a float64


def array_from_values(name: str, values: Any) -> Array:
    """Convert nested lists to an array of their elements' dtype.

    Raises:
        InvalidTensor: rows of different lengths, bools or text among numbers, other types, or an integer beyond a float's range.
    """
    try:
        array = np.asarray(values)
        if array.size and not hasattr(values, "dtype"):
            array = _exact(values, array)
    except OverflowError:
        raise _unheld(name, np.asarray(values, dtype=object)) from None
    except ValueError as exc:
        raise errors.InvalidTensor(f"{tensor_prefix(name)}{_ragged(values) or exc}", tensor=name) from exc
    return array_from_objects(name, array) if array.dtype.kind == "O" else array


def array_from_objects(name: str, array: Array) -> Array:
    """Convert an array of objects to its elements' dtype; missing values among those that stay objects become None.

    Raises:
        InvalidTensor: bools or text among numbers, or other types; names the first such element.
    """
    elements = _elements(array)
    present = set(map(type, elements)) - {type(None)}
    if all(issubclass(kind, str | bytes) for kind in present) or all(issubclass(kind, BOOL) for kind in present):
        return objects(elements).reshape(array.shape)
    if not all(issubclass(kind, NUMBER) and not issubclass(kind, BOOL) for kind in present):
        raise _of_two_kinds(name, array.shape, elements)
    try:
        return _numbers(elements).reshape(array.shape)
    except OverflowError:
        raise _unheld(name, array) from None


def resolve_objects(name: str, array: Array, *, whole: bool | None = None) -> Array:
    """Convert objects to numbers or bools; text stays as it is.

    Args:
        name: the tensor's name.
        array: objects: text, or numbers and bools.
        whole: True for integers, False for floats, None where that is not known.

    Raises:
        InvalidTensor: an integer would become a float that does not hold it; names the first.
    """
    if array.dtype.kind != "O":
        return array
    elements = _elements(array)
    kinds = set(map(type, elements))
    if not all(issubclass(kind, NUMBER) for kind in kinds - {type(None)}):
        return array
    if whole and type(None) not in kinds:
        plain = np.asarray([int(each) if isinstance(each, float) and each.is_integer() else each for each in elements])
        if plain.dtype.kind in "iu":
            return plain.reshape(array.shape)
    if kinds and all(issubclass(kind, BOOL) for kind in kinds):
        return array.astype(np.bool_)
    missed, floats = type(None) in kinds, any(issubclass(kind, float | np.floating) for kind in kinds)
    if (missed and whole is not False) or (floats and whole is None):
        _check_exact(name, array.shape, elements, "a missing value" if missed else "numbers that are not whole")
    try:
        return np.array([math.nan if each is None else float(each) for each in elements]).reshape(array.shape)
    except OverflowError:
        raise _unheld(name, array) from None


def _check_exact(name: str, shape: tuple[int, ...], elements: list[Any], others: str) -> None:
    at = next((at for at, each in enumerate(elements) if not float_holds(each)), None)
    if at is not None:
        text = f"{nth(shape, at)} is {show(elements[at])}, which cannot be kept beside {others}: that takes a float, and none has all its digits"
        raise errors.InvalidTensor(f"{tensor_prefix(name)}{text}", tensor=name)


def tensor_prefix(name: str) -> str:
    """Return the beginning of a sentence about a tensor; "" for one without a name."""
    return f"tensor {name!r}: " if name else ""


def objects(elements: list[Any]) -> Array:
    """Return an array of objects."""
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def side_by_side(columns: Sequence[Array]) -> Array:
    """Join columns to a matrix. Text among numbers, or an integer that a float cannot hold, makes it one of objects, for later checks."""
    large = any(column.dtype.kind in "iu" and (np.abs(column) >= EXACT).any() for column in columns)
    if large or any(column.dtype == object for column in columns):
        columns = [column.astype(object) for column in columns]
    return np.column_stack(columns)


def _elements(array: Array) -> list[Any]:
    """Return the elements as a list; missing ones are None."""
    elements: list[Any] = array.ravel().tolist()
    absent = missing.mask(array)
    if absent is None:
        return elements
    return [None if gone else each for each, gone in zip(elements, absent.ravel().tolist(), strict=True)]


def _numbers(elements: list[Any]) -> Array:
    """Return numbers as an array; those that no dtype holds exactly stay objects."""
    if None not in elements:
        plain = np.asarray(elements)
        return _exact(elements, plain) if plain.size else plain
    if not all(map(float_holds, elements)):
        return objects(elements)
    return np.array([math.nan if each is None else float(each) for each in elements])


def _exact(values: Any, array: Array) -> Array:
    """Undo numpy's guesses: text of one fixed length, numbers made of bools, floats made of large integers."""
    kind = array.dtype.kind
    if kind in "biuf" and not _may_hide_bools(values, array) and not (kind == "f" and (np.abs(array) >= EXACT).any()):
        return array
    if kind not in "OUSbiuf":
        return array
    elements = np.asarray(values, dtype=object)
    flat = elements.ravel().tolist()
    kinds = set(map(type, flat))
    if kinds == {int} and all(0 <= element < 2**64 for element in flat):
        return elements.astype(np.uint64)
    if not all(issubclass(each, NUMBER) and not issubclass(each, BOOL) for each in kinds):
        return elements
    return elements.astype(np.float64) if kinds != {int} and all(map(float_holds, flat)) else elements


def _may_hide_bools(values: Any, array: Array) -> bool:
    """Return whether a bool is among the values; numpy turns bools among numbers into 0 and 1."""
    if array.dtype.kind == "b":
        return True
    if array.ndim == 0 or not ((array == 0) | (array == 1)).any():
        return False
    for _ in range(array.ndim - 1):
        values = list(values)
        if all(isinstance(each, np.ndarray) for each in values):
            return any(each.dtype.kind == "b" for each in values)
        values = itertools.chain.from_iterable(values)
    return any(issubclass(kind, BOOL) for kind in set(map(type, values)))


def float_holds(number: Any) -> bool:
    """Return whether a float holds a number exactly; a missing value is held as NaN."""
    return not isinstance(number, int | np.integer) or abs(int(number)) <= EXACT or int(float(number)) == int(number)


def _of_two_kinds(name: str, shape: tuple[int, ...], elements: list[Any]) -> errors.InvalidTensor:
    """Return the error that names the first element of another type than numbers and text, or than the first element."""
    present = [(at, each) for at, each in enumerate(elements) if each is not None]
    strange = next(((at, each) for at, each in present if not isinstance(each, (*NUMBER, str, bytes))), None)
    if strange is not None:
        remedy = (
            "convert it to int, float, bool or text" if shape else "give an array, or nested lists of numbers or text"
        )
        text = f"{nth(shape, strange[0])} is {show(strange[1])}: {remedy}"
    else:
        (first, one), *others = present
        at, other = next((at, each) for at, each in others if _sort(each) != _sort(one))
        text = f"{nth(shape, at)} is {show(other)}, but {nth(shape, first)} is {show(one)}: its elements must be of one type"
    return errors.InvalidTensor(f"{tensor_prefix(name)}{text}", tensor=name)


def _sort(element: Any) -> str:
    return "text" if isinstance(element, str | bytes) else "bool" if isinstance(element, BOOL) else "number"


def _unheld(name: str, elements: Array) -> errors.InvalidTensor:
    """Return the error that names the first integer beyond a float's range, by its position and number of digits."""
    integers = (element for element in np.ndenumerate(elements) if isinstance(element[1], int))
    at, number = next(each for each in integers if each[1].bit_length() > _BITS_MAX)
    digits = int(number.bit_length() * math.log10(2)) + 1
    text = f"the number at {list(at)} has {digits} digits, more than any datatype holds"
    return errors.InvalidTensor(f"{tensor_prefix(name)}{text}", tensor=name)


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
