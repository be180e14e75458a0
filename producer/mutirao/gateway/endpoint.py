"""Make a Litestar route of a handler: a function of the gateway, the request and the path's parameters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import litestar
from litestar.handlers import HTTPRouteHandler
from litestar.types import Method

from mutirao.gateway.openapi.route_doc import RouteDoc
from mutirao.gateway.requests.request import Request
from mutirao.gateway.responses.response import JSON, Response
from mutirao.gateway.state.gateway import Gateway

Handler = Callable[..., Awaitable[Response]]


def endpoint(method: Method, *paths: str, doc: RouteDoc | None = None) -> Callable[[Handler], HTTPRouteHandler]:
    """Make a route of a function of (gateway, request, **the path's parameters).

    Args:
        method: GET, POST, ...
        paths: as Litestar writes them: /v1/jobs/{id:str}
        doc: for the document; None leaves it out.
    """

    def route_of(run: Handler) -> HTTPRouteHandler:
        async def handle(request: litestar.Request[Any, Any, Any]) -> Response:
            gateway: Gateway = request.app.state.gateway
            return await run(gateway, Request.of(request.scope), **request.path_params)

        handle.__doc__ = run.__doc__
        # Litestar reads these at run time.
        handle.__annotations__ = {"request": litestar.Request, "return": Response}
        opt = {"doc": doc, "run": run}
        route = HTTPRouteHandler(
            list(paths), http_method=method, status_code=200, media_type=JSON, opt=opt, name=f"{method} {paths[0]}"
        )
        return route(handle)

    return route_of
