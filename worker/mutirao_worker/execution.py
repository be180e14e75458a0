"""Answer one request: decode, check, predict, check again. Runs in a pool child."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any

from billiard.common import terminate_handler_fired
from billiard.exceptions import SoftTimeLimitExceeded

from mutirao import errors, signature, tensors
from mutirao.messages import PredictRequest, PredictResult, RequestedOutput, Tensor
from mutirao.signature import OutputSpec
from mutirao.tensors import Array
from mutirao_worker.loaded import Loaded


def answer(loaded: Loaded, request: PredictRequest) -> PredictResult:
    """Run the model on a request.

    Raises:
        InvalidRequest: the request does not fit the model's signature.
        ModelFailed: the model raised; its own text is in the message, its traceback beside.
        InvalidOutput: what it returned does not fit, row for row.
    """
    name, version, takes = loaded.info.name, loaded.info.version, loaded.info.signature
    asked = request.outputs
    wanted = takes.chosen(None if asked is None else [output.name for output in asked])
    inputs = signature.read(name, takes, request)
    outputs = _predict(loaded, inputs, wanted)
    count = signature.rows(inputs)
    made = tuple(_tensor(loaded, spec, outputs, count, binary=_binary(request, spec.name)) for spec in wanted)
    return PredictResult(model_name=name, model_version=version, outputs=made, id=request.id)


def _predict(loaded: Loaded, inputs: dict[str, Array], wanted: tuple[OutputSpec, ...]) -> Mapping[str, Array]:
    error = None
    try:
        return loaded.predict(inputs, wanted)
    except SoftTimeLimitExceeded:
        raise
    except BaseException as exc:  # sys.exit() in a model must not end the worker
        if terminate_handler_fired():  # that is not the model: this process is being ended
            raise
        error = _failed(loaded, exc)
    # Raised outside the handler, so that nothing of the model's own exception, which may not pickle, hangs on to it.
    raise error


def _failed(loaded: Loaded, exc: BaseException) -> errors.ModelFailed:
    name, version, cause = loaded.info.name, loaded.info.version, type(exc).__name__
    try:
        text = str(exc)[:2000]
    except Exception:  # noqa: BLE001 - a model's exception may fail to print
        text = "(its text could not be read)"
    error = errors.ModelFailed(
        f"model {name!r} version {version} raised {cause}: {text}", model=name, version=version, cause=cause
    )
    error._traceback = "".join(traceback.format_exception(exc))[-8000:]  # type: ignore[attr-defined]  # noqa: SLF001 - for commit
    return error


def _tensor(loaded: Loaded, spec: OutputSpec, outputs: Mapping[str, Array], count: int, *, binary: bool) -> Tensor:
    array = outputs[spec.name]
    if array.ndim == 0 or len(array) != count:
        returned = "a single value" if array.ndim == 0 else f"{len(array)} rows"
        raise _invalid(loaded, f"returned {returned} of {spec.name!r} for {count} rows of input")
    try:
        return tensors.encode(spec.name, array, binary=binary)
    except errors.InvalidTensor as exc:
        raise _invalid(loaded, f"returned what cannot be sent: {exc}") from None


def _invalid(loaded: Loaded, text: str) -> errors.InvalidOutput:
    name, version = loaded.info.name, loaded.info.version
    return errors.InvalidOutput(
        f"model {name!r} version {version} {text}", model=name, version=version, cause="InvalidOutput"
    )


def _binary(request: PredictRequest, output: str) -> bool:
    """Whether an output goes back as raw bytes: the output's own word, else the request's, else no (V2's rule)."""
    asked: tuple[RequestedOutput, ...] = request.outputs or ()
    own: dict[str, Any] = next((one.parameters or {} for one in asked if one.name == output), {})
    return bool(own.get("binary_data", (request.parameters or {}).get("binary_data_output", False)))
