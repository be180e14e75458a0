"""From an error to the answer that says it: {"error": text, "type": class, "data": {...}}."""

from __future__ import annotations

import logging
import math
import traceback
from typing import Any

from litestar.connection import Request
from litestar.exceptions import HTTPException

from mutirao import errors, keyspace
from mutirao.gateway.requests.request import ClientGone
from mutirao.gateway.responses import response
from mutirao.gateway.responses.response import Response

logger = logging.getLogger(__name__)

RETRY_S = 1
# What a client may know of an error is its data; these name the operator's own machines.
_HIDDEN = ("url",)
_CLOSING = (errors.PayloadTooLarge, errors.SlowRequest)


def answer(error: BaseException) -> Response:
    """Write the answer to an error; one that nobody foresaw says nothing of itself, and goes to the log."""
    if isinstance(error, errors.MutiraoError):
        return _known(error)
    if isinstance(error, HTTPException):
        return _http(error)
    if isinstance(error, ClientGone):
        return Response(499)
    log("a request failed", error)
    return _said(500, "the gateway failed on this request; its log says how", "InternalError", {})


def log(what: str, error: BaseException) -> None:
    """Log an error that nobody foresaw: where it was, but not its text, which may quote a request."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s: %s\n%s", what, type(error).__name__, where)


def status(error: errors.MutiraoError) -> int:
    """Choose the status: a settings error or a bare root error is the system's own fault."""
    return error.status


def retry_after(error: errors.MutiraoError) -> int | None:
    """Choose the seconds after which trying again makes sense; None where it makes none."""
    if not error.retryable or error.status not in (409, 429, 503):
        return None
    seconds = getattr(error, "retry_after_s", None)
    return max(1, math.ceil(seconds)) if seconds is not None and math.isfinite(seconds) else RETRY_S


def handler(request: Request[Any, Any, Any], error: Exception) -> Any:  # noqa: ARG001 - Litestar's signature
    """Answer for Litestar, which wants a response of its own kind or any that has `to_asgi_response`."""
    return _Response(answer(error))


class _Response:
    def __init__(self, made: Response) -> None:
        self._made = made

    def to_asgi_response(self, *_: object, **__: object) -> Response:
        return self._made


def _known(error: errors.MutiraoError) -> Response:
    data = {key: value for key, value in error.data.items() if key not in _HIDDEN}
    text = _public(error)
    if isinstance(id := data.get("id"), str):  # Redis keeps it with its tenant before it
        data["id"] = keyspace.unqualified(id)
        text = text.replace(id, data["id"])
    made = _said(status(error), text, type(error).__name__, data)
    after = retry_after(error)
    if after is not None:
        made.headers.append((b"retry-after", b"%d" % after))
    if isinstance(error, errors.Unauthorized):
        made.headers.append((b"www-authenticate", b"Bearer"))
    if isinstance(error, errors.ResultTimeout | errors.NotAcceptable) and data.get("id"):
        made.headers.append((b"location", f"/v1/jobs/{data['id']}".encode()))
    if isinstance(error, _CLOSING):
        made.headers.append((b"connection", b"close"))
    return made


def _public(error: errors.MutiraoError) -> str:
    """Say what a client may read: not where Redis is, nor how it answered."""
    if isinstance(error, errors.BrokerUnavailable) and not isinstance(error, errors.SlowCall):
        return (
            f"the queue cannot serve now ({error.reason}): try again"
            if error.reason
            else "the queue does not answer now: try again"
        )
    return str(error)


def _http(error: HTTPException) -> Response:
    headers = {name.lower(): str(value) for name, value in (error.headers or {}).items()}
    methods = [each.strip() for each in headers.get("allow", "").split(",") if each.strip()]
    if methods:  # where GET is, HEAD is, which the framework does not know
        headers["allow"] = ", ".join(sorted({*methods, *(("HEAD",) if "GET" in methods else ())}))
    takes = headers.get("allow", "other methods")
    text = {404: "there is nothing at this address: see /docs", 405: f"this address takes {takes}: see /docs"}
    kind = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "BadRequest")
    made = _said(error.status_code, text.get(error.status_code, "the request is not one that is read here"), kind, {})
    for name, value in headers.items():
        made.with_header(name.encode(), value)
    return made


def _said(code: int, text: str, kind: str, data: dict[str, Any]) -> Response:
    told: dict[str, Any] = {"error": text, "type": kind, "data": data}
    if kind == errors.ResultTimeout.__name__ and "id" in data:
        told["job"] = f"/v1/jobs/{data['id']}"
    return response.json(told, code)
