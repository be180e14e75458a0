"""Each request's own result, as plain data that the parent stores as it is."""

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
from mutirao.wire import binary_codec, json_elements, tensors
from mutirao.wire.messages import PredictResult, Tensor
from mutirao.wire.signature import OutputSpec
from mutirao.wire.tensors import DTYPES, Array
from mutirao_worker.inference import interruption
from mutirao_worker.inference.inputs import StackedRequests
from mutirao_worker.models.loaded_model import LoadedModel

_TAIL = b'"}}'  # of a result's JSON, after the base64
_TRACEBACK_MAX = 8000
# Our own client asks for this by itself.
_BINARY_HINT = ': ask for it with "parameters": {"binary_data_output": "auto"} in the request'


class RequestResult(NamedTuple):
    """The result of a request.

    Attributes:
        status: ok, failed, or interrupted: it ran among others when time was up, and is to run again.
        result: JSON, a V2 response or Celery's form of a failure; empty where interrupted.
        payload: raw tensors that are too large to travel in the response.
        summary: what logs and events may show: no value of the request or of the response.
        traceback: of the model's own code.
        embed: Celery's callbacks, errbacks, chain and chord, where there are any.
        rows: of the request; 0 where they could not be counted.
        other_copy_may_accept: this copy of the model refused it by its signature, or is unavailable; another worker's may accept it.
    """

    status: str
    result: bytes
    payload: bytes | None
    summary: str
    traceback: str | None
    embed: dict[str, Any] | None
    rows: int
    other_copy_may_accept: bool = False


class ResultLimits(NamedTuple):
    """Limits on the size of a result, in bytes.

    Attributes:
        inline: raw tensors that are larger than this are offloaded from the record.
        result: a result that is larger than this is refused.
    """

    inline: int
    result: int = Settings().max_result_bytes


INTERRUPTED = RequestResult("interrupted", b"", None, "interrupted", None, None, 0)


def split_responses(
    stacked: StackedRequests, outputs: Mapping[str, Array], limits: ResultLimits
) -> list[RequestResult]:
    """Return the results of the members of a stack, in order.

    Args:
        stacked: the requests.
        outputs: what the model returned for their rows, and for these alone.
        limits: how large a result may be.

    Raises:
        InvalidOutput: an output cannot be sent, perhaps because of a neighbour's row. A NaN for a request that wants JSON, and
            a result that is too large, fail that request alone.
    """
    if (size := _min_result_size(stacked, outputs)) > limits.result:
        return [_too_large(stacked, size, limits)] * len(stacked.members)
    payloads = _binary_payloads(stacked, outputs)
    if payloads is None:
        return [_response(stacked, outputs, index, limits) for index in range(len(stacked.members))]
    # All but the raw tensors is the same for each member.
    first = _response(stacked, outputs, 0, limits)
    if first.status != "ok":
        return [first] * len(stacked.members)
    if first.payload is not None:
        return [first._replace(payload=payload) for payload in payloads]
    head = first.result[: -len(binascii.b2a_base64(payloads[0], newline=False)) - len(_TAIL)]
    results = [head + binascii.b2a_base64(payload, newline=False) + _TAIL for payload in payloads]
    return list(map(RequestResult, repeat(first.status), results, *(repeat(same) for same in first[2:])))


def failure_result(error: BaseException, embed: dict[str, Any] | None, rows: int) -> RequestResult:
    """Return an error in Celery's form, with the data of an error of ours."""
    kind = type(error)
    failure: dict[str, Any] = {
        "exc_type": kind.__qualname__, "exc_message": list(error.args), "exc_module": kind.__module__,
    }  # fmt: skip
    if isinstance(error, errors.MutiraoError):
        failure["exc_data"] = error.data
        summary, traceback_text = repr(error), getattr(error, "_traceback", None)
    else:
        summary, traceback_text = f"{kind.__name__}()", _traceback(error)
    return RequestResult("failed", _encoded(failure), None, summary, traceback_text, embed, rows)


def model_failed(loaded: LoadedModel, exc: BaseException) -> errors.ModelFailed:
    """Return what a model raised as plain text, without its own exception, which may not pickle."""
    name, version, cause = loaded.info.name, loaded.info.version, _utf8_safe(type(exc).__name__)
    try:
        text = _utf8_safe(str(exc)[:2000])
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
    """Return an error about what a model returned."""
    name, version = loaded.info.name, loaded.info.version
    return errors.InvalidOutput(
        f"model {name!r} version {version} {text}", model=name, version=version, cause="InvalidOutput"
    )


def tensor(loaded: LoadedModel, spec: OutputSpec, array: Array, *, binary: bool | None) -> Tensor:
    """Encode an output's rows; where either form will do, as JSON unless that cannot carry them: NaN, infinities, bytes that are no text.

    Raises:
        InvalidOutput: they cannot be sent.
    """
    try:
        if binary is None:
            with contextlib.suppress(errors.InvalidTensor):
                return _marked(spec, tensors.encode(spec.name, array, binary=False))
        return _marked(spec, tensors.encode(spec.name, array, binary=binary is not False))
    except interruption.TIME_LIMIT:
        raise
    except errors.InvalidTensor as exc:
        reason = str(exc).removesuffix("; a missing value is null") + (_BINARY_HINT if array.dtype.kind == "f" else "")
    except Exception as exc:  # noqa: BLE001 - its elements may be of the model's own classes
        reason = type(exc).__name__
    raise invalid_output(loaded, f"returned what cannot be sent: {reason}")


def _marked(spec: OutputSpec, encoded: Tensor) -> Tensor:
    """Say what an output's elements are, where they are not text: JSON documents, or bytes."""
    parameters = json_elements.PARAMETERS.get(spec.format)
    return encoded if parameters is None else msgspec.structs.replace(encoded, parameters=parameters)


def _min_result_size(stacked: StackedRequests, outputs: Mapping[str, Array]) -> int:
    """Return the least size of a member's result before it is encoded: its raw tensors, and two bytes for each element in JSON."""
    own, size = len(stacked.members), 0
    for spec, binary in zip(stacked.specification.outputs, stacked.specification.binary, strict=True):
        array = outputs[spec.name]
        size += (array.nbytes if binary and array.dtype.kind in "biuf" else 2 * array.size) // own
    return size


def _too_large(stacked: StackedRequests, size: int, limits: ResultLimits) -> RequestResult:
    text = f"answered with {size:,} bytes or more, over the {limits.result:,} of MUTIRAO_MAX_RESULT_BYTES: "
    error = invalid_output(
        stacked.specification.loaded, text + "ask for fewer rows or outputs in one request, or raise it"
    )
    return failure_result(error, stacked.specification.embed, stacked.rows)


def _response(
    stacked: StackedRequests, outputs: Mapping[str, Array], index: int, limits: ResultLimits
) -> RequestResult:
    specification, rows = stacked.specification, slice(index * stacked.rows, (index + 1) * stacked.rows)
    info, encoded = specification.loaded.info, []
    for spec, binary in zip(specification.outputs, specification.binary, strict=True):
        array = outputs[spec.name][rows]
        try:
            encoded.append(tensor(specification.loaded, spec, array, binary=binary))
        except errors.InvalidOutput as exc:
            if array.dtype.kind != "f":
                raise
            return failure_result(exc, specification.embed, stacked.rows)
    result = PredictResult(
        model_name=info.name, model_version=info.version, outputs=tuple(encoded), id=specification.id
    )
    packed, payload = binary_codec.pack_result(result, limits.inline)
    document = msgspec.json.encode(packed)
    if (size := len(document) + len(payload or b"")) > limits.result:
        return _too_large(stacked, size, limits)
    return RequestResult("ok", document, payload, repr(result), None, specification.embed, stacked.rows)


def _binary_payloads(stacked: StackedRequests, outputs: Mapping[str, Array]) -> list[bytes] | None:
    """Return the raw tensors of each member; None where not all are raw and of one size."""
    specification, count, parts = stacked.specification, len(stacked.members), []
    if count == 1 or not all(specification.binary):
        return None
    for spec in specification.outputs:
        array = outputs[spec.name]
        dtype = DTYPES[spec.datatype]
        if spec.datatype == "BYTES" or array.dtype.newbyteorder("<") != dtype or not array.size:
            return None
        parts.append(np.ascontiguousarray(array, dtype=dtype).reshape(count, -1).view(np.uint8))
    if not parts:
        return None
    table = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    payload, size = table.tobytes(), table.shape[1]
    return [payload[start : start + size] for start in range(0, len(payload), size)]


def _encoded(failure: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(failure, enc_hook=str)
    except UnicodeEncodeError:  # a name in the request was half of a surrogate pair
        return json.dumps(failure, ensure_ascii=False, default=str).encode(errors="replace")


def _traceback(exc: BaseException) -> str:
    try:
        return _utf8_safe("".join(traceback.format_exception(exc))[-_TRACEBACK_MAX:])
    except interruption.TIME_LIMIT:
        raise
    except BaseException:  # noqa: BLE001 - as above
        return "(its traceback could not be read)"


def _utf8_safe(text: str) -> str:
    """Replace what UTF-8 cannot carry, for which JSON would refuse the whole failure."""
    return text.encode(errors="backslashreplace").decode()
