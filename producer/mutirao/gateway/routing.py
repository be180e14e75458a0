"""An address of the gateway: what answers there, and what the OpenAPI document says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

import litestar
from litestar.handlers import HTTPRouteHandler
from litestar.types import Method

from mutirao.gateway.requests.request import Request
from mutirao.gateway.responses.response import JSON, Response
from mutirao.gateway.state import Gateway

Handler = Callable[..., Awaitable[Response]]


class Param(NamedTuple):
    """A parameter of the query or a header.

    Attributes:
        says: what it is for.
        schema: its JSON schema; a string by default.
        header: whether it is a header.
    """

    says: str
    schema: Mapping[str, Any] = {}
    header: bool = False


class RouteDoc(NamedTuple):
    """What the document says of an address, beside its handler's docstring.

    Attributes:
        tag: the group it stands in.
        params: parameters of the query, and headers, by name.
        body: the type of its JSON body; None where there is none.
        medias: other forms of the body.
        status: of the answer where all is well.
        answer: the type of the JSON answer; None where it is not JSON.
        forms: other forms of the answer.
        refusals: the statuses of its errors.
        others: other statuses where all is well, and the types of their answers.
        answered: those of the refusals that may come with the answer's own type.
    """

    tag: str
    params: Mapping[str, Param] = {}
    body: Any = None
    medias: tuple[str, ...] = ()
    status: int = 200
    answer: Any = None
    forms: tuple[str, ...] = ()
    refusals: tuple[int, ...] = ()
    others: Mapping[int, Any] = {}
    answered: tuple[int, ...] = ()


def endpoint(method: Method, path: str, doc: RouteDoc | None = None) -> Callable[[Handler], HTTPRouteHandler]:
    """Make a route of a function of (gateway, request, **the path's parameters).

    Args:
        method: GET, POST, ...
        path: as Litestar writes it: /v1/jobs/{id:str}
        doc: for the document; None leaves it out.
    """

    def made(run: Handler) -> HTTPRouteHandler:
        async def handle(request: litestar.Request[Any, Any, Any]) -> Response:
            gateway: Gateway = request.app.state.gateway
            return await run(gateway, Request.of(request.scope), **request.path_params)

        handle.__doc__ = run.__doc__
        # Litestar reads these at run time.
        handle.__annotations__ = {"request": litestar.Request, "return": Response}
        opt = {"doc": doc, "run": run}
        route = HTTPRouteHandler(
            path, http_method=method, status_code=200, media_type=JSON, opt=opt, name=f"{method} {path}"
        )
        return route(handle)

    return made
