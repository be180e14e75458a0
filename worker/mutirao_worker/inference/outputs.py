"""Each request's own fate, as plain data that the parent stores as it is."""

from __future__ import annotations

import binascii
import contextlib
import json
import traceback
from collections.abc import Mapping
from itertools import repeat
from typing import Any, NamedTuple

import msgspec
import numpy as np

from mutirao import errors
from mutirao.settings import Settings
from mutirao.wire import binary_codec, tensors
from mutirao.wire.messages import PredictResult, Tensor
from mutirao.wire.signature import OutputSpec
from mutirao.wire.tensors import DTYPES, Array
from mutirao_worker.inference import interruption
from mutirao_worker.inference.inputs import Stack
from mutirao_worker.models.loaded_model import LoadedModel

_TAIL = b'"}}'  # of a result's JSON, after the base64
_TRACEBACK_MAX = 8000
# What a client of ours asks by itself.
_ASK = ': ask for it with "parameters": {"binary_data_output": "auto"} in the request'


class RequestResult(NamedTuple):
    """What became of a request.

    Attributes:
        kind: ok, failed, or interrupted: it ran among others when time was up, and is to run again.
        result: JSON, a V2 response or Celery's form of a failure; empty where interrupted.
        payload: the raw tensors of a response that are too large to travel in it.
        shown: what logs and events may say of it, no value of the request or of the response.
        traceback: of the model's own code.
        embed: Celery's callbacks, errbacks, chain and chord, where there are any.
        rows: of the request; 0 where they could not be counted.
        by_copy: it failed by the signature of this copy of the model; one that differs may take it.
    """

    kind: str
    result: bytes
    payload: bytes | None
    shown: str
    traceback: str | None
    embed: dict[str, Any] | None
    rows: int
    by_copy: bool = False


class Bounds(NamedTuple):
    """Sizes of a result, in bytes.

    Attributes:
        inline: raw tensors that are larger than this go beside the record.
        result: a result that is larger than this is refused.
    """

    inline: int
    result: int = Settings().max_result_bytes


INTERRUPTED = RequestResult("interrupted", b"", None, "interrupted", None, None, 0)


def responses(stack: Stack, outputs: Mapping[str, Array], bounds: Bounds) -> list[RequestResult]:
    """Answer the members of a stack, in order.

    Args:
        stack: the requests.
        outputs: what the model returned for their rows, and for these alone.
        bounds: how large a result may be.

    Raises:
        InvalidOutput: an output cannot be sent, and it may be a neighbour's row that made it so. A NaN for a request that
            wants JSON, and a result that is too large, is that request's own fault: it fails by itself.
    """
    if (size := _least_size(stack, outputs)) > bounds.result:
        return [_too_large(stack, size, bounds)] * len(stack.members)
    raws = _raws(stack, outputs)
    if raws is None:
        return [_response(stack, outputs, at, bounds) for at in range(len(stack.members))]
    # All but the raw tensors is the same for each.
    first = _response(stack, outputs, 0, bounds)
    if first.kind != "ok":
        return [first] * len(stack.members)
    if first.payload is not None:
        return [first._replace(payload=raw) for raw in raws]
    head = first.result[: -len(binascii.b2a_base64(raws[0], newline=False)) - len(_TAIL)]
    results = [head + binascii.b2a_base64(raw, newline=False) + _TAIL for raw in raws]
    return list(map(RequestResult, repeat(first.kind), results, *(repeat(same) for same in first[2:])))


def failed(error: BaseException, embed: dict[str, Any] | None, rows: int) -> RequestResult:
    """Write an error in Celery's form, with the data of one of ours beside it."""
    kind = type(error)
    failure: dict[str, Any] = {
        "exc_type": kind.__qualname__,
        "exc_message": list(error.args),
        "exc_module": kind.__module__,
    }
    if isinstance(error, errors.MutiraoError):
        failure["exc_data"] = error.data
        shown, told = repr(error), getattr(error, "_traceback", None)
    else:
        shown, told = f"{kind.__name__}()", _traceback(error)
    return RequestResult("failed", _encoded(failure), None, shown, told, embed, rows)


def model_failed(loaded: LoadedModel, exc: BaseException) -> errors.ModelFailed:
    """Say what a model raised, in plain text: nothing of its own exception, which may not pickle, hangs on to it."""
    name, version, cause = loaded.info.name, loaded.info.version, _plain(type(exc).__name__)
    try:
        text = _plain(str(exc)[:2000])
    except interruption.TIME_LIMIT:
        raise
    except BaseException:  # noqa: BLE001 - a model's exception may fail to print
        text = "(its text could not be read)"
    error = errors.ModelFailed(
        f"model {name!r} version {version} raised {cause}: {text}", model=name, version=version, cause=cause
    )
    error._traceback = _traceback(exc)  # type: ignore[attr-defined]  # noqa: SLF001 - for `failed`
    return error


def invalid_output(loaded: LoadedModel, text: str) -> errors.InvalidOutput:
    """Say what is wrong with what a model returned."""
    name, version = loaded.info.name, loaded.info.version
    return errors.InvalidOutput(
        f"model {name!r} version {version} {text}", model=name, version=version, cause="InvalidOutput"
    )


def tensor(loaded: LoadedModel, spec: OutputSpec, array: Array, *, binary: bool | None) -> Tensor:
    """Write an output's rows; where either form will do, raw is what JSON cannot carry: NaN, infinities and bytes that are no text.

    Raises:
        InvalidOutput: they cannot be sent.
    """
    try:
        if binary is None:
            with contextlib.suppress(errors.InvalidTensor):
                return tensors.encode(spec.name, array, binary=False)
        return tensors.encode(spec.name, array, binary=binary is not False)
    except interruption.TIME_LIMIT:
        raise
    except errors.InvalidTensor as exc:
        said = str(exc).removesuffix("; a missing value is null") + (_ASK if array.dtype.kind == "f" else "")
    except Exception as exc:  # noqa: BLE001 - its elements may be of the model's own classes
        said = type(exc).__name__
    raise invalid_output(loaded, f"returned what cannot be sent: {said}")


def _least_size(stack: Stack, outputs: Mapping[str, Array]) -> int:
    """Count the bytes of a member's result before it is made: its raw tensors', and two for each element that is written out."""
    own, size = len(stack.members), 0
    for spec, binary in zip(stack.form.wanted, stack.form.binary, strict=True):
        array = outputs[spec.name]
        size += (array.nbytes if binary and array.dtype.kind in "biuf" else 2 * array.size) // own
    return size


def _too_large(stack: Stack, size: int, bounds: Bounds) -> RequestResult:
    text = f"answered with {size:,} bytes or more, over the {bounds.result:,} of MUTIRAO_MAX_RESULT_BYTES: "
    error = invalid_output(stack.form.loaded, text + "ask for fewer rows or outputs in one request, or raise it")
    return failed(error, stack.form.embed, stack.rows)


def _response(stack: Stack, outputs: Mapping[str, Array], at: int, bounds: Bounds) -> RequestResult:
    form, rows = stack.form, slice(at * stack.rows, (at + 1) * stack.rows)
    info, made = form.loaded.info, []
    for spec, binary in zip(form.wanted, form.binary, strict=True):
        array = outputs[spec.name][rows]
        try:
            made.append(tensor(form.loaded, spec, array, binary=binary))
        except errors.InvalidOutput as exc:
            if array.dtype.kind != "f":
                raise
            return failed(exc, form.embed, stack.rows)
    result = PredictResult(model_name=info.name, model_version=info.version, outputs=tuple(made), id=form.id)
    packed, payload = binary_codec.pack_result(result, bounds.inline)
    document = msgspec.json.encode(packed)
    if (size := len(document) + len(payload or b"")) > bounds.result:
        return _too_large(stack, size, bounds)
    return RequestResult("ok", document, payload, repr(result), None, form.embed, stack.rows)


def _raws(stack: Stack, outputs: Mapping[str, Array]) -> list[bytes] | None:
    """The raw tensors of each member; None where they are not all raw and of one size."""
    form, count, parts = stack.form, len(stack.members), []
    if count == 1 or not all(form.binary):
        return None
    for spec in form.wanted:
        array = outputs[spec.name]
        dtype = DTYPES[spec.datatype]
        if spec.datatype == "BYTES" or array.dtype.newbyteorder("<") != dtype or not array.size:
            return None
        parts.append(np.ascontiguousarray(array, dtype=dtype).reshape(count, -1).view(np.uint8))
    if not parts:
        return None
    table = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    raw, size = table.tobytes(), table.shape[1]
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def _encoded(failure: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(failure, enc_hook=str)
    except UnicodeEncodeError:  # a name in the request was half of a surrogate pair
        return json.dumps(failure, ensure_ascii=False, default=str).encode(errors="replace")


def _traceback(exc: BaseException) -> str:
    try:
        return _plain("".join(traceback.format_exception(exc))[-_TRACEBACK_MAX:])
    except interruption.TIME_LIMIT:
        raise
    except BaseException:  # noqa: BLE001 - as above
        return "(its traceback could not be read)"


def _plain(text: str) -> str:
    """Replace what UTF-8 cannot carry: JSON would refuse all of the failure for it."""
    return text.encode(errors="backslashreplace").decode()
