"""Signatures: the inputs and outputs of a model, and the check of inputs, which clients and workers both run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec
import numpy as np

from mutirao import errors
from mutirao.wire import caller_data, date_elements, elements, json_elements, missing, tensors, untyped
from mutirao.wire.messages import PredictRequest, Tensor
from mutirao.wire.tensors import Array

MATRIX = "X"
# V2's own, and those of its extensions: no model's.
RESERVED_PARAMETERS = frozenset({
    "binary_data", "binary_data_output", "binary_data_size", "classification", "content_type", "headers", "priority", "sequence_end",
    "sequence_id", "sequence_start", "timeout",
})  # fmt: skip
# By datatype: what Python has for it, and in words.
PARAMETER_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "BOOL": ((bool,), "true or false"),
    "INT64": ((int,), "a whole number"),
    "FP64": ((int, float), "a number"),
    "BYTES": ((str,), "text"),
}


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """An input or output: its name, V2 datatype, and shape; -1 stands for any size, the first is the rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        """Show it as age FP64[-1]."""
        return f"{self.name} {self.datatype}{list(self.shape)}"


class InputSpec(TensorSpec, frozen=True, omit_defaults=True):
    """An input.

    Attributes:
        nullable: whether values may be missing; None where that is not known: NaN is then passed on, missing text is refused.
        guessed: the datatype was guessed from the values of an example, or of none.
        columns: the names of a matrix's columns, where an example had them.
        format: what its elements hold: json, a JSON document each; binary, bytes; date-time, a date or time in ISO 8601; "" for text as it is.
        optional: the model drops it: a request may leave it out, and what a request has for it is not looked at.
    """

    nullable: bool | None = None
    guessed: bool = False
    columns: tuple[str, ...] = ()
    format: str = ""
    optional: bool = False


class OutputSpec(TensorSpec, frozen=True, omit_defaults=True):
    """An output.

    Attributes:
        default: it is returned where a request names none.
        format: as an input's.
    """

    default: bool = False
    format: str = ""


class ParameterSpec(msgspec.Struct, frozen=True):
    """A parameter that a request may give: its name, its datatype (BOOL, INT64, FP64 or BYTES), and its value where none is given."""

    name: str
    datatype: str
    default: bool | int | float | str


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs and outputs of a model.

    Attributes:
        inputs: one matrix `X`, or one input a column where the model was fitted on a DataFrame.
        outputs: named after the estimator's methods.
        frame: the inputs are the columns of a DataFrame, in this order.
        max_rows: the most rows that one request may hold.
        parameters: what a request may give beside its inputs.
    """

    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    frame: bool = False
    max_rows: int = 10_000
    parameters: tuple[ParameterSpec, ...] = ()

    @property
    def json_inputs(self) -> set[str]:
        """The names of the inputs whose elements are JSON documents."""
        return {spec.name for spec in self.inputs if spec.format == json_elements.FORMAT}

    @property
    def date_inputs(self) -> set[str]:
        """The names of the inputs whose elements are dates or times."""
        return {spec.name for spec in self.inputs if spec.format == date_elements.FORMAT}

    def select_outputs(self, names: Iterable[str] | None) -> tuple[OutputSpec, ...]:
        """Return the outputs of these names, or the default ones where no name is given.

        Raises:
            InvalidRequest: the model has no such output, or one is named twice.
        """
        names = list(names or ())
        if not names:
            return tuple(output for output in self.outputs if output.default)
        outputs = {output.name: output for output in self.outputs}
        if missing := [name for name in names if name not in outputs]:
            text = f"output {missing[0]!r} is not one of {', '.join(outputs)}"
            raise errors.InvalidRequest(text, reason="unknown output")
        if len(set(names)) != len(names):
            twice = next(name for at, name in enumerate(names) if name in names[:at])
            text = f"output {twice!r} is asked for {names.count(twice)} times: name each output once"
            raise errors.InvalidRequest(text, reason="outputs of one name")
        return tuple(outputs[name] for name in names)

    def read_parameters(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the value of each parameter that the model takes: a request's own, or the default.

        A model that takes none ignores those of a request.

        Raises:
            InvalidRequest: a parameter has another type than the model takes, or the model takes others.
        """
        if not self.parameters:
            return {}
        given = given or {}
        names = [spec.name for spec in self.parameters]
        if unknown := [name for name in given if name not in names and name not in RESERVED_PARAMETERS]:
            text = f"parameter {unknown[0]!r} is not one of {', '.join(names)}"
            raise errors.InvalidRequest(text, reason="unknown parameter")
        return {
            spec.name: _parameter(spec, given[spec.name]) if spec.name in given else spec.default
            for spec in self.parameters
        }


def read(data: Any, signature: Signature) -> dict[str, Array]:
    """Return a caller's data as arrays by name, for `validate`: as `caller_data.arrays`, and plain Python objects as JSON documents.

    A model whose only input is of format json takes a list with an object for each row.

    Raises:
        InvalidTensor: an element has no datatype, or is not JSON.
        SignatureMismatch: the data are not as many inputs as the model takes.
    """
    documents = signature.json_inputs
    if signature.frame and (dates := signature.date_inputs):
        data = _with_date_text(data, dates)
    if not documents:
        return caller_data.arrays(data, frame=signature.frame)
    return {
        name: json_elements.encode(name, caller_data.listed(values))
        if name in documents
        else caller_data.as_array(name, values)
        for name, values in caller_data.by_input(data, [spec.name for spec in signature.inputs]).items()
    }


def _with_date_text(data: Any, dates: set[str]) -> Any:
    """Return columns as a mapping, dates as text; anything else as it is."""
    if hasattr(data, "columns") and hasattr(data, "to_numpy"):
        data = {str(name): data[name] for name in data.columns}
    if not isinstance(data, Mapping):
        return data
    return {name: date_elements.encode(values) if name in dates else values for name, values in data.items()}


def validate(model: str, signature: Signature, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Check arrays against a signature, and give each the name, dtype and shape that the model takes.

    Args:
        model: the model's name, for the error.
        signature: the model's.
        inputs: arrays by name; one unnamed matrix of shape (rows, features) fits any model.

    Returns:
        One array an input, in the signature's order; every array has the same number of rows, at least one.

    Raises:
        SignatureMismatch: other names, number of features or dtypes than expected, or no row.
        PayloadTooLarge: more rows than `max_rows`.
    """
    if list(inputs) == [""]:
        inputs = _named(model, signature, inputs[""])
    if signature.frame and any(spec.optional for spec in signature.inputs):
        inputs = _with_dropped(signature, inputs)
    _check_names(model, signature, inputs)
    arrays_by_name = {spec.name: _cast_to_spec(model, spec, inputs[spec.name]) for spec in signature.inputs}
    _check_rows(model, signature, arrays_by_name)
    for spec in signature.inputs:
        if not spec.nullable:
            _check_missing(model, spec, arrays_by_name[spec.name])
    return arrays_by_name


def decode_request(model: str, signature: Signature, request: PredictRequest) -> dict[str, Array]:
    """Decode and check a request's inputs.

    Raises:
        InvalidTensor: a tensor's datatype, shape and data do not agree.
        SignatureMismatch, PayloadTooLarge: as `validate`.
    """
    if signature.json_inputs:
        inputs = _decoded_documents(signature, request)
    else:
        inputs = {tensor.name: _decoded(tensor, frame=signature.frame) for tensor in request.inputs}
    if len(inputs) != len(request.inputs):
        raise errors.InvalidRequest(f"model {model!r}: two inputs have the same name", reason="inputs of one name")
    return validate(model, signature, inputs)


def rows(arrays_by_name: Mapping[str, Array]) -> int:
    """Count the rows of checked inputs."""
    return len(next(iter(arrays_by_name.values())))


def _parameter(spec: ParameterSpec, value: Any) -> Any:
    """Return a parameter's value in the type that the model takes."""
    kinds, rule = PARAMETER_TYPES[spec.datatype]
    if isinstance(value, bool) != (spec.datatype == "BOOL") or not isinstance(value, kinds):
        shown = elements.show(value)
        text = f"parameter {spec.name!r} is {shown}: it must be {rule} ({spec.datatype})"
        raise errors.InvalidRequest(text, reason="parameter of another type")
    return float(cast("float", value)) if spec.datatype == "FP64" else value


def _decoded_documents(signature: Signature, request: PredictRequest) -> dict[str, Array]:
    """Decode a request for a model that takes JSON documents: texts are documents, and values without a datatype are objects."""
    documents, inputs = signature.json_inputs, {}
    for tensor in request.inputs:
        if tensor.datatype or not isinstance(tensor.data, list):
            inputs[tensor.name] = tensors.decode(tensor)
        elif not tensor.name:
            inputs.update(read(tensor.data, signature))
        elif tensor.name in documents:
            inputs[tensor.name] = json_elements.encode(tensor.name, tensor.data)
        else:
            inputs[tensor.name] = _decoded(tensor, frame=False)
    return inputs


def _decoded(tensor: Tensor, *, frame: bool) -> Array:
    if tensor.datatype or not isinstance(tensor.data, list):
        return tensors.decode(tensor)
    array = caller_data.mixed_rows(tensor.data) if frame else None
    array = caller_data.as_array(tensor.name, tensor.data) if array is None else array
    if array.dtype == object and array.ndim == 2:
        numbers = [[each if isinstance(each, float) else 0.0 for each in row] for row in tensor.data]
        tensors.check_finite(tensor.name, np.array(numbers))
    else:
        tensors.check_finite(tensor.name, array, tensor.data)
    return array


def _named(model: str, signature: Signature, matrix: Array) -> Mapping[str, Array]:
    if not signature.frame:
        return {signature.inputs[0].name: matrix} if len(signature.inputs) == 1 else {"": matrix}
    if matrix.ndim != 2 or matrix.shape[1] != len(signature.inputs):
        raise _mismatch(model, f"rows of {len(signature.inputs)} values", _shape(matrix))
    names = [spec.name for spec in signature.inputs]
    if matrix.dtype != object:
        return {name: matrix[:, at] for at, name in enumerate(names)}
    return {name: untyped.array_from_objects(name, matrix[:, at]) for at, name in enumerate(names)}


def _with_dropped(signature: Signature, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Give each input that the model drops a value of its type, whatever the request has for it."""
    kept = (inputs[spec.name] for spec in signature.inputs if not spec.optional and spec.name in inputs)
    count = next((len(array) for array in kept if array.ndim), 1)
    dropped = {spec.name: _nothing(spec, count) for spec in signature.inputs if spec.optional}
    return {**inputs, **dropped}


def _nothing(spec: InputSpec, count: int) -> Array:
    return untyped.objects([""] * count) if spec.datatype == "BYTES" else np.zeros(count, tensors.DTYPES[spec.datatype])


def _check_names(model: str, signature: Signature, inputs: Mapping[str, Array]) -> None:
    expected = [spec.name for spec in signature.inputs]
    missing = [name for name in expected if name not in inputs]
    unexpected = [name for name in inputs if name not in expected]
    if missing or unexpected:
        parts = [f"without {_list(missing)}"] if missing else []
        parts += [f"with {_list(unexpected)}"] if unexpected else []
        raise _mismatch(model, f"inputs {_list(expected)}", f"inputs {' and '.join(parts)}" if inputs else "none")


def _cast_to_spec(model: str, spec: InputSpec, array: Array) -> Array:
    if array.shape[:1] == (0,):
        raise _mismatch(model, "at least one row", "none")
    if len(spec.shape) == 1 and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    agrees = array.ndim == len(spec.shape) and all(
        want in (-1, got) for want, got in zip(spec.shape, array.shape, strict=True)
    )
    if not agrees:
        hint = _WRITTEN.get((array.ndim, len(spec.shape)), "")
        raise _mismatch(model, str(spec), _shape(array), hint)
    try:
        array = (
            date_elements.encode(array) if array.dtype.kind == "M" and spec.format == date_elements.FORMAT else array
        )
        bools = spec.guessed and spec.datatype.startswith("FP")
        fitted = tensors.cast(spec.name, array, spec.datatype, bools=bools)
    except errors.InvalidTensor as exc:
        hint = _guessed(model, spec, array) if spec.guessed else ""
        raise _mismatch(model, str(spec), str(exc), hint) from exc
    check = _CHECKS.get(spec.format)
    return check(spec.name, fitted) if check else fitted


_CHECKS = {json_elements.FORMAT: json_elements.check, date_elements.FORMAT: date_elements.check}


# Hints for data of fewer dimensions than its input, by both numbers of dimensions.
_WRITTEN = {
    (0, 1): "; one value is written [...], for each row one",
    (0, 2): "; one row is written [[...]]",
    (1, 2): "; one row is written [[...]]",
}


def _guessed(model: str, spec: InputSpec, array: Array) -> str:
    kind = {"BOOL": "bools", "BYTES": "text"}.get(spec.datatype, "whole numbers")
    datatype = (
        "BYTES"
        if array.dtype.kind == "O"
        else "FP64"
        if array.dtype.kind == "f" or spec.datatype != "BYTES"
        else "INT64"
    )
    return (
        f". That it takes {kind} was guessed: if it takes {_KINDS[datatype]}, run mutirao models set {model} "
        f"inputs.{spec.name}.datatype={datatype}, and restart the workers"
    )


_KINDS = {"BYTES": "text", "FP64": "other numbers", "INT64": "whole numbers"}


def _check_missing(model: str, spec: InputSpec, array: Array) -> None:
    """Refuse missing values where the signature does not allow them; where it does not say, NaN is left to the model."""
    if spec.nullable is None and spec.datatype.startswith("FP"):
        return
    absent = missing.mask(array)
    if absent is None:
        return
    where = elements.place(array.shape, [int(at) for at in np.argwhere(absent)[0]])
    unknown = f" (its manifest does not say whether it may be missing: if so, write nullable = true there in {model}/model.toml, or add the model again)"
    hint = "fill it before you submit" + (unknown if spec.nullable is None else "")
    raise errors.SignatureMismatch(
        f"model {model!r} takes no missing value for {spec}, and {where} is missing (null, NaN): {hint}",
        model=model,
        expected=str(spec),
    )


def _check_rows(model: str, signature: Signature, arrays_by_name: Mapping[str, Array]) -> None:
    counts = {name: len(array) for name, array in arrays_by_name.items()}
    if len(set(counts.values())) > 1:
        raise _mismatch(
            model, "the same number of rows in each input", ", ".join(f"{name} {n}" for name, n in counts.items())
        )
    count = rows(arrays_by_name)
    if count > signature.max_rows:
        text = f"model {model!r} takes at most {signature.max_rows} rows in one request, got {count}: split it, see submit_many"
        raise errors.PayloadTooLarge(text, limit=signature.max_rows, size=count)


def _mismatch(model: str, expected: str, got: str, hint: str = "") -> errors.SignatureMismatch:
    return errors.SignatureMismatch(
        f"model {model!r} takes {expected}, got {got}{hint}", model=model, expected=expected
    )


def _shape(array: Array) -> str:
    return f"shape {list(array.shape)}" if array.ndim else elements.show(array.item())


def _list(names: Iterable[str]) -> str:
    names = list(names)
    shown = ", ".join(repr(name) for name in names[:6])
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown
