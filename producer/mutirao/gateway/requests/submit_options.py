"""Gather the options of a job from the body, the query, the headers and V2's parameters."""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from mutirao import errors, keyspace
from mutirao.client.encoding import SubmitOptions
from mutirao.gateway.openapi.route_doc import Param
from mutirao.gateway.requests.request import Request
from mutirao.registry import ModelInfo
from mutirao.wire.http_schemas import InferBody

EXPIRES = b"mutirao-expires"
IDEMPOTENCY = b"idempotency-key"
_SECONDS = {"type": "number", "exclusiveMinimum": 0, "maximum": 1e8}
# V2's schedule policy: 0 is the default, 1 the highest.
_LEVELS = {0: "normal", 1: "high", 2: "normal"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# Extensions of V2 that are not supported: to ignore one silently would give another response than was asked for.
_UNSUPPORTED = ("classification", "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")
_FOR_GATEWAY = ("binary_data_output", "priority", "timeout")
PARAMS = {
    "priority": Param(
        "The priority: high is served before normal, and normal before low.", {"enum": ["high", "normal", "low"]}
    ),
    "expires_s": Param("Drop the job if it has not started in so many seconds.", _SECONDS),
    "outputs": Param("An output to return; repeatable."),
    "Mutirao-Expires": Param("The same as expires_s; the header counts before the query.", _SECONDS, header=True),
    "Idempotency-Key": Param(
        "The same key with the same request is the same job, for as long as results are kept.",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
        header=True,
    ),
}


class Preference(NamedTuple):
    """What a client prefers (RFC 7240): the job's address at once, or to wait for so many seconds.

    Attributes:
        respond_async: the client prefers the job's address to waiting.
        wait_s: how long it would wait; None where the header has no wait.
    """

    respond_async: bool = False
    wait_s: int | None = None

    @property
    def applied(self) -> str:
        """The value of Preference-Applied."""
        wait = [] if self.wait_s is None else [f"wait={self.wait_s}"]
        return ", ".join((["respond-async"] if self.respond_async else []) + wait)


NO_PREFERENCE = Preference()


def preference(headers: Iterable[str]) -> Preference:
    """Read all Prefer headers of a request (RFC 7240); unknown tokens are ignored, of a repeated one the first counts."""
    tokens: dict[str, str] = {}
    for header in headers:
        for part in header.split(","):
            name, _, value = part.partition(";")[0].partition("=")
            tokens.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = tokens.get("wait", "")
    known = wait.isascii() and wait.isdigit() and len(wait) < 9
    return Preference("respond-async" in tokens, int(wait) if known else None)


def from_request(request: Request, info: ModelInfo, body: InferBody, *, text: bool = False) -> SubmitOptions:
    """Return the options of a request.

    Args:
        request: the request.
        info: the model.
        body: what stands around its data.
        text: whether the worker is to write JSON.

    Raises:
        InvalidRequest: an output, a priority or a deadline is not valid.
    """
    outputs, parameters = _outputs(request, body), _for_runtime(body.parameters)
    if outputs is not None or parameters is not None:
        _check(info, outputs, parameters)
    return SubmitOptions(
        model=info.name,
        outputs=outputs,
        parameters=parameters,
        expires_s=expires_s(request, body),
        priority=_priority(request, body),
        tenant=request.caller.tenant,
        webhook=body.webhook or request.param("webhook") or "",
        binary=not text,
    )


def expires_s(request: Request, body: InferBody) -> float | None:
    """Return the deadline in seconds: the header first, then the query, the body, and V2's timeout in microseconds; None for the default."""
    if EXPIRES in request.headers:
        return _seconds("header Mutirao-Expires", request.header(EXPIRES))
    param = request.param("expires_s")
    seconds = body.expires_s if param is None else param
    if seconds is not None:
        return _seconds("expires_s", seconds)
    timeout = (body.parameters or {}).get("timeout")
    if timeout is None or timeout == 0:
        return None
    if type(timeout) not in (int, float, str):
        raise not_allowed("timeout", timeout, "a number of microseconds")
    return _seconds("timeout", timeout) / 1e6


def own_job_id(request: Request) -> str | None:
    """Return the job id that a request's Idempotency-Key or `id` stands for, within its tenant; None where it has neither.

    Raises:
        InvalidRequest: the key or the id is not one.
    """
    key = request.headers.get(IDEMPOTENCY)
    if key is None:
        id = request.param("id")
        return None if id is None else keyspace.qualified(keyspace.job_id(id), request.caller.tenant)
    if not 0 < len(key) < 256:
        raise errors.InvalidRequest("Idempotency-Key must be 1 to 255 characters", reason="idempotency key")
    tenant = request.caller.tenant
    return keyspace.qualified("key-" + hashlib.sha256(tenant.encode() + b"\0" + key).hexdigest()[:40], tenant)


def _for_runtime(parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return V2's parameters without those that are for the gateway."""
    return {name: value for name, value in (parameters or {}).items() if name not in _FOR_GATEWAY} or None


def _outputs(request: Request, body: InferBody) -> tuple[str, ...] | None:
    if body.outputs:
        for output in body.outputs:
            asked = next((name for name in _UNSUPPORTED if name in (output.parameters or {})), None)
            if asked is not None:
                text = f"output {output.name!r} asks for {asked}, an extension of V2 that is not supported: GET /v2 lists those that are; request predict_proba, and choose the classes yourself"
                raise errors.InvalidRequest(text, reason=f"{asked} not supported")
        return tuple(output.name for output in body.outputs)
    named = request.params("outputs") if request.query_string else []
    return tuple(named) or None


def _check(info: ModelInfo, outputs: tuple[str, ...] | None, parameters: dict[str, Any] | None) -> None:
    """Raise an error unless a live worker has these outputs, and takes these parameters."""
    for other in info.variants:
        with contextlib.suppress(errors.InvalidRequest):
            other.select_outputs(outputs)
            other.read_parameters(parameters)
            return
    info.signature.select_outputs(outputs)
    info.signature.read_parameters(parameters)


def _priority(request: Request, body: InferBody) -> str:
    asked: Any = request.param("priority") or body.priority or (body.parameters or {}).get("priority")
    if asked is None:
        return "normal"
    if type(asked) is int:
        if asked < 0:
            raise not_allowed("priority", asked, "0 or more")
        return _LEVELS.get(asked, "low")
    if not isinstance(asked, str):
        raise not_allowed("priority", asked, "high, normal or low")
    keyspace.step(asked)
    return asked


def number(text: str) -> float:
    """Parse a number of a header or a query; return NaN for any other text: Python's own spellings, as 1_0, are not numbers here."""
    return float(text) if len(text) < 40 and _NUMBER.fullmatch(text) else math.nan


def _seconds(name: str, value: str | float) -> float:
    try:
        seconds = number(value) if isinstance(value, str) else float(value)
    except OverflowError:
        seconds = math.inf
    if not 0 < seconds < 1e14:
        raise not_allowed(name, value, "a number of seconds, more than 0")
    return seconds


def not_allowed(name: str, value: object, rule: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(f"{name} is {str(value)[:40]!r}: it must be {rule}", reason=f"{name} not allowed")
