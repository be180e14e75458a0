"""What a model's predict takes and gives, by its annotations."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args, get_origin

import msgspec
import numpy as np

from mutirao import errors
from mutirao.wire import tensors
from mutirao.wire.signature import RESERVED_PARAMETERS, InputSpec, ParameterSpec

JSON, BINARY = "json", "binary"
PLAIN: Mapping[Any, str] = {bool: "BOOL", int: "INT64", float: "FP64", str: "BYTES", bytes: "BYTES"}
WRITTEN = "texts: list[str], images: list[bytes], x: np.ndarray, frame: pd.DataFrame, orders: list[dict]; or one row: text: str"


class Value(msgspec.Struct, frozen=True):
    """What an input or output is.

    Attributes:
        kind: list, array, frame, or scalar, which is a value of one row.
        datatype: V2's; "" where an example tells it.
        format: json, binary, or "".
        nullable: elements may be None.
    """

    kind: str
    datatype: str = ""
    format: str = ""
    nullable: bool = False


class Plan(msgspec.Struct, frozen=True):
    """How predict is called.

    Attributes:
        inputs: its inputs, by name.
        parameters: what a request may give beside them.
        batch: it takes many rows; else it is called for each row.
        output: what its result is, as far as it is annotated; None where it is not.
    """

    inputs: dict[str, Value]
    parameters: tuple[ParameterSpec, ...]
    batch: bool
    output: Value | None

    @property
    def frame(self) -> bool:
        """Whether it takes one DataFrame."""
        return any(value.kind == "frame" for value in self.inputs.values())

    def specs(self) -> tuple[InputSpec, ...]:
        """Return the inputs whose types the annotations tell."""
        return tuple(
            InputSpec(name, value.datatype, (-1,), nullable=value.nullable, format=value.format)
            for name, value in self.inputs.items()
            if value.kind in {"list", "scalar"}
        )


def read(predict: Callable[..., Any], *, batch: bool | None) -> Plan:
    """Read the annotations of predict.

    Args:
        predict: the method, bound.
        batch: what the class says of it; None where it says nothing.

    Raises:
        RepositoryError: an annotation is missing, or is not one of those that can be served.
    """
    try:
        hints = typing.get_type_hints(predict)
    except Exception as exc:
        raise errors.RepositoryError(f"the annotations of predict cannot be read: {type(exc).__name__}: {exc}") from exc
    inputs: dict[str, Value] = {}
    parameters = []
    for parameter in inspect.signature(predict).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise errors.RepositoryError(f"predict takes *{parameter.name}: name each input, as {WRITTEN}")
        if parameter.kind == parameter.KEYWORD_ONLY:
            parameters.append(_parameter(parameter, hints.get(parameter.name)))
            continue
        if parameter.name not in hints:
            text = f"the parameter {parameter.name!r} of predict has no annotation: write what it takes, as {WRITTEN}"
            raise errors.RepositoryError(text)
        inputs[parameter.name] = _value(
            f"the parameter {parameter.name!r}", hints[parameter.name], one_row=batch is False
        )
    if not inputs:
        raise errors.RepositoryError(f"predict takes no input: write what it takes, as {WRITTEN}")
    single = _is_single(inputs, batch)
    returned = hints.get("return")
    output = None if returned in (None, type(None)) else _output(returned, one_row=single)
    return Plan(inputs, tuple(parameters), not single, output)


def _is_single(inputs: Mapping[str, Value], batch: bool | None) -> bool:
    """Return whether predict takes one row at a time.

    Raises:
        RepositoryError: it takes both one and many, or something else than the class says.
    """
    kinds = {value.kind for value in inputs.values()}
    if "frame" in kinds and len(inputs) > 1:
        raise errors.RepositoryError(
            "predict takes a DataFrame and more: its columns are the inputs, so it is the only one"
        )
    if batch and "scalar" in kinds:
        raise errors.RepositoryError("batch = True, but predict takes a single value: write list[...] for the rows")
    single = batch is False or "scalar" in kinds
    if batch is None and single and kinds != {"scalar"}:
        raise errors.RepositoryError(
            "predict takes a single value and a list: either all are of many rows (lists, arrays), or all of one; say batch = False in "
            "class Model where a list is a value of one row"
        )
    if single and "frame" in kinds:
        raise errors.RepositoryError("batch = False, but predict takes a DataFrame, which is many rows")
    return single


def _parameter(parameter: inspect.Parameter, hint: Any) -> ParameterSpec:
    name, default = parameter.name, parameter.default
    if default is parameter.empty:
        raise errors.RepositoryError(
            f"the parameter {name!r} of predict has no default: write one, as {name}: float = 0.5"
        )
    kind = hint if hint in (bool, int, float, str) else type(default)
    if kind is float and type(default) is int:
        default = float(default)
    if kind not in (bool, int, float, str) or type(default) is not kind:
        text = f"the parameter {name!r} of predict is {hint or kind.__name__} = {default!r}: a request can give bool, int, float or str"
        raise errors.RepositoryError(text)
    if name in RESERVED_PARAMETERS:
        raise errors.RepositoryError(
            f"the parameter {name!r} of predict has a name of the protocol's own: give it another"
        )
    return ParameterSpec(name, PLAIN[kind], default)


def _value(what: str, hint: Any, *, one_row: bool) -> Value:
    """Return what an annotation stands for; a list is a value of one row where the class says that predict takes one."""
    hint, nullable = _without_none(_resolved(hint))
    origin, args = get_origin(hint) or hint, get_args(hint)
    if _is_frame(origin):
        return Value("frame")
    if origin is np.ndarray:
        return Value("array", _datatype(args))
    if hint in PLAIN:
        return Value("scalar", PLAIN[hint], BINARY if hint is bytes else "", nullable)
    if one_row or _is_mapping(origin):
        return Value("scalar", "BYTES", JSON)
    if isinstance(origin, type) and issubclass(origin, Iterable):
        element, nullable = _without_none(args[0] if args else Any)
        if element in PLAIN:
            return Value("list", PLAIN[element], BINARY if element is bytes else "", nullable)
        if element is Any or get_origin(element) or _is_mapping(element) or element in (list, tuple):
            return Value("list", "BYTES", JSON)
    raise errors.RepositoryError(f"{what} of predict is {hint}: write what it takes, as {WRITTEN}")


def _output(hint: Any, *, one_row: bool) -> Value | None:
    """Return what the annotation of the result says; None where it does not say all."""
    if not one_row and _is_mapping(get_origin(hint) or hint):
        return None  # named outputs
    try:
        value = _value("the result", hint, one_row=one_row)
    except errors.RepositoryError:
        return None
    return value if value.kind in {"list", "scalar"} else None


def _resolved(hint: Any) -> Any:
    """Return what an alias (`type X = ...`, as numpy's NDArray is since 2.4) stands for."""
    value = getattr(get_origin(hint) or hint, "__value__", None)
    if value is None:
        return hint
    args = get_args(hint)
    return _resolved(value[args] if args else value)


def _without_none(hint: Any) -> tuple[Any, bool]:
    if get_origin(hint) in (typing.Union, types.UnionType):
        others = [each for each in get_args(hint) if each is not type(None)]
        if len(others) == 1:
            return others[0], True
    return hint, False


def _is_mapping(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Mapping)


def _is_frame(hint: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and hint is pandas.DataFrame


def _datatype(args: tuple[Any, ...]) -> str:
    """Return the datatype of NDArray[...]; "" where it has none."""
    scalar = get_args(args[1])[:1] if len(args) == 2 else ()
    try:
        return tensors.datatype_of(np.empty(0, dtype=scalar[0])) if scalar and scalar[0] is not Any else ""
    except (TypeError, errors.InvalidTensor):
        return ""
