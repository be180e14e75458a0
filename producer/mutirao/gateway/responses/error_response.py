"""Turn an error into its response: {"error": text, "type": class, "data": {...}}."""

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

# A client sees an error's data, but not these: they name the operator's machines.
_HIDDEN = ("url",)
_CLOSING = (errors.PayloadTooLarge, errors.SlowRequest)


def answer(error: BaseException) -> Response:
    """Return the response to an error; an unexpected one is logged, and its response says nothing of it."""
    if isinstance(error, errors.MutiraoError):
        return _known(error)
    if isinstance(error, HTTPException):
        return _http(error)
    if isinstance(error, ClientGone):
        return Response(499)
    log("a request failed", error)
    return _problem(500, "the gateway failed on this request: see its log", "InternalError", {})


def log(what: str, error: BaseException) -> None:
    """Log an unexpected error: where it was raised, but not its text, which may quote a request."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s: %s\n%s", what, type(error).__name__, where)


def retry_after(error: errors.MutiraoError) -> int | None:
    """Return the seconds after which the client may try again; None where that cannot help."""
    if not error.retryable or error.status not in (409, 429, 503):
        return None
    seconds = getattr(error, "retry_after_s", None)
    return max(1, math.ceil(seconds)) if seconds is not None and math.isfinite(seconds) else 1


def handler(request: Request[Any, Any, Any], error: Exception) -> Any:  # noqa: ARG001 - Litestar's signature
    """Return the response to an error that Litestar caught."""
    return answer(error)


def _known(error: errors.MutiraoError) -> Response:
    data = {key: value for key, value in error.data.items() if key not in _HIDDEN}
    text = _public(error)
    if isinstance(id := data.get("id"), str):  # in Redis it is qualified by its tenant
        data["id"] = keyspace.unqualified(id)
        text = text.replace(id, data["id"])
    made = _problem(error.status, text, type(error).__name__, data)
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
    """Return the text for a client: without the address of Redis and what it replied."""
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
    if methods:  # HEAD is allowed wherever GET is, which the framework does not know
        headers["allow"] = ", ".join(sorted({*methods, *(("HEAD",) if "GET" in methods else ())}))
    takes = headers.get("allow", "other methods")
    text = {404: "there is nothing at this address: see /docs", 405: f"this address takes {takes}: see /docs"}
    kind = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "BadRequest")
    made = _problem(error.status_code, text.get(error.status_code, "the request is not valid"), kind, {})
    for name, value in headers.items():
        made.with_header(name.encode(), value)
    return made


def _problem(code: int, text: str, kind: str, data: dict[str, Any]) -> Response:
    body: dict[str, Any] = {"error": text, "type": kind, "data": data}
    if kind == errors.ResultTimeout.__name__ and "id" in data:
        body["job"] = f"/v1/jobs/{data['id']}"
    return response.json(body, code)
