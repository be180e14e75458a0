"""The middleware of every request: authenticate it, route `infer` without the framework, count the response."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from litestar.enums import HttpMethod, ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from mutirao.gateway.auth.authenticator import Caller
from mutirao.gateway.requests.request import Request
from mutirao.gateway.responses import error_response
from mutirao.gateway.routes import v2
from mutirao.gateway.state.gateway import Gateway

logger = logging.getLogger(__name__)

# These need no key; what the console's page shows it reads with one.
PUBLIC = frozenset({"/", "/docs", "/favicon.ico", "/openapi.json", "/v2/health/live", "/v2/health/ready"})
PUBLIC_BELOW = ("/docs/", "/console/")
_NOBODY = Caller(scopes=())
_INFER = "/v2/models/{model}/infer"


class Middleware:
    """An ASGI application around the others.

    A framework's routing, parameters and response objects cost three times what all of `infer` may; so `infer` is routed here, from
    bytes to bytes. It stands among the other routes too, for the OpenAPI document.
    """

    def __init__(self, gateway: Gateway, inner: ASGIApp) -> None:
        """Take what the handlers share, and the application that routes all but `infer`."""
        self._gateway = gateway
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == ScopeType.HTTP:
            await self._http(scope, receive, send)
        else:
            await self._inner(scope, receive, send)

    async def _http(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        if scope["method"] == "HEAD" and not scope["path"].endswith("/events"):
            # The server leaves the body out, which it knows by its own scope.
            scope = {**scope, "method": HttpMethod.GET}
        hot = infer_path(scope["path"]) if scope["method"] == "POST" else None
        status = 0

        async def counted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            request = Request(scope, receive, await self._caller(scope))
            if hot is None:
                request.attach()
                await self._inner(scope, receive, counted)
            else:
                await (await v2.infer(self._gateway, request, *hot))(scope, receive, counted)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the client gets a response
            if status:  # too late for another response: the server closes the connection
                error_response.log("an answer broke off", exc)
            else:
                await error_response.answer(exc)(scope, receive, counted)
        route = _INFER if hot is not None else str(scope.get("path_template") or "other")
        took_s = time.perf_counter() - began
        self._gateway.metrics.answered(route, scope["method"], status, took_s)
        level = logging.WARNING if status >= 500 else logging.DEBUG
        if logger.isEnabledFor(level):
            logger.log(level, "%s %s %d %.1f ms", scope["method"], route, status, took_s * 1000)

    async def _caller(self, scope: HTTPScope) -> Caller:
        path, headers = scope["path"], _identity(scope["headers"])
        if path in PUBLIC or path.startswith(PUBLIC_BELOW):
            await self._gateway.authenticator.admit_public(headers)
            return _NOBODY
        return await self._gateway.authenticator.caller(headers)


_IDENTITY_HEADERS = {b"authorization": "authorization", b"host": "host", b"origin": "origin"}


def _identity(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers that identify the caller; a repeated header is all of its values together, so that none counts alone."""
    found: dict[str, str] = {}
    for key, value in headers:
        name = _IDENTITY_HEADERS.get(key)
        if name is not None:
            text = value.decode("latin-1")
            found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def infer_path(path: str) -> tuple[str, str] | None:
    """Read the model and the version from the path of an infer request; None for every other path."""
    if not (path.startswith("/v2/models/") and path.endswith("/infer")):
        return None
    parts = path.split("/")
    if len(parts) == 5:
        return parts[3], ""
    return (parts[3], parts[5]) if len(parts) == 7 and parts[4] == "versions" else None
